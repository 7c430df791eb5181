"""Gram matrices, the style statistic of Gatys, Ecker & Bethge (2015), "the paper"."""

from dataclasses import dataclass
from typing import ClassVar, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nst_jax._types import Normalization
from nst_jax.errors import InputError
from nst_jax.losses.terms import EPSILON, sum_of_squares

__all__ = ["Gram", "gram", "masked_gram", "relative_style_loss", "style_loss"]


@dataclass(frozen=True)
class Gram:
    """The Gram matrix as a `nst_jax.losses.StyleStatistic`.

    Attributes:
        normalization: ``target_energy`` compares by `relative_style_loss`, ``none`` by the paper's
            `style_loss`, both for matrices averaged over positions.

    Raises:
        InputError: another normalization.

    >>> import jax
    >>> image, style = jax.random.uniform(jax.random.key(0), (2, 8, 8, 4))
    >>> measured, target = (Gram().measure(features) / 64 for features in (image, style))
    >>> measured.shape, bool(Gram().distance(measured, target) > 0)
    ((4, 4), True)
    """

    normalization: Normalization = "target_energy"
    additive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the normalization."""
        if self.normalization not in get_args(Normalization):
            choices = ", ".join(get_args(Normalization))
            raise InputError(f"normalization is {self.normalization!r}; choose one of {choices}")

    def measure(
        self, features: Float[Array, "h w n"], mask: Float[Array, "h w"] | None = None
    ) -> Float[Array, "n n"]:
        """`gram`, or `masked_gram` with a mask."""
        return gram(features) if mask is None else masked_gram(features, mask)

    def distance(
        self, measured: Float[Array, "n n"], target: Float[Array, "n n"]
    ) -> Float[Array, ""]:
        """Compare two matrices, each averaged over its positions."""
        if self.normalization == "none":
            return style_loss(measured, target, 1)
        return relative_style_loss(measured, target)


def gram(features: Float[Array, "h w n"]) -> Float[Array, "n n"]:
    """Gram matrix G_ij = Σ_k F_ik F_jk over all positions k (Gatys et al. 2015, eq. 3).

    The result is float32, or float64 for float64 features. Its derivative is symmetric, so that the
    gradient F·(S + Sᵀ), for a cotangent S, is one matrix product and not two. In half precision it
    supports reverse mode only.

    >>> import jax.numpy as jnp
    >>> gram(jnp.array([[[1.0, 2.0], [0.0, 3.0]]]))
    Array([[ 1.,  2.],
           [ 2., 13.]], dtype=float32)
    """
    half_precision = features.dtype in (jnp.bfloat16, jnp.float16)
    return _gram_half_precision(features) if half_precision else _gram(features)


@jax.custom_jvp
def _gram(features: Float[Array, "h w n"]) -> Float[Array, "n n"]:
    return _inner_products(features, features)


@_gram.defjvp
def _gram_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Behind the barrier XLA transposes what is in memory, instead of computing it once a filter.
    features = lax.optimization_barrier(primals[0])
    half = _inner_products(features, tangents[0])
    return _gram(features), half + half.T


# Its own VJP, because the transpose of a half precision product with a float32 result multiplies in
# float32. A product with a half precision result makes a step of 512 pixels 10 % slower on a CPU.
@jax.custom_vjp
def _gram_half_precision(features: Float[Array, "h w n"]) -> Float[Array, "n n"]:
    return _inner_products(features, features)


def _gram_fwd(features: Float[Array, "h w n"]) -> tuple[Float[Array, "n n"], Array]:
    features = lax.optimization_barrier(features)
    return _inner_products(features, features), features


def _gram_bwd(
    features: Float[Array, "h w n"], cotangent: Float[Array, "n n"]
) -> tuple[Float[Array, "h w n"]]:
    symmetric = (cotangent + cotangent.T).astype(features.dtype)

    def sum_in_float32(a: Array, b: Array) -> Array:
        return jnp.dot(a, b, preferred_element_type=jnp.float32).astype(a.dtype)

    # A GPU sums in float32 for a half precision result too, and writes half as many bytes.
    return (lax.platform_dependent(features, symmetric, cuda=jnp.dot, default=sum_in_float32),)


_gram_half_precision.defvjp(_gram_fwd, _gram_bwd)


def _inner_products(a: Float[Array, "h w n"], b: Float[Array, "h w n"]) -> Float[Array, "n n"]:
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum("hwi,hwj->ij", a, b, preferred_element_type=dtype)


def masked_gram(features: Float[Array, "h w n"], mask: Float[Array, "h w"]) -> Float[Array, "n n"]:
    """Σ_k T_k F_ik F_jk: the Gram matrix inside a mask, T_k in [0, 1].

    After Gatys et al., "Controlling Perceptual Factors in Neural Style Transfer" (2017), whose T²
    is this T. So the matrices of several masks sum to that of the whole image where the masks sum
    to 1.

    >>> import jax.numpy as jnp
    >>> mask = jnp.array([[1.0, 1.0], [0.5, 0.0]])
    >>> masked_gram(jnp.ones((2, 2, 2)), mask)
    Array([[2.5, 2.5],
           [2.5, 2.5]], dtype=float32)
    """
    # The gradient of the root is infinite at zero, but masks are constants.
    return gram(features * jnp.sqrt(mask)[..., None].astype(features.dtype))


def style_loss(
    gram_matrix: Float[Array, "n n"], target: Float[Array, "n n"], positions: Float[Array, ""] | int
) -> Float[Array, ""]:
    """E_l = 1/(4 N² M²) Σ_ij (G_ij − A_ij)² (Gatys, Ecker & Bethge 2015, equation 4).

    Args:
        gram_matrix: G, of the image that is optimized.
        target: A, of the style, summed over as many positions as G.
        positions: M, the number of positions.

    >>> import jax.numpy as jnp
    >>> float(style_loss(jnp.full((2, 2), 3.0), jnp.ones((2, 2)), positions=4))
    0.0625
    """
    filters = gram_matrix.shape[-1]
    error = sum_of_squares(gram_matrix, target)
    return error / (4.0 * filters**2 * jnp.asarray(positions, error.dtype) ** 2)


def relative_style_loss(
    gram_matrix: Float[Array, "n n"], target: Float[Array, "n n"]
) -> Float[Array, ""]:
    """Σ (G − A)² / Σ A²: the paper's style loss relative to the target's energy.

    Both matrices must be summed, or averaged, over the same number of positions.

    >>> import jax.numpy as jnp
    >>> float(relative_style_loss(1.5 * jnp.eye(3), jnp.eye(3)))
    0.25
    """
    return sum_of_squares(gram_matrix, target) / (sum_of_squares(target, 0.0) + EPSILON)
