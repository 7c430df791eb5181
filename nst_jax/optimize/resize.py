"""Resizing on the device without matrix products.

`jax.image.resize` multiplies by a dense matrix for each axis. On a GPU, XLA compiles and times many
kernels for each of those products: on an H200 that took five to eight seconds for one image.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["resize"]

Kernel = tuple[int, Callable[[np.ndarray], np.ndarray]]


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1 - distance)


def _cubic(distance: np.ndarray) -> np.ndarray:
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


KERNELS: dict[str, Kernel] = {"linear": (1, _linear), "cubic": (2, _cubic)}
"""How far a kernel reaches, and its value at a distance (Keys 1981, with a = -1/2)."""


@functools.partial(jax.jit, static_argnames=("shape", "method"))
def resize(
    image: Float[Array, "*k h w c"], shape: tuple[int, int], method: Literal["linear", "cubic"]
) -> Float[Array, "*k new_h new_w c"]:
    """Resize images to ``shape``, as `jax.image.resize` does: antialiased where they shrink."""
    for axis, new_length in zip((-3, -2), shape, strict=True):
        indices, weights = _taps(image.shape[axis], new_length, KERNELS[method])
        weights = weights.reshape(len(weights), *(-1 if i == axis else 1 for i in (-3, -2, -1)))
        weights = weights.astype(image.dtype)
        taps = [w * jnp.take(image, i, axis) for i, w in zip(indices, weights, strict=True)]
        image = functools.reduce(jnp.add, taps)
    return image


def _taps(length: int, new_length: int, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """Return the old positions that make each new one, and their weights: (taps, new_length)."""
    radius, value = kernel
    scale = length / new_length
    width = max(scale, 1.0)
    reach = int(np.ceil(radius * width))
    center = (np.arange(new_length) + 0.5) * scale - 0.5
    indices = np.floor(center).astype(np.int64) + np.arange(1 - reach, reach + 1)[:, None]
    weights = value(np.abs(indices - center) / width)
    weights = np.where((indices >= 0) & (indices < length), weights, 0.0)
    return np.clip(indices, 0, length - 1), weights / weights.sum(0)
