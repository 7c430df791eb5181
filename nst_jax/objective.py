"""The total loss of a picture against fixed targets: what is compiled and differentiated.

`make_targets` runs the network once over the content and the styles; `loss` compares a picture
with what it found. Both are pure: parameters, targets and weights are pytrees that a caller's own
``jit``, ``grad`` or ``vmap`` takes as arguments, so that new weights or targets of the same shapes
need no new compilation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from nst_jax import losses
from nst_jax.architectures import Padding, Pooling
from nst_jax.errors import InputError
from nst_jax.settings import Form
from nst_jax.vgg import VGG, Params

__all__ = ["LossWeights", "Targets", "loss", "make_targets"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossWeights:
    """What each part counts in the total. All leaves are numbers, none is static.

    Attributes:
        content: α, the weight of the content loss.
        style: β, the weight of the style loss.
        tv: the weight of the total variation.
        content_layers: w_l of each content layer, by tap.
        style_layers: w_l of each style layer, by tap.
    """

    content: float | Array = 1.0
    style: float | Array = 1.0
    tv: float | Array = 0.0
    content_layers: Mapping[str, float | Array] = field(default_factory=dict)
    style_layers: Mapping[str, float | Array] = field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Targets:
    """What a picture is compared with; made by `make_targets`.

    Attributes:
        content: P, the content's features (h_l, w_l, n_l), by tap.
        style: A / M, the styles' Gram matrices a position (n_l, n_l), by tap, so that a style
            picture may have another size than the output.
        form: `nst_jax.settings.Form`.
        pooling: the network's pooling, the same for targets and picture.
        padding: the padding of its first convolution, likewise.
    """

    content: dict[str, Float[Array, "..."]]
    style: dict[str, Float32[Array, "..."]]
    form: Form = field(default="relative", metadata={"static": True})
    pooling: Pooling = field(default="max", metadata={"static": True})
    padding: Padding = field(default="replicate", metadata={"static": True})


def make_targets(
    params: Params,
    content: Float[Array, "h w 3"] | None = None,
    styles: Sequence[Float[Array, "_ _ 3"]] = (),
    *,
    content_layers: Sequence[str] = (),
    style_layers: Sequence[str] = (),
    style_weights: Sequence[float] | None = None,
    form: Form = "relative",
    pooling: Pooling = "max",
    padding: Padding = "replicate",
) -> Targets:
    """Run the network over the content and the styles and keep what the loss compares with.

    Args:
        params: the network's weights (`nst_jax.weights`).
        content: RGB in [0, 1], as large as the picture to be optimised; None for style alone.
        styles: RGB in [0, 1], of any sizes; empty for content alone.
        content_layers: taps at which the content is compared.
        style_layers: taps at which the styles are compared.
        style_weights: how much each style counts; equal by default. Their Gram matrices are
            averaged with these weights, scaled to sum to 1.

    Raises:
        InputError: an unknown tap or option, layers without an image or an image without layers,
            or weights that do not fit the styles.
    """
    if form not in get_args(Form):
        raise InputError(f"form is {form!r}; choose one of {', '.join(get_args(Form))}")
    if (content is None) != (not content_layers):
        raise InputError("give a content image and content layers, or neither")
    if (not styles) != (not style_layers):
        raise InputError("give style images and style layers, or neither")
    network = VGG(params, pooling=pooling, padding=padding)
    content_features = {} if content is None else network(content, content_layers)
    grams: dict[str, Array] = {}
    shares = _shares(len(styles), style_weights)
    for style, share in zip(styles, shares, strict=True):
        for tap, features in network(style, style_layers).items():
            blended = share * _mean_gram(features)
            grams[tap] = grams[tap] + blended if tap in grams else blended
    return Targets(content_features, grams, form, pooling, padding)


def loss(
    image: Float[Array, "h w 3"], params: Params, targets: Targets, weights: LossWeights
) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
    """α·L_content + β·L_style + tv·L_tv of a picture (the paper's equation 7, and smoothness).

    Args:
        image: RGB, [0, 1] nominally; not clipped here.
        params: the network's weights, the same as the targets were made with.
        targets: from `make_targets`.
        weights: their layers must be the targets'.

    Returns:
        The total, and its parts before α, β and tv: the sums ``content``, ``style`` and ``tv``,
        and every layer's own loss before its w_l, as ``content/conv4_2`` or ``style/relu1_1``.

    Raises:
        InputError: the weights name other layers than the targets hold, or the content had
            another size than the image.
    """
    _check_layers("content", weights.content_layers, targets.content)
    _check_layers("style", weights.style_layers, targets.style)
    network = VGG(params, pooling=targets.pooling, padding=targets.padding)
    features = network(image, tuple({**targets.content, **targets.style}))
    paper = targets.form == "paper"

    for tap, goal in targets.content.items():
        if features[tap].shape != goal.shape:
            raise InputError(
                f"the image gives features of shape {features[tap].shape} at {tap} and the content "
                f"{goal.shape}; make the targets from a content of the image's size"
            )
    content_of = losses.content_loss if paper else losses.relative_content_loss
    content = {tap: content_of(features[tap], goal) for tap, goal in targets.content.items()}

    style = {}
    for tap, goal in targets.style.items():
        if paper:
            positions = math.prod(features[tap].shape[:2])
            style[tap] = losses.style_loss(losses.gram(features[tap]), goal * positions, positions)
        else:
            style[tap] = losses.relative_style_loss(_mean_gram(features[tap]), goal)

    zero = jnp.zeros((), jnp.float32)
    sums = {
        "content": sum((weights.content_layers[tap] * v for tap, v in content.items()), zero),
        "style": sum((weights.style_layers[tap] * v for tap, v in style.items()), zero),
        "tv": losses.total_variation(image),
    }
    total = (
        weights.content * sums["content"] + weights.style * sums["style"] + weights.tv * sums["tv"]
    )
    layers = {f"content/{tap}": v for tap, v in content.items()}
    layers |= {f"style/{tap}": v for tap, v in style.items()}
    return total, sums | layers


def _mean_gram(features: Float[Array, "h w n"]) -> Float32[Array, "n n"]:
    return losses.gram(features) / math.prod(features.shape[:2])


def _shares(styles: int, weights: Sequence[float] | None) -> list[float]:
    """Scale the styles' weights to sum to 1."""
    if weights is None:
        return [1 / styles] * styles if styles else []
    if len(weights) != styles:
        raise InputError(f"{len(weights)} style weights for {styles} style images; give one each")
    if min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise InputError(f"style weights {list(weights)}: none may be negative, one must count")
    return [weight / sum(weights) for weight in weights]


def _check_layers(kind: str, weights: Mapping[str, object], targets: Mapping[str, object]) -> None:
    if set(weights) != set(targets):
        raise InputError(
            f"{kind} weights name the layers {sorted(weights)} but the targets hold "
            f"{sorted(targets)}; give the same to both"
        )
