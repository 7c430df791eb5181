"""Mean and covariance of features, compared by the 2-Wasserstein distance of two Gaussians."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.losses.statistics.gram import gram, masked_gram
from nst_jax.losses.terms import EPSILON
from nst_jax.networks.kernels.dtypes import at_least_float32

__all__ = ["FeatureMoments", "Moments", "gaussian_wasserstein", "trace_of_root"]

SMALLEST_ROOT = 3e-3
"""The iteration is scaled for roots of eigenvalues from here to 1, relative to the largest."""
ITERATIONS = 9
RIDGE = 1e-4
"""Added to every eigenvalue of a covariance, relative to the style's mean eigenvalue."""


class FeatureMoments(NamedTuple):
    """Sums over positions k, or means: Σ F_ik and Σ F_ik F_jk."""

    first: Float[Array, "*r n"]
    second: Float[Array, "*r n n"]


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of the features, a `nst_jax.losses.StyleStatistic`.

    Its distance is the squared 2-Wasserstein distance of the Gaussians with these moments, relative
    to the energy of the style's features.

    >>> import jax
    >>> image, style = jax.random.uniform(jax.random.key(0), (2, 8, 8, 4))
    >>> measured = Moments().measure(image)
    >>> measured.first.shape, measured.second.shape
    ((4,), (4, 4))
    """

    additive: ClassVar[bool] = True

    def measure(
        self, features: Float[Array, "h w n"], mask: Float[Array, "h w"] | None = None
    ) -> FeatureMoments:
        """Sum the features, and their products, over the positions."""
        if mask is None:
            return FeatureMoments(at_least_float32(features).sum((0, 1)), gram(features))
        weighted = at_least_float32(features) * mask[..., None]
        return FeatureMoments(weighted.sum((0, 1)), masked_gram(features, mask))

    def distance(self, measured: FeatureMoments, target: FeatureMoments) -> Float[Array, ""]:
        """Compare two pairs of moments, each averaged over its positions."""
        return gaussian_wasserstein(measured, target) / (jnp.trace(target.second) + EPSILON)


@jax.default_matmul_precision("highest")  # With TF32 or bfloat16 the roots diverge.
def gaussian_wasserstein(a: FeatureMoments, b: FeatureMoments) -> Float[Array, ""]:
    """``|μ_a − μ_b|² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½``: squared, of means over positions.

    After Olkin & Pukelsheim, "The distance between two random vectors with given dispersion
    matrices" (1982). A ridge keeps covariances of few positions regular.

    >>> import jax
    >>> from nst_jax.losses.statistics import Moments
    >>> features = jax.random.uniform(jax.random.key(0), (8, 8, 2))
    >>> a, b = (Moments().measure(x) for x in (features, features + 0.5))
    >>> a, b = jax.tree.map(lambda sums: sums / 64, (a, b))  # means over positions
    >>> round(float(jax.jit(gaussian_wasserstein)(a, b)), 2)  # two means, each 0.5 apart
    0.5
    """
    covariances = [x.second - jnp.outer(x.first, x.first) for x in (a, b)]
    identity = jnp.eye(len(a.first), dtype=a.first.dtype)
    ridge = RIDGE * jnp.trace(covariances[1]) / len(a.first) + EPSILON
    first, second = (covariance + ridge * identity for covariance in covariances)
    spread = jnp.trace(first) + jnp.trace(second) - 2 * trace_of_root(first @ second)
    return jnp.square(a.first - b.first).sum() + spread


@jax.custom_jvp
@jax.default_matmul_precision("highest")
def trace_of_root(product: Float[Array, "n n"]) -> Float[Array, ""]:
    """tr P^½ for the product of two covariances, whose eigenvalues are real and positive.

    The coupled Newton-Schulz iteration (Higham, "Functions of Matrices", 2008, equation 6.35),
    scaled after Chen & Chow (2014), "A stable scaling of Newton-Schulz". It takes only matrix
    products, which run well on every device, where an eigendecomposition does not.
    """
    return _root_and_inverse(product)[0]


@trace_of_root.defjvp
@jax.default_matmul_precision("highest")
def _trace_of_root_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    trace, inverse = _root_and_inverse(primals[0])
    return trace, 0.5 * jnp.vdot(inverse.T, tangents[0])


def _root_and_inverse(
    product: Float[Array, "n n"],
) -> tuple[Float[Array, ""], Float[Array, "n n"]]:
    """Return tr P^½ and P^-½."""
    size = jnp.linalg.norm(product)
    identity = jnp.eye(len(product), dtype=product.dtype)

    def iterate(pair: tuple[Array, Array], scale: Array) -> tuple[tuple[Array, Array], None]:
        root, inverse = pair
        factor = 1.5 * scale * identity - 0.5 * scale**3 * inverse @ root
        return (root @ factor, factor @ inverse), None

    scales = jnp.asarray(_scales(), product.dtype)
    (root, inverse), _ = jax.lax.scan(iterate, (product / size, identity), scales)
    return jnp.trace(root) * jnp.sqrt(size), inverse / jnp.sqrt(size)


def _scales() -> list[float]:
    """Return the scale of each iteration, which brings all roots as close to 1 as one step can."""
    scales, smallest = [], SMALLEST_ROOT
    for _ in range(ITERATIONS):
        scale = math.sqrt(3 / (1 + smallest + smallest**2))
        scales.append(scale)
        smallest = 0.5 * scale * smallest * (3 - (scale * smallest) ** 2)
    return scales
