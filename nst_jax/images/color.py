"""Transfer of colors from one image to another.

After Gatys, Bethge, Hertzmann & Shechtman, "Preserving Color in Neural Artistic Style Transfer"
(2016), called "the paper" here.

Images are float32 sRGB (h, w, 3) in [0, 1] and lumas float32 (h, w) in [0, 1]. A style and a
content may differ in shape. Statistics are computed in float64. `MAX_GAIN` bounds how much a
transfer can amplify a difference between two colors, so that flat and gray images are safe.
"""

from collections.abc import Sequence
from typing import Final, get_args

import numpy as np
from jaxtyping import Float32, Float64, Int

from nst_jax._types import ColorMode
from nst_jax.errors import InputError

__all__ = [
    "apply_color_mode",
    "gray_to_rgb",
    "match_histogram",
    "match_histogram_1d",
    "match_luma",
    "match_mean_and_covariance",
    "replace_luma",
    "rgb_to_luma",
]

MAX_GAIN: Final = 20.0
"""Photos and paintings need less. A larger gain would make the noise of a gray file colorful."""

MAX_SLOPE: Final = 5.0
"""Bound on the slope of a histogram curve. White paper is nearly one color and most of a drawing.
A steeper curve would spread it, with its noise, over most colors of the content."""

LUMA: Final = np.array([0.299, 0.587, 0.114])  # of YIQ and YCbCr, Rec. 601
EPS: Final = 1e-12  # variances below this are rounding errors


def apply_color_mode(
    color_mode: ColorMode,
    content: Float32[np.ndarray, "h w 3"],
    alpha: Float32[np.ndarray, "h w"] | None,
    styles: Sequence[Float32[np.ndarray, "_ _ 3"]],
) -> tuple[Float32[np.ndarray, "h w 3"], list[Float32[np.ndarray, "_ _ 3"]]]:
    """Prepare the content and the styles for stylization in this color mode.

    Args:
        color_mode: "style" changes nothing. "luminance" makes all images gray and gives the styles
            the luma statistics of the content; the caller restores the content's chroma with
            `replace_luma`. "match" and "histogram" give the styles the colors of the content.
        content: sRGB in [0, 1].
        alpha: the content's alpha. Only pixels above 0 count for the statistics, or all pixels if
            there are none.
        styles: sRGB in [0, 1], of any shapes.

    Returns:
        The new content and the new styles, in the same shapes.

    Raises:
        InputError: there is no such color mode.

    >>> import numpy as np
    >>> content, style = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    >>> gray, (style,) = apply_color_mode("luminance", content, None, [style])
    >>> bool(np.ptp(gray, axis=-1).max() == 0), style.shape
    (True, (8, 8, 3))
    """
    if color_mode not in get_args(ColorMode):
        choices = ", ".join(get_args(ColorMode))
        raise InputError(f"color_mode is {color_mode!r}; choose one of {choices}")
    if color_mode == "style":
        return content, list(styles)
    visible = content if alpha is None or not alpha.any() else content[alpha > 0][None]
    if color_mode == "luminance":
        luma = rgb_to_luma(visible)
        lumas = [match_luma(rgb_to_luma(style), luma) for style in styles]
        return gray_to_rgb(rgb_to_luma(content)), [gray_to_rgb(values) for values in lumas]
    match = match_histogram if color_mode == "histogram" else match_mean_and_covariance
    return content, [match(style, visible) for style in styles]


def rgb_to_luma(pixels: Float32[np.ndarray, "*k h w 3"]) -> Float32[np.ndarray, "*k h w"]:
    """Return the luma Y = 0.299 R + 0.587 G + 0.114 B of one or more images.

    >>> import numpy as np
    >>> rgb_to_luma(np.float32([[[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]]))
    array([[1.   , 0.299]], dtype=float32)
    """
    return np.clip(pixels @ LUMA, 0, 1).astype(np.float32)


def gray_to_rgb(luma: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w 3"]:
    """Return the gray image that has this luma.

    >>> import numpy as np
    >>> gray_to_rgb(np.float32([[0.25, 0.5]]))
    array([[[0.25, 0.25, 0.25],
            [0.5 , 0.5 , 0.5 ]]], dtype=float32)
    """
    return np.repeat(luma[..., None], 3, axis=-1)


def replace_luma(
    pixels: Float32[np.ndarray, "h w 3"], luma: Float32[np.ndarray, "*k h w"]
) -> Float32[np.ndarray, "*k h w 3"]:
    """Replace the luma of an image and keep its chroma (I and Q of YIQ): R, G, B + Y′ − Y.

    Where the sum leaves [0, 1], the chroma is scaled towards gray just enough to fit. The new luma
    is exact and the hue is unchanged.

    >>> import numpy as np
    >>> replace_luma(np.float32([[[0.5, 0.0, 0.0]]]), np.float32([[0.8]])).round(2)
    array([[[1.  , 0.71, 0.71]]], dtype=float32)
    """
    chroma = pixels - (pixels @ LUMA)[..., None]
    gray = luma[..., None].astype(np.float64)
    headroom = np.where(chroma > 0, 1 - gray, gray)
    scale = np.min(headroom / np.maximum(np.abs(chroma), EPS), axis=-1, keepdims=True)
    return np.clip(gray + np.minimum(scale, 1) * chroma, 0, 1).astype(np.float32)


def match_luma(
    style: Float32[np.ndarray, "h w"], content: Float32[np.ndarray, "_ _"]
) -> Float32[np.ndarray, "h w"]:
    """Give the luma of a style the mean μ and standard deviation σ of the content's luma.

    Y′ = σ_C/σ_S · (Y − μ_S) + μ_C (the paper's luminance-only transfer), clipped to [0, 1].

    >>> import numpy as np
    >>> match_luma(np.float32([[0.0, 1.0]]), np.float32([[0.25, 0.75]]))
    array([[0.25, 0.75]], dtype=float32)
    """
    values, target = style.astype(np.float64), content.astype(np.float64)
    gain = min(MAX_GAIN, target.std() / max(values.std(), EPS))
    return _clip_to_float32(gain * (values - values.mean()) + target.mean())


def match_mean_and_covariance(
    style: Float32[np.ndarray, "h w 3"], content: Float32[np.ndarray, "_ _ 3"]
) -> Float32[np.ndarray, "h w 3"]:
    """Give the colors of a style the mean μ and covariance Σ of the content's colors.

    x′ = A (x − μ_S) + μ_C with A Σ_S Aᵀ = Σ_C (the paper's color matching), clipped to [0, 1].
    Many A satisfy this. The one here is symmetric, that of optimal transport, which moves colors
    the least: A = Σ_S^-½ (Σ_S^½ Σ_C Σ_S^½)^½ Σ_S^-½. It scales along three orthogonal axes and does
    not rotate. The paper's two (by Cholesky factors, and Σ_C^½ Σ_S^-½) rotate and can swap hues.

    The eigenvalues of Σ_S are raised to at least λ/20², where λ is the largest variance of the
    content. Then A² · λ/20² ≤ A Σ_S A = Σ_C ≤ λ, which bounds A by 20 (`MAX_GAIN`). A style with
    less variance along an axis, for example a gray style, stays duller than the content. A gray
    content makes every style gray, and a flat content makes it flat.

    >>> import numpy as np
    >>> content, style = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    >>> content = 0.25 + 0.5 * content  # less contrast
    >>> matched = match_mean_and_covariance(style, content)
    >>> bool(np.abs(matched.std((0, 1)) - content.std((0, 1))).max() < 0.01)
    True
    """
    return _clip_to_float32(_transport_colors(style, content))


def match_histogram(
    style: Float32[np.ndarray, "h w 3"], content: Float32[np.ndarray, "_ _ 3"]
) -> Float32[np.ndarray, "h w 3"]:
    """Give the colors of a style the histograms of the content's colors, clipped to [0, 1].

    `match_mean_and_covariance` comes first. Then, along each principal axis of the content's
    colors, the increasing curve F_C⁻¹(F_S(x)) of the distribution functions F matches the
    histogram. The same curves on red, green and blue would invent colors that neither image has,
    because they ignore which values occur together.

    >>> import numpy as np
    >>> content, style = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    >>> matched = match_histogram(style, 0.5 * content)
    >>> float(matched.max().round(1))
    0.5
    """
    mean, covariance = _mean_and_covariance(content)
    _, axes = np.linalg.eigh(covariance)
    values = (_transport_colors(style, content) - mean) @ axes
    target = (content - mean) @ axes
    # Only as wide as the style is now: less than the content if the style has too few colors.
    target *= np.minimum(1, values.std(axis=(0, 1)) / np.maximum(target.std(axis=(0, 1)), EPS))
    matched = [match_histogram_1d(values[..., i], target[..., i], MAX_SLOPE) for i in range(3)]
    return _clip_to_float32(np.stack(matched, axis=-1) @ axes.T + mean)


def match_histogram_1d(
    values: Float64[np.ndarray, "*shape"], target: Float64[np.ndarray, "*_"], max_slope: float
) -> Float64[np.ndarray, "*shape"]:
    """Give numbers the distribution of others by the increasing curve F_target⁻¹(F_values(x)).

    No part of the curve is steeper than ``max_slope``: it is the mean of the highest such curve
    below the exact one and the lowest such curve above it, which turns a jump into a ramp around
    it. F(x) counts half of the numbers equal to x, so that a constant becomes the median.

    >>> import numpy as np
    >>> match_histogram_1d(np.array([0.0, 2.0, 1.0]), np.array([5.0, 7.0, 6.5]), max_slope=9.0)
    array([5. , 7. , 6.5])
    """
    levels, indices, counts = np.unique(values, return_inverse=True, return_counts=True)
    target_levels, target_counts = np.unique(target, return_counts=True)
    curve = np.interp(_midpoint_cdf(counts), _midpoint_cdf(target_counts), target_levels)
    ramp = max_slope * levels
    below = np.minimum.accumulate(curve - ramp)
    above = np.maximum.accumulate((curve - ramp)[::-1])[::-1]
    bounded = (below + above) / 2 + ramp
    return bounded[indices].reshape(values.shape)


def _midpoint_cdf(counts: Int[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return (np.cumsum(counts) - counts / 2) / counts.sum()


def _transport_colors(
    style: Float32[np.ndarray, "h w 3"], content: Float32[np.ndarray, "_ _ 3"]
) -> Float64[np.ndarray, "h w 3"]:
    mean, covariance = _mean_and_covariance(style)
    target_mean, target_covariance = _mean_and_covariance(content)
    variances, axes = np.linalg.eigh(covariance)
    min_variance = np.linalg.eigvalsh(target_covariance)[-1] / MAX_GAIN**2
    deviations = np.sqrt(np.maximum(variances, max(min_variance, EPS)))
    root, inverse = (axes * deviations) @ axes.T, (axes / deviations) @ axes.T
    transport = inverse @ _sqrtm(root @ target_covariance @ root) @ inverse
    return (style - mean) @ transport + target_mean


def _mean_and_covariance(
    pixels: Float32[np.ndarray, "_ _ 3"],
) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3 3"]]:
    values = pixels.reshape(-1, 3).astype(np.float64)
    mean = values.mean(axis=0)
    return mean, (values - mean).T @ (values - mean) / len(values)


def _sqrtm(matrix: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """Symmetric square root of a symmetric matrix that is positive semidefinite up to rounding."""
    values, axes = np.linalg.eigh(matrix)
    return (axes * np.sqrt(np.maximum(values, 0))) @ axes.T


def _clip_to_float32(values: Float64[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    return np.clip(values, 0, 1).astype(np.float32)
