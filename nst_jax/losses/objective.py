"""The total loss of an image against fixed targets: what is compiled and differentiated.

`make_targets` runs the network once over the content and the styles. `loss` compares an image with
the result. Both are pure: parameters, targets and loss weights are pytrees, arguments of your own
``jit``, ``grad`` or ``vmap``, so that new values of the same shapes need no new compilation.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float, PyTree

from nst_jax._types import Normalization
from nst_jax.errors import InputError
from nst_jax.losses.own_terms import as_arrays, check_spatial, measure_term, term_value
from nst_jax.losses.statistics import (
    Gram,
    StyleStatistic,
    check_statistic,
    is_stochastic,
)
from nst_jax.losses.terms import EPSILON, content_loss, total_variation
from nst_jax.networks.kernels.dtypes import at_least_float32
from nst_jax.networks.load import default_network, deserialize_network, serialize_network
from nst_jax.networks.protocol import Network, check_image, check_layer_list, check_size
from nst_jax.term import Term, check_named, check_terms

__all__ = [
    "ImageStatistics",
    "LossWeights",
    "Targets",
    "average_over_positions",
    "check_targets",
    "combine_targets",
    "compute_statistics",
    "downsample_masks",
    "layer_terms",
    "loss",
    "make_targets",
    "mix_styles",
    "normalize_weights",
    "num_positions",
    "required_layers",
    "style_targets",
    "total_loss",
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossWeights:
    """The weights of the loss terms. All leaves are numbers; none is static.

    Attributes:
        content: α, the weight of the content loss.
        style: β, the weight of the style loss.
        tv: the weight of the total variation.
        content_layers: w_l of each content layer.
        style_layers: w_l of each style layer.
        terms: the weights of your own terms, by name; 1 for those without.

    >>> import jax
    >>> weights = LossWeights(content=0.05, style_layers={"relu1_1": 0.5, "relu2_1": 0.5})
    >>> len(jax.tree.leaves(weights))  # numbers that jit does not compile in
    5
    """

    content: float | Array = 1.0
    style: float | Array = 1.0
    tv: float | Array = 0.0
    content_layers: Mapping[str, float | Array] = field(default_factory=dict)
    style_layers: Mapping[str, float | Array] = field(default_factory=dict)
    terms: Mapping[str, float | Array] = field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Targets:
    """What an image is compared with; made by `make_targets`.

    Attributes:
        content: P, the content's features ``(h_l, w_l, n_l)``, by layer, in the network's dtype.
        style: the style's statistics by layer, in float32 or better: for the Gram matrix A / M,
            ``(n_l, n_l)``. The mean over positions lets the style have another size than the image.
            With masks, one a mask: ``(r, n_l, n_l)``.
        network: the network, the same for targets and image.
        layer_masks: each mask at the layer's resolution, in [0, 1], ``(r, h_l, w_l)``, by layer;
            empty without masks.
        mask_weights: the weight of each mask's style loss, ``(r,)``; None without masks.
        normalization: how the content loss is normalized, see `nst_jax.Settings`.
        statistic: the style statistic.
        terms: your own terms (`nst_jax.Term`).
        arrays: the arrays of each of these terms, a pytree, by the term's name.
    """

    content: dict[str, Float[Array, "..."]]
    style: dict[str, Any]
    network: Network = field(metadata={"static": True})
    layer_masks: dict[str, Float[Array, "..."]] = field(default_factory=dict)
    mask_weights: Float[Array, " r"] | None = None
    normalization: Normalization = field(default="target_energy", metadata={"static": True})
    statistic: StyleStatistic = field(default=Gram(), metadata={"static": True})
    terms: tuple[Term, ...] = field(default=(), metadata={"static": True})
    arrays: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return a short text without arrays."""
        content, style = _names(self.content), _names(self.style)
        terms = "".join(f"; {term}" for term in self.terms)
        return (
            f"Targets(content: {content}; style: {style}; {self.statistic}; {self.network}{terms})"
        )


def _names(by_layer: Any) -> str:
    """Return the names of layers. In a pytree of axes, an axis or None stands for a dict."""
    if isinstance(by_layer, Mapping):
        return ", ".join(by_layer) or "none"
    return "none" if by_layer is None else repr(by_layer)


def _serialize_options(
    options: tuple[Network, Normalization, StyleStatistic, tuple[Term, ...]],
) -> bytes:
    network, normalization, statistic, terms = options
    if terms:
        raise NotImplementedError(f"jax.export cannot serialize your own terms, such as {terms[0]}")
    if not isinstance(statistic, Gram):
        raise NotImplementedError(f"jax.export can serialize Gram matrices only, not {statistic}")
    return json.dumps([serialize_network(network), normalization, statistic.normalization]).encode()


def _deserialize_options(
    data: bytes,
) -> tuple[Network, Normalization, StyleStatistic, tuple[Term, ...]]:
    network, normalization, gram_normalization = json.loads(bytes(data))
    return deserialize_network(network), normalization, Gram(gram_normalization), ()


export.register_pytree_node_serialization(
    Targets,
    serialized_name="nst_jax.Targets",
    serialize_auxdata=_serialize_options,
    deserialize_auxdata=_deserialize_options,
)
export.register_pytree_node_serialization(
    LossWeights,
    serialized_name="nst_jax.LossWeights",
    serialize_auxdata=lambda _: b"",
    deserialize_auxdata=lambda _: (),
)


class ImageStatistics(NamedTuple):
    """The sufficient statistics of the loss.

    With an additive style statistic they are sums over positions: those of disjoint pieces of an
    image add up to those of the whole, so tiles and shards can be measured apart.

    Attributes:
        content: ½ Σ (F − P)², by layer.
        style: what the style statistic measured, by layer; with masks a leading axis of r.
        terms: what your own terms that read layers measured, by name.
    """

    content: dict[str, Float[Array, ""]]
    style: dict[str, Any]
    terms: dict[str, Any]


def make_targets(
    params: PyTree,
    content: Float[Array, "h w 3"] | None = None,
    styles: Sequence[Float[Array, "_ _ 3"]] = (),
    *,
    content_layers: Sequence[str] = (),
    style_layers: Sequence[str] = (),
    style_weights: Sequence[float] | None = None,
    masks: Float[Array, "r h w"] | None = None,
    network: Network | None = None,
    normalization: Normalization = "target_energy",
    statistic: StyleStatistic | None = None,
    terms: Sequence[Term] = (),
    arrays: Mapping[str, Any] | None = None,
) -> Targets:
    """Run the network over the content and the styles and return the targets of `loss`.

    Args:
        params: the network's parameters (`nst_jax.weights`).
        content: RGB in [0, 1], as large as the image to be optimized; None for style alone.
        styles: a list of RGB images in [0, 1], of any sizes; empty for content alone.
        content_layers: layers that compare content.
        style_layers: layers that compare style.
        style_weights: the mixing weights of the styles; equal by default. Their statistics are
            averaged with these weights, scaled to sum to 1.
        masks: one mask a style, as large as the image, in [0, 1]; edges may be soft (Gatys et al.
            2017, "Controlling Perceptual Factors in Neural Style Transfer", section 4). The styles
            are then not mixed: each has its own statistics inside its own mask, weighted by the
            mask's share of the image times the style's weight. Outside all masks only the content
            counts.
        network: the network; `nst_jax.VGG` by default.
        normalization: ``target_energy`` or ``none``, see `nst_jax.Settings`.
        statistic: the style statistic; by default the Gram matrix with this normalization.
        terms: your own terms (`nst_jax.Term`).
        arrays: the arrays of each of these terms, a pytree, by the term's name.

    Raises:
        InputError: an unknown layer or option, layers without an image or an image without layers,
            style weights or masks that do not fit the styles, a bad statistic (`check_statistic`
            of `nst_jax.losses.statistics`), a bad term (`nst_jax.Term`), or arrays that no term
            has.

    >>> import jax
    >>> from nst_jax import prepare_params, weights
    >>> params = prepare_params(weights.load_pretrained("vgg16").params, "float32", ["relu2_1"])
    >>> content, style = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    >>> layers = {"content_layers": ["relu2_1"], "style_layers": ["relu1_1"]}
    >>> targets = make_targets(params, content, [style], **layers)
    >>> targets.content["relu2_1"].shape, targets.style["relu1_1"].shape
    ((8, 8, 128), (64, 64))
    """
    if getattr(styles, "ndim", 0) == 3:
        raise InputError("styles is one image; give a list of images, such as [style]")
    check_layer_list("content_layers", content_layers)
    check_layer_list("style_layers", style_layers)
    if (content is None) != (not content_layers):
        raise InputError("give a content image and content layers, or neither")
    if (len(styles) == 0) != (len(style_layers) == 0):
        raise InputError("give style images and style layers, or neither")
    if masks is not None and content is not None and masks.shape[1:] != content.shape[:2]:
        raise InputError(
            f"masks of {masks.shape[2]}x{masks.shape[1]} pixels for a content of "
            f"{content.shape[1]}x{content.shape[0]}; resize them to its size"
        )
    if normalization not in get_args(Normalization):
        choices = ", ".join(get_args(Normalization))
        raise InputError(f"normalization is {normalization!r}; choose one of {choices}")
    statistic = statistic or Gram(normalization)
    check_statistic(statistic)
    terms = check_terms(terms)
    arrays = {} if arrays is None else arrays
    check_named("arrays", arrays, terms)
    network = network or default_network()
    content_features = {}
    if content is not None:
        content_features = whole_features(network, params, content, content_layers)
    return combine_targets(
        content_features,
        [
            style_targets(
                network,
                whole_features(network, params, style, style_layers),
                style.shape[:2],
                statistic,
            )
            for style in styles
        ],
        style_weights=style_weights,
        masks=masks,
        network=network,
        normalization=normalization,
        statistic=statistic,
        terms=terms,
        arrays={name: as_arrays(name, tree) for name, tree in arrays.items()},
    )


def whole_features(
    network: Network, params: PyTree, image: Float[Array, "h w 3"], layers: Sequence[str]
) -> dict[str, Float[Array, "h_l w_l n_l"]]:
    """Return a network's features of a whole image; without layers the network does not run.

    Raises:
        InputError: as in `nst_jax.networks.Network.features`; or the image is no float RGB image,
            or too small for one of the layers.
    """
    check_image(image)
    if not layers:
        return {}
    check_size(network, image.shape[:2], layers)
    return network.features(params, image, layers)


def style_targets(
    network: Network,
    features: Mapping[str, Float[Array, "h_l w_l n_l"]],
    shape: tuple[int, ...],
    statistic: StyleStatistic,
) -> dict[str, Any]:
    """Return the statistics by layer of the features of a style image of this (h, w), averaged
    over positions if additive."""
    measured = {layer: statistic.measure(x) for layer, x in features.items()}
    return average_over_positions(network, measured, shape, statistic)


def average_over_positions(
    network: Network, measured: dict[str, Any], shape: tuple[int, ...], statistic: StyleStatistic
) -> dict[str, Any]:
    """Divide additive statistics by the number of positions of an image of this (h, w)."""
    if not statistic.additive:
        return measured
    return {
        layer: _divide(sums, num_positions(network, layer, shape))
        for layer, sums in measured.items()
    }


def combine_targets(
    content: dict[str, Array],
    styles: Sequence[dict[str, Any]],
    *,
    style_weights: Sequence[float] | None = None,
    masks: Float[Array, "r h w"] | None = None,
    network: Network,
    normalization: Normalization,
    statistic: StyleStatistic,
    terms: tuple[Term, ...] = (),
    arrays: dict[str, Any] | None = None,
) -> Targets:
    """Make targets of the content's features and each style's statistics.

    Args:
        content: the content's features by layer.
        styles: from `style_targets`, one a style.
        style_weights: as in `make_targets`.
        masks: as in `make_targets`.
        network: what computed the features.
        normalization: as in `make_targets`.
        statistic: what measured the styles.
        terms: checked by `nst_jax.term.check_terms`.
        arrays: the arrays of each term, by name.

    Raises:
        InputError: style weights or masks do not fit the styles, or the statistic cannot be mixed.
    """
    weights = normalize_weights(len(styles), style_weights)
    targets = partial(
        Targets,
        content,
        network=network,
        normalization=normalization,
        statistic=statistic,
        terms=terms,
        arrays=arrays or {},
    )
    if masks is None and not statistic.additive and sum(map(bool, weights)) > 1:
        raise InputError(f"{statistic} cannot mix several styles; give one style, or masks")
    if masks is not None and len(masks) != len(styles):
        raise InputError(f"{len(masks)} masks for {len(styles)} style images; give one each")
    if masks is None:
        return targets(mix_styles(styles, weights))
    covered = at_least_float32(masks).mean((1, 2))
    # A pixel then feels its style as strongly as without masks, however small its mask is.
    mask_weights = covered * jnp.asarray(weights, covered.dtype) * len(weights)
    layer_masks = {layer: downsample_masks(network, masks, layer) for layer in styles[0]}
    if len({str(jax.tree.map(jnp.shape, style)) for style in styles}) > 1:
        raise InputError(
            f"with masks, {statistic} needs style images of one size; crop them to the same, or "
            "choose the style loss gram or moments"
        )
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *styles)
    return targets(stacked, layer_masks=layer_masks, mask_weights=mask_weights)


def mix_styles(styles: Sequence[dict[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """Average the statistics of several styles with weights that sum to 1; zeros are skipped."""
    used = [pair for pair in zip(weights, styles, strict=True) if pair[0]]
    if not used:
        return {}
    scaled = [jax.tree.map(lambda x, weight=weight: weight * x, style) for weight, style in used]
    return jax.tree.map(lambda *each: sum(each[1:], each[0]), *scaled)


def normalize_weights(num_styles: int, weights: Sequence[float] | None) -> list[float]:
    """Scale mixing weights to sum to 1; None means equal weights.

    Raises:
        InputError: not one weight a style, a negative one, or all zero.
    """
    if weights is None:
        return [1 / num_styles] * num_styles if num_styles else []
    if len(weights) != num_styles:
        raise InputError(
            f"{len(weights)} style weights for {num_styles} style images; give one each"
        )
    if min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise InputError(
            f"style_weights are {list(weights)}; give numbers from 0 up, at least one above 0"
        )
    return [weight / sum(weights) for weight in weights]


def downsample_masks(
    network: Network, masks: Float[Array, "r h w"], layer: str
) -> Float[Array, "r h_l w_l"]:
    """Bring masks to a layer's resolution: the mean over the pixels of each position.

    Pixels of no position are dropped. A position that extends beyond the image repeats its edge.

    >>> import jax.numpy as jnp
    >>> from nst_jax import VGG
    >>> masks = jnp.array([[[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]])
    >>> downsample_masks(VGG(), masks, "relu2_1")
    Array([[[0.75, 0.  ]]], dtype=float32)
    """
    masks = at_least_float32(masks)
    stride = network.stride(layer)
    height, width = (side * stride for side in network.grid(layer, masks.shape[1:]))
    masks = masks[:, :height, :width]
    margins = (0, height - masks.shape[1]), (0, width - masks.shape[2])
    masks = jnp.pad(masks, ((0, 0), *margins), mode="edge")
    for factor in _prime_factors(stride):
        r, h, w = masks.shape
        windows = masks.reshape(r, h // factor, factor, w // factor, factor)
        masks = windows.mean((2, 4))
    return masks


def _prime_factors(number: int) -> list[int]:
    """Means over 2 × 2 one after another add fewer numbers at once than one over 16 × 16."""
    factor = next((n for n in range(2, number + 1) if number % n == 0), None)
    return [] if factor is None else [factor, *_prime_factors(number // factor)]


def num_positions(network: Network, layer: str, shape: tuple[int, ...]) -> int:
    """Return M_l, the number of positions of a layer for an image of this (h, w)."""
    return math.prod(network.grid(layer, shape))


def loss(
    image: Float[Array, "h w 3"],
    params: PyTree,
    targets: Targets,
    loss_weights: LossWeights,
    *,
    key: Array | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """α·L_content + β·L_style + λ·L_tv (Gatys et al. 2015, equation 7, and smoothness), plus the
    weighted sum of your own terms.

    Args:
        image: RGB, nominally in [0, 1]; not clipped here.
        params: the network's parameters, the same as the targets were made with.
        targets: from `make_targets`.
        loss_weights: must name the layers of the targets.
        key: a random key for a stochastic style statistic, another one at each step; None draws the
            same numbers every time.

    Returns:
        The total, and its terms before their weights: ``content``, ``style``, ``tv`` and your own
        by name, and each layer's own loss before its w_l, as ``content/conv4_2`` or
        ``style/relu1_1``. All are scalars in float32 or better.

    Raises:
        InputError: the weights name other layers or terms than the targets hold, the content had
            another size than the image, or a term cannot be computed.

    >>> import jax
    >>> from nst_jax import LossWeights, make_targets, prepare_params, weights
    >>> params = prepare_params(weights.load_pretrained("vgg16").params, "float32", ["relu1_1"])
    >>> image, style = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    >>> targets = make_targets(params, styles=[style], style_layers=["relu1_1"])
    >>> loss_weights = LossWeights(style_layers={"relu1_1": 1.0})
    >>> value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    >>> (total, terms), gradient = value_and_grad(image, params, targets, loss_weights)
    >>> sorted(terms), gradient.shape
    (['content', 'style', 'style/relu1_1', 'tv'], (16, 16, 3))
    """
    check_targets(image, targets, loss_weights)
    features = whole_features(targets.network, params, image, required_layers(targets))
    statistics = compute_statistics(image, features, targets)
    return total_loss(statistics, image, targets, loss_weights, key=key)


def required_layers(targets: Targets) -> tuple[str, ...]:
    """Return the layers that a loss reads."""
    own = dict.fromkeys(layer for term in targets.terms for layer in term.layers)
    return tuple({**targets.content, **targets.style, **own})


def check_targets(image: Float[Array, "h w 3"], targets: Targets, weights: LossWeights) -> None:
    """Raise `InputError` unless the image is float RGB, the weights name the targets' layers, and
    the content and the masks had the image's size."""
    check_image(image)
    _check_layers("content", weights.content_layers, targets.content)
    _check_layers("style", weights.style_layers, targets.style)
    check_named("the weights of the loss", weights.terms, targets.terms)
    shapes = [("content", layer, x.shape[:2]) for layer, x in targets.content.items()]
    shapes += [("masks", layer, x.shape[1:]) for layer, x in targets.layer_masks.items()]
    for kind, layer, shape in shapes:
        expected = targets.network.grid(layer, image.shape[:2])
        if shape != expected:
            raise InputError(
                f"the image has features of {expected} positions at {layer} and the {kind} "
                f"{shape}; make the targets from {kind} of the image's size"
            )
    for term in targets.terms:
        check_spatial(term, targets.arrays, image.shape[:2])


def compute_statistics(
    image: Float[Array, "h w 3"],
    features: Mapping[str, Float[Array, "h_l w_l n_l"]],
    targets: Targets,
) -> ImageStatistics:
    """Compare features with the content's, measure their style statistics, and your own terms."""
    content = {}
    for layer, P in targets.content.items():
        with jax.named_scope(f"content/{layer}"):
            content[layer] = content_loss(features[layer], P)
    style = {}
    for layer in targets.style:
        with jax.named_scope(f"style/{layer}"):
            style[layer] = _measure_style(features[layer], layer, targets)
    own = {
        term.name: measure_term(term, image, features, targets.arrays)
        for term in layer_terms(targets)
    }
    return ImageStatistics(content, style, own)


def layer_terms(targets: Targets) -> list[Term]:
    """Return your own terms that read layers, and so are measured piece by piece."""
    return [term for term in targets.terms if term.layers]


def _measure_style(features: Float[Array, "h_l w_l n_l"], layer: str, targets: Targets) -> Any:
    measure = targets.statistic.measure
    if layer not in targets.layer_masks:
        return measure(features)
    per_mask = [measure(features, T) for T in targets.layer_masks[layer]]
    return jax.tree.map(lambda *each: jnp.stack(each), *per_mask)


def total_loss(
    statistics: ImageStatistics,
    image: Float[Array, "h w 3"],
    targets: Targets,
    loss_weights: LossWeights,
    *,
    key: Array | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the weighted sum of the loss terms, given the statistics of ``image``; see `loss`."""
    content = {}
    for layer, P in targets.content.items():
        half_squared_error = statistics.content[layer]
        if targets.normalization == "target_energy":
            with jax.named_scope(f"content/{layer}"):
                energy = content_loss(P, jnp.zeros_like(P))
                half_squared_error /= energy + EPSILON
        content[layer] = half_squared_error
    keys: Any = [()] * len(targets.style)  # No argument but for a stochastic statistic.
    if is_stochastic(targets.statistic):
        key = jax.random.key(0) if key is None else key
        keys = [(layer_key,) for layer_key in jax.random.split(key, len(targets.style))]
    style = {}
    for layer, layer_key in zip(targets.style, keys, strict=True):
        with jax.named_scope(f"style/{layer}"):
            style[layer] = _style_term(
                statistics.style[layer], image.shape[:2], targets, layer, *layer_key
            )
    zero = jnp.zeros((), at_least_float32(image).dtype)
    sums = {
        "content": sum((loss_weights.content_layers[k] * v for k, v in content.items()), zero),
        "style": sum((loss_weights.style_layers[k] * v for k, v in style.items()), zero),
        "tv": jax.named_scope("tv")(total_variation)(image),
    }
    total = (
        loss_weights.content * sums["content"]
        + loss_weights.style * sums["style"]
        + loss_weights.tv * sums["tv"]
    )
    for term in targets.terms:
        measured = statistics.terms.get(term.name)
        if not term.layers:
            measured = measure_term(term, image, {}, targets.arrays)
        sums[term.name] = term_value(
            term, measured, image.shape[:2], targets.network, targets.arrays
        )
        total += loss_weights.terms.get(term.name, 1.0) * sums[term.name]
    layers = {f"content/{layer}": value for layer, value in content.items()}
    layers |= {f"style/{layer}": value for layer, value in style.items()}
    return total, sums | layers


def _style_term(
    measured: Any, shape: tuple[int, ...], targets: Targets, layer: str, *key: Array
) -> Float[Array, ""]:
    statistic, target = targets.statistic, targets.style[layer]
    if layer not in targets.layer_masks:
        if statistic.additive:
            measured = _divide(measured, num_positions(targets.network, layer, shape))
        return _scalar(statistic.distance(measured, target, *key), statistic)
    assert targets.mask_weights is not None
    positions = targets.layer_masks[layer].sum((1, 2))
    # A mask that covers only rows and columns that a stride drops is empty in deeper layers.
    nonempty = positions > EPSILON
    if statistic.additive:
        measured = jax.vmap(_divide)(measured, jnp.where(nonempty, positions, 1.0))
    distances = jax.vmap(lambda a, b: _scalar(statistic.distance(a, b, *key), statistic))(
        measured, target
    )
    return jnp.dot(targets.mask_weights * nonempty, distances)


def _scalar(distance: Any, statistic: StyleStatistic) -> Float[Array, ""]:
    if jnp.shape(distance) != ():
        raise InputError(
            f"the distance of {statistic} has the shape {jnp.shape(distance)}; return a scalar, "
            "such as its sum"
        )
    return distance


def _divide(sums: Any, positions: Float[Array, ""] | int) -> Any:
    return jax.tree.map(lambda x: x / positions, sums)


def _check_layers(kind: str, weights: Mapping[str, object], targets: Mapping[str, object]) -> None:
    if set(weights) != set(targets):
        raise InputError(
            f"the {kind} weights name the layers {sorted(weights)} but the targets hold "
            f"{sorted(targets)}; give the same to both"
        )
