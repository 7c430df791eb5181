"""The arbitrary stylization network, against ONNX Runtime's output of the published files."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax.errors import InputError
from nst_jax.networks import apply_style, predict_style
from nst_jax.networks.weights import arbitrary, load_arbitrary

REFERENCE = Path(__file__).with_name("arbitrary_reference.npz")


@pytest.fixture(scope="module")
def params():
    return load_arbitrary()


@pytest.fixture(scope="module")
def noise():
    """The images of weights/convert_arbitrary.py, which wrote the reference."""
    rng = np.random.default_rng(0)
    return rng.random((96, 64, 3), np.float32), rng.random((44, 61, 3), np.float32)


def test_the_outputs_are_those_of_onnx_runtime(params, noise):
    style, content = noise
    with np.load(REFERENCE) as reference:
        vector = jax.jit(predict_style)(params, style)
        np.testing.assert_allclose(vector, reference["vector"], atol=1e-4)
        image = jax.jit(apply_style)(params, content, reference["vector"])
        np.testing.assert_allclose(image[::3, ::3], reference["image"][:15, :21], atol=1e-4)
