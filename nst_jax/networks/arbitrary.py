"""Arbitrary stylization (Ghiasi et al. 2017): two networks that stylize a photo in one pass.

`predict_style` turns a painting into a vector, and `apply_style` turns a photo and a vector into an
image. Both are pure functions of their parameters, which
`nst_jax.networks.weights.load_arbitrary` reads. The prediction is MobileNetV2 (Sandler et al.
2018). The network that paints is the small one of the published mobile version: each convolution
after the third is followed by an instance normalization whose scale and offset are linear in the
vector.
"""

import functools
from collections.abc import Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from nst_jax.errors import InputError
from nst_jax.networks.protocol import check_image
from nst_jax.networks.weights import load_arbitrary as load_params

__all__ = ["STYLE_SIZE", "apply_style", "load_params", "predict_style"]

STYLE_SIZE: Final = 256
"""The prediction was trained with square styles of this side."""
BLOCK_STRIDES: Final = {1: 2, 3: 2, 6: 2, 13: 2}
NUM_BLOCKS: Final = 17
NUM_RESIDUALS: Final = 5
MIN_SIDE: Final = 16  # Reflection needs more pixels than it adds, also after two strides of 2.
EPSILON: Final = 1e-5

LayerParams = Mapping[str, Any]


def predict_style(params: LayerParams, style: Float[Array, "h w 3"]) -> Float[Array, " 100"]:
    """Return the vector of a style. Blends of vectors are styles, too.

    Args:
        params: from `nst_jax.networks.weights.load_arbitrary`.
        style: RGB in [0, 1]; best a square of `STYLE_SIZE`.

    Raises:
        InputError: the style is no float RGB image.

    >>> import jax
    >>> from nst_jax.networks import weights
    >>> params = weights.load_arbitrary()
    >>> predict_style(params, jax.numpy.full((32, 32, 3), 0.5)).shape
    (100,)
    """
    check_image(style)
    params = params["predict"]
    x = _relu6(_conv(style, params["conv_in"]["kernel"], 2, "SAME") + params["conv_in"]["bias"])
    for i in range(NUM_BLOCKS):
        with jax.named_scope(f"block_{i}"):
            x = _inverted_residual(x, params[f"block_{i}"], BLOCK_STRIDES.get(i, 1))
    x = _relu6(_pointwise(x, params["conv_out"]))
    return _pointwise(x.mean((0, 1)), params["vector"])


def apply_style(
    params: LayerParams, content: Float[Array, "h w 3"], vector: Float[Array, " 100"]
) -> Float[Array, "h w 3"]:
    """Return a photo in the style of a vector.

    Args:
        params: from `nst_jax.networks.weights.load_arbitrary`.
        content: RGB in [0, 1], of any size from 16 pixels.
        vector: from `predict_style`.

    Raises:
        InputError: the content is no float RGB image, or a side is below 16 pixels.

    >>> import jax
    >>> from nst_jax.networks import weights
    >>> params = weights.load_arbitrary()
    >>> photo, *paintings = jax.random.uniform(jax.random.key(0), (3, 32, 32, 3))
    >>> vectors = jax.vmap(predict_style, (None, 0))(params, jax.numpy.stack(paintings))
    >>> apply_style(params, photo, vectors.mean(0)).shape  # both styles
    (32, 32, 3)
    """
    check_image(content)
    height, width, _ = content.shape
    if min(height, width) < MIN_SIDE:
        raise InputError(
            f"the content has shape {content.shape}; give sides of at least {MIN_SIDE} pixels"
        )
    params = params["transform"]
    x = content
    for name, stride in (("contract_1", 1), ("contract_2", 2), ("contract_3", 2)):
        x = jax.nn.relu(_reflect_conv(x, params[name], stride) + params[name]["bias"])
    for i in range(1, NUM_RESIDUALS + 1):
        with jax.named_scope(f"residual_{i}"):
            first, second = params[f"residual_{i}"]["conv_1"], params[f"residual_{i}"]["conv_2"]
            y = jax.nn.relu(_style_norm(_reflect_conv(x, first), first, vector))
            x = x + _style_norm(_reflect_conv(y, second), second, vector)
    for name in ("expand_1", "expand_2"):
        x = jax.nn.relu(_style_norm(_double_conv(x, params[name]), params[name], vector))
    x = _style_norm(_reflect_conv(x, params["expand_3"]), params["expand_3"], vector)
    x = jax.nn.sigmoid(x)
    return x[:height, :width]  # Two doublings make multiples of 4.


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0, 6)


def _pointwise(x: Float[Array, "*k c"], params: LayerParams) -> Float[Array, "*k n"]:
    return x @ params["kernel"] + params["bias"]


def _conv(
    x: Float[Array, "h w c"],
    kernel: Float[Array | np.ndarray, "k k _ n"],
    stride: int,
    padding: str,
) -> Array:
    x = lax.conv_general_dilated(
        x[None],
        jnp.asarray(kernel),
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return x[0]


def _depthwise_conv(
    x: Float[Array, "h w c"], kernel: Float[Array | np.ndarray, "k k _ n"], stride: int
) -> Array:
    """Filter each channel. On CPU this is ten times as fast as XLA's grouped convolution."""
    height, width, channels = x.shape
    pads = lax.padtype_to_pads((height, width), (3, 3), (stride, stride), "SAME")
    x = jnp.pad(x, (*pads, (0, 0)))
    rows, columns = (stride * (-(-side // stride) - 1) + 1 for side in (height, width))
    taps = [
        lax.slice(x, (i, j, 0), (i + rows, j + columns, channels), (stride, stride, 1))
        * kernel[i, j, 0]
        for i in range(3)
        for j in range(3)
    ]
    return functools.reduce(jnp.add, taps)


def _inverted_residual(x: Float[Array, "h w c"], params: LayerParams, stride: int) -> Array:
    y = _relu6(_pointwise(x, params["expand"])) if "expand" in params else x
    depthwise = params["depthwise"]
    y = _relu6(_depthwise_conv(y, depthwise["kernel"], stride) + depthwise["bias"])
    y = _pointwise(y, params["project"])
    return x + y if y.shape == x.shape else y


def _reflect_conv(x: Float[Array, "h w c"], params: LayerParams, stride: int = 1) -> Array:
    radius = params["kernel"].shape[0] // 2
    x = jnp.pad(x, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    return _conv(x, params["kernel"], stride, "VALID")


def _double_conv(x: Float[Array, "h w c"], params: LayerParams) -> Float[Array, "2*h 2*w n"]:
    """Repeat each pixel 2×2 times and convolve, with reflection at the border.

    The four pixels of an output block see the same 3×3 pixels of ``x``. So four kernels compute
    them from ``x`` itself, and reflection of the repeated pixels is repetition of the last one.
    """
    kernels = [k for rows in _halve(params["kernel"], 0) for k in _halve(rows, 1)]
    x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
    y = _conv(x, jnp.concatenate(kernels, -1), 1, "VALID")
    height, width, channels = y.shape
    y = y.reshape(height, width, 2, 2, channels // 4).transpose(0, 2, 1, 3, 4)
    return y.reshape(2 * height, 2 * width, channels // 4)


def _halve(kernel: Array | np.ndarray, axis: int) -> tuple[Array, Array]:
    """Return the kernels of the first and the second of two equal pixels along an axis."""
    before, center, after = jnp.split(kernel, 3, axis)
    none = jnp.zeros_like(center)
    first = jnp.concatenate([before, center + after, none], axis)
    return first, jnp.concatenate([none, before + center, after], axis)


def _style_norm(x: Float[Array, "h w c"], params: LayerParams, vector: Array) -> Array:
    """Give each channel the mean and the deviation that the style asks for."""
    mean = x.mean((0, 1))
    variance = jnp.square(x - mean).mean((0, 1))
    gamma, beta = _pointwise(vector, params["gamma"]), _pointwise(vector, params["beta"])
    return (x - mean) * (gamma * lax.rsqrt(variance + EPSILON)) + beta
