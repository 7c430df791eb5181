"""Colours of one picture given to another, after Gatys, Bethge, Hertzmann & Shechtman, "Preserving
Color in Neural Artistic Style Transfer" (2016), which is "the paper" here.

Pictures are float32 RGB (h, w, 3) in [0, 1], sRGB-encoded, as everywhere; lumas are float32 (h, w)
in [0, 1]. A style and a content may differ in size. Statistics are taken in float64, and
`MAX_GAIN` bounds how much a difference between two colours can grow, so that flat and gray pictures
are safe.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, Int

from nst_jax.settings import Color

__all__ = [
    "as_gray",
    "luminance",
    "match_histogram",
    "match_luminance",
    "match_mean_and_covariance",
    "match_values",
    "recolored",
    "with_luminance",
]

MAX_GAIN: Final = 20.0
"""More than photos and paintings ask of each other; less than makes a gray file's noise colourful.
"""

MAX_SLOPE: Final = 5.0
"""Of a histogram's curve: a drawing's white paper, nearly one colour and most of the picture, would
else be spread over most of the content's colours, noise and all."""

LUMA: Final = np.array([0.299, 0.587, 0.114])  # of YIQ and YCbCr, Rec. 601
FLAT: Final = 1e-12  # variances below are rounding


def recolored(
    color: Color,
    content: Float32[np.ndarray, "h w 3"],
    alpha: Float32[np.ndarray, "h w"] | None,
    styles: Sequence[Float32[np.ndarray, "_ _ 3"]],
) -> tuple[Float32[np.ndarray, "h w 3"], list[Float32[np.ndarray, "_ _ 3"]]]:
    """Give the content and the styles as a painting with this choice of colours needs them.

    Only what shows of the content counts; of one that is transparent everywhere, all of it.
    """
    if color == "style":
        return content, list(styles)
    visible = content if alpha is None or not alpha.any() else content[alpha > 0][None]
    if color == "luminance":
        luma = luminance(visible)
        lumas = [match_luminance(luminance(style), luma) for style in styles]
        return as_gray(luminance(content)), [as_gray(values) for values in lumas]
    match = match_histogram if color == "histogram" else match_mean_and_covariance
    return content, [match(style, visible) for style in styles]


def luminance(pixels: Float32[np.ndarray, "*k h w 3"]) -> Float32[np.ndarray, "*k h w"]:
    """Luma Y = 0.299 R + 0.587 G + 0.114 B, of one picture or several.

    >>> luminance(np.float32([[[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]]))
    array([[1.   , 0.299]], dtype=float32)
    """
    return np.clip(pixels @ LUMA, 0, 1).astype(np.float32)


def as_gray(luma: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w 3"]:
    """Give the gray picture of this luma."""
    return np.repeat(luma[..., None], 3, axis=-1)


def with_luminance(
    pixels: Float32[np.ndarray, "h w 3"], luma: Float32[np.ndarray, "*k h w"]
) -> Float32[np.ndarray, "*k h w 3"]:
    """Give ``pixels`` another luma and keep their chroma (I and Q of YIQ): R, G, B + Y′ − Y.

    Where that leaves [0, 1], chroma is reduced towards gray by just enough, so that luma is exact
    and hue unchanged.

    >>> with_luminance(np.float32([[[0.5, 0.0, 0.0]]]), np.float32([[0.8]])).round(2)
    array([[[1.  , 0.71, 0.71]]], dtype=float32)
    """
    chroma = pixels - (pixels @ LUMA)[..., None]
    gray = luma[..., None].astype(np.float64)
    room = np.where(chroma > 0, 1 - gray, gray)
    share = np.min(room / np.maximum(np.abs(chroma), FLAT), axis=-1, keepdims=True)
    return np.clip(gray + np.minimum(share, 1) * chroma, 0, 1).astype(np.float32)


def match_luminance(
    style: Float32[np.ndarray, "h w"], content: Float32[np.ndarray, "_ _"]
) -> Float32[np.ndarray, "h w"]:
    """Give the luma of ``style`` the mean μ and deviation σ of that of ``content``.

    Y′ = σ_C/σ_S · (Y − μ_S) + μ_C (the paper's luminance-only transfer), clipped to [0, 1].
    """
    values, goal = style.astype(np.float64), content.astype(np.float64)
    gain = min(MAX_GAIN, goal.std() / max(values.std(), FLAT))
    return _as_pixels(gain * (values - values.mean()) + goal.mean())


def match_mean_and_covariance(
    style: Float32[np.ndarray, "h w 3"], content: Float32[np.ndarray, "_ _ 3"]
) -> Float32[np.ndarray, "h w 3"]:
    """Give the colours of ``style`` the mean μ and covariance Σ of those of ``content``.

    x′ = A (x − μ_S) + μ_C with A Σ_S Aᵀ = Σ_C (the paper's colour matching), clipped to [0, 1].
    Of the many such A this is the symmetric one of optimal transport, which moves colours the
    least: A = Σ_S^-½ (Σ_S^½ Σ_C Σ_S^½)^½ Σ_S^-½. It stretches along three right angles and turns
    nothing, unlike the paper's two (by Cholesky factors, and Σ_C^½ Σ_S^-½), whose turns can swap
    hues.

    Σ_S counts as at least λ/20² in every direction, λ being the largest variance in ``content``:
    as A² · λ/20² ≤ A Σ_S A = Σ_C ≤ λ, that bounds A by 20 (`MAX_GAIN`). A style that varies less
    somewhere, such as a gray one, stays duller than the content; a gray content makes any style
    gray, a flat one flat.
    """
    return _as_pixels(_transported(style, content))


def match_histogram(
    style: Float32[np.ndarray, "h w 3"], content: Float32[np.ndarray, "_ _ 3"]
) -> Float32[np.ndarray, "h w 3"]:
    """Give the colours of ``style`` the histograms of those of ``content``.

    First mean and covariance are matched as above; then, along each principal axis of the content's
    colours, a rising curve F_C⁻¹(F_S(x)) of the distribution functions F gives the histogram its
    shape. On red, green and blue apart such curves would invent colours that neither picture has:
    they pay no regard to which values go together. Clipped to [0, 1].
    """
    mean, covariance = _moments(content)
    _, axes = np.linalg.eigh(covariance)
    values = (_transported(style, content) - mean) @ axes
    goal = (content - mean) @ axes
    # As wide as the style became, which is less than the content where its colours are too few.
    goal *= np.minimum(1, values.std(axis=(0, 1)) / np.maximum(goal.std(axis=(0, 1)), FLAT))
    matched = [match_values(values[..., i], goal[..., i], MAX_SLOPE) for i in range(3)]
    return _as_pixels(np.stack(matched, axis=-1) @ axes.T + mean)


def match_values(
    values: Float64[np.ndarray, "*shape"], goal: Float64[np.ndarray, "*_"], max_slope: float
) -> Float64[np.ndarray, "*shape"]:
    """Give numbers the distribution of others, by the rising curve F_goal⁻¹(F_values(x)).

    Of curves nowhere steeper than ``max_slope`` it takes the mean of the highest below that one and
    the lowest above it, so that a jump becomes a ramp around its place. F counts half of the equal
    numbers, so that numbers all alike become the median.

    >>> match_values(np.array([0.0, 2.0, 1.0]), np.array([5.0, 7.0, 6.5]), max_slope=9.0)
    array([5. , 7. , 6.5])
    """
    old, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    goals, goal_counts = np.unique(goal, return_counts=True)
    wanted = np.interp(_middles(counts), _middles(goal_counts), goals)
    ramp = max_slope * old
    below = np.minimum.accumulate(wanted - ramp)
    above = np.maximum.accumulate((wanted - ramp)[::-1])[::-1]
    new = (below + above) / 2 + ramp
    return new[places].reshape(values.shape)


def _middles(counts: Int[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return (np.cumsum(counts) - counts / 2) / counts.sum()


def _transported(
    style: Float32[np.ndarray, "h w 3"], content: Float32[np.ndarray, "_ _ 3"]
) -> Float64[np.ndarray, "h w 3"]:
    mean, covariance = _moments(style)
    goal_mean, goal_covariance = _moments(content)
    variances, axes = np.linalg.eigh(covariance)
    least = np.linalg.eigvalsh(goal_covariance)[-1] / MAX_GAIN**2
    deviations = np.sqrt(np.maximum(variances, max(least, FLAT)))
    root, inverse = (axes * deviations) @ axes.T, (axes / deviations) @ axes.T
    transport = inverse @ _root(root @ goal_covariance @ root) @ inverse
    return (style - mean) @ transport + goal_mean


def _moments(
    pixels: Float32[np.ndarray, "_ _ 3"],
) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3 3"]]:
    values = pixels.reshape(-1, 3).astype(np.float64)
    mean = values.mean(axis=0)
    return mean, (values - mean).T @ (values - mean) / len(values)


def _root(matrix: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """Symmetric square root of a symmetric matrix that is positive semidefinite up to rounding."""
    values, axes = np.linalg.eigh(matrix)
    return (axes * np.sqrt(np.maximum(values, 0))) @ axes.T


def _as_pixels(values: Float64[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    return np.clip(values, 0, 1).astype(np.float32)
