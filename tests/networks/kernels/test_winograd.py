"""Winograd's form of the convolution against sums in float64, and its kernel as a pytree."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.kernels.reference import assert_close, conv_sums, gradient_sums, operands, random_like

from nst_jax.networks.kernels.conv3x3 import conv3x3
from nst_jax.networks.kernels.winograd import WinogradKernel, transform_kernel

SHAPES = [(7, 9, 3, 8), (8, 16, 8, 16), (3, 4, 16, 3)]
THIN = [(1, 1, 1, 1), (1, 6, 2, 3), (13, 1, 4, 2)]


@pytest.mark.parametrize(
    ("shape", "padding"),
    [(shape, "SAME") for shape in SHAPES + THIN] + [(shape, "VALID") for shape in SHAPES],
    ids=str,
)
def test_value_and_gradient_equal_sums_in_float64(shape, padding):
    x, kernel = operands(*shape, "float32")
    pad_width = 1 if padding == "SAME" else 0
    out, pull = jax.vjp(lambda x: conv3x3(x, transform_kernel(kernel), padding), x)
    assert_close(out, conv_sums(x, kernel, pad_width))
    cotangent = random_like(out)
    assert_close(pull(cotangent)[0], gradient_sums(x, kernel, pad_width, cotangent)[0])


@pytest.mark.parametrize(("dtype", "documented"), [("float32", 2e-6), ("bfloat16", 1.3e-2)])
def test_the_error_is_as_documented(dtype, documented):
    """With the channels of a deep layer after a ReLU, forward and backward."""
    x, kernel = operands(16, 16, 256, 128, "float32")
    x = jnp.maximum(x, 0)
    out, pull = jax.vjp(lambda x: conv3x3(x, transform_kernel(kernel, dtype)), x.astype(dtype))
    cotangent = random_like(out)
    gradient, expected = pull(cotangent)[0], gradient_sums(x, kernel, 1, cotangent)[0]
    for got, want in ((out, conv_sums(x, kernel, 1)), (gradient, expected)):
        assert got.dtype == dtype
        error = np.asarray(got, np.float64) - want
        assert np.sqrt(np.square(error).mean() / np.square(want).mean()) < documented


def test_the_gradient_of_the_kernel_is_its_derivative():
    """The convolution is linear in the kernel: its derivative along any direction is its value."""
    x, kernel = operands(6, 7, 4, 3, "float32")
    kernel = transform_kernel(kernel)
    cotangent = random_like(jnp.zeros((6, 7, 3)))

    def weighted_sum(kernel):
        return (conv3x3(x, kernel) * cotangent).sum()

    gradient = jax.grad(weighted_sum)(kernel)
    assert isinstance(gradient, WinogradKernel)
    direction = jax.tree.map(random_like, kernel)
    derivative = (gradient.values * direction.values).sum()
    assert float(derivative) == pytest.approx(float(weighted_sum(direction)), rel=1e-4)


def test_the_kernel_passes_through_jax_transformations():
    images, kernels = [], []
    for seed in range(2):
        x, kernel = operands(6, 5, 4, 3, "float32", seed)
        images.append(x)
        kernels.append(kernel)
    batch = jnp.stack(images)
    stacked = jax.tree.map(lambda *values: jnp.stack(values), *map(transform_kernel, kernels))

    @partial(jax.jit, donate_argnums=1)
    def gradients(x, kernel):
        value = jax.checkpoint(lambda x, kernel: conv3x3(x, kernel).sum())
        return jax.vmap(jax.grad(value, (0, 1)))(x, kernel)

    to_images, to_kernels = gradients(batch, stacked)
    assert isinstance(to_kernels, WinogradKernel)
    for got, x, kernel in zip(to_images, images, kernels, strict=True):
        assert_close(got, gradient_sums(x, kernel, 1, np.ones((6, 5, 3)))[0])
    np.testing.assert_allclose(
        jax.vmap(conv3x3, (0, None))(batch, transform_kernel(kernels[0]))[1],
        conv_sums(images[1], kernels[0], 1),
        atol=1e-4,
    )
