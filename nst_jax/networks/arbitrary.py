"""Arbitrary stylization (Ghiasi et al. 2017): two networks that stylize a photo in one pass.

`predict_style` turns a painting into a vector, and `apply_style` turns a photo and a vector into an
image. Both are pure functions of their parameters, which
`nst_jax.networks.weights.load_arbitrary` reads. The prediction is MobileNetV2 (Sandler et al.
2018). The network that paints is the small one of the published mobile version: each convolution
after the third is followed by an instance normalization whose scale and offset are linear in the
vector.
"""

from collections.abc import Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nst_jax.errors import InputError
from nst_jax.networks.protocol import check_image

__all__ = ["STYLE_SIZE", "VECTOR_LENGTH", "apply_style", "predict_style"]

STYLE_SIZE: Final = 256
"""The prediction was trained with square styles of this side."""
VECTOR_LENGTH: Final = 100
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
    x = _relu6(_conv(style, params["conv_in"], stride=2, padding="SAME"))
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
    x = jax.nn.relu(_reflect_conv(content, params["contract_1"]))
    x = jax.nn.relu(_reflect_conv(x, params["contract_2"], stride=2))
    x = jax.nn.relu(_reflect_conv(x, params["contract_3"], stride=2))
    for i in range(1, NUM_RESIDUALS + 1):
        with jax.named_scope(f"residual_{i}"):
            residual = params[f"residual_{i}"]
            y = jax.nn.relu(_styled_conv(x, residual["conv_1"], vector))
            x = x + _styled_conv(y, residual["conv_2"], vector)
    x = jax.nn.relu(_styled_conv(_double(x), params["expand_1"], vector))
    x = jax.nn.relu(_styled_conv(_double(x), params["expand_2"], vector))
    x = jax.nn.sigmoid(_styled_conv(x, params["expand_3"], vector))
    return x[:height, :width]  # Two doublings make multiples of 4.


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0, 6)


def _pointwise(x: Float[Array, "*k c"], params: LayerParams) -> Float[Array, "*k n"]:
    return x @ params["kernel"] + params["bias"]


def _conv(
    x: Float[Array, "h w c"], params: LayerParams, *, stride: int = 1, padding: str, groups: int = 1
) -> Array:
    y = lax.conv_general_dilated(
        x[None],
        params["kernel"],
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )[0]
    return y + params["bias"] if "bias" in params else y


def _inverted_residual(x: Float[Array, "h w c"], params: LayerParams, stride: int) -> Array:
    y = _relu6(_pointwise(x, params["expand"])) if "expand" in params else x
    y = _relu6(_conv(y, params["depthwise"], stride=stride, padding="SAME", groups=y.shape[-1]))
    y = _pointwise(y, params["project"])
    return x + y if y.shape == x.shape else y


def _reflect_conv(x: Float[Array, "h w c"], params: LayerParams, *, stride: int = 1) -> Array:
    radius = params["kernel"].shape[0] // 2
    x = jnp.pad(x, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    return _conv(x, params, stride=stride, padding="VALID")


def _styled_conv(x: Float[Array, "h w c"], params: LayerParams, vector: Array) -> Array:
    """Convolve and normalize each channel to the mean and deviation that the style asks for."""
    x = _reflect_conv(x, params)
    mean = x.mean((0, 1))
    variance = jnp.square(x - mean).mean((0, 1))
    gamma, beta = _pointwise(vector, params["gamma"]), _pointwise(vector, params["beta"])
    return (x - mean) * (gamma * lax.rsqrt(variance + EPSILON)) + beta


def _double(x: Float[Array, "h w c"]) -> Float[Array, "2*h 2*w c"]:
    return x.repeat(2, 0).repeat(2, 1)
