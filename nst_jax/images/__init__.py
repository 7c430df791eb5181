"""Images: files to arrays and back (io), color transfer (color), masks and labeled rows (grid).

Everything here is NumPy and Pillow. An image is float32 sRGB (h, w, 3) in [0, 1].
"""

from nst_jax.images.color import (
    apply_color_mode,
    gray_to_rgb,
    match_histogram,
    match_histogram_1d,
    match_luma,
    match_mean_and_covariance,
    replace_luma,
    rgb_to_luma,
)
from nst_jax.images.grid import image_grid
from nst_jax.images.io import (
    FORMATS,
    ImageData,
    ImageSource,
    check_output_path,
    crop_square,
    fit_longest_side,
    read,
    read_metadata,
    resize,
    write,
)
from nst_jax.images.masks import read_masks

__all__ = [
    "FORMATS",
    "ImageData",
    "ImageSource",
    "apply_color_mode",
    "check_output_path",
    "crop_square",
    "fit_longest_side",
    "gray_to_rgb",
    "image_grid",
    "match_histogram",
    "match_histogram_1d",
    "match_luma",
    "match_mean_and_covariance",
    "read",
    "read_masks",
    "read_metadata",
    "replace_luma",
    "resize",
    "rgb_to_luma",
    "write",
]
