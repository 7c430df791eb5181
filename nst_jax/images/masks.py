"""Regions of a photo, one a style, read from pictures that the user has painted.

Either a picture a region, gray: white is in, black is out, and edges are as soft as painted. Or one
picture of flat colours, a colour a region. Both are as large as the photo, and become float32
(r, h, w) in [0, 1], as `nst_jax.losses.objective.make_targets` takes them once they have the output's
size.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Final, cast

import numpy as np
from jaxtyping import Float32
from PIL import ImageColor

from nst_jax.errors import InputError
from nst_jax.images import io as images
from nst_jax.images.color import luminance
from nst_jax.images.io import ImageSource, Picture

__all__ = ["read"]

Pixels = Float32[np.ndarray, "h w 3"]
Region = Float32[np.ndarray, "h w"]

NEAR: Final = 0.2
"""How far, in RGB, a pixel may be from a label's colour to be the label's: more than JPEG's noise,
less than between colours that one tells apart at a glance."""

COLORFUL: Final = 0.2  # max − min of R, G, B; what a profile or JPEG gives to gray is less
NOTHING: Final = 0.05  # JPEG's black is not quite black
NONE_IN: Final = "{} is black, or transparent, everywhere"
ALL_IN: Final = "{} is white, or opaque, everywhere"


def read(
    masks: ImageSource | Sequence[ImageSource],
    styles: int,
    shape: tuple[int, int],
    *,
    colors: Sequence[str] | None = None,
) -> Float32[np.ndarray, "r h w"]:
    """Read a region for each style.

    Args:
        masks: a list of gray pictures, one a style: white is in, black is out. Of a picture with
            transparency the opaque part is in, whatever its colours. Or a single picture: gray, for
            one style, or for two, of which the second has what the first leaves; or, with
            ``colors``, of flat colours for any number of styles.
        styles: how many styles there are.
        shape: (h, w) of the content, as it stands after the turn that its EXIF tag asks for.
        colors: the styles' colours in a single picture, in the styles' order, as CSS writes them
            (``red``, ``#f00``). Pixels between two of them, such as smooth edges, are shared by
            both; all others, and transparent ones, are in no region.

    Returns:
        The regions, in [0, 1], (styles, h, w). They may overlap or leave pixels out.

    Raises:
        InputError: a picture that cannot be read, that has another size than the content, or that
            is colourful without ``colors``; masks or colours that do not fit the styles; an unknown
            colour; a style without a region.
    """
    sources = cast(list[ImageSource], list(masks) if isinstance(masks, list | tuple) else [masks])
    if colors is not None:
        return _labelled(sources, styles, shape, colors)
    if len(sources) == 1 and styles == 2:
        inside = _gray(sources[0], "mask", shape)
        return _checked([inside, 1 - inside], [NONE_IN.format("mask"), ALL_IN.format("mask")])
    if len(sources) != styles:
        raise InputError(
            f"{len(sources)} masks for {styles} styles; give one each, or a single picture of flat "
            "colours and the colours' names"
        )
    names = ["mask"] if styles == 1 else [f"mask {i}" for i in range(1, styles + 1)]
    regions = [_gray(*pair, shape) for pair in zip(sources, names, strict=True)]
    return _checked(regions, [NONE_IN.format(name) for name in names])


def _gray(source: ImageSource, name: str, shape: tuple[int, int]) -> Region:
    picture = _picture(source, name, shape)
    if picture.alpha is not None:
        return picture.alpha
    if (np.ptp(picture.pixels, axis=-1) > COLORFUL).mean() > 0.01:
        raise InputError(
            f"{name} has colours ({_main_colors(picture)}); paint it in white and black, or "
            "name the styles' colours in it"
        )
    return luminance(picture.pixels)


def _labelled(
    sources: Sequence[ImageSource], styles: int, shape: tuple[int, int], colors: Sequence[str]
) -> Float32[np.ndarray, "r h w"]:
    if len(sources) != 1:
        raise InputError(f"{len(sources)} masks with colours; give a single picture that has them")
    if len(colors) != styles:
        raise InputError(f"{len(colors)} mask colours for {styles} styles; give one each")
    labels = [_color(color) for color in colors]
    for (i, one), (j, other) in combinations(enumerate(labels), 2):
        if np.array_equal(one, other):
            raise InputError(f"mask colours {colors[i]!r} and {colors[j]!r} are the same")
    picture = _picture(sources[0], "mask", shape)
    regions = _nearest(picture.pixels, labels)
    if picture.alpha is not None:
        regions = [region * picture.alpha for region in regions]
    has = _main_colors(picture)
    return _checked(
        regions, [f"there is no {color!r} in the mask; it has {has}" for color in colors]
    )


def _nearest(pixels: Pixels, labels: Sequence[Float32[np.ndarray, "3"]]) -> list[Region]:
    """Give each pixel to the nearest label, or to two if it is a mixture of theirs."""
    away = np.stack([np.linalg.norm(pixels - label, axis=-1) for label in labels])
    nearest, clear = away.argmin(axis=0), away.min(axis=0) <= NEAR
    regions = [(clear & (nearest == i)).astype(np.float32) for i in range(len(labels))]

    mixed = pixels[~clear]
    shares = np.zeros((len(labels), len(mixed)), np.float32)
    least = np.full(len(mixed), NEAR, np.float32)
    for i, j in combinations(range(len(labels)), 2):
        line = labels[j] - labels[i]
        share = np.clip((mixed - labels[i]) @ line / (line @ line), 0, 1)
        off = np.linalg.norm(mixed - labels[i] - share[:, None] * line, axis=-1)
        closer = off < least
        shares[:, closer] = 0
        shares[i, closer], shares[j, closer] = 1 - share[closer], share[closer]
        least[closer] = off[closer]
    for region, share in zip(regions, shares, strict=True):
        region[~clear] = share
    return regions


def _picture(source: ImageSource, name: str, shape: tuple[int, int]) -> Picture:
    picture = images.read(source, name=name)
    height, width = picture.pixels.shape[:2]
    if (height, width) == shape:
        return picture
    turned = " when both are turned upright by their EXIF tags" if (width, height) == shape else ""
    raise InputError(
        f"{name} has {width}x{height} pixels, the content {shape[1]}x{shape[0]}{turned}; "
        "give one of the content's size"
    )


def _checked(regions: Sequence[Region], whys: Sequence[str]) -> Float32[np.ndarray, "r h w"]:
    """Stack regions; ``whys`` say of each what is wrong if nothing is in it."""
    for i, (region, why) in enumerate(zip(regions, whys, strict=True), start=1):
        if region.max() <= NOTHING:
            raise InputError(f"style {i} has no region: {why}")
    return np.stack(regions)


def _color(name: str) -> Float32[np.ndarray, "3"]:
    try:
        return np.array(ImageColor.getrgb(name.strip())[:3], np.float32) / 255
    except ValueError:
        raise InputError(
            f"unknown mask colour {name!r}; give a name such as red, or a value such as #ff0000"
        ) from None


def _main_colors(picture: Picture) -> str:
    """Name the commonest colours that show, as a user would write them."""
    shown = slice(None) if picture.alpha is None else picture.alpha > 0
    pixels = picture.pixels[shown].reshape(-1, 3)
    levels = np.rint(pixels * 255).astype(int) @ np.array([65536, 256, 1])
    values, counts = np.unique(levels, return_counts=True)
    commonest = values[np.argsort(-counts, kind="stable")[:6]]
    return ", ".join(f"#{value:06x}" for value in commonest)
