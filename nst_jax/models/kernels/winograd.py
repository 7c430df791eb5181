"""A 3×3 convolution of stride 1 with a quarter of the multiplications: Winograd's F(4×4, 3×3).

After Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks". The picture is cut
into tiles of 4×4 positions. A tile with its surroundings, 6×6 values d, and a kernel, 3×3 values g,
are brought into a form in which correlating them is multiplying place by place, 36 products instead
of 144:

    y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A

Over all tiles and channels that is 36 products of matrices. The kernels' form is made once, by
`transform`, and takes four times their memory.

G, B and A evaluate and interpolate polynomials at six points. Ours, 0, ±√2, ±1/√2 and ∞, are closed
under p → 1/p, and so is a kernel's form under reversal: the reversed kernels that the input's
gradient needs are the same numbers in another order, and no second copy of them is kept. The points
are accurate, too: over 256 channels the result is off by 1.3e-6 of its size (root mean square, in
float32), with the usual 0, ±1, ±2 and ∞ by twice that.

Of bfloat16 pictures only what goes into the 36 products is rounded to bfloat16, besides the result;
the transforms and the products' sums are in float32. A convolution is then off by 1.1 %, where one
as it is defined is off by 0.3 %. In the whole network most of that averages out: at relu5_1
features are off by 1.9 % instead of 1.0, the gradient by 9.8 % instead of 8.3, and the loss by 7e-4
instead of 6e-4 (VGG19's shape, 256 × 256 pixels).
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

__all__ = ["correlate", "transform"]

TILE: Final = 4
POINTS: Final = np.array([0, 2**0.5, -(2**0.5), 2**-0.5, -(2**-0.5)])
"""All but ∞, which comes after them."""
RECIPROCALS: Final = [5, 3, 4, 1, 2, 0]
"""Where each point's reciprocal is."""


def _values(coefficients: int) -> Float[np.ndarray, "6 coefficients"]:
    """What each coefficient adds to a polynomial's value at each point."""
    return np.vstack([POINTS[:, None] ** np.arange(coefficients), np.eye(coefficients)[-1]])


_SCALE: Final = np.array([1, *POINTS[1:], 1])[:, None]
"""With it a kernel's value at p is its reverse's at 1/p."""
_G: Final = _values(3) / _SCALE
_B: Final = (np.linalg.inv(_values(6)).T * _SCALE).round(12)
_A: Final = _values(TILE).T


def transform(kernel: Float[Any, "3 3 c n"], dtype: Any = jnp.float32) -> Float[Array, "36 c n"]:
    """Bring kernels (G g Gᵀ) into the form that `correlate` takes, rounded to ``dtype`` in it."""
    taps = np.asarray(kernel, np.float32)
    c, n = taps.shape[2:]
    matrix = np.kron(_G, _G).astype(taps.dtype)
    return jnp.asarray((matrix @ taps.reshape(9, c * n)).reshape(36, c, n), dtype)


@partial(jax.jit, static_argnames=("margin", "reverse"))
def correlate(
    x: Float[Array, "h w c"], kernel: Float[Array, "36 c n"], margin: int, *, reverse: bool = False
) -> Float[Array, "_ _ n"]:
    """Correlate one image with kernels, with ``margin`` rows and columns of zeros on every side.

    Args:
        x: the image.
        kernel: from `transform`, in the image's dtype.
        margin: 0, 1 or 2; the result is larger than the image by 2 · margin − 2.
        reverse: correlate with the reversed kernels, from their output's channels to their input's.
            With a margin of 2 − m this is the transpose of what a margin of m gives.
    """
    channels = x.shape[2]
    height, width = (side + 2 * margin - 2 for side in x.shape[:2])
    down, across = -(-height // TILE), -(-width // TILE)
    below = TILE * (down + 1) - margin - x.shape[0]
    right = TILE * (across + 1) - margin - x.shape[1]
    x = jnp.pad(x, ((margin, below), (margin, right), (0, 0)))
    x = x.reshape(down + 1, TILE, across + 1, TILE, channels)
    order = RECIPROCALS if reverse else slice(None)
    B, A = _B[order], _A[:, order]

    # A tile's last two rows and columns of six are the next tile's first two.
    rows = [(x[:down, i] if i < TILE else x[1:, i - TILE]).astype(jnp.float32) for i in range(6)]
    x = _mix(B, rows, axis=0)
    columns = [x[:, :, :across, i] if i < TILE else x[:, :, 1:, i - TILE] for i in range(6)]
    x = _mix(B, columns, axis=1).reshape(36, down * across, channels).astype(kernel.dtype)

    depth = 2 if reverse else 1
    products = lax.dot_general(
        x, kernel, (((2,), (depth,)), ((0,), (0,))), preferred_element_type=jnp.float32
    )
    products = products.reshape(6, 6, down, across, -1)
    products = _mix(A, [products[:, i] for i in range(6)], axis=3)
    tiles = _mix(A, [products[i] for i in range(6)], axis=1)
    tiles = tiles.astype(kernel.dtype)
    return tiles.reshape(TILE * down, TILE * across, -1)[:height, :width]


def _mix(matrix: Float[np.ndarray, "outputs inputs"], arrays: Sequence[Array], axis: int) -> Array:
    """Multiply a matrix by a vector of arrays; its outputs are stacked along a new axis."""
    # Operations of jax.lax, because those of jax.numpy take four times as long to trace.
    weights = matrix.astype(np.float32)
    mixed = []
    for row in weights:
        counting = [(w, x) for w, x in zip(row, arrays, strict=True) if w != 0]
        terms = [x if w == 1 else lax.mul(x, w) for w, x in counting]
        mixed.append(lax.expand_dims(reduce(lax.add, terms), (axis,)))
    return lax.concatenate(mixed, axis)
