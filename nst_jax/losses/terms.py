"""Losses on one image's features: the paper's equations and their scale-free counterparts.

Features are (h, w, n): n filters (the paper's N_l) at M = h·w positions. Gram matrices are (n, n).
Everything is a pure function of arrays, sums in float32 and returns a float32 scalar; batch with
``jax.vmap``. "The paper" is Gatys, Ecker & Bethge, "A Neural Algorithm of Artistic Style" (2015).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32

from nst_jax.models.kernels.noinline import apart

__all__ = [
    "content_loss",
    "gram",
    "gram_beside",
    "guided_gram",
    "relative_content_loss",
    "relative_style_loss",
    "style_loss",
    "total_variation",
]

EPSILON = 1e-30
"""Keeps the relative losses from dividing zero by zero at a target that is zero everywhere."""


@jax.custom_vjp
def gram(features: Float[Array, "h w n"]) -> Float32[Array, "n n"]:
    """Gram matrix G_ij = Σ_k F_ik F_jk over all positions k (the paper's equation 3).

    Its gradient F·(S + Sᵀ), for a cotangent S, is one product of matrices as they lie in memory;
    the one that JAX derives transposes the features and the result.

    >>> gram(jnp.array([[[1.0, 2.0], [0.0, 3.0]]]))
    Array([[ 1.,  2.],
           [ 2., 13.]], dtype=float32)
    """
    return jnp.einsum("hwi,hwj->ij", features, features, preferred_element_type=jnp.float32)


def _gram_forward(features: Float[Array, "h w n"]) -> tuple[Float32[Array, "n n"], Array]:
    # Behind the barrier XLA transposes what is in memory, instead of computing it once a filter.
    features = lax.optimization_barrier(features)
    return gram(features), features


def _gram_backward(
    features: Float[Array, "h w n"], cotangent: Float32[Array, "n n"]
) -> tuple[Float[Array, "h w n"]]:
    symmetric = (cotangent + cotangent.T).astype(features.dtype)
    product = jnp.dot(features, symmetric, preferred_element_type=jnp.float32)
    return (product.astype(features.dtype),)


gram.defvjp(_gram_forward, _gram_backward)


@jax.custom_vjp
def gram_beside(
    features: Float[Array, "h w n"],
) -> tuple[Float[Array, "h w n"], Float32[Array, "n n"]]:
    """The features, for the layers above, and `gram` of them.

    Its gradient waits until that of the layers above is there, and is added to it at once. The sum
    that JAX derives may be of a gradient as large as the features that was there long before.
    """
    return features, gram(features)


def _beside_forward(
    features: Float[Array, "h w n"],
) -> tuple[tuple[Float[Array, "h w n"], Float32[Array, "n n"]], Array]:
    matrix, features = _gram_forward(features)
    return (features, matrix), features


def _beside_backward(
    features: Float[Array, "h w n"],
    cotangents: tuple[Float[Array, "h w n"], Float32[Array, "n n"]],
) -> tuple[Float[Array, "h w n"]]:
    return (apart(_added_gradients, features, *cotangents),)


def _added_gradients(
    features: Float[Array, "h w n"],
    from_above: Float[Array, "h w n"],
    from_matrix: Float32[Array, "n n"],
) -> Float[Array, "h w n"]:
    return from_above + _gram_backward(features, from_matrix)[0]


gram_beside.defvjp(_beside_forward, _beside_backward)


def guided_gram(
    features: Float[Array, "h w n"], guide: Float[Array, "h w"]
) -> Float32[Array, "n n"]:
    """Σ_k T_k F_ik F_jk: the Gram matrix of a region, which T_k in [0, 1] says how far k is in.

    After Gatys et al., "Controlling Perceptual Factors in Neural Style Transfer" (2017), whose T²
    this T is: so the regions' matrices sum to the whole's where the T of all regions sum to 1.
    """
    # A root's gradient at zero is infinite, but guides are constants.
    return gram(features * jnp.sqrt(guide)[..., None].astype(features.dtype))


def content_loss(
    features: Float[Array, "h w n"], target: Float[Array, "h w n"]
) -> Float32[Array, ""]:
    """½ Σ_ij (F_ij − P_ij)² (the paper's equation 1)."""
    return 0.5 * _sum_of_squares(features, target)


def style_loss(
    gram_matrix: Float[Array, "n n"], target: Float[Array, "n n"], positions: Float[Array, ""] | int
) -> Float32[Array, ""]:
    """E_l = 1/(4 N² M²) Σ_ij (G_ij − A_ij)² (the paper's equation 4).

    Args:
        gram_matrix: G, of the image that is optimised.
        target: A, of the style, summed over as many positions as G.
        positions: M, the number of positions.
    """
    filters = gram_matrix.shape[-1]
    return _sum_of_squares(gram_matrix, target) / (
        4.0 * filters**2 * jnp.asarray(positions, jnp.float32) ** 2
    )


def relative_content_loss(
    features: Float[Array, "h w n"], target: Float[Array, "h w n"]
) -> Float32[Array, ""]:
    """Σ (F − P)² / Σ P²: the paper's content loss as a share of the target's energy.

    It does not change when the picture is enlarged or when the network's activations are rescaled,
    so that one weight fits every size and model.
    """
    return _sum_of_squares(features, target) / (_sum_of_squares(target, 0.0) + EPSILON)


def relative_style_loss(
    gram_matrix: Float[Array, "n n"], target: Float[Array, "n n"]
) -> Float32[Array, ""]:
    """Σ (G − A)² / Σ A²: the paper's style loss as a share of the target's energy.

    Both matrices must be summed, or averaged, over the same number of positions.
    """
    return _sum_of_squares(gram_matrix, target) / (_sum_of_squares(target, 0.0) + EPSILON)


def total_variation(image: Float[Array, "h w 3"]) -> Float32[Array, ""]:
    """Mean squared difference of neighbours, on nine points so that no direction is favoured.

    The mean over pixels and channels of ⅔ (Δx² + Δy²) + ⅙ (Δ↘² + Δ↙²), where Δ↘ and Δ↙ are
    differences along the diagonals: for a plane of slope s this is s² whatever its direction.
    Taking the mean makes it independent of the picture's size. An image of one pixel has none.
    """
    image = image.astype(jnp.float32)
    across = image[:, 1:] - image[:, :-1]
    down = image[1:] - image[:-1]
    falling = image[1:, 1:] - image[:-1, :-1]
    rising = image[1:, :-1] - image[:-1, 1:]
    straight = jnp.square(across).sum() + jnp.square(down).sum()
    diagonal = jnp.square(falling).sum() + jnp.square(rising).sum()
    return (2 / 3 * straight + 1 / 6 * diagonal) / image.size


def _sum_of_squares(a: Float[Array, "..."], b: Float[Array, "..."] | float) -> Float32[Array, ""]:
    return jnp.square(a.astype(jnp.float32) - b).sum()
