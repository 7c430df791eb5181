"""A photo, and the check of error messages, for the tests of images."""

from contextlib import contextmanager

import numpy as np
import pytest
from skimage import data

from nst_jax.errors import InputError


@pytest.fixture(scope="session")
def photo():
    """120 by 180 pixels of a cup of coffee, uint8 RGB."""
    return np.ascontiguousarray(data.coffee()[100:340:2, 150:510:2])


@pytest.fixture(scope="session")
def pixels(photo):
    """The same photo, float32 in [0, 1]."""
    return photo.astype(np.float32) / 255


@pytest.fixture(scope="session")
def input_error():
    """``with input_error("a", "b"):`` expects an InputError of one line that has these words."""

    @contextmanager
    def expect(*words):
        with pytest.raises(InputError) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message, (word, message)

    return expect
