"""The convolution and its gradients as sums in float64, for the tests of every form of it."""

import jax.numpy as jnp
import numpy as np


def operands(h, w, c, n, dtype, seed=0):
    """Random image and kernel."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(h, w, c)), dtype)
    return x, jnp.asarray(rng.normal(size=(3, 3, c, n)), dtype)


def random_like(x, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=x.shape), x.dtype)


def conv_sums(x, kernel, pad_width):
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    x = np.pad(x, ((pad_width, pad_width), (pad_width, pad_width), (0, 0)))
    h, w = x.shape[0] - 2, x.shape[1] - 2
    return sum(x[i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))


def gradient_sums(x, kernel, pad_width, cotangent):
    """Gradients of image and kernel."""
    x, kernel, cotangent = (np.asarray(a, np.float64) for a in (x, kernel, cotangent))
    x = np.pad(x, ((pad_width, pad_width), (pad_width, pad_width), (0, 0)))
    h, w = cotangent.shape[:2]
    grad_x, grad_kernel = np.zeros_like(x), np.zeros_like(kernel)
    for i in range(3):
        for j in range(3):
            grad_x[i : i + h, j : j + w] += cotangent @ kernel[i, j].T
            grad_kernel[i, j] = np.einsum("hwc,hwn->cn", x[i : i + h, j : j + w], cotangent)
    return grad_x[pad_width : len(x) - pad_width, pad_width : x.shape[1] - pad_width], grad_kernel


def assert_close(got, expected):
    # Sums are in float32; bfloat16 results are rounded once more.
    tolerance = 4e-3 if got.dtype == jnp.bfloat16 else 1e-5
    scale = np.abs(expected).max() + 1e-30
    np.testing.assert_allclose(
        np.asarray(got, np.float64) / scale, expected / scale, atol=tolerance
    )
