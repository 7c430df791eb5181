"""The layers between the convolutions: bias with ReLU, and pooling.

Their gradients need one byte per number: which numbers were positive, and which of the four numbers
in a window was the largest. `nst_jax.models.kernels.noinline` makes XLA's CPU compiler compute
these bytes in the forward pass; otherwise it would compute them in the backward pass and keep the
whole output of the convolution until then.
"""

from typing import Final

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, UInt8

from nst_jax._types import Pooling
from nst_jax.models.kernels.noinline import noinline

__all__ = ["POOL_SCALE", "bias_relu", "pool"]

POOL_SCALE: Final[dict[Pooling, float]] = {"max": 1.0, "average": 1.6, "l2": 0.70}
"""Factors with which average and L2 pooling give activations the size that the next filters were
trained on. They are fitted with the bundled VGG16 on five photos of scikit-image and scikit-learn:
the geometric mean of the RMS at relu2_1 … relu5_1 is within a few percent of that with max pooling
(``docs/performance.md``)."""


@jax.custom_vjp
def bias_relu(x: Float[Array, "h w n"], bias: Float[Array, " n"]) -> Float[Array, "h w n"]:
    """max(x + bias, 0)."""
    return _bias_relu_fwd(x, bias)[0]


def _bias_relu_fwd(
    x: Float[Array, "h w n"], bias: Float[Array, " n"]
) -> tuple[Float[Array, "h w n"], Bool[Array, "h w n"]]:
    return noinline(_bias_relu_and_mask, x, bias)


def _bias_relu_and_mask(
    x: Float[Array, "h w n"], bias: Float[Array, " n"]
) -> tuple[Float[Array, "h w n"], Bool[Array, "h w n"]]:
    x = x + bias
    return jnp.maximum(x, 0), x > 0


def _bias_relu_bwd(
    mask: Bool[Array, "h w n"], cotangent: Float[Array, "h w n"]
) -> tuple[Float[Array, "h w n"], Float[Array, " n"]]:
    grad_x = jnp.where(mask, cotangent, 0)
    return grad_x, grad_x.sum((0, 1))


bias_relu.defvjp(_bias_relu_fwd, _bias_relu_bwd)


def pool(x: Float[Array, "h w n"], pooling: Pooling) -> Float[Array, "h//2 w//2 n"]:
    """Pool 2×2 windows with stride 2 and multiply by `POOL_SCALE`; drop an odd last row or column.

    ``l2`` is the root of the sum of squares.
    """
    h, w, n = x.shape
    x = x[: h // 2 * 2, : w // 2 * 2]
    if pooling == "max":
        return _max_pool(x)
    windows = x.reshape(h // 2, 2, w // 2, 2, n)
    if pooling == "average":
        return POOL_SCALE[pooling] * windows.mean((1, 3))
    # In float32, because half precision overflows; and the gradient of the root is infinite at 0.
    squares = jnp.square(windows.astype(jnp.float32)).sum((1, 3))
    root = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return (POOL_SCALE[pooling] * root).astype(x.dtype)


@jax.custom_vjp
def _max_pool(x: Float[Array, "h w n"]) -> Float[Array, "h//2 w//2 n"]:
    """Maximum of each 2×2 window; the gradient goes to the first position that holds it.

    JAX would divide the gradient among equal positions, which takes three more passes over the
    windows. The windows are read in two ways: on TPU strided slices are fast and a reshape copies
    the data, and on CPU it is the reverse.
    """
    return _max_pool_fwd(x)[0]


def _max_pool_fwd(
    x: Float[Array, "h w n"],
) -> tuple[Float[Array, "h//2 w//2 n"], UInt8[Array, "h//2 w//2 n"]]:
    return noinline(_max_and_argmax, x)


def _max_and_argmax(
    x: Float[Array, "h w n"],
) -> tuple[Float[Array, "h//2 w//2 n"], UInt8[Array, "h//2 w//2 n"]]:
    corners = lax.platform_dependent(x, tpu=_corners_strided, default=_corners_reshape)
    first, second, third, fourth = corners
    top, bottom = jnp.maximum(first, second), jnp.maximum(third, fourth)
    argmax = jnp.where(
        top >= bottom, jnp.where(first >= second, 0, 1), jnp.where(third >= fourth, 2, 3)
    )
    return jnp.maximum(top, bottom), argmax.astype(jnp.uint8)


def _max_pool_bwd(
    argmax: UInt8[Array, "h w n"], cotangent: Float[Array, "h w n"]
) -> tuple[Float[Array, "2*h 2*w n"]]:
    return (
        lax.platform_dependent(argmax, cotangent, tpu=_unpool_strided, default=_unpool_reshape),
    )


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def _corners_reshape(x: Float[Array, "h w n"]) -> list[Float[Array, "h//2 w//2 n"]]:
    """The four numbers of each window, in reading order."""
    h, w, n = x.shape
    windows = x.reshape(h // 2, 2, w // 2, 2, n)
    return [windows[:, i, :, j] for i in (0, 1) for j in (0, 1)]


def _corners_strided(x: Float[Array, "h w n"]) -> list[Float[Array, "h//2 w//2 n"]]:
    return [x[i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _unpool_reshape(
    argmax: UInt8[Array, "h w n"], values: Float[Array, "h w n"]
) -> Float[Array, "2*h 2*w n"]:
    """Write each value to its position in its window, and zeros elsewhere."""
    h, w, n = values.shape
    positions = jnp.arange(4, dtype=jnp.uint8).reshape(1, 2, 1, 2, 1)
    windows = jnp.where(argmax[:, None, :, None] == positions, values[:, None, :, None], 0)
    return windows.reshape(2 * h, 2 * w, n)


def _unpool_strided(
    argmax: UInt8[Array, "h w n"], values: Float[Array, "h w n"]
) -> Float[Array, "2*h 2*w n"]:
    zero = jnp.zeros((), values.dtype)
    corners = [
        lax.pad(
            jnp.where(argmax == 2 * i + j, values, zero),
            zero,
            ((i, 1 - i, 1), (j, 1 - j, 1), (0, 0, 0)),
        )
        for i in (0, 1)
        for j in (0, 1)
    ]
    return corners[0] + corners[1] + corners[2] + corners[3]
