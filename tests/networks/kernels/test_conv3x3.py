"""The 3×3 convolution against sums in float64, and the forms that the compiler gets."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from networks.kernels.reference import assert_close, conv_sums, gradient_sums, operands, random_like

from nst_jax.networks.kernels.conv3x3 import DirectKernel, _conv_columns, _conv_lax, conv3x3

# Even and odd channels, and few and many outputs, take different paths in bfloat16.
SHAPES = [(7, 9, 3, 8), (8, 6, 8, 16), (5, 5, 16, 3)]
THIN = [(1, 1, 4, 4), (1, 7, 6, 2), (6, 1, 12, 4)]


def conv_prepared(x, kernel, padding="SAME"):
    return conv3x3(x, DirectKernel(kernel), padding)


FORMS = pytest.mark.parametrize("conv", [conv3x3, conv_prepared], ids=["loaded", "prepared"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "padding"),
    [(shape, "SAME") for shape in SHAPES + THIN] + [(shape, "VALID") for shape in SHAPES],
    ids=str,
)
@FORMS
def test_value_and_gradients_equal_sums_in_float64(conv, shape, padding, dtype):
    x, kernel = operands(*shape, dtype)
    pad_width = 1 if padding == "SAME" else 0
    out, pull = jax.vjp(lambda *args: conv(*args, padding), x, kernel)
    assert out.dtype == x.dtype
    assert_close(out, conv_sums(x, kernel, pad_width))
    cotangent = random_like(out)
    expected = gradient_sums(x, kernel, pad_width, cotangent)
    for got, want in zip(pull(cotangent), expected, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pad_width", [0, 1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_tpu_form_equals_sums_in_float64(shape, pad_width, dtype):
    """No other device runs this form by itself."""
    x, kernel = operands(*shape, dtype)
    assert_close(_conv_columns(x, kernel, pad_width), conv_sums(x, kernel, pad_width))


def energy(conv, x, kernel):
    return jnp.square(jnp.sin(conv(x, kernel))).sum()


@pytest.mark.parametrize("argnum", [0, 1])
def test_second_derivatives_equal_those_of_jax(argnum):
    def gradient_of_squared_gradient(conv):
        def squared_gradient(x, kernel):
            return jnp.square(jax.grad(partial(energy, conv))(x, kernel)).sum()

        return jax.grad(squared_gradient, argnum)(*operands(4, 9, 5, 3, "float32"))

    expected = gradient_of_squared_gradient(partial(_conv_lax, pad_width=1))
    assert_close(gradient_of_squared_gradient(conv_prepared), np.asarray(expected))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_vmap_in_a_loop_equals_one_image_at_a_time(dtype):
    _, kernel = operands(1, 1, 8, 4, dtype)
    images = jnp.stack([operands(6, 7, 8, 4, dtype, seed)[0] for seed in range(3)])

    def gradient_in_loop(x):
        def body(_, x):
            return (
                jax.vjp(lambda x: conv_prepared(x, kernel), x)[1](conv_prepared(x, kernel))[0] / 64
            )

        return lax.fori_loop(0, 2, body, x)

    together = jax.vmap(gradient_in_loop)(images)
    for got, image in zip(together, images, strict=True):
        assert_close(got, np.asarray(gradient_in_loop(image), np.float64))


def test_the_kernel_gradient_is_traced_only_if_requested():
    def num_convolutions(argnums):
        gradient = jax.grad(lambda x, k: conv_prepared(x, k).sum(), argnums)
        jaxpr = jax.make_jaxpr(gradient)(*operands(6, 5, 4, 3, "float32"))
        return str(jaxpr).count("conv_general_dilated")

    assert num_convolutions(0) < num_convolutions((0, 1))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="this form is for CPU")
def test_bfloat16_is_a_matrix_product_on_cpu():
    def compiled_text(dtype):
        return jax.jit(conv_prepared).lower(*operands(8, 8, 8, 8, dtype)).compile().as_text()

    assert "convolution(" not in compiled_text("bfloat16")
    assert "dot(" in compiled_text("bfloat16")
    assert "convolution(" in compiled_text("float32")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA's CPU compiler")
def test_a_loop_reverses_the_kernel_once():
    x, kernel = operands(16, 16, 32, 32, "float32")

    @jax.jit
    def loop(x, kernel, num_steps):
        def body(_, x):
            return jax.vjp(lambda x: conv_prepared(x, kernel), x)[1](x)[0]

        return lax.fori_loop(0, num_steps, body, x)

    text = loop.lower(x, kernel, 3).compile().as_text()
    assert "while(" in text
    assert "reverse" in text[text.index("ENTRY") :]
