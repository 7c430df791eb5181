"""The sliced Wasserstein distance of features."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.losses.statistics.samples import SampledStatistic, Samples, draw_features
from nst_jax.losses.terms import EPSILON
from nst_jax.networks.kernels.dtypes import at_least_float32

__all__ = ["SlicedWasserstein", "sliced_wasserstein"]


@dataclass(frozen=True)
class SlicedWasserstein(SampledStatistic):
    """The whole distribution of the features, as a `nst_jax.losses.StyleStatistic`.

    Attributes:
        num_directions: how many random directions an evaluation draws.
        num_positions: how many positions of each image it draws, at most.

    >>> import jax
    >>> statistic = SlicedWasserstein(num_directions=8)
    >>> image, style = jax.random.uniform(jax.random.key(0), (2, 8, 8, 4))
    >>> measured, target = statistic.measure(image), statistic.measure(style)
    >>> bool(jax.jit(statistic.distance)(measured, target, jax.random.key(1)) > 0)
    True
    """

    num_directions: int = 64
    num_positions: int = 16384

    def distance(self, measured: Samples, target: Samples, key: Array) -> Float[Array, ""]:
        """`sliced_wasserstein`, relative to the energy of the target's features."""
        direction_key, key_a, key_b = jax.random.split(key, 3)
        filters = target.features.shape[-1]
        directions = jax.random.normal(direction_key, (filters, self.num_directions))
        directions /= jnp.linalg.norm(directions, axis=0)
        count = min(self.num_positions, len(measured.features), len(target.features))
        a = draw_features(measured, count, key_a)
        b = draw_features(target, count, key_b)
        energy = jnp.square(at_least_float32(b)).mean()
        return sliced_wasserstein(a, b, directions) / (energy + EPSILON)


def sliced_wasserstein(
    a: Float[Array, "m n"], b: Float[Array, "m n"], directions: Float[Array, "n d"]
) -> Float[Array, ""]:
    """Mean over d directions and m positions of (sort(a·v) − sort(b·v))².

    Heitz et al., "A Sliced Wasserstein Loss for Neural Texture Synthesis" (2021), equation 5.
    Directions are unit vectors. The result is float32, or float64 for float64 features.

    >>> import jax.numpy as jnp
    >>> a = jnp.array([[0.0], [1.0], [2.0]])
    >>> float(sliced_wasserstein(a, a[::-1] + 0.5, jnp.ones((1, 1))))  # the order does not count
    0.25
    """
    projections = []
    for features in (a, b):
        dtype = at_least_float32(features).dtype
        product = jnp.einsum(
            "mn,nd->dm", features, directions.astype(features.dtype), preferred_element_type=dtype
        )
        projections.append(jnp.sort(product))
    return jnp.square(projections[0] - projections[1]).mean()
