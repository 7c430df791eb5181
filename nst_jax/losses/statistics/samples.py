"""Features at single positions, for statistics that compare whole distributions."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["SampledStatistic", "Samples", "draw_features"]


class Samples(NamedTuple):
    """The features of all m positions of a layer, and their weights, if there is a mask."""

    features: Float[Array, "*r m n"]
    weights: Float[Array, "*r m"] | None


class SampledStatistic:
    """The base of statistics that compare positions drawn at random."""

    additive: ClassVar[bool] = False
    stochastic: ClassVar[bool] = True

    def measure(
        self, features: Float[Array, "h w n"], mask: Float[Array, "h w"] | None = None
    ) -> Samples:
        """Return the features of all positions."""
        flat = features.reshape(-1, features.shape[-1])
        return Samples(flat, None if mask is None else mask.ravel())


def draw_features(samples: Samples, count: int, key: Array) -> Float[Array, "count n"]:
    """Draw the features of ``count`` positions, each as often as its weight demands.

    One position is drawn at random from each of ``count`` equal shares of the total weight. So
    ``count`` positions of equal weight are all drawn once.
    """
    offsets = jax.random.uniform(key, (count,))
    shares = (jnp.arange(count) + offsets) / count
    positions = len(samples.features)
    if samples.weights is None:
        chosen = jnp.floor(shares * positions).astype(jnp.int32)
    else:
        cumulative = jnp.cumsum(samples.weights)
        chosen = jnp.searchsorted(cumulative, shares * cumulative[-1], side="right")
    return samples.features[jnp.minimum(chosen, positions - 1)]
