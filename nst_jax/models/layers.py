"""What stands between the convolutions: rectification and pooling, and what is kept of them.

Their gradients need little: a rectification's which numbers were positive, max pooling's which of
four was the largest, a byte each. `nst_jax.models.kernels.noinline` has these found out at once: XLA's CPU compiler
would do so in the backward pass, and keep a convolution's whole result for it.
"""

from typing import Final

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, UInt8

from nst_jax.models.architectures import Pooling
from nst_jax.models.kernels.noinline import apart

__all__ = ["POOLING_GAIN", "pool", "rectify"]

POOLING_GAIN: Final = {"max": 1.0, "average": 1.6, "l2": 0.70}
"""Factors that give average and L2 pooling the size of activations that the filters above were
trained on. Fitted end to end with the bundled VGG16 on five photos that scikit-image and
scikit-learn ship: the geometric mean of the RMS at relu2_1 … relu5_1 is then within a few per cent
of max pooling's (``benchmarks/choices.py``)."""


@jax.custom_vjp
def rectify(x: Float[Array, "h w n"], bias: Float[Array, " n"]) -> Float[Array, "h w n"]:
    """max(x + bias, 0)."""
    return _rectify_forward(x, bias)[0]


def _rectify_forward(
    x: Float[Array, "h w n"], bias: Float[Array, " n"]
) -> tuple[Float[Array, "h w n"], Bool[Array, "h w n"]]:
    return apart(_value_and_sign, x, bias)


def _value_and_sign(
    x: Float[Array, "h w n"], bias: Float[Array, " n"]
) -> tuple[Float[Array, "h w n"], Bool[Array, "h w n"]]:
    x = x + bias
    return jnp.maximum(x, 0), x > 0


def _rectify_backward(
    positive: Bool[Array, "h w n"], cotangent: Float[Array, "h w n"]
) -> tuple[Float[Array, "h w n"], Float[Array, " n"]]:
    to_x = jnp.where(positive, cotangent, 0)
    return to_x, to_x.sum((0, 1))


rectify.defvjp(_rectify_forward, _rectify_backward)


def pool(x: Float[Array, "h w n"], kind: Pooling) -> Float[Array, "h//2 w//2 n"]:
    """Halve height and width with 2×2 windows of stride 2; an odd last row or column is dropped."""
    h, w, n = x.shape
    x = x[: h // 2 * 2, : w // 2 * 2]
    if kind == "max":
        return _max(x)
    windows = x.reshape(h // 2, 2, w // 2, 2, n)
    if kind == "average":
        return POOLING_GAIN[kind] * windows.mean((1, 3))
    # Half precision cannot hold the squares; at zero the root's gradient would be infinite.
    squares = jnp.square(windows.astype(jnp.float32)).sum((1, 3))
    root = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return (POOLING_GAIN[kind] * root).astype(x.dtype)


@jax.custom_vjp
def _max(x: Float[Array, "h w n"]) -> Float[Array, "h//2 w//2 n"]:
    """The maximum of each window; its gradient goes to the first place that holds it.

    What JAX derives shares it among equal places and costs three more passes over the windows. A
    TPU lays out anew what is reshaped into windows and is fast at strides; a CPU is the opposite.
    """
    return _max_forward(x)[0]


def _max_forward(
    x: Float[Array, "h w n"],
) -> tuple[Float[Array, "h//2 w//2 n"], UInt8[Array, "h//2 w//2 n"]]:
    return apart(_max_and_place, x)


def _max_and_place(
    x: Float[Array, "h w n"],
) -> tuple[Float[Array, "h//2 w//2 n"], UInt8[Array, "h//2 w//2 n"]]:
    places = lax.platform_dependent(x, tpu=_places_by_strides, default=_places_by_windows)
    first, second, third, fourth = places
    top, bottom = jnp.maximum(first, second), jnp.maximum(third, fourth)
    place = jnp.where(
        top >= bottom, jnp.where(first >= second, 0, 1), jnp.where(third >= fourth, 2, 3)
    )
    return jnp.maximum(top, bottom), place.astype(jnp.uint8)


def _max_backward(
    place: UInt8[Array, "h w n"], cotangent: Float[Array, "h w n"]
) -> tuple[Float[Array, "2*h 2*w n"]]:
    spread = {"tpu": _spread_by_strides, "default": _spread_by_windows}
    return (lax.platform_dependent(place, cotangent, **spread),)


_max.defvjp(_max_forward, _max_backward)


def _places_by_windows(x: Float[Array, "h w n"]) -> list[Float[Array, "h//2 w//2 n"]]:
    h, w, n = x.shape
    windows = x.reshape(h // 2, 2, w // 2, 2, n)
    return [windows[:, i, :, j] for i in (0, 1) for j in (0, 1)]


def _places_by_strides(x: Float[Array, "h w n"]) -> list[Float[Array, "h//2 w//2 n"]]:
    return [x[i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _spread_by_windows(
    place: UInt8[Array, "h w n"], values: Float[Array, "h w n"]
) -> Float[Array, "2*h 2*w n"]:
    h, w, n = values.shape
    places = jnp.arange(4, dtype=jnp.uint8).reshape(1, 2, 1, 2, 1)
    windows = jnp.where(place[:, None, :, None] == places, values[:, None, :, None], 0)
    return windows.reshape(2 * h, 2 * w, n)


def _spread_by_strides(
    place: UInt8[Array, "h w n"], values: Float[Array, "h w n"]
) -> Float[Array, "2*h 2*w n"]:
    zero = jnp.zeros((), values.dtype)
    parts = [
        lax.pad(
            jnp.where(place == 2 * i + j, values, zero),
            zero,
            ((i, 1 - i, 1), (j, 1 - j, 1), (0, 0, 0)),
        )
        for i in (0, 1)
        for j in (0, 1)
    ]
    return parts[0] + parts[1] + parts[2] + parts[3]
