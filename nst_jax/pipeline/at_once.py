"""Images by the arbitrary stylization network: for `nst-jax apply`, and as the start of a job."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import jax
import numpy as np
from jaxtyping import Float32

from nst_jax import images
from nst_jax.networks.arbitrary import STYLE_SIZE, apply_style, load_params, predict_style
from nst_jax.pipeline.caches import Executables

__all__ = ["MAX_START_SIZE", "blend", "image_at_once", "style_square", "style_vector"]

MAX_START_SIZE: Final = 1024
"""The longest side at which a job's start is computed. A larger start is enlarged: the network was
trained with photos of 256 pixels, and its strokes do not grow with the photo."""

_predict, _apply = jax.jit(predict_style), jax.jit(apply_style)


@cache
def _params() -> dict[str, Any]:
    return jax.device_put(load_params())


def style_square(style: Float32[np.ndarray, "_ _ 3"]) -> Float32[np.ndarray, "256 256 3"]:
    """Return the central square of a style at the size that the network was trained with."""
    return images.crop_square(style, STYLE_SIZE)


def style_vector(
    executables: Executables, style: Float32[np.ndarray, "h w 3"]
) -> Float32[np.ndarray, " 100"]:
    """Return the vector of a style, of which `style_square` cuts out the best size.

    >>> import numpy as np
    >>> style = style_square(np.full((40, 60, 3), 0.5, np.float32))
    >>> style.shape, style_vector(Executables(), style).shape
    ((256, 256, 3), (100,))
    """
    return np.asarray(executables.compile(_predict, _params(), style)(_params(), style))


def blend(
    vectors: Sequence[Float32[np.ndarray, " 100"]], shares: Sequence[float]
) -> Float32[np.ndarray, " 100"]:
    """Return the vector of a mix of styles, with shares that sum to 1."""
    return np.asarray(shares, np.float32) @ np.stack(vectors)


def image_at_once(
    executables: Executables,
    content: Float32[np.ndarray, "h w 3"],
    vector: Float32[np.ndarray, " 100"],
) -> Float32[np.ndarray, "h w 3"]:
    """Return a content in the style of a vector.

    Raises:
        InputError: a side of the content is below 16 pixels.
        MemoryLimitError: it needs more memory than is free.

    >>> import numpy as np
    >>> content, vector = np.full((20, 30, 3), 0.5, np.float32), np.zeros(100, np.float32)
    >>> image_at_once(Executables(), content, vector).shape
    (20, 30, 3)
    """
    args = _params(), content, vector
    return np.asarray(executables.compile(_apply, *args)(*args))
