"""The total loss of a picture against fixed targets: what is compiled and differentiated.

`make_targets` runs the network once over the content and the styles; `loss` compares a picture
with what it found. Both are pure: parameters, targets and weights are pytrees that a caller's own
``jit``, ``grad`` or ``vmap`` takes as arguments, so that new weights or targets of the same shapes
need no new compilation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from nst_jax.errors import InputError
from nst_jax.losses import terms as losses
from nst_jax.models.architectures import Padding, Pooling, poolings
from nst_jax.models.vgg import VGG, Params
from nst_jax.settings import Form

__all__ = [
    "LossWeights",
    "Measures",
    "Targets",
    "check",
    "loss",
    "make_targets",
    "measure",
    "positions",
    "propagate",
    "total",
]


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
            picture may have another size than the output. With guides one a region, (r, n_l, n_l).
        guides: how much each position belongs to each region, in [0, 1], (r, h_l, w_l), by tap;
            empty if all of the picture is one region.
        regions: what each region counts, (r,); None likewise.
        form: `nst_jax.settings.Form`.
        pooling: the network's pooling, the same for targets and picture.
        padding: the padding of its first convolution, likewise.
    """

    content: dict[str, Float[Array, "..."]]
    style: dict[str, Float32[Array, "..."]]
    guides: dict[str, Float32[Array, "..."]] = field(default_factory=dict)
    regions: Float32[Array, " r"] | None = None
    form: Form = field(default="relative", metadata={"static": True})
    pooling: Pooling = field(default="max", metadata={"static": True})
    padding: Padding = field(default="replicate", metadata={"static": True})


Reading = Callable[[VGG, Float[Array, "h w 3"], Sequence[str]], dict[str, Array]]
"""Something of a picture by tap, read with a network."""


def _mean_grams(
    network: VGG, image: Float[Array, "h w 3"], taps: Sequence[str]
) -> dict[str, Float32[Array, "_ _"]]:
    return {
        tap: losses.gram(features) / math.prod(features.shape[:2])
        for tap, features in network(image, taps).items()
    }


def make_targets(
    params: Params,
    content: Float[Array, "h w 3"] | None = None,
    styles: Sequence[Float[Array, "_ _ 3"]] = (),
    *,
    content_layers: Sequence[str] = (),
    style_layers: Sequence[str] = (),
    style_weights: Sequence[float] | None = None,
    masks: Float[Array, "r h w"] | None = None,
    form: Form = "relative",
    pooling: Pooling = "max",
    padding: Padding = "replicate",
    features: Reading = VGG.__call__,
    mean_grams: Reading = _mean_grams,
) -> Targets:
    """Run the network over the content and the styles and keep what the loss compares with.

    Args:
        params: the network's weights (`nst_jax.models.weights.load`).
        content: RGB in [0, 1], as large as the picture to be optimised; None for style alone.
        styles: RGB in [0, 1], of any sizes; empty for content alone.
        content_layers: taps at which the content is compared.
        style_layers: taps at which the styles are compared.
        style_weights: how much each style counts; equal by default. Their Gram matrices are
            averaged with these weights, scaled to sum to 1.
        masks: a region of the picture for each style, as large as the picture, in [0, 1] with
            edges as soft as wanted (Gatys et al. 2017, "Controlling Perceptual Factors in Neural
            Style Transfer", section 4). The styles are not blended then: each has its own Gram
            matrices in its own region, which counts by the part of the picture that it covers times
            its style's weight. Where no region is, the content alone counts.
        features: how to read the content's features, (h_l, w_l, n_l) by tap.
        mean_grams: how to read a style's Gram matrices a position, (n_l, n_l) by tap.

    Raises:
        InputError: an unknown tap or option, layers without an image or an image without layers,
            or weights or masks that do not fit the styles.
    """
    if form not in get_args(Form):
        raise InputError(f"form is {form!r}; choose one of {', '.join(get_args(Form))}")
    if (content is None) != (not content_layers):
        raise InputError("give a content image and content layers, or neither")
    if (not styles) != (not style_layers):
        raise InputError("give style images and style layers, or neither")
    shares = _shares(len(styles), style_weights)
    if masks is not None and len(masks) != len(styles):
        raise InputError(f"{len(masks)} masks for {len(styles)} style images; give one each")
    if masks is not None and content is not None and masks.shape[1:] != content.shape[:2]:
        raise InputError(
            f"masks of {masks.shape[2]}x{masks.shape[1]} pixels for a content of "
            f"{content.shape[1]}x{content.shape[0]}; resize them to its size"
        )
    network = VGG(params, pooling=pooling, padding=padding)
    content_features = {} if content is None else features(network, content, content_layers)
    per_style = [mean_grams(network, style, style_layers) for style in styles]
    if masks is None:
        grams = {
            tap: sum(
                (s * own[tap] for s, own in zip(shares[1:], per_style[1:], strict=True)),
                shares[0] * per_style[0][tap],
            )
            for tap in style_layers
        }
        return Targets(content_features, grams, form=form, pooling=pooling, padding=padding)
    return Targets(
        content_features,
        {tap: jnp.stack([own[tap] for own in per_style]) for tap in style_layers},
        {tap: propagate(masks, tap) for tap in style_layers},
        _counts(masks, shares),
        form,
        pooling,
        padding,
    )


def propagate(masks: Float[Array, "r h w"], tap: str) -> Float32[Array, "r h_l w_l"]:
    """Bring regions to a layer's resolution: the mean over the pixels that its pooling joins."""
    masks = masks.astype(jnp.float32)
    for _ in range(poolings(tap)):
        r, h, w = masks.shape
        windows = masks[:, : h // 2 * 2, : w // 2 * 2].reshape(r, h // 2, 2, w // 2, 2)
        masks = windows.mean((2, 4))
    return masks


def positions(tap: str, height: int, width: int) -> int:
    """M_l, how many positions a layer has for a picture of this size."""
    return (height >> poolings(tap)) * (width >> poolings(tap))


class Measures(NamedTuple):
    """What of a picture enters the loss. Of parts that do not overlap they add up to the whole's,
    which lets a picture be measured tile by tile.

    Attributes:
        content: ½ Σ (F − P)², by tap.
        grams: Σ_k F_ik F_jk, by tap, (n_l, n_l); with guides Σ_k T_rk F_ik F_jk, (r, n_l, n_l).
    """

    content: dict[str, Float32[Array, ""]]
    grams: dict[str, Float32[Array, "..."]]


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
    check(image, targets, weights)
    network = VGG(params, pooling=targets.pooling, padding=targets.padding)
    taps = tuple({**targets.content, **targets.style})
    beside = {
        tap: losses.gram_beside
        for tap in targets.style
        if tap.startswith("relu") and tap not in targets.content and tap not in targets.guides
    }
    seen = network(image, taps, beside=beside)
    grams = {tap: seen.pop(tap) for tap in beside}
    return total(measure(seen, targets, grams), image, targets, weights)


def check(image: Float[Array, "h w 3"], targets: Targets, weights: LossWeights) -> None:
    """Raise `InputError` unless targets and weights are of the same layers, and the content and the
    masks were of the image's size."""
    _check_layers("content", weights.content_layers, targets.content)
    _check_layers("style", weights.style_layers, targets.style)
    for kind, wanted in (("content", targets.content), ("masks", targets.guides)):
        for tap, goal in wanted.items():
            own = tuple(side >> poolings(tap) for side in image.shape[:2])
            shape = goal.shape[:2] if kind == "content" else goal.shape[1:]
            if own != shape:
                raise InputError(
                    f"the image gives features of {own} positions at {tap} and the {kind} {shape}; "
                    f"make the targets from {kind} of the image's size"
                )


def measure(
    features: Mapping[str, Float[Array, "h_l w_l n_l"]],
    targets: Targets,
    grams: Mapping[str, Float32[Array, "_ _"]] | None = None,
) -> Measures:
    """Compare features with the content's and take their Gram matrices, but for those given."""
    content = {tap: losses.content_loss(features[tap], P) for tap, P in targets.content.items()}
    grams = dict(grams or {})
    for tap in targets.style:
        if tap in grams:
            continue
        if tap in targets.guides:
            guides = targets.guides[tap]
            grams[tap] = jnp.stack([losses.guided_gram(features[tap], T) for T in guides])
        else:
            grams[tap] = losses.gram(features[tap])
    return Measures(content, grams)


def total(
    measures: Measures, image: Float[Array, "h w 3"], targets: Targets, weights: LossWeights
) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
    """Weigh what was measured of ``image``; returns what `loss` returns."""
    paper = targets.form == "paper"
    content = {}
    for tap, P in targets.content.items():
        half = measures.content[tap]
        energy = losses.content_loss(P, jnp.zeros_like(P))
        content[tap] = half if paper else half / (energy + losses.EPSILON)
    style = {}
    for tap, A in targets.style.items():
        if tap in targets.guides:
            M = targets.guides[tap].sum((1, 2))
            # A region in nothing but the rows that pooling drops is in no deeper layer.
            seen = M > losses.EPSILON
            M = jnp.where(seen, M, 1.0)
            each = jax.vmap(partial(_style_loss, targets.form))(measures.grams[tap], A, M)
            style[tap] = jnp.dot(cast(Array, targets.regions) * seen, each)
        else:
            M = positions(tap, *image.shape[:2])
            style[tap] = _style_loss(targets.form, measures.grams[tap], A, M)

    zero = jnp.zeros((), jnp.float32)
    sums = {
        "content": sum((weights.content_layers[tap] * v for tap, v in content.items()), zero),
        "style": sum((weights.style_layers[tap] * v for tap, v in style.items()), zero),
        "tv": losses.total_variation(image),
    }
    whole = (
        weights.content * sums["content"] + weights.style * sums["style"] + weights.tv * sums["tv"]
    )
    layers = {f"content/{tap}": v for tap, v in content.items()}
    layers |= {f"style/{tap}": v for tap, v in style.items()}
    return whole, sums | layers


def _style_loss(
    form: Form, G: Float32[Array, "n n"], A: Float32[Array, "n n"], M: Float32[Array, ""] | int
) -> Float32[Array, ""]:
    """Compare G, summed over M positions, with A, a position."""
    if form == "paper":  # a position, too: the M² of a region of nearly nothing is 0 in float32
        return losses.style_loss(G / M, A, 1)
    return losses.relative_style_loss(G / M, A)


def _counts(masks: Float[Array, "r h w"], shares: Sequence[float]) -> Float32[Array, " r"]:
    """What each region counts: the part of the picture that it covers, times its style's weight.
    A pixel then feels its style as strongly as without masks, however small its region is."""
    covered = masks.astype(jnp.float32).mean((1, 2))
    return covered * jnp.asarray(shares, jnp.float32) * len(shares)


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
