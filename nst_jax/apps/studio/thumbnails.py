"""Images of files as the page shows them, in 8 bits."""

import os
from typing import Final

import numpy as np
import PIL.Image
from jaxtyping import Float32, UInt8

from nst_jax import images

__all__ = ["as_uint8", "before_and_after", "editor_background", "thumbnail"]

MAX_EDITOR: Final = 720
MAX_THUMBNAIL: Final = 192

Path = str | os.PathLike[str]


def as_uint8(pixels: Float32[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Round an image to 8 bits."""
    return (pixels * 255 + 0.5).astype(np.uint8)


def editor_background(photo: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Return a photo at a size that is comfortable to paint a mask over."""
    return _at_most(photo, MAX_EDITOR)


def thumbnail(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image at the size of the history."""
    return _at_most(path, MAX_THUMBNAIL)


def before_and_after(photo: Path, path: Path) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """Return the photo at the size of the image that was made of it, and that image."""
    after = images.read(path).pixels
    before = images.resize(images.read(photo).pixels, after.shape[:2])
    return PIL.Image.fromarray(as_uint8(before)), PIL.Image.fromarray(as_uint8(after))


def _at_most(path: Path, size: int) -> UInt8[np.ndarray, "h w 3"]:
    pixels = images.read(path).pixels
    shape = images.fit_longest_side(pixels.shape, min(size, max(pixels.shape)))
    return as_uint8(images.resize(pixels, shape))
