"""The objective tile by tile: memory for the activations of one tile, whatever the image's size.

Only sums over the positions of an image enter the loss (`nst_jax.losses.objective.ImageStatistics`)
and sums add up over tiles. So the network runs on one tile after another, each with as much of its
surroundings (the *halo*) as its features depend on, and the statistics are summed: one Gram matrix
a layer for the whole image. Value and gradient are those of `nst_jax.loss`, up to rounding.

A tile leaves nothing behind but its statistics. Once their sum is complete, so is the gradient of
the loss with respect to it. Then each tile is computed again and passes its share of the gradient
on to its pixels. Reverse mode makes that second pass of a scan over a checkpointed function; there
is no hand-written derivative here.

Positions outside the image are zero in every layer, as the network's own padding is
(`nst_jax.networks.PatchWindow`). Tiles and halos are multiples of the layers' strides, so that each
position of a tile is one of the whole image's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from nst_jax.errors import InputError
from nst_jax.losses import objective
from nst_jax.losses.objective import ImageStatistics, LossWeights, Targets
from nst_jax.losses.own_terms import is_spatial
from nst_jax.losses.statistics import StyleStatistic
from nst_jax.networks.protocol import Network, PatchWindow, check_image, check_size
from nst_jax.term import Term

__all__ = [
    "round_up",
    "tile_unit",
    "tiled_features",
    "tiled_loss",
    "tiled_loss_fn",
    "tiled_style_targets",
]

MIN_UNIT: Final = 16
"""Sides of tiles are multiples of it in pixels, whatever the strides: few shapes, aligned rows."""

Offset = Int[Array, "2"]
"""The row and column at which a tile begins, without its halo."""

T = TypeVar("T")


def tiled_loss(
    image: Float[Array, "h w 3"],
    params: PyTree,
    targets: Targets,
    loss_weights: LossWeights,
    *,
    tile: int,
    key: Array | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """`nst_jax.loss` tile by tile; differentiate it in the same way.

    A step runs the network forward once more than without tiles, and on the halos too: VGG19 down
    to relu5_1 needs 80 pixels around each tile, so a pass over tiles of 512 pixels computes 1.7
    times as much as one over the image.

    Args:
        image: and the rest: as in `nst_jax.loss`.
        tile: the longest side of a tile in pixels without the halo, a multiple of `tile_unit`,
            which is 16 for VGG. All tiles have one size, no larger than their number requires.
        key: as in `nst_jax.loss`.

    Raises:
        InputError: as in `nst_jax.loss`; the tile is no such multiple; the style statistic or a
            term that reads layers is not additive; or the network has no finite receptive radius.

    >>> import jax
    >>> from nst_jax import LossWeights, loss, make_targets, prepare_params, weights
    >>> params = prepare_params(weights.load_pretrained("vgg16").params, "float32", ["relu1_1"])
    >>> image, style = jax.random.uniform(jax.random.key(0), (2, 32, 16, 3))
    >>> targets = make_targets(params, styles=[style], style_layers=["relu1_1"])
    >>> args = (image, params, targets, LossWeights(style_layers={"relu1_1": 1.0}))
    >>> in_tiles, _ = jax.jit(tiled_loss, static_argnames="tile")(*args, tile=16)
    >>> bool(jax.numpy.isclose(in_tiles, loss(*args)[0], rtol=1e-4))
    True
    """
    objective.check_targets(image, targets, loss_weights)
    _check_additive(targets.statistic)
    own_terms = objective.layer_terms(targets)
    _check_terms_additive(own_terms)
    layers = objective.required_layers(targets)
    tiling = _make_tiling(targets.network, params, image, layers, tile)
    padded = tiling.pad_image(image)
    stride = targets.network.stride
    content = {layer: tiling.pad_to_tiles(P, stride(layer)) for layer, P in targets.content.items()}
    layer_masks = {
        layer: tiling.pad_to_tiles(T.transpose(1, 2, 0), stride(layer))
        for layer, T in targets.layer_masks.items()
    }
    image_in_tiles = tiling.pad_to_tiles(image, 1) if own_terms else image
    # XLA would keep arrays that no tile measures in its loop.
    arrays = {t.name: targets.arrays[t.name] for t in own_terms if t.name in targets.arrays}
    strides = _strides(targets, arrays, image.shape[:2])
    arrays = _map_spatial(tiling.pad_to_tiles, arrays, strides)

    @partial(jax.checkpoint, prevent_cse=False)  # A scan's body is not merged with anything.
    def measure(offset: Offset) -> ImageStatistics:
        tile_targets = replace(
            targets,
            content={k: tiling.slice_tile(P, stride(k), offset) for k, P in content.items()},
            layer_masks={
                k: tiling.slice_tile(T, stride(k), offset).transpose(2, 0, 1)
                for k, T in layer_masks.items()
            },
            arrays=_map_spatial(lambda x, s: tiling.slice_tile(x, s, offset), arrays, strides),
        )
        features = tiling.features(params, padded, layers, offset)
        piece = tiling.slice_tile(image_in_tiles, 1, offset) if own_terms else image
        return objective.compute_statistics(piece, features, tile_targets)

    statistics = _sum_over_tiles(measure, tiling)
    return objective.total_loss(statistics, image, targets, loss_weights, key=key)


@cache
def tiled_loss_fn(tile: int) -> Callable[..., Any]:
    """Return `tiled_loss` with its tile size; the same object for the same size, so that the
    optimization compiles it once.

    >>> tiled_loss_fn(512) is tiled_loss_fn(512)
    True
    """
    return partial(tiled_loss, tile=tile)


def tiled_features(
    network: Network,
    params: PyTree,
    image: Float[Array, "h w 3"],
    layers: Sequence[str],
    *,
    tile: int,
) -> dict[str, Float[Array, "h_l w_l n_l"]]:
    """``network.features(params, image, layers)`` tile by tile; ``tile`` as in `tiled_loss`.

    Raises:
        InputError: as in `nst_jax.networks.Network.features`; the tile is no multiple of
            `tile_unit`; or the network has no finite receptive radius.

    >>> import jax
    >>> from nst_jax import VGG, prepare_params, weights
    >>> params = prepare_params(weights.load_pretrained("vgg16").params, "float32", ["relu1_1"])
    >>> image = jax.random.uniform(jax.random.key(0), (32, 16, 3))
    >>> in_tiles = jax.jit(tiled_features, static_argnums=(0, 3), static_argnames="tile")
    >>> in_tiles(VGG(), params, image, ("relu1_1",), tile=16)["relu1_1"].shape
    (32, 16, 64)
    """
    check_image(image)
    tiling = _make_tiling(network, params, image, layers, tile)
    padded = tiling.pad_image(image)

    def write_tile(whole: dict[str, Array], offset: Offset) -> tuple[dict[str, Array], None]:
        parts = tiling.features(params, padded, layers, offset)
        return {
            layer: lax.dynamic_update_slice(
                whole[layer], part, (*(offset // network.stride(layer)), 0)
            )
            for layer, part in parts.items()
        }, None

    rows, columns = tiling.counts
    parts = jax.eval_shape(partial(tiling.features, params, padded, layers), tiling.offsets[0])
    init = {
        layer: jnp.zeros((part.shape[0] * rows, part.shape[1] * columns, part.shape[2]), part.dtype)
        for layer, part in parts.items()
    }
    whole, _ = lax.scan(write_tile, init, tiling.offsets)
    grids = {layer: network.grid(layer, image.shape[:2]) for layer in layers}
    return {layer: x[: grids[layer][0], : grids[layer][1]] for layer, x in whole.items()}


def tiled_style_targets(
    network: Network,
    params: PyTree,
    style: Float[Array, "h w 3"],
    layers: Sequence[str],
    statistic: StyleStatistic,
    *,
    tile: int,
) -> dict[str, Any]:
    """`nst_jax.losses.objective.style_targets` tile by tile; ``tile`` as in `tiled_loss`.

    Raises:
        InputError: as in `tiled_features`; or the style statistic is not additive.

    >>> import jax
    >>> from nst_jax import VGG, prepare_params, weights
    >>> from nst_jax.losses import Gram
    >>> params = prepare_params(weights.load_pretrained("vgg16").params, "float32", ["relu1_1"])
    >>> style = jax.random.uniform(jax.random.key(0), (32, 16, 3))
    >>> targets = tiled_style_targets(VGG(), params, style, ["relu1_1"], Gram(), tile=16)
    >>> targets["relu1_1"].shape
    (64, 64)
    """
    _check_additive(statistic)
    check_image(style)
    tiling = _make_tiling(network, params, style, layers, tile)
    padded = tiling.pad_image(style)

    def measure(offset: Offset) -> dict[str, Any]:
        parts = tiling.features(params, padded, layers, offset)
        return {layer: statistic.measure(part) for layer, part in parts.items()}

    sums = _sum_over_tiles(measure, tiling)
    return objective.average_over_positions(network, sums, style.shape[:2], statistic)


def _check_additive(statistic: StyleStatistic) -> None:
    if not statistic.additive:
        raise InputError(
            f"{statistic} cannot be measured tile by tile; choose a smaller size, more memory or "
            "an additive style statistic such as the Gram matrix"
        )


def _check_terms_additive(terms: Sequence[Term]) -> None:
    for term in terms:
        if not term.additive:
            raise InputError(
                f"the term {term.name} is not additive, so it cannot be measured tile by tile; "
                "choose a smaller size, more memory or a term that is"
            )


def _strides(targets: Targets, arrays: dict[str, Any], shape: tuple[int, ...]) -> list[int | None]:
    """Return the stride of the positions of each array; None for those that are not cut."""
    terms = {term.name: term for term in targets.terms}
    return [
        _stride(targets.network, terms[name], path, x, shape)
        for name in sorted(arrays)  # The order of JAX.
        for path, x in jax.tree_util.tree_leaves_with_path(arrays[name])
    ]


def _stride(
    network: Network, term: Term, path: tuple[Any, ...], x: Array, shape: tuple[int, ...]
) -> int | None:
    if is_spatial(term, path, x, shape):
        return 1
    layer = getattr(path[0], "key", None) if path else None
    if layer in term.layers and x.shape[:2] == network.grid(layer, shape):
        return network.stride(layer)
    return None


def _map_spatial(
    function: Callable[[Array, int], Array], arrays: dict[str, Any], strides: list[int | None]
) -> dict[str, Any]:
    leaves, structure = jax.tree.flatten(arrays)
    cut = [x if s is None else function(x, s) for x, s in zip(leaves, strides, strict=True)]
    return jax.tree.unflatten(structure, cut)


def _sum_over_tiles(measure: Callable[[Offset], T], tiling: "Tiling") -> T:
    def add(sums: T, offset: Offset) -> tuple[T, None]:
        return jax.tree.map(jnp.add, sums, measure(offset)), None

    shapes = jax.eval_shape(measure, tiling.offsets[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return lax.scan(add, zeros, tiling.offsets)[0]


def _make_tiling(
    network: Network,
    params: PyTree,
    image: Float[Array, "h w 3"],
    layers: Sequence[str],
    tile: int,
) -> "Tiling":
    """Split an image into as few equal tiles as possible; a side in one piece has no halo."""
    check_size(network, image.shape[:2], layers)
    unit = tile_unit(network, layers)
    if tile < unit or tile % unit:
        raise InputError(f"tile is {tile} pixels; give a multiple of {unit}")
    radius = network.receptive_radius(params, layers)
    if radius is None:
        raise InputError(
            f"{network} has no finite receptive radius, so it cannot run tile by tile; choose a "
            "smaller size or more memory"
        )
    halo = round_up(radius, math.lcm(*map(network.stride, layers)))
    height, width = image.shape[:2]
    counts = -(-height // tile), -(-width // tile)
    tile_shape = (
        round_up(-(-height // counts[0]), unit),
        round_up(-(-width // counts[1]), unit),
    )
    halos = halo if counts[0] > 1 else 0, halo if counts[1] > 1 else 0
    return Tiling(network, (height, width), counts, tile_shape, halos)


def tile_unit(network: Network, layers: Sequence[str]) -> int:
    """Return the number of pixels that the sides of tiles are multiples of.

    >>> from nst_jax import VGG
    >>> tile_unit(VGG(), ["relu1_1", "relu3_1"])
    16
    """
    return math.lcm(MIN_UNIT, *map(network.stride, layers))


def round_up(size: int, stride: int) -> int:
    """Return the smallest multiple of ``stride`` that is not below ``size``.

    >>> round_up(17, 16)
    32
    """
    return -(-size // stride) * stride


@dataclass(frozen=True)
class Tiling:
    """How an image is split into tiles. All pairs are rows and columns."""

    network: Network
    image_shape: tuple[int, int]
    counts: tuple[int, int]
    tile_shape: tuple[int, int]
    """The shape of a tile without its halo."""
    halo: tuple[int, int]

    @property
    def offsets(self) -> Int[Array, "tiles 2"]:
        """The `Offset` of each tile, row by row."""
        return jnp.asarray(np.argwhere(np.ones(self.counts)) * self.tile_shape, jnp.int32)

    def pad_image(self, image: Float[Array, "h w 3"]) -> Float[Array, "_ _ 3"]:
        """Repeat the edge of the image as far as tiles and halos reach."""
        margins = [
            (halo, halo + count * tile - side)
            for halo, count, tile, side in zip(
                self.halo, self.counts, self.tile_shape, self.image_shape, strict=True
            )
        ]
        return jnp.pad(image, (*margins, (0, 0)), mode="edge")

    def pad_to_tiles(self, x: Shaped[Array, "h_l w_l *n"], stride: int) -> Shaped[Array, "_ _ *n"]:
        """Pad an array of positions ``stride`` pixels apart with zeros as far as tiles reach."""
        sides = zip(self.counts, self.tile_shape, x.shape, strict=False)
        margins = [(0, count * (tile // stride) - side) for count, tile, side in sides]
        return jnp.pad(x, (*margins, *[(0, 0)] * (x.ndim - 2)))

    def slice_tile(
        self, x: Shaped[Array, "_ _ *n"], stride: int, offset: Offset
    ) -> Shaped[Array, "_ _ *n"]:
        """Return the part of a padded array that belongs to one tile."""
        height, width = (side // stride for side in self.tile_shape)
        row, column = offset // stride
        rest = (0,) * (x.ndim - 2)
        return lax.dynamic_slice(x, (row, column, *rest), (height, width, *x.shape[2:]))

    def features(
        self, params: PyTree, padded: Float[Array, "_ _ 3"], layers: Sequence[str], offset: Offset
    ) -> dict[str, Float[Array, "_ _ n_l"]]:
        """Return the features of one tile, zero outside the image."""
        row, column = offset
        height, width = (
            tile + 2 * halo for tile, halo in zip(self.tile_shape, self.halo, strict=True)
        )
        patch = lax.dynamic_slice(padded, (row, column, 0), (height, width, 3))
        window = PatchWindow(row - self.halo[0], column - self.halo[1], *self.image_shape)
        features = self.network.features(params, patch, layers, window)
        return {layer: self._crop_halo(x, layer) for layer, x in features.items()}

    def _crop_halo(self, x: Float[Array, "_ _ n"], layer: str) -> Float[Array, "_ _ n"]:
        stride = self.network.stride(layer)
        (top, left), (height, width) = self.halo, self.tile_shape
        rows = slice(top // stride, (top + height) // stride)
        return x[rows, left // stride : (left + width) // stride]
