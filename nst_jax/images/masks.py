"""Read masks: the part of a photo that each style applies to.

The user paints either one gray image per style (white is inside, black is outside, edges may be
soft) or one image of flat colors, with one color per style. Masks have the shape of the photo.
They become float32 (r, h, w) in [0, 1]. The caller resizes them to the shape of the output, as
`nst_jax.losses.objective.make_targets` takes them.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Final, cast

import numpy as np
from jaxtyping import Float32
from PIL import ImageColor

from nst_jax.errors import InputError
from nst_jax.images.color import rgb_to_luma
from nst_jax.images.io import ImageData, ImageSource, read

__all__ = ["read_masks"]

Pixels = Float32[np.ndarray, "h w 3"]
Mask = Float32[np.ndarray, "h w"]
Color = Float32[np.ndarray, "3"]

LABEL_TOLERANCE: Final = 0.2
"""Largest distance in RGB between a pixel and the label color that it belongs to. JPEG noise is
smaller; the distance between colors that look clearly different is larger."""

CHROMA_THRESHOLD: Final = 0.2  # max − min of R, G, B; a profile or JPEG gives gray pixels less
EMPTY_THRESHOLD: Final = 0.05  # black in a JPEG file is not exactly 0
EMPTY_MASK_MSG: Final = "{} is black or transparent everywhere; paint the area of the style white"
FULL_MASK_MSG: Final = "{} is white or opaque everywhere; paint the area of style 2 black"


def read_masks(
    masks: ImageSource | Sequence[ImageSource],
    num_styles: int,
    shape: tuple[int, int],
    *,
    colors: Sequence[str] | None = None,
) -> Float32[np.ndarray, "r h w"]:
    """Read one mask per style.

    Args:
        masks: a list of gray images, one per style: white is inside, black is outside. If an image
            has transparency, its opaque part is inside, whatever the colors. Or a single image:
            gray for one style; gray for two styles, where the second style gets the rest; or, with
            ``colors``, of flat colors for any number of styles.
        num_styles: the number of styles.
        shape: (h, w) of the content after the rotation by its EXIF orientation.
        colors: the colors of the styles in a single image, in the order of the styles, in CSS
            notation (``red``, ``#f00``). Two styles share the pixels whose color lies between their
            two, such as smooth edges. All other pixels, and transparent ones, are in no mask.

    Returns:
        The masks (num_styles, h, w) in [0, 1]. They may overlap or leave pixels out.

    Raises:
        InputError: an image that cannot be read, has another shape than the content, or is colorful
            without ``colors``; a wrong number of masks or colors; an unknown color; an empty mask.

    >>> import numpy as np
    >>> left = np.zeros((2, 4))
    >>> left[:, :2] = 1
    >>> read_masks(left, 2, shape=(2, 4))[:, 0]  # the second style gets the rest
    array([[1., 1., 0., 0.],
           [0., 0., 1., 1.]], dtype=float32)
    """
    sources = cast(list[ImageSource], list(masks) if isinstance(masks, list | tuple) else [masks])
    if colors is not None:
        return _from_color_labels(sources, num_styles, shape, colors)
    if len(sources) == 1 and num_styles == 2:
        inside = _from_grayscale(sources[0], "mask", shape)
        messages = [EMPTY_MASK_MSG.format("mask"), FULL_MASK_MSG.format("mask")]
        return _stack_nonempty([inside, 1 - inside], messages)
    if len(sources) != num_styles:
        raise InputError(
            f"{len(sources)} masks for {num_styles} styles; give one per style, or a single image "
            "of flat colors and the names of the colors"
        )
    names = ["mask"] if num_styles == 1 else [f"mask {i}" for i in range(1, num_styles + 1)]
    return _stack_nonempty(
        [_from_grayscale(*pair, shape) for pair in zip(sources, names, strict=True)],
        [EMPTY_MASK_MSG.format(name) for name in names],
    )


def _from_grayscale(source: ImageSource, name: str, shape: tuple[int, int]) -> Mask:
    image = _read_same_size(source, name, shape)
    if image.alpha is not None:
        return image.alpha
    if (np.ptp(image.pixels, axis=-1) > CHROMA_THRESHOLD).mean() > 0.01:
        raise InputError(
            f"{name} has colors ({_dominant_colors(image)}); paint it in white and black, or "
            "name the color of each style in it"
        )
    return rgb_to_luma(image.pixels)


def _from_color_labels(
    sources: Sequence[ImageSource], num_styles: int, shape: tuple[int, int], colors: Sequence[str]
) -> Float32[np.ndarray, "r h w"]:
    if len(sources) != 1:
        raise InputError(
            f"{len(sources)} masks with mask colors; give a single image of flat colors"
        )
    if len(colors) != num_styles:
        raise InputError(f"{len(colors)} mask colors for {num_styles} styles; give one per style")
    labels = [_parse_color(color) for color in colors]
    for i, j in combinations(range(len(labels)), 2):
        if np.array_equal(labels[i], labels[j]):
            raise InputError(
                f"mask colors {colors[i]!r} and {colors[j]!r} are the same; give different ones"
            )
    image = _read_same_size(sources[0], "mask", shape)
    masks = _assign_to_labels(image.pixels, labels)
    if image.alpha is not None:
        masks = [mask * image.alpha for mask in masks]
    dominant = _dominant_colors(image)
    return _stack_nonempty(
        masks, [f"no pixel is {color!r}; the main colors are {dominant}" for color in colors]
    )


def _assign_to_labels(pixels: Pixels, labels: Sequence[Color]) -> list[Mask]:
    """Assign each pixel to the nearest label, or to two labels if it is a mixture of them."""
    distances = np.stack([np.linalg.norm(pixels - label, axis=-1) for label in labels])
    nearest, is_label = distances.argmin(axis=0), distances.min(axis=0) <= LABEL_TOLERANCE
    masks = [(is_label & (nearest == i)).astype(np.float32) for i in range(len(labels))]

    unlabeled = pixels[~is_label]
    fractions = np.zeros((len(labels), len(unlabeled)), np.float32)
    best_distance = np.full(len(unlabeled), LABEL_TOLERANCE, np.float32)
    for i, j in combinations(range(len(labels)), 2):
        line = labels[j] - labels[i]
        position = np.clip((unlabeled - labels[i]) @ line / (line @ line), 0, 1)
        line_distance = np.linalg.norm(unlabeled - labels[i] - position[:, None] * line, axis=-1)
        better = line_distance < best_distance
        fractions[:, better] = 0
        fractions[i, better], fractions[j, better] = 1 - position[better], position[better]
        best_distance[better] = line_distance[better]
    for mask, fraction in zip(masks, fractions, strict=True):
        mask[~is_label] = fraction
    return masks


def _read_same_size(source: ImageSource, name: str, shape: tuple[int, int]) -> ImageData:
    image = read(source, name=name)
    height, width = image.pixels.shape[:2]
    if (height, width) == shape:
        return image
    rotated = " after rotation by EXIF orientation" if (width, height) == shape else ""
    raise InputError(
        f"{name} has {width}x{height} pixels, the content {shape[1]}x{shape[0]}{rotated}; "
        "give a mask of the content's size"
    )


def _stack_nonempty(masks: Sequence[Mask], messages: Sequence[str]) -> Float32[np.ndarray, "r h w"]:
    """Stack masks; raise InputError with the message of the first mask that is empty."""
    for i, (mask, message) in enumerate(zip(masks, messages, strict=True), start=1):
        if mask.max() <= EMPTY_THRESHOLD:
            raise InputError(f"the mask of style {i} is empty: {message}")
    return np.stack(masks)


def _parse_color(name: str) -> Color:
    try:
        return np.array(ImageColor.getrgb(name.strip())[:3], np.float32) / 255
    except ValueError:
        raise InputError(
            f"unknown mask color {name!r}; give a name such as red, or a value such as #ff0000"
        ) from None


def _dominant_colors(image: ImageData) -> str:
    """List the most frequent visible colors in CSS notation."""
    visible = slice(None) if image.alpha is None else image.alpha > 0
    pixels = image.pixels[visible].reshape(-1, 3)
    rgb24 = np.rint(pixels * 255).astype(int) @ np.array([65536, 256, 1])
    values, counts = np.unique(rgb24, return_counts=True)
    most_frequent = values[np.argsort(-counts, kind="stable")[:6]]
    return ", ".join(f"#{value:06x}" for value in most_frequent)
