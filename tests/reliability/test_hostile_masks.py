"""Masks that are of another size, empty, of other colors, or too many."""

import numpy as np
import pytest
from apps.helpers import SMALL
from PIL import Image, ImageFilter
from reliability.hostile import STARTED, assert_clear, assert_each, attempt, rarely

pytestmark = pytest.mark.usefixtures("stops_at_start")

SIZE = (32, 24)


def halves(left, right, size=SIZE, mode="RGB"):
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def quarters():
    image = halves("red", "blue")
    image.paste("lime", (0, 12, 16, 24))
    image.paste("yellow", (16, 12, 32, 24))
    return image


def soft(image):
    return image.filter(ImageFilter.GaussianBlur(3))


def noise():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))


MASKS = {
    "white": lambda: Image.new("L", SIZE, 255),
    "black": lambda: Image.new("L", SIZE, 0),
    "gray": lambda: Image.new("L", SIZE, 128),
    "almost black": lambda: Image.new("L", SIZE, 5),
    "halves": lambda: halves(0, 255, mode="L"),
    "halves of one bit": lambda: halves(0, 255, mode="L").convert("1"),
    "soft halves": lambda: soft(halves(0, 255, mode="L")),
    "of 16 bits": lambda: Image.fromarray(np.full((24, 32), 40_000, np.uint16)),
    "another size": lambda: halves(0, 255, (31, 24), "L"),
    "turned": lambda: halves(0, 255, (24, 32), "L"),
    "1x1": lambda: Image.new("L", (1, 1), 255),
    "twice as large": lambda: halves(0, 255, (64, 48), "L"),
    "transparent everywhere": lambda: Image.new("RGBA", SIZE, (255, 255, 255, 0)),
    "opaque everywhere": lambda: Image.new("RGBA", SIZE, (0, 0, 0, 255)),
    "half transparent": lambda: halves((0, 0, 0, 0), (9, 9, 9, 255), mode="RGBA"),
    "red and blue": lambda: halves("red", "blue"),
    "soft red and blue": lambda: soft(halves("red", "blue")),
    "red alone": lambda: Image.new("RGB", SIZE, "red"),
    "four colors": quarters,
    "noise": noise,
    "palette": lambda: quarters().quantize(4),
    "CMYK": lambda: quarters().convert("CMYK"),
}
COLORS = (
    *(None, "red", "red,blue", "red,red", "red,#f00", "red,blue,lime", "red,", "", ",", "#", "#12"),
    *("rgb(999,0,0)", "rgb(1,2)", "hsl(0,200%,50%),blue", "hsl(1e9,1%,1%)", "x" * 500, "red;blue"),
    *("white,black", "#ff0000,#0000ff", "#ff000000,#0000ffff", "RED, blue", "transparent,red"),
)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("styles", rarely([1, 2, 3], [2]))
def test_a_mask_is_taken_or_refused_in_one_line(styles, name):
    MASKS[name]().save("mask.tif")
    files = ["content.png", "style.png", "other.png", "style.png"][: styles + 1]

    def check(colors):
        words = ["--mask", "mask.tif", *([] if colors is None else ["--mask-colors", colors])]
        line = assert_clear(attempt("stylize", *files, *words, *SMALL, "-o", "out.png"))
        assert not line or "mask" in line or "no pixel" in line

    assert_each(check, COLORS)


@pytest.mark.parametrize("masks", [0, 1, 2, 3, 5, 100])
@pytest.mark.parametrize("styles", [1, 2, 3, 20])
def test_as_many_masks_as_styles_are_taken_and_others_refused(styles, masks):
    MASKS["halves"]().save("mask.png")
    files = ["content.png", *["style.png"] * styles]
    outcome = attempt("stylize", *files, *["--mask", "mask.png"] * masks, *SMALL, "-o", "out.png")
    assert_clear(outcome)
    fits = masks in (0, styles) or (masks, styles) == (1, 2)
    assert outcome.code == (STARTED if fits else 2)
