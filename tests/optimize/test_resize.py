"""Resizing without matrix products equals `jax.image.resize`."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst_jax.optimize.resize import resize

lengths = st.integers(1, 24)


@settings(deadline=None, max_examples=8)
@given(old=st.tuples(lengths, lengths), new=st.tuples(lengths, lengths))
@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_resize_equals_jax_image_resize(old, new, method):
    images = np.random.default_rng(0).uniform(size=(2, *old, 3)).astype(np.float32)
    expected = jax.image.resize(images, (2, *new, 3), method)
    np.testing.assert_allclose(resize(images, new, method), expected, atol=2e-6)


def test_resize_compiles_to_no_matrix_product():
    image = jax.ShapeDtypeStruct((32, 48, 3), "float32")
    assert "dot" not in resize.lower(image, (64, 96), "cubic").as_text()
