"""The convolution against sums written out in float64, however it is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst_jax.models.kernels.conv3x3 import _as_columns, convolve


def reference(x, kernel, border):
    """out[y, x] = Σ taps, in float64."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    if border == "SAME":
        x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    h, w = x.shape[0] - 2, x.shape[1] - 2
    return sum(
        np.einsum("hwc,cn->hwn", x[i : i + h, j : j + w], kernel[i, j])
        for i in range(3)
        for j in range(3)
    )


def gradient_reference(cotangent, kernel, border):
    """The input's gradient: each output's cotangent goes back along the taps it came by."""
    cotangent, kernel = np.asarray(cotangent, np.float64), np.asarray(kernel, np.float64)
    h, w, _ = cotangent.shape
    out = np.zeros((h + 2, w + 2, kernel.shape[2]))
    for i in range(3):
        for j in range(3):
            out[i : i + h, j : j + w] += np.einsum("hwn,cn->hwc", cotangent, kernel[i, j])
    return out[1:-1, 1:-1] if border == "SAME" else out


def arrays(h, w, c, n, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(h, w, c)), dtype)
    kernel = jnp.asarray(rng.normal(size=(3, 3, c, n)), dtype)
    return x, kernel


def close(got, want, dtype):
    scale = np.abs(want).max() + 1e-30
    # The sum is exact to float32; what is left is the rounding of the result to bfloat16.
    np.testing.assert_allclose(
        np.asarray(got, np.float64) / scale, want / scale, atol=1e-5 if dtype == "float32" else 4e-3
    )


# Even and odd depths, few and many outputs take different ways in bfloat16.
SHAPES = [(7, 9, 3, 8), (8, 6, 8, 16), (5, 5, 16, 3), (1, 1, 4, 4), (1, 7, 6, 2), (6, 1, 12, 4)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_sums_written_out(shape, dtype):
    x, kernel = arrays(*shape, dtype)
    got = jax.jit(convolve)(x, kernel)
    assert got.dtype == jnp.dtype(dtype)
    close(got, reference(x, kernel, "SAME"), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("border", ["SAME", "VALID"])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_gradient_equals_the_sums_written_out(shape, border, dtype):
    x, kernel = arrays(*shape, dtype)
    out, pull = jax.vjp(lambda x: convolve(x, kernel, border), x)
    close(out, reference(x, kernel, border), dtype)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=out.shape), dtype)
    close(pull(cotangent)[0], gradient_reference(cotangent, kernel, border), dtype)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 8), st.integers(1, 8))
def test_any_shape_in_bfloat16(h, w, c, n):
    x, kernel = arrays(h, w, 2 * c, n, "bfloat16")
    close(jax.jit(convolve)(x, kernel), reference(x, kernel, "SAME"), "bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("margin", [0, 1, 2])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_columns_equal_the_sums_written_out(shape, margin, dtype):
    """The TPU's way, which does not run on other devices by itself."""
    x, kernel = arrays(*shape, dtype)
    padded = np.pad(np.asarray(x, np.float64), ((margin, margin), (margin, margin), (0, 0)))
    close(_as_columns(x, kernel, margin), reference(padded, kernel, "VALID"), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_of_the_kernel(dtype):
    x, kernel = arrays(6, 5, 4, 3, dtype)
    _, pull = jax.vjp(lambda k: convolve(x, k), kernel)
    cotangent = jnp.ones((6, 5, 3), dtype)
    padded = np.pad(np.asarray(x, np.float64), ((1, 1), (1, 1), (0, 0)))
    want = np.stack(
        [[padded[i : i + 6, j : j + 5].sum((0, 1)) for j in range(3)] for i in range(3)]
    )
    close(pull(cotangent)[0], np.repeat(want[..., None], 3, axis=-1), dtype)


def test_an_unwanted_gradient_is_not_traced():
    x, kernel = arrays(6, 5, 4, 3, "float32")

    def program(argnums):
        value = jax.grad(lambda x, k: convolve(x, k).sum(), argnums)
        return str(jax.make_jaxpr(value)(x, kernel))

    assert program(0).count("conv_general_dilated") < program((0, 1)).count("conv_general_dilated")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batched_equals_one_by_one(dtype):
    _, kernel = arrays(1, 1, 8, 4, dtype)
    batch = jnp.stack([arrays(6, 7, 8, 4, dtype, seed)[0] for seed in range(3)])

    def both(x):
        out, pull = jax.vjp(lambda x: convolve(x, kernel), x)
        return out, pull(jnp.ones_like(out))[0]

    together = jax.vmap(both)(batch)
    for i in range(3):
        for got, want in zip(together, both(batch[i]), strict=True):
            close(got[i], np.asarray(want, np.float64), dtype)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="products are for CPUs")
def test_bfloat16_is_no_convolution_on_a_cpu_and_float32_is():
    def compiled(dtype):
        return jax.jit(convolve).lower(*arrays(8, 8, 8, 8, dtype)).compile().as_text()

    assert "convolution(" not in compiled("bfloat16")
    assert "dot(" in compiled("bfloat16")
    assert "convolution(" in compiled("float32")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA's CPU compiler")
def test_a_loop_reverses_the_kernel_before_its_first_turn():
    x, kernel = arrays(16, 16, 32, 32, "float32")

    @jax.jit
    def loop(x, kernel, turns):
        def turn(_, x):
            return jax.vjp(lambda x: convolve(x, kernel), x)[1](x)[0]

        return jax.lax.fori_loop(0, turns, turn, x)

    text = loop.lower(x, kernel, 3).compile().as_text()
    assert "while(" in text
    assert "reverse" in text[text.index("ENTRY") :]
