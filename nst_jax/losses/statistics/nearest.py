"""Nearest neighbors: every feature of the image compared with the most similar one of the style."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from nst_jax.losses.statistics.samples import SampledStatistic, Samples, draw_features
from nst_jax.losses.terms import EPSILON
from nst_jax.networks.kernels.dtypes import at_least_float32

__all__ = ["NearestNeighbor", "nearest_neighbor_loss"]

BLOCK = 1024
"""Positions of the image that are compared with all of the style at once."""


@dataclass(frozen=True)
class NearestNeighbor(SampledStatistic):
    """Each position's features against the style's nearest, a `nst_jax.losses.StyleStatistic`.

    Attributes:
        num_positions: how many positions of each image an evaluation draws, at most.

    >>> import jax
    >>> statistic = NearestNeighbor(num_positions=32)
    >>> image, style = jax.random.uniform(jax.random.key(0), (2, 8, 8, 4))
    >>> measured, target = statistic.measure(image), statistic.measure(style)
    >>> bool(jax.jit(statistic.distance)(measured, target, jax.random.key(1)) > 0)
    True
    """

    num_positions: int = 4096

    def distance(self, measured: Samples, target: Samples, key: Array) -> Float[Array, ""]:
        """`nearest_neighbor_loss` of positions drawn of both images."""
        drawn = [
            draw_features(samples, min(self.num_positions, len(samples.features)), own_key)
            for samples, own_key in zip((measured, target), jax.random.split(key), strict=True)
        ]
        return nearest_neighbor_loss(*drawn)


def nearest_neighbor_loss(
    features: Float[Array, "m n"], style: Float[Array, "s n"]
) -> Float[Array, ""]:
    """Mean over positions i of min_j 1 − cos(F_i − μ, S_j − μ), where μ is the mean of S.

    After Kolkin et al., "Neural Neighbor Style Transfer" (2022), section 3.3. The search runs in
    blocks of positions, so that no matrix of all pairs is stored. The gradient takes the neighbors
    as constants, which is exact where the nearest is unique.

    >>> import jax
    >>> style = jax.random.uniform(jax.random.key(0), (16, 4))
    >>> copies = style[2:5]
    >>> abs(round(float(jax.jit(nearest_neighbor_loss)(copies, style)), 5))
    0.0
    """
    mean = at_least_float32(style).mean(0)
    centered, neighbors = (_unit_vectors(at_least_float32(x) - mean) for x in (features, style))
    nearest = _nearest(*lax.stop_gradient((centered, neighbors)))
    return 1 - (centered * neighbors[nearest]).sum(1).mean()


def _unit_vectors(x: Float[Array, "m n"]) -> Float[Array, "m n"]:
    return x * lax.rsqrt(jnp.square(x).sum(1, keepdims=True) + EPSILON)


def _nearest(features: Float[Array, "m n"], style: Float[Array, "s n"]) -> Int[Array, " m"]:
    count = len(features)
    blocks = -(-count // BLOCK)
    padded = jnp.pad(features, ((0, blocks * BLOCK - count), (0, 0)))

    def search(block: Float[Array, "b n"]) -> Int[Array, " b"]:
        return jnp.argmax(block @ style.T, axis=1)

    return lax.map(search, padded.reshape(blocks, BLOCK, -1)).ravel()[:count]
