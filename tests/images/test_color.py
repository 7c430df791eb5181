"""Color transfer against its equations and scikit-image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2yiq
from skimage.exposure import match_histograms

from nst_jax.images.color import (
    MAX_GAIN,
    MAX_SLOPE,
    apply_color_mode,
    gray_to_rgb,
    match_histogram,
    match_histogram_1d,
    match_luma,
    match_mean_and_covariance,
    replace_luma,
    rgb_to_luma,
)
from nst_jax.images.io import fit_longest_side, resize

MATCHES = [match_mean_and_covariance, match_histogram]
STEEP = 1e6  # a slope that photos do not reach

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 12)


@st.composite
def images(draw, gray=False):
    """Random colors in a random part of the cube: many, a few levels, half flat, or one color."""
    rng = np.random.default_rng(draw(seeds))
    shape = draw(sides), draw(sides), 1 if gray else 3
    low, high = np.sort(rng.random((2, shape[2])), axis=0)
    kind = draw(st.sampled_from(["noise", "levels", "half flat", "flat"]))
    if kind == "noise":
        pixels = rng.uniform(low, high, shape)
    elif kind == "levels":
        pixels = np.round(rng.uniform(low, high, shape) * 3) / 3
    elif kind == "half flat":
        pixels = np.where(rng.random((*shape[:2], 1)) < 0.5, low, rng.uniform(low, high, shape))
    else:
        pixels = np.broadcast_to(high, shape)
    return np.float32(np.broadcast_to(pixels, (*shape[:2], 3)))


@pytest.fixture(scope="module")
def small(photos):
    """Photos by name, small, float32."""
    return {
        name: resize(photo / 255, fit_longest_side(photo.shape, 160))
        for name, photo in photos.items()
    }


def mean_and_covariance(pixels):
    values = np.float64(pixels).reshape(-1, 3)
    return values.mean(axis=0), np.cov(values.T, bias=True)


def low_contrast(pixels):
    """Reduce the contrast, so that the transfer clips nothing."""
    return np.float32(0.5 + 0.3 * (pixels - pixels.mean(axis=(0, 1))))


def assert_valid(pixels, shape):
    assert (pixels.dtype, pixels.shape) == (np.float32, shape)
    assert 0 <= pixels.min() <= pixels.max() <= 1  # false for NaN as well


@given(images())
def test_luma_is_that_of_yiq(pixels):
    np.testing.assert_allclose(rgb_to_luma(pixels), rgb2yiq(pixels)[..., 0], atol=1e-6)


@given(images(), seeds)
def test_the_new_luma_is_exact_and_the_hue_is_unchanged(pixels, seed):
    rng = np.random.default_rng(seed)
    luma = np.float32(rng.random(pixels.shape[:2]))
    luma.flat[rng.integers(luma.size)] = rng.integers(2)  # black and white have no chroma
    new = replace_luma(pixels, luma)
    assert_valid(new, pixels.shape)
    np.testing.assert_allclose(rgb_to_luma(new), luma, atol=1e-6)
    before, after = (rgb2yiq(np.float64(p))[..., 1:] for p in (pixels, new))
    cross = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
    np.testing.assert_allclose(cross, 0, atol=1e-6)
    assert ((before * after).sum(axis=-1) >= -1e-6).all()
    old_chroma, new_chroma = np.linalg.norm(before, axis=-1), np.linalg.norm(after, axis=-1)
    assert (new_chroma <= old_chroma + 1e-6).all()
    # Chroma is reduced only where a channel has reached an end of its range.
    reduced = new_chroma < old_chroma - 1e-5
    at_end = np.minimum(new.min(axis=-1), 1 - new.max(axis=-1)) < 1e-5
    assert (~reduced | at_end).all()


@given(images())
def test_replacing_the_luma_by_itself_changes_nothing(pixels):
    np.testing.assert_allclose(replace_luma(pixels, rgb_to_luma(pixels)), pixels, atol=1e-6)


def test_luma_functions_accept_a_batch(small):
    pixels = small["coffee"]
    lumas = np.stack([rgb_to_luma(pixels), 1 - rgb_to_luma(pixels)])
    batch = replace_luma(pixels, lumas)
    np.testing.assert_array_equal(batch, [replace_luma(pixels, luma) for luma in lumas])
    np.testing.assert_array_equal(rgb_to_luma(batch)[1], rgb_to_luma(batch[1]))


def test_luma_gets_the_mean_and_deviation_of_the_content(small):
    style, content = rgb_to_luma(small["flower"]), rgb_to_luma(low_contrast(small["astronaut"]))
    new = match_luma(style, content)
    assert new.mean() == pytest.approx(content.mean(), abs=1e-6)
    assert new.std() == pytest.approx(content.std(), abs=1e-6)
    assert np.corrcoef(new.ravel(), style.ravel())[0, 1] == pytest.approx(1)


@given(images(), images())
def test_matched_luma_is_in_range_with_a_bounded_gain(style, content):
    luma = rgb_to_luma(style)
    new = match_luma(luma, rgb_to_luma(content))
    assert_valid(new, luma.shape)
    assert np.ptp(new) <= MAX_GAIN * np.ptp(luma) + 1e-5
    if np.ptp(luma) == 0:
        np.testing.assert_allclose(new, rgb_to_luma(content).mean(), atol=1e-5)


@given(st.integers(3, 12), st.integers(3, 12), seeds)
def test_colors_get_the_mean_and_covariance_of_the_content(height, width, seed):
    rng = np.random.default_rng(seed)
    style = np.float32(rng.random((height, width, 3)))
    content = np.float32(rng.uniform(0.45, 0.55, (7, 5, 3)))
    mean, covariance = mean_and_covariance(match_mean_and_covariance(style, content))
    target_mean, target_covariance = mean_and_covariance(content)
    np.testing.assert_allclose(mean, target_mean, atol=1e-5)
    min_variance = np.linalg.eigvalsh(mean_and_covariance(style)[1])[0]
    if min_variance > np.linalg.eigvalsh(target_covariance)[-1] / MAX_GAIN**2:
        np.testing.assert_allclose(covariance, target_covariance, atol=1e-7)


def test_the_map_is_linear_symmetric_and_positive(small):
    style, content = small["flower"], low_contrast(small["astronaut"])
    values = (style - style.mean(axis=(0, 1))).reshape(-1, 3)
    new = match_mean_and_covariance(style, content)
    moved = (new - new.mean(axis=(0, 1))).reshape(-1, 3)
    matrix, *_ = np.linalg.lstsq(np.float64(values), np.float64(moved), rcond=None)
    np.testing.assert_allclose(values @ matrix, moved, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-4)
    assert np.linalg.eigvalsh(matrix)[0] > 0


@pytest.mark.parametrize("match", MATCHES)
@given(style=images(), content=images())
def test_any_two_images_can_be_matched(match, style, content):
    assert_valid(match(style, content), style.shape)


@pytest.mark.parametrize("match", MATCHES)
@given(style=images(), content=images(gray=True))
def test_a_gray_content_makes_the_style_gray(match, style, content):
    new = match(style, content)
    np.testing.assert_allclose(new, gray_to_rgb(new.mean(axis=-1)), atol=1e-5)


@pytest.mark.parametrize("match", MATCHES)
def test_matching_an_image_to_itself_changes_nothing(match, small):
    cat = small["chelsea"]
    np.testing.assert_allclose(match(cat, cat), cat, atol=1e-3)


@pytest.mark.parametrize("match", MATCHES)
def test_a_flat_image_on_either_side_gives_the_mean_color_of_the_content(match, small):
    flat = np.full((8, 9, 3), [0.2, 0.5, 0.7], np.float32)
    new = match(small["coffee"], flat)
    np.testing.assert_allclose(new, np.broadcast_to(flat[0, 0], new.shape), atol=1e-5)
    mean = small["coffee"].mean(axis=(0, 1))
    np.testing.assert_allclose(match(flat, small["coffee"]), np.tile(mean, (8, 9, 1)), atol=1e-5)


@pytest.mark.parametrize("match", MATCHES)
def test_the_noise_of_a_gray_file_does_not_become_colorful(match, small):
    """The chroma of a gray JPEG is sometimes off by one level."""
    rng = np.random.default_rng(0)
    gray = gray_to_rgb(rgb_to_luma(small["china"]))
    noisy = np.float32(np.clip(gray + rng.normal(0, 0.5 / 255, gray.shape), 0, 1))
    clean = match(gray, small["astronaut"])
    assert np.abs(match(noisy, small["astronaut"]) - clean).std() < 10 / 255
    assert rgb_to_luma(clean).std() > 0.5 * rgb_to_luma(small["astronaut"]).std()


@pytest.mark.parametrize("match", MATCHES)
def test_the_paper_of_a_drawing_stays_flat(match, small):
    rng = np.random.default_rng(0)
    drawing = np.float32(np.clip(0.95 + rng.normal(0, 0.5 / 255, (90, 90, 3)), 0, 1))
    drawing[:, ::10] = 0.1
    paper = match(drawing, small["astronaut"])[:, 5::10]
    assert paper.std(axis=(0, 1)).max() < 10 / 255


@pytest.mark.parametrize("style", ["flower", "china"])
def test_a_channel_gets_the_histogram_that_scikit_image_gives_it(photos, style):
    """Noise spreads the 8-bit levels: scikit-image counts all equal values, and we half of them.

    The difference also shows at the ends of the range, where values are rare; hence the mean.
    """
    rng = np.random.default_rng(0)
    for channel in range(3):
        values, target = (
            (photos[name][::2, ::2, channel] + rng.random(photos[name][::2, ::2].shape[:2])) / 256
            for name in (style, "astronaut")
        )
        new = match_histogram_1d(values, target, max_slope=STEEP)
        assert np.abs(new - match_histograms(values, target)).mean() < 1e-4
        quantiles = np.linspace(0, 1, 50)
        np.testing.assert_allclose(
            np.quantile(new, quantiles), np.quantile(target, quantiles), atol=1e-3
        )


def test_equal_values_stay_equal():
    """Half at 0 and half at 1 become the quartiles, and a single value the median."""
    target = np.linspace(0, 1, 101)
    halves = match_histogram_1d(np.float64([0, 1, 0, 1]), target, STEEP)
    np.testing.assert_allclose(halves, [0.25, 0.75, 0.25, 0.75], atol=0.01)
    np.testing.assert_allclose(match_histogram_1d(np.ones(5), target, STEEP), 0.5)


@given(images(), images(), st.sampled_from([1.0, MAX_SLOPE, STEEP]))
def test_the_curve_increases_with_a_bounded_slope(values, target, max_slope):
    values, target = np.float64(values), np.float64(target)
    new = match_histogram_1d(values, target, max_slope)
    order = np.argsort(values, axis=None)
    steps = np.diff(new.ravel()[order])
    assert (steps >= -1e-9).all()
    assert (steps <= max_slope * np.diff(values.ravel()[order]) + 1e-9).all()
    assert target.min() - 1e-9 <= new.min() <= new.max() <= target.max() + 1e-9


def test_a_jump_becomes_a_ramp_around_it():
    """The mean of a ramp before the jump and one after it has half the largest slope."""
    values = np.linspace(0, 1, 1001)
    target = np.concatenate([np.linspace(0, 0.001, 500), np.linspace(0.999, 1, 501)])
    new = match_histogram_1d(values, target, max_slope=5.0)
    np.testing.assert_allclose(new, np.clip(0.5 + 2.5 * (values - 0.5), 0, 1), atol=0.01)


@pytest.mark.parametrize("style", ["flower", "coffee", "china"])
def test_photos_get_the_histograms_of_the_content(small, style):
    """Along the content's principal axes; much closer than by mean and covariance alone."""
    content = low_contrast(small["astronaut"])
    mean, covariance = mean_and_covariance(content)
    axes = np.linalg.eigh(covariance)[1]
    levels = np.linspace(0.02, 0.98, 97)

    def distance(pixels):
        one, other = (
            np.quantile((p - mean) @ axes, levels, axis=(0, 1)) for p in (pixels, content)
        )
        return np.abs(one - other).mean()

    by_covariance, by_histogram = (distance(match(small[style], content)) for match in MATCHES)
    assert by_histogram < 0.1 * by_covariance


def transfer_luma(style, content):
    return gray_to_rgb(match_luma(rgb_to_luma(style), rgb_to_luma(content)))


@pytest.mark.parametrize(
    ("mode", "transfer"),
    [
        ("luminance", transfer_luma),
        ("match", match_mean_and_covariance),
        ("histogram", match_histogram),
    ],
)
def test_a_color_mode_transfers_the_visible_colors_of_the_content(small, mode, transfer):
    content, style = small["coffee"], small["flower"]
    alpha = np.zeros(content.shape[:2], np.float32)
    for visible in (content, content[10:40, 20:60]):  # of a fully transparent content all pixels
        same, [new] = apply_color_mode(mode, content, alpha, [style])
        np.testing.assert_allclose(new, transfer(style, visible), atol=1e-6)
        want = gray_to_rgb(rgb_to_luma(content)) if mode == "luminance" else content
        np.testing.assert_array_equal(same, want)
        alpha[10:40, 20:60] = 0.5


def test_the_color_mode_style_changes_nothing(small):
    content, style = small["coffee"], small["flower"]
    same, [new] = apply_color_mode("style", content, None, [style])
    assert same is content
    assert new is style
