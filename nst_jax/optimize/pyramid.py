"""L-BFGS over the coefficients of a Laplacian pyramid, as an Optax transformation.

An image is a sum of bands: coefficients at full size, at half the size, and so on, each upsampled
to the image. A step over the coefficients moves large areas as easily as single pixels. Over pixels
a broad change, such as the tone of a sky or a wide stroke, takes many steps. STROTSS (Kolkin et al.
2019) and NNST (Kolkin et al. 2022) optimize such coefficients too.

The synthesis is linear, so the image itself stays the variable of the loop, of the line search and
of checkpoints: the transformation maps gradients to coefficients and steps back to pixels.
"""

from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

__all__ = ["PyramidState", "pyramid_lbfgs", "synthesize"]

CUBIC_TAPS: Final = (-0.0234375, 0.2265625, 0.8671875, -0.0703125)
"""Keys' cubic kernel (a = −½) a quarter of a sample left of a sample: the weights of the second and
the first one to its left, of itself, and of the one to its right."""

Pyramid = tuple[Float[Array, "_ _ c"], ...]
"""Coefficients from fine to coarse; each band has half the height and width of the one before."""


class PyramidState(NamedTuple):
    """The state of `pyramid_lbfgs`."""

    coefficients: Pyramid
    """The sum of all steps over the coefficients; L-BFGS needs their differences only."""
    lbfgs: optax.OptState
    line_search: optax.OptState


def pyramid_lbfgs(
    memory_size: int = 10, num_bands: int = 5, gain: float = 0.6
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS with a zoom line search over the coefficients of a Laplacian pyramid.

    With one band it is ``optax.lbfgs(memory_size=memory_size)``.

    Args:
        memory_size: how many steps L-BFGS remembers.
        num_bands: the number of bands.
        gain: the factor of each coarser band in `synthesize`. Upsampling doubles the norm of a
            band, so 0.5 makes all bands count alike. More prefers broad changes, such as the tone
            of a sky, over fine detail.

    >>> import nst_jax
    >>> optimizer = pyramid_lbfgs(gain=0.8)  # broader changes than by default
    >>> settings = nst_jax.Settings(optimizer=optimizer)
    >>> nst_jax.optimize.has_line_search(settings.optimizer)
    True
    """
    lbfgs = optax.scale_by_lbfgs(memory_size=memory_size)
    line_search = optax.scale_by_zoom_linesearch(
        max_linesearch_steps=20, initial_guess_strategy="one"
    )

    def init(params: Any) -> PyramidState:
        zeros = _zeros(params, num_bands)
        return PyramidState(zeros, lbfgs.init(zeros), line_search.init(params))

    def update(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, PyramidState]:
        coefficients, lbfgs_state, line_search_state = state
        _, adjoint = jax.vjp(lambda bands: synthesize(bands, gain), coefficients)
        scaled, lbfgs_state = lbfgs.update(adjoint(updates)[0], lbfgs_state, coefficients)
        direction = jax.tree.map(jnp.negative, scaled)
        step, line_search_state = line_search.update(
            synthesize(direction, gain), line_search_state, params, **extra_args
        )
        rate = optax.tree_utils.tree_get(line_search_state, "learning_rate")
        coefficients = jax.tree.map(lambda c, d: c + rate * d, coefficients, direction)
        return step, PyramidState(coefficients, lbfgs_state, line_search_state)

    return optax.GradientTransformationExtraArgs(init, update)


def synthesize(bands: Pyramid, gain: float) -> Float[Array, "h w c"]:
    """Return b₀ + g·U(b₁ + g·U(b₂ + …)): U upsamples a band to the size of the next finer one."""
    *finer, image = bands
    for band in reversed(finer):
        image = band + gain * _upsample(image, band.shape)
    return image


def _upsample(band: Float[Array, "_ _ c"], shape: tuple[int, ...]) -> Float[Array, "h w c"]:
    """Double the height and width by cubic interpolation; drop an odd last row or column."""
    for axis in (0, 1):
        length = band.shape[axis]
        pad = [(2, 2) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(band, pad, mode="edge")
        taps = [jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(5)]
        left = sum(w * tap for w, tap in zip(CUBIC_TAPS, taps[:4], strict=True))
        right = sum(w * tap for w, tap in zip(CUBIC_TAPS[::-1], taps[1:], strict=True))
        doubled = jnp.stack([left, right], axis + 1)
        band = doubled.reshape(*band.shape[:axis], 2 * length, *band.shape[axis + 1 :])
    return band[: shape[0], : shape[1]]


def _zeros(image: Float[Array, "h w c"], num_bands: int) -> Pyramid:
    height, width, channels = image.shape
    bands = []
    for _ in range(num_bands):
        bands.append(jnp.zeros((height, width, channels), image.dtype))
        height, width = -(-height // 2), -(-width // 2)
    return tuple(bands)
