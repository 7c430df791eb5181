"""Colours given from one picture to another, against their equations and scikit-image."""

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr, rgb2yiq
from skimage.exposure import match_histograms

from nst_jax import DivergedError, InputError, reconstruct, stylize, stylize_each, texture
from nst_jax.apps.cli.main import main
from nst_jax.images import io as images
from nst_jax.images.color import (
    MAX_GAIN,
    MAX_SLOPE,
    as_gray,
    luminance,
    match_histogram,
    match_luminance,
    match_mean_and_covariance,
    match_values,
    with_luminance,
)

MATCHES = [match_mean_and_covariance, match_histogram]
KEEPING = ["luminance", "match", "histogram"]
STEEP = 1e6  # a slope that photos do not reach
SMALL = {
    "size": 48,
    "steps": 4,
    "model": "vgg16",
    "dtype": "float32",
    "style_layers": {"relu1_1": 0.5, "relu2_1": 0.5},
    "content_layers": {"relu2_2": 1.0},
}

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 12)


@st.composite
def pictures(draw, gray=False):
    """Colours at random, in a random part of the cube; few of them, flat areas, or one colour."""
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
def photo(photos):
    """Photos by name, smaller, float32."""
    return {
        name: images.resize(photo / 255, images.fit(photo.shape, 160))
        for name, photo in photos.items()
    }


def moments(pixels):
    values = np.float64(pixels).reshape(-1, 3)
    return values.mean(axis=0), np.cov(values.T, bias=True)


def quiet(pixels, around=0.5, width=0.3):
    """The picture with its contrast reduced, so that nothing it is matched with is clipped."""
    return np.float32(around + width * (pixels - pixels.mean(axis=(0, 1))))


def assert_picture(pixels, shape):
    assert (pixels.dtype, pixels.shape) == (np.float32, shape)
    assert np.isfinite(pixels).all()
    assert 0 <= pixels.min() <= pixels.max() <= 1


def assert_gray(pixels):
    np.testing.assert_allclose(pixels, as_gray(pixels.mean(axis=-1)), atol=1e-5)


# ------------------------------------------------------------------------------------------- luma


@given(pictures())
def test_luma_is_that_of_yiq_and_ycbcr(pixels):
    np.testing.assert_allclose(luminance(pixels), rgb2yiq(pixels)[..., 0], atol=1e-6)
    ycbcr = (rgb2ycbcr(np.float64(pixels))[..., 0] - 16) / 219
    np.testing.assert_allclose(luminance(pixels), ycbcr, atol=1e-4)


@given(pictures(), seeds)
def test_the_luma_given_is_exact_and_hue_is_kept(pixels, seed):
    rng = np.random.default_rng(seed)
    luma = np.float32(rng.random(pixels.shape[:2]))
    luma.flat[rng.integers(luma.size)] = rng.integers(2)  # black and white have no chroma at all
    new = with_luminance(pixels, luma)
    assert_picture(new, pixels.shape)
    np.testing.assert_allclose(luminance(new), luma, atol=1e-6)
    before, after = (rgb2yiq(np.float64(p))[..., 1:] for p in (pixels, new))
    cross = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
    np.testing.assert_allclose(cross, 0, atol=1e-6)
    lengths = np.linalg.norm(before, axis=-1), np.linalg.norm(after, axis=-1)
    assert (lengths[1] <= lengths[0] + 1e-6).all()
    assert ((before * after).sum(axis=-1) >= -1e-6).all()
    # Chroma is reduced only where a channel has reached an end of its range.
    reduced = lengths[1] < lengths[0] - 1e-5
    at_end = np.minimum(new.min(axis=-1), 1 - new.max(axis=-1)) < 1e-5
    assert (~reduced | at_end).all()


@given(pictures())
def test_its_own_luma_changes_nothing(pixels):
    np.testing.assert_allclose(with_luminance(pixels, luminance(pixels)), pixels, atol=1e-6)


def test_several_lumas_at_once(photo):
    pixels = photo["coffee"]
    lumas = np.stack([luminance(pixels), 1 - luminance(pixels)])
    both = with_luminance(pixels, lumas)
    for got, luma in zip(both, lumas, strict=True):
        np.testing.assert_array_equal(got, with_luminance(pixels, luma))
    np.testing.assert_array_equal(luminance(both)[1], luminance(both[1]))


def test_gray_has_the_luma_it_was_made_of(photo):
    luma = luminance(photo["china"])
    np.testing.assert_allclose(luminance(as_gray(luma)), luma, atol=1e-6)


def test_luma_gets_the_contents_mean_and_deviation(photo):
    style, content = luminance(photo["flower"]), luminance(quiet(photo["astronaut"]))
    new = match_luminance(style, content)
    assert new.mean() == pytest.approx(content.mean(), abs=1e-6)
    assert new.std() == pytest.approx(content.std(), abs=1e-6)
    assert np.corrcoef(new.ravel(), style.ravel())[0, 1] == pytest.approx(1)


@given(pictures(), pictures())
def test_matched_luma_is_always_a_luma(style, content):
    luma = luminance(style)
    new = match_luminance(luma, luminance(content))
    assert_picture(new, luma.shape)
    assert np.ptp(new) <= MAX_GAIN * np.ptp(luma) + 1e-5
    if np.ptp(luma) == 0:
        np.testing.assert_allclose(new, luminance(content).mean(), atol=1e-5)


# --------------------------------------------------------------------------- mean and covariance


@pytest.mark.parametrize("style", ["flower", "coffee", "china"])
@pytest.mark.parametrize("content", ["astronaut", "chelsea"])
def test_photos_get_the_contents_mean_and_covariance(photo, style, content):
    goal = quiet(photo[content])
    mean, covariance = moments(match_mean_and_covariance(photo[style], goal))
    np.testing.assert_allclose(mean, moments(goal)[0], atol=1e-5)
    np.testing.assert_allclose(covariance, moments(goal)[1], atol=1e-6)


@given(st.integers(3, 12), st.integers(3, 12), seeds)
def test_any_colours_get_the_contents_mean_and_covariance(height, width, seed):
    rng = np.random.default_rng(seed)
    style = np.float32(rng.random((height, width, 3)))
    content = np.float32(rng.uniform(0.45, 0.55, (7, 5, 3)))
    mean, covariance = moments(match_mean_and_covariance(style, content))
    np.testing.assert_allclose(mean, moments(content)[0], atol=1e-5)
    variances, goal = np.linalg.eigvalsh(moments(style)[1]), np.linalg.eigvalsh(moments(content)[1])
    if variances[0] > goal[-1] / MAX_GAIN**2:
        np.testing.assert_allclose(covariance, moments(content)[1], atol=1e-7)


def test_the_map_turns_nothing(photo):
    """It is linear, by a symmetric matrix without negative eigenvalues."""
    style, goal = photo["flower"], quiet(photo["astronaut"])
    values = (style - style.mean(axis=(0, 1))).reshape(-1, 3)
    new = match_mean_and_covariance(style, goal)
    moved = (new - new.mean(axis=(0, 1))).reshape(-1, 3)
    matrix, *_ = np.linalg.lstsq(np.float64(values), np.float64(moved), rcond=None)
    np.testing.assert_allclose(values @ matrix, moved, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-4)
    assert np.linalg.eigvalsh(matrix)[0] > 0


def test_a_contents_own_colours_stay(photo):
    for match in MATCHES:
        np.testing.assert_allclose(
            match(photo["chelsea"], photo["chelsea"]), photo["chelsea"], atol=1e-3
        )


# ------------------------------------------------------------------------------------- both matches


@pytest.mark.parametrize("match", MATCHES)
@given(style=pictures(), content=pictures())
def test_any_two_pictures_give_a_picture(match, style, content):
    assert_picture(match(style, content), style.shape)


@pytest.mark.parametrize("match", MATCHES)
@given(style=pictures(), content=pictures(gray=True))
def test_a_gray_content_makes_gray(match, style, content):
    assert_gray(match(style, content))


@pytest.mark.parametrize("match", MATCHES)
def test_a_flat_content_makes_flat_and_a_flat_style_the_mean(match, photo):
    flat = np.full((8, 9, 3), [0.2, 0.5, 0.7], np.float32)
    made = match(photo["coffee"], flat)
    np.testing.assert_allclose(made, np.broadcast_to(flat[0, 0], made.shape), atol=1e-5)
    mean = photo["coffee"].mean(axis=(0, 1))
    np.testing.assert_allclose(match(flat, photo["coffee"]), np.tile(mean, (8, 9, 1)), atol=1e-5)


@pytest.mark.parametrize("match", MATCHES)
def test_a_gray_files_noise_does_not_become_colour(match, photo):
    """A gray JPEG's chroma is off by a level here and there."""
    rng = np.random.default_rng(0)
    gray = as_gray(luminance(photo["china"]))
    noisy = np.float32(np.clip(gray + rng.normal(0, 0.5 / 255, gray.shape), 0, 1))
    clean, seen = match(gray, photo["astronaut"]), match(noisy, photo["astronaut"])
    assert np.abs(seen - clean).std() < 10 / 255
    assert luminance(clean).std() > 0.5 * luminance(photo["astronaut"]).std()


@pytest.mark.parametrize("match", MATCHES)
def test_a_drawings_paper_stays_quiet(match, photo):
    rng = np.random.default_rng(0)
    drawing = np.float32(np.clip(0.95 + rng.normal(0, 0.5 / 255, (90, 90, 3)), 0, 1))
    drawing[:, ::10] = 0.1
    paper = match(drawing, photo["astronaut"])[:, 5::10]
    assert paper.std(axis=(0, 1)).max() < 10 / 255


# --------------------------------------------------------------------------------------- histogram


@pytest.mark.parametrize("style", ["flower", "coffee", "china"])
@pytest.mark.parametrize("content", ["astronaut", "chelsea"])
def test_one_channel_is_what_scikit_image_makes_of_it(photos, style, content):
    """Of photos whose 8-bit levels are spread: of equal values it counts all, where we count half.
    At the ends of the range, where values are rare, that shows too: hence the mean."""
    rng = np.random.default_rng(0)
    for channel in range(3):
        values, goal = (
            (photos[name][..., channel] + rng.random(photos[name].shape[:2])) / 256
            for name in (style, content)
        )
        got = match_values(values, goal, max_slope=STEEP)
        assert np.abs(got - match_histograms(values, goal)).mean() < 1e-4
        parts = np.linspace(0, 1, 50)
        np.testing.assert_allclose(np.quantile(got, parts), np.quantile(goal, parts), atol=1e-3)


def test_equal_values_stay_equal():
    """Half at 0 and half at 1 become the quartiles, and one value the median."""
    goal = np.linspace(0, 1, 101)
    halves = match_values(np.float64([0, 1, 0, 1]), goal, STEEP)
    np.testing.assert_allclose(halves, [0.25, 0.75, 0.25, 0.75], atol=0.01)
    np.testing.assert_allclose(match_values(np.ones(5), goal, STEEP), 0.5)


@given(pictures(), pictures(), st.sampled_from([1.0, MAX_SLOPE, STEEP]))
def test_the_curve_rises_no_steeper_than_it_may(values, goal, max_slope):
    values, goal = np.float64(values), np.float64(goal)
    new = match_values(values, goal, max_slope)
    order = np.argsort(values, axis=None)
    steps = np.diff(new.ravel()[order])
    assert (steps >= -1e-9).all()
    assert (steps <= max_slope * np.diff(values.ravel()[order]) + 1e-9).all()
    assert goal.min() - 1e-9 <= new.min() <= new.max() <= goal.max() + 1e-9


def test_a_jump_becomes_a_ramp_around_its_place():
    """Of half the slope that is allowed, being the mean of a ramp before the jump and one after."""
    values = np.linspace(0, 1, 1001)
    goal = np.concatenate([np.linspace(0, 0.001, 500), np.linspace(0.999, 1, 501)])
    new = match_values(values, goal, max_slope=5.0)
    np.testing.assert_allclose(new, np.clip(0.5 + 2.5 * (values - 0.5), 0, 1), atol=0.01)


@pytest.mark.parametrize("style", ["flower", "coffee", "china"])
def test_photos_get_the_contents_histograms(photo, style):
    """Along the content's principal axes; much nearer than by mean and covariance alone."""
    goal = quiet(photo["astronaut"])
    mean, covariance = moments(goal)
    axes = np.linalg.eigh(covariance)[1]
    parts = np.linspace(0.02, 0.98, 97)

    def distance(pixels):
        apart = [np.quantile((p - mean) @ axes, parts, axis=(0, 1)) for p in (pixels, goal)]
        return np.abs(apart[0] - apart[1]).mean()

    by_moments, by_histogram = (distance(match(photo[style], goal)) for match in MATCHES)
    assert by_histogram < 0.1 * by_moments


# ------------------------------------------------------------------------------------ the whole job


@pytest.fixture(scope="module")
def pair(photos):
    """A reddish content of 40 by 60 and a greenish style of 50 by 50 pixels, uint8."""
    return photos["coffee"][0:400:10, 0:600:10], photos["flower"][100:300:4, 100:300:4]


@pytest.fixture(scope="module")
def painted(pair):
    """A picture by each value of the setting."""
    return {color: stylize(*pair, **SMALL, color=color) for color in ("style", *KEEPING)}


def test_the_style_keeps_its_colours_by_default(pair, painted):
    np.testing.assert_array_equal(stylize(*pair, **SMALL).image, painted["style"].image)


@pytest.mark.parametrize("color", KEEPING)
def test_the_content_keeps_its_colours(pair, painted, color):
    result = painted[color]
    assert_picture(result.image, painted["style"].image.shape)
    assert result.settings["color"] == color
    content = rgb2yiq(images.resize(pair[0] / 255, result.image.shape[:2]))[..., 1:]
    kept, lost = (
        np.linalg.norm(rgb2yiq(painted[name].image)[..., 1:] - content, axis=-1).mean()
        for name in (color, "style")
    )
    assert kept < 0.8 * lost
    assert result.history[-1]["total"] < result.history[0]["total"]


@pytest.mark.parametrize("match", MATCHES)
def test_a_matched_style_is_the_style_matched_before(pair, painted, match):
    content, style = (np.float32(p) / np.float32(255) for p in pair)
    style = match(images.resize(style, (48, 48)), images.resize(content, (32, 48)))
    color = "match" if match is match_mean_and_covariance else "histogram"
    same = stylize(pair[0], style, **SMALL)
    np.testing.assert_allclose(same.image, painted[color].image, atol=1e-3)


def test_luminance_is_the_gray_picture_with_the_contents_chroma(pair, painted):
    content, style = (images.resize(p / 255, (s, 48)) for p, s in zip(pair, (32, 48), strict=True))
    grays = [luminance(content), match_luminance(luminance(style), luminance(content))]
    gray = stylize(*grays, **SMALL).image
    want = with_luminance(content, luminance(gray))
    np.testing.assert_allclose(painted["luminance"].image, want, atol=1e-3)


@pytest.mark.parametrize("color", KEEPING)
def test_gray_pictures_on_either_side(pair, color):
    gray = np.round(pair[0] @ [0.299, 0.587, 0.114]).astype(np.uint8)
    one_step = SMALL | {"steps": 1, "color": color}
    made = stylize(gray, pair[1], **one_step | {"content_weight": 0, "init": "gray"}).image
    assert_picture(made, (32, 48, 3))
    assert_picture(stylize(pair[0], gray, **one_step).image, (32, 48, 3))
    flat = np.zeros((20, 20, 3))
    assert_picture(stylize(pair[0], [flat, pair[1]], **one_step).image, (32, 48, 3))


def test_only_visible_colours_are_matched(pair):
    """A style matched to a cut-out is the one matched to its visible part, as its loss shows."""
    content, style = pair[0], pair[1][:40, :40]
    alpha = np.zeros(content.shape[:2], np.uint8)
    alpha[10:30, 10:50] = 255
    cut_out, part = np.dstack([content, alpha]), content[10:30, 10:50]
    start = {"size": None, "steps": 1, "init": "gray", "content_weight": 0}
    changes = SMALL | start | {"style_layers": {"relu1_1": 1.0}}
    for color in KEEPING:
        losses = [
            stylize(picture, style, **changes, color=color, optimizer="adam").history[0]["style"]
            for picture in (cut_out, part, content)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert losses[0] != pytest.approx(losses[2], rel=0.01)


@pytest.mark.parametrize("color", KEEPING)
def test_the_callback_sees_the_picture_as_it_will_be(pair, color):
    seen = []
    result = stylize(*pair, **SMALL, color=color, on_progress=seen.append, every=2)
    np.testing.assert_array_equal(seen[-1].image, result.image)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("color", KEEPING)
def test_several_pictures_of_one_content(pair, painted, color, batch):
    seen = []
    adam = SMALL | {"optimizer": "adam", "color": color}
    styles = [pair[1], 255 - pair[1][:, :30], pair[1][:20]]
    together = list(
        stylize_each(pair[0], styles, **adam, batch=batch, on_progress=seen.append, every=4)
    )
    for got, style in zip(together, styles, strict=True):
        np.testing.assert_allclose(got.image, stylize(pair[0], style, **adam).image, atol=2e-3)
    last = np.asarray(seen[-1].image).reshape(-1, 32, 48, 3)[0]
    np.testing.assert_array_equal(last, together[-1].image)


def test_a_picture_that_diverged_is_in_colour(pair):
    changes = SMALL | {"style_layers": {"relu1_1": 1e30}, "style_weight": 1e30}
    with pytest.raises(DivergedError) as caught:
        stylize(*pair, **changes, color="luminance")
    start = images.resize(pair[0] / 255, (32, 48))
    for image in (caught.value.image, caught.value.result.image):
        np.testing.assert_allclose(image, start, atol=1e-5)


def test_jobs_without_a_content_or_a_style(pair):
    with pytest.raises(InputError, match="color is 'match'; a texture has no content"):
        texture(pair[1], **SMALL, color="match")
    rebuilt = [reconstruct(pair[0], **SMALL | {"steps": 1, "color": c}) for c in ("style", "match")]
    np.testing.assert_array_equal(rebuilt[0].image, rebuilt[1].image)


def test_the_command_line(pair, tmp_path):
    paths = [tmp_path / name for name in ("content.png", "style.png", "out.png")]
    for path, pixels in zip(paths, pair, strict=False):
        images.write(path, np.float32(pixels) / 255)
    command = ["stylize", *paths[:2], "-o", paths[2], "--size", 48, "--steps", 1, "-q"]
    command += ["--model", "vgg16", "--style-layers", "relu1_1", "--content-layers", "relu2_2"]
    run = CliRunner().invoke(main, [str(word) for word in [*command, "--color", "luminance"]])
    assert run.exit_code == 0, run.output
    assert '"color": "luminance"' in images.read_metadata(paths[2])["nst_jax"]
    run = CliRunner().invoke(main, [str(word) for word in [*command, "--color", "sepia"]])
    assert run.exit_code == 2
    assert "'style', 'luminance', 'match', 'histogram'" in run.output
