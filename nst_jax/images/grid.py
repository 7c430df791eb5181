"""Contact sheets: several pictures side by side on one, with a label under each."""

from collections.abc import Sequence
from typing import Final, TypeAlias, cast

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageDraw, ImageFont

from nst_jax.errors import InputError
from nst_jax.images import io as images

__all__ = ["contact_sheet"]

Font: TypeAlias = ImageFont.FreeTypeFont

WHITE: Final = 1.0
INK: Final = 0.2
FRAME: Final = 0.75  # a hairline, so that a white picture ends somewhere


def contact_sheet(
    pictures: Sequence[Float32[np.ndarray, "_ _ 3"]], labels: Sequence[str]
) -> Float32[np.ndarray, "h w 3"]:
    """Lay pictures in a row on white, scaled to the height of the tallest.

    Args:
        pictures: RGB in [0, 1], of any sizes.
        labels: one each, in a line under its picture; one that is wider is cut short.

    Returns:
        The sheet, in [0, 1]. The tallest picture is on it pixel by pixel.

    Raises:
        InputError: there are no pictures, or not as many labels.
    """
    if not pictures or len(pictures) != len(labels):
        raise InputError(
            f"{len(labels)} labels for {len(pictures)} pictures; give one each, and at least one"
        )
    height = max(len(picture) for picture in pictures)
    row = [
        picture
        if len(picture) == height
        else images.resize(
            picture, (height, max(1, round(picture.shape[1] * height / len(picture))))
        )
        for picture in pictures
    ]
    margin = max(8, height // 14)
    width = sum(picture.shape[1] for picture in row) + margin * (len(row) + 1)
    font = cast(Font, ImageFont.load_default(max(11.0, height / 18)))
    text = Image.new("L", (width, round(3 * font.size)))
    draw = ImageDraw.Draw(text)
    sheet = np.full((margin + height + text.height, width, 3), WHITE, np.float32)
    left = margin
    for picture, label in zip(row, labels, strict=True):
        right = left + picture.shape[1]
        sheet[margin - 1 : margin + height + 1, left - 1 : right + 1] = FRAME
        sheet[margin : margin + height, left:right] = picture
        line = _shortened(" ".join(label.split()), right - left + margin // 2, font)
        draw.text(((left + right) / 2, text.height / 2), line, 255, font, anchor="mm")
        left = right + margin
    ink = np.asarray(text, np.float32)[..., None] / 255
    sheet[-text.height :] += ink * (INK - sheet[-text.height :])
    return sheet


def _shortened(label: str, width: int, font: Font) -> str:
    """Cut a label short so that it is no wider than this, an ellipsis included."""
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(f"{label}…") > width:
        label = label[:-1]
    return f"{label.rstrip()}…"
