"""The content loss and total variation of one image.

Features are ``(h, w, n)``: n filters (the paper's N_l) at M = h·w positions. Everything is a pure
function of arrays and returns a scalar; batch with ``jax.vmap``. Sums are in float32, or in float64
for float64 features. "The paper" is Gatys, Ecker & Bethge, "A Neural Algorithm of Artistic Style"
(2015).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.networks.kernels.dtypes import at_least_float32

__all__ = ["EPSILON", "content_loss", "relative_content_loss", "sum_of_squares", "total_variation"]

EPSILON = 1e-30
"""Prevents a division of zero by zero in relative losses, for a target that is zero everywhere."""


def content_loss(
    features: Float[Array, "h w n"], target: Float[Array, "h w n"]
) -> Float[Array, ""]:
    """½ Σ_ij (F_ij − P_ij)² (Gatys, Ecker & Bethge 2015, equation 1), in float32 or better.

    >>> import jax.numpy as jnp
    >>> float(content_loss(jnp.ones((2, 2, 3)), jnp.zeros((2, 2, 3))))
    6.0
    """
    return 0.5 * sum_of_squares(features, target)


def relative_content_loss(
    features: Float[Array, "h w n"], target: Float[Array, "h w n"]
) -> Float[Array, ""]:
    """Σ (F − P)² / Σ P²: the paper's content loss relative to the target's energy.

    It does not change when the image is enlarged or when the network's activations are rescaled, so
    one weight fits every size and network. It is in float32 or better.

    >>> import jax.numpy as jnp
    >>> target = jnp.ones((2, 2, 3))
    >>> float(relative_content_loss(0.5 * target, target))
    0.25
    """
    return sum_of_squares(features, target) / (sum_of_squares(target, 0.0) + EPSILON)


def total_variation(image: Float[Array, "h w 3"]) -> Float[Array, ""]:
    """Mean squared difference between neighbors, on nine points so that no direction is preferred.

    The mean over pixels and channels of ⅔ (Δx² + Δy²) + ⅙ (Δ↘² + Δ↙²), where Δ↘ and Δ↙ are
    differences along the diagonals. For a plane of slope s this is s² in every direction. The mean
    makes it independent of the image's size. An image of one pixel has none.
    It is in float32 or better.

    >>> import jax
    >>> noise = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> round(float(jax.jit(total_variation)(noise)), 1)  # 0 for a flat image
    0.3
    """
    image = at_least_float32(image)
    across = image[:, 1:] - image[:, :-1]
    down = image[1:] - image[:-1]
    falling = image[1:, 1:] - image[:-1, :-1]
    rising = image[1:, :-1] - image[:-1, 1:]
    straight = jnp.square(across).sum() + jnp.square(down).sum()
    diagonal = jnp.square(falling).sum() + jnp.square(rising).sum()
    return (2 / 3 * straight + 1 / 6 * diagonal) / image.size


def sum_of_squares(
    a: Float[Array, "*shape"], b: Float[Array, "*shape"] | float
) -> Float[Array, ""]:
    """Σ (a − b)², in float32 or better."""
    return jnp.square(at_least_float32(a) - b).sum()
