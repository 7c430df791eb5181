"""The layers between the convolutions: bias with ReLU, and pooling.

Their gradients need one byte per number: which numbers were positive, and which of the four numbers
in a window was the largest. `nst_jax.networks.kernels.noinline` makes XLA's CPU compiler compute
these bytes in the forward pass; otherwise it would compute them in the backward pass and keep the
whole output of the convolution until then.
"""

from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, UInt8

from nst_jax._types import Pooling
from nst_jax.networks.kernels.dtypes import at_least_float32
from nst_jax.networks.kernels.noinline import noinline
from nst_jax.networks.kernels.plain import plain_kernels

__all__ = ["POOL_SCALE", "bias_relu", "pool"]

POOL_SCALE: Final[dict[Pooling, float]] = {
    "max": 1.0,
    "average": 1.0,
    "scaled_average": 1.6,
    "l2": 0.70,
}
"""The factor of each kind of pooling. Those of ``scaled_average`` and ``l2`` give activations the
size that the next filters were trained on. They are fitted with the bundled VGG16 on five photos of
scikit-image and scikit-learn: the geometric mean of the RMS at relu2_1 … relu5_1 is within a few
percent of that with max pooling (``docs/performance.md``)."""


def bias_relu(x: Float[Array, "h w n"], bias: Float[Array, " n"]) -> Float[Array, "h w n"]:
    """max(x + bias, 0)."""
    return jax.nn.relu(x + bias) if plain_kernels() else _bias_relu(x, bias)


@jax.custom_jvp
def _bias_relu(x: Float[Array, "h w n"], bias: Float[Array, " n"]) -> Float[Array, "h w n"]:
    return noinline(_bias_relu_and_mask, x, bias)[0]


@_bias_relu.defjvp
def _bias_relu_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> Any:
    value, mask = noinline(_bias_relu_and_mask, *primals)
    return value, jnp.where(mask, tangents[0] + tangents[1], 0)


def _bias_relu_and_mask(
    x: Float[Array, "h w n"], bias: Float[Array, " n"]
) -> tuple[Float[Array, "h w n"], Bool[Array, "h w n"]]:
    value = jnp.maximum(x + bias, 0)
    # Without the barrier XLA keeps x + bias until the backward pass, beside the value, and cuDNN
    # cannot compute bias and ReLU together with the convolution.
    value = lax.platform_dependent(value, cuda=lax.optimization_barrier, default=lambda x: x)
    return value, value > 0


def pool(x: Float[Array, "h w n"], pooling: Pooling) -> Float[Array, "h//2 w//2 n"]:
    """Pool 2×2 windows with stride 2 and multiply by `POOL_SCALE`; drop an odd last row or column.

    ``l2`` is the root of the sum of squares.
    """
    h, w, _n = x.shape
    x = x[: h // 2 * 2, : w // 2 * 2]
    if pooling == "max" and plain_kernels():
        return lax.reduce_window(x, -jnp.inf, lax.max, (2, 2, 1), (2, 2, 1), "VALID")
    if pooling == "max":
        return _max_pool(x)
    windows = _windows(x)
    if pooling != "l2":
        return POOL_SCALE[pooling] * windows.mean((1, 3))
    # Not in half precision, which overflows; and the gradient of the root is infinite at 0.
    squares = jnp.square(at_least_float32(windows)).sum((1, 3))
    root = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return (POOL_SCALE[pooling] * root).astype(x.dtype)


@jax.custom_jvp
def _max_pool(x: Float[Array, "h w n"]) -> Float[Array, "h//2 w//2 n"]:
    """Maximum of each 2×2 window; the gradient goes to the first position that holds it.

    JAX would divide the gradient among equal positions, which takes three more passes over the
    windows. The windows are read in two ways: on TPU strided slices are fast and a reshape copies
    the data, and on CPU it is the reverse.
    """
    return noinline(_max_and_argmax, x)[0]


@_max_pool.defjvp
def _max_pool_jvp(primals: tuple[Array], tangents: tuple[Array]) -> Any:
    value, argmax = noinline(_max_and_argmax, *primals)
    select = {"tpu": _select_strided, "default": _select_reshape}
    return value, lax.platform_dependent(argmax, *tangents, **select)


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


def _windows(x: Float[Array, "h w n"]) -> Float[Array, "h//2 2 w//2 2 n"]:
    h, w, n = x.shape
    # One axis at a time: JAX cannot split two at once on a mesh with explicit axes.
    return x.reshape(h // 2, 2, w, n).reshape(h // 2, 2, w // 2, 2, n)


def _corners_reshape(x: Float[Array, "h w n"]) -> list[Float[Array, "h//2 w//2 n"]]:
    """The four numbers of each window, in reading order."""
    windows = _windows(x)
    return [windows[:, i, :, j] for i in (0, 1) for j in (0, 1)]


def _corners_strided(x: Float[Array, "h w n"]) -> list[Float[Array, "h//2 w//2 n"]]:
    return [x[i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _select_reshape(
    argmax: UInt8[Array, "h w n"], x: Float[Array, "2*h 2*w n"]
) -> Float[Array, "h w n"]:
    """Read the number at a position in each window."""
    positions = jnp.arange(4, dtype=jnp.uint8).reshape(1, 2, 1, 2, 1)
    return jnp.where(argmax[:, None, :, None] == positions, _windows(x), 0).sum((1, 3))


def _select_strided(
    argmax: UInt8[Array, "h w n"], x: Float[Array, "2*h 2*w n"]
) -> Float[Array, "h w n"]:
    corners = [jnp.where(argmax == k, corner, 0) for k, corner in enumerate(_corners_strided(x))]
    return corners[0] + corners[1] + corners[2] + corners[3]
