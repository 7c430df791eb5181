"""What the user gives to the page: image files, and a mask painted over the photo."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL.Image
from PIL import ImageColor

from nst_jax import images
from nst_jax.errors import InputError

__all__ = [
    "MASK_COLORS",
    "MAX_PIXELS",
    "check_image",
    "paint_mask",
    "uploaded_path",
    "without_folders",
]

MAX_PIXELS: Final = 50_000_000
"""A photo as large as this takes 600 MB as float32."""

MASK_COLORS: Final = ("#e6194b", "#4363d8", "#3cb44b", "#ffe119")
"""The brush of each style. Any two of them are far apart."""


def check_image(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Check that a file is an image that the studio can use, and return its (h, w).

    Raises:
        InputError: it is no image, is damaged, or has too many pixels. The message has no folder.
    """
    path = Path(path)
    try:
        with PIL.Image.open(path) as image:
            num_pixels = image.width * image.height
    except PIL.Image.DecompressionBombError:
        num_pixels = MAX_PIXELS + 1
    except Exception:  # `images.read` says why.
        num_pixels = 0
    if num_pixels > MAX_PIXELS:
        raise InputError(
            f"image {path.name!r}: has more than {MAX_PIXELS // 10**6} million pixels; scale it "
            "down first"
        )
    try:
        height, width = images.read(path).pixels.shape[:2]
    except InputError as error:
        raise InputError(without_folders(str(error), [path])) from error
    return height, width


def uploaded_path(value: Any, folder: Path) -> str | None:
    """Return the path of the image that the browser names, or None if it names none.

    Gradio checks paths too, but not those of an image whose description lacks its ``meta`` field.

    Args:
        value: what the browser sent for an image.
        folder: where all uploads and examples are.

    Raises:
        InputError: the path is not of an upload.
    """
    path = value.get("path") if isinstance(value, dict) else None
    if path is None:
        return None
    if not Path(str(path)).resolve().is_relative_to(folder.resolve()):
        raise InputError("the image was not uploaded to this page; drop it again")
    return str(path)


def without_folders(message: str, paths: Sequence[str | os.PathLike[str]]) -> str:
    """Name files in a message without their folders, which are nobody's business on the page."""
    for path in map(Path, paths):
        message = message.replace(os.fspath(path), path.name)
    return message


def paint_mask(
    layers: Sequence[np.ndarray], shape: tuple[int, int], num_styles: int, *, fill: bool
) -> PIL.Image.Image | None:
    """Return the painted layers as one mask of flat colors, or None if nothing is painted.

    Args:
        layers: uint8 RGBA (h, w, 4), painted in `MASK_COLORS`.
        shape: (h, w) of the photo.
        num_styles: the number of styles, each of which must be painted.
        fill: whether style 1 also applies where nothing is painted. Otherwise the photo stays.

    Raises:
        InputError: a style is painted nowhere.
    """
    if not any(layer[..., 3].any() for layer in layers):
        return None
    first, *others = (PIL.Image.fromarray(layer, "RGBA") for layer in layers)
    ground = PIL.Image.new("RGBA", first.size, MASK_COLORS[0] if fill else (0, 0, 0, 0))
    for layer in (first, *others):
        ground.alpha_composite(layer.resize(first.size))
    for i, color in enumerate(MASK_COLORS[:num_styles], start=1):
        difference = np.asarray(ground.convert("RGB"), float) - ImageColor.getrgb(color)
        near = np.abs(difference).max(-1) < 25
        if not (near & (np.asarray(ground)[..., 3] > 127)).any():
            raise InputError(f"style {i} is painted nowhere; paint with its color or remove it")
    height, width = shape
    mask = ground.resize((width, height), PIL.Image.Resampling.BILINEAR)
    return mask.convert("RGB") if fill else mask
