"""The same objective tile by tile: memory for one tile's activations, whatever the picture's size.

Of a picture's features only sums enter the loss (`nst_jax.losses.objective.Measures`), and sums add up
over tiles. So the network runs on one tile after another, each with as much of its surroundings
(the *halo*) as its features depend on, and what was measured is added up: one Gram matrix a layer
for the whole picture, not one a tile. Value and gradient are `nst_jax.losses.objective.loss`', up to
rounding.

Of a tile nothing but the sums is kept. Once they are complete, so is the loss' gradient by them;
then every tile is computed anew and hands its share on to its pixels. That second pass is what
reverse mode makes of a scan over a checkpointed function; there is no derivative of our own here.

What of a tile is outside of the picture is zero in every layer, as the network's padding is there
(`nst_jax.models.vgg.Window`), and tiles and halos are multiples of the poolings' strides, so that every
2×2 window is one of the picture's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int

from nst_jax.errors import InputError
from nst_jax.losses import objective
from nst_jax.losses import terms as losses
from nst_jax.losses.objective import LossWeights, Measures, Targets
from nst_jax.models.architectures import poolings
from nst_jax.models.vgg import VGG, Params, Window, reach

__all__ = ["loss", "loss_by_tiles", "make_targets"]

STRIDE: Final = 16
"""Pixels a position of block 5."""

Corner = Int[Array, "2"]
"""Where a tile begins, without its halo."""

Sums = TypeVar("Sums")


def loss(
    image: Float[Array, "h w 3"],
    params: Params,
    targets: Targets,
    weights: LossWeights,
    *,
    tile: int,
) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
    """`nst_jax.losses.objective.loss` tile by tile; differentiate it likewise.

    A step runs the network forward once more than without tiles, and on the halos too: VGG19 down
    to relu5_1 needs 80 pixels around every tile, so that a pass over tiles of 512 pixels computes
    1.7 times as much as one over the picture.

    Args:
        image: and the rest: as for `nst_jax.losses.objective.loss`.
        tile: a tile's longest side in pixels without the halo, a multiple of 16. The tiles are all
            of one size, no larger than their number asks for.

    Raises:
        InputError: as there; or a tile size that is no multiple of 16.
    """
    objective.check(image, targets, weights)
    network = VGG(params, pooling=targets.pooling, padding=targets.padding)
    taps = tuple({**targets.content, **targets.style})
    tiles = _cut(image, network, taps, tile)
    canvas = tiles.canvas(image)
    content = {tap: tiles.filled(P, tap) for tap, P in targets.content.items()}
    guides = {tap: tiles.filled(T.transpose(1, 2, 0), tap) for tap, T in targets.guides.items()}

    @partial(jax.checkpoint, prevent_cse=False)  # a scan's body is not merged with anything
    def measure(corner: Corner) -> Measures:
        own = replace(
            targets,
            content={tap: tiles.part(P, tap, corner) for tap, P in content.items()},
            guides={
                tap: tiles.part(T, tap, corner).transpose(2, 0, 1) for tap, T in guides.items()
            },
        )
        return objective.measure(tiles.features(network, canvas, taps, corner), own)

    return objective.total(_sum(measure, tiles), image, targets, weights)


@cache
def loss_by_tiles(tile: int) -> Callable[..., Any]:
    """`loss` with its tile size, for `nst_jax.optimize.loop.minimise`; the same object for the same
    size, so that it is compiled once."""
    return partial(loss, tile=tile)


def make_targets(*args: Any, tile: int, **kwargs: Any) -> Targets:
    """`nst_jax.losses.objective.make_targets` tile by tile; ``tile`` as for `loss`."""
    return objective.make_targets(
        *args, **kwargs, features=partial(_features, tile), mean_grams=partial(_mean_grams, tile)
    )


def _features(
    tile: int, network: VGG, image: Float[Array, "h w 3"], taps: Sequence[str]
) -> dict[str, Float[Array, "h_l w_l n_l"]]:
    """The picture's features, put together from its tiles'."""
    tiles = _cut(image, network, taps, tile)
    canvas = tiles.canvas(image)

    def put(whole: dict[str, Array], corner: Corner) -> tuple[dict[str, Array], None]:
        parts = tiles.features(network, canvas, taps, corner)
        return {
            tap: lax.dynamic_update_slice(whole[tap], part, (*(corner >> poolings(tap)), 0))
            for tap, part in parts.items()
        }, None

    parts = jax.eval_shape(partial(tiles.features, network, canvas, taps), tiles.corners[0])
    blank = {
        tap: jnp.zeros((rows * tiles.counts[0], columns * tiles.counts[1], n), part.dtype)
        for tap, part in parts.items()
        for rows, columns, n in [part.shape]
    }
    whole, _ = lax.scan(put, blank, tiles.corners)
    height, width = image.shape[:2]
    return {tap: x[: height >> poolings(tap), : width >> poolings(tap)] for tap, x in whole.items()}


def _mean_grams(
    tile: int, network: VGG, image: Float[Array, "h w 3"], taps: Sequence[str]
) -> dict[str, Float32[Array, "n_l n_l"]]:
    tiles = _cut(image, network, taps, tile)
    canvas = tiles.canvas(image)

    def grams(corner: Corner) -> dict[str, Array]:
        parts = tiles.features(network, canvas, taps, corner)
        return {tap: losses.gram(part) for tap, part in parts.items()}

    sums = _sum(grams, tiles)
    return {tap: G / objective.positions(tap, *image.shape[:2]) for tap, G in sums.items()}


def _sum(part: Callable[[Corner], Sums], tiles: "_Tiles") -> Sums:
    """Add up over the tiles what ``part`` makes of each."""

    def add(sums: Sums, corner: Corner) -> tuple[Sums, None]:
        return jax.tree.map(jnp.add, sums, part(corner)), None

    shapes = jax.eval_shape(part, tiles.corners[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return lax.scan(add, zeros, tiles.corners)[0]


def _cut(image: Float[Array, "h w 3"], network: VGG, taps: Sequence[str], tile: int) -> "_Tiles":
    """Cut a picture into as few equal tiles as can be, with no halo across a side that is whole."""
    if tile < STRIDE or tile % STRIDE:
        raise InputError(f"a tile of {tile} pixels; give a multiple of {STRIDE}")
    stride = 2 ** max(map(poolings, taps), default=0)
    halo = _up(reach(network.model, taps), stride)
    height, width = image.shape[:2]
    counts = -(-height // tile), -(-width // tile)
    core = _up(-(-height // counts[0]), STRIDE), _up(-(-width // counts[1]), STRIDE)
    around = halo if counts[0] > 1 else 0, halo if counts[1] > 1 else 0
    return _Tiles((height, width), counts, core, around)


def _up(size: int, stride: int) -> int:
    return -(-size // stride) * stride


@dataclass(frozen=True)
class _Tiles:
    """How a picture is cut. All pairs are of rows and columns."""

    picture: tuple[int, int]
    counts: tuple[int, int]
    core: tuple[int, int]
    """A tile without its halo."""
    halo: tuple[int, int]

    @property
    def corners(self) -> Int[Array, "tiles 2"]:
        """Every tile's `Corner`, row by row."""
        return jnp.asarray(np.argwhere(np.ones(self.counts)) * self.core, jnp.int32)

    @property
    def _beyond(self) -> tuple[int, int]:
        """How far the last tiles reach beyond the picture."""
        (rows, columns), (height, width) = self.counts, self.core
        return rows * height - self.picture[0], columns * width - self.picture[1]

    def canvas(self, image: Float[Array, "h w 3"]) -> Float[Array, "_ _ 3"]:
        """The picture with its edge repeated as far as tiles and halos reach."""
        margins = [(halo, halo + more) for halo, more in zip(self.halo, self._beyond, strict=True)]
        return jnp.pad(image, (*margins, (0, 0)), mode="edge")

    def filled(self, x: Float[Array, "h_l w_l n"], tap: str) -> Float[Array, "_ _ n"]:
        """An array of a layer's positions with zeros as far as tiles reach."""
        sides = zip(self.counts, self.core, x.shape, strict=False)
        margins = [(0, count * (core >> poolings(tap)) - side) for count, core, side in sides]
        return jnp.pad(x, (*margins, (0, 0)))

    def part(self, x: Float[Array, "_ _ n"], tap: str, corner: Corner) -> Float[Array, "_ _ n"]:
        """A tile's own part of a `filled` array."""
        height, width = (core >> poolings(tap) for core in self.core)
        row, column = corner >> poolings(tap)
        return lax.dynamic_slice(x, (row, column, 0), (height, width, x.shape[2]))

    def features(
        self, network: VGG, canvas: Float[Array, "_ _ 3"], taps: Sequence[str], corner: Corner
    ) -> dict[str, Float[Array, "_ _ n_l"]]:
        """A tile's own features, zero where it reaches beyond the picture."""
        row, column = corner
        height, width = (core + 2 * halo for core, halo in zip(self.core, self.halo, strict=True))
        patch = lax.dynamic_slice(canvas, (row, column, 0), (height, width, 3))
        window = Window(row - self.halo[0], column - self.halo[1], *self.picture)
        found = network(patch, taps, window)
        return {tap: self._cropped(x, poolings(tap)) for tap, x in found.items()}

    def _cropped(self, x: Float[Array, "_ _ n"], b: int) -> Float[Array, "_ _ n"]:
        """A patch's features, after b poolings, without those of the halo."""
        (top, left), (height, width) = self.halo, self.core
        return x[top >> b : top + height >> b, left >> b : left + width >> b]
