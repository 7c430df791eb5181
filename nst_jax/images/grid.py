"""Several images side by side in one, with a label below each."""

from collections.abc import Sequence
from typing import Final, cast

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageDraw, ImageFont

from nst_jax.errors import InputError
from nst_jax.images.io import resize

__all__ = ["image_grid"]

TEXT_GRAY: Final = 0.2
BORDER_GRAY: Final = 0.75  # a line of one pixel around each image makes white images visible


def image_grid(
    images: Sequence[Float32[np.ndarray, "_ _ 3"]], labels: Sequence[str]
) -> Float32[np.ndarray, "h w 3"]:
    """Place images in a row on white, scaled to the height of the tallest.

    Args:
        images: RGB in [0, 1], of any shapes.
        labels: one line of text per image. A label that is wider than its image is cut.

    Returns:
        RGB in [0, 1]. The tallest image is in it pixel by pixel.

    Raises:
        InputError: there are no images, or another number of labels.

    >>> import numpy as np
    >>> photo, painting = np.zeros((2, 32, 32, 3), np.float32)
    >>> image_grid([photo, painting], ["photo", "painting"]).shape
    (73, 88, 3)
    """
    if not images or len(images) != len(labels):
        raise InputError(
            f"{len(labels)} labels for {len(images)} images; give one per image, and at least one"
        )
    height = max(len(image) for image in images)
    widths = [max(1, round(image.shape[1] * height / len(image))) for image in images]
    margin = max(8, height // 14)
    font = cast(ImageFont.FreeTypeFont, ImageFont.load_default(max(11.0, height / 18)))
    text = Image.new("L", (sum(widths) + margin * (len(images) + 1), round(3 * font.size)))
    draw = ImageDraw.Draw(text)
    grid = np.ones((margin + height + text.height, text.width, 3), np.float32)
    left = margin
    for image, width, label in zip(images, widths, labels, strict=True):
        right = left + width
        grid[margin - 1 : margin + height + 1, left - 1 : right + 1] = BORDER_GRAY
        scaled = image if len(image) == height else resize(image, (height, width))
        grid[margin : margin + height, left:right] = scaled
        line = _ellipsize(" ".join(label.split()), width + margin // 2, font)
        draw.text(((left + right) / 2, text.height / 2), line, 255, font, anchor="mm")
        left = right + margin
    ink = np.asarray(text, np.float32)[..., None] / 255
    grid[-text.height :] += ink * (TEXT_GRAY - grid[-text.height :])
    return grid


def _ellipsize(label: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Cut a label, and append an ellipsis, if it is wider than ``width`` pixels."""
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(f"{label}…") > width:
        label = label[:-1]
    return f"{label.rstrip()}…"
