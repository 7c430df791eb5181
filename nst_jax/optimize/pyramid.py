"""L-BFGS over the coefficients of a Laplacian pyramid, as an Optax transformation.

An image is a sum of bands: coefficients at full size, at half the size, and so on, each upsampled
to the image. A step over the coefficients moves large areas as easily as single pixels. Over pixels
a broad change, such as the tone of a sky or a wide stroke, takes many steps. STROTSS (Kolkin et al.
2019) and NNST (Kolkin et al. 2022) optimize such coefficients too.

The synthesis x = U·c is linear, and every inner product of L-BFGS over c is one over x:
s_c·y_c = s·y and y_c·y_c = y·P·y with P = U·Uᵀ. So the image stays the variable, and the pyramid is
the preconditioner P of the first inverse Hessian.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from nst_jax.errors import InputError
from nst_jax.optimize.lbfgs import preconditioned_lbfgs

__all__ = ["precondition", "pyramid_lbfgs"]


@cache  # The loop is compiled once for each optimizer object.
def pyramid_lbfgs(
    memory_size: int = 10, num_bands: int = 5, gain: float = 0.6
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS over the coefficients of a Laplacian pyramid, with one evaluation a step.

    ``update`` takes the keyword ``value``, the loss at ``params``. The variable may be a refused
    trial; ``state.accepted`` is the best point (`nst_jax.optimize.current_iterate`). Equal calls
    return the same object, so that they share the compiled loop.

    Args:
        memory_size: how many steps L-BFGS remembers.
        num_bands: the number of bands. With one band the variable may be any pytree. With more it
            is an image ``(h, w, c)``, or a pytree of them.
        gain: the factor of each coarser band. Upsampling doubles the norm of a band, so 0.5 makes
            all bands count alike. More prefers broad changes, such as the tone of a sky, over fine
            detail.

    Raises:
        InputError: the memory or the number of bands is below 1; or, in ``init``, the variable has
            several bands and is no image.

    >>> import nst_jax
    >>> optimizer = pyramid_lbfgs(gain=0.8)  # broader changes than by default
    >>> settings = nst_jax.Settings(optimizer=optimizer)
    >>> pyramid_lbfgs(gain=0.8) is optimizer
    True
    """
    for name, value in (("memory_size", memory_size), ("num_bands", num_bands)):
        if value < 1:
            raise InputError(f"{name} is {value}; give a whole number from 1 up")
    lbfgs = preconditioned_lbfgs(
        lambda grad: jax.tree.map(partial(precondition, num_bands=num_bands, gain=gain), grad),
        memory_size,
    )

    def init(params: optax.Params) -> optax.OptState:
        for leaf in jax.tree.leaves(params):
            if num_bands > 1 and jnp.ndim(leaf) != 3:
                raise InputError(
                    f"pyramid_lbfgs met an array of shape {jnp.shape(leaf)}; give images "
                    "(h, w, c), or num_bands=1 for any other variable"
                )
        return lbfgs.init(params)

    return optax.GradientTransformationExtraArgs(init, lbfgs.update)


def precondition(
    grad: Float[Array, "h w c"], *, num_bands: int, gain: float
) -> Float[Array, "h w c"]:
    """Return P·g, where P = I + g²·U·P'·Uᵀ: U upsamples a band of half the size, P' is its own P.

    U is a small dense matrix for each axis. XLA compiles two products faster than strided slices.
    The products stand in one einsum, because XLA could not tile two of them for an H100.

    >>> import jax
    >>> grad = jax.random.normal(jax.random.key(0), (4, 6, 3))
    >>> precondition(grad, num_bands=1, gain=0.6) is grad
    True
    """
    if num_bands == 1:
        return grad
    rows, columns = (_upsampling(length, grad.dtype) for length in grad.shape[:2])
    product = partial(jnp.einsum, precision="highest")
    coarse = product("hu,wv,hwc->uvc", rows, columns, grad)
    coarse = precondition(coarse, num_bands=num_bands - 1, gain=gain)
    fine = product("hu,wv,uvc->hwc", rows, columns, coarse)
    return grad + gain**2 * fine


def _upsampling(length: int, dtype: jnp.dtype) -> Float[Array, "fine coarse"]:
    """Return the matrix that doubles the length of an axis; an odd last sample is dropped.

    It interpolates by Keys' cubic kernel (a = −½), as `jax.image.resize` does.
    """
    fine = jnp.arange(length, dtype=dtype)[:, None]
    distance = jnp.abs((fine - 0.5) / 2 - jnp.arange(-(-length // 2)))
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0.0))
    return weights / weights.sum(1, keepdims=True)
