"""Masks and color modes in whole jobs."""

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2yiq

from nst_jax import DivergedError, InputError, interpolate_styles, stylize, stylize_many
from nst_jax.images import color, resize

CONTENT_MODES = ["luminance", "match", "histogram"]  # the result has the content's colors

# --- masks ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flat():
    """A red and a blue style: the color of a place shows which of them was applied there."""
    noise = np.random.default_rng(0).uniform(0, 0.1, (48, 48, 1)).astype(np.float32)
    return [np.clip(noise + np.float32(color), 0, 1) for color in ([0.8, 0, 0], [0, 0, 0.8])]


@pytest.fixture(scope="module")
def masked(small):
    """Settings with which the style covers the content."""
    return small | {"steps": 24, "content_weight": 1e-4, "learning_rate": 0.05, "init": "gray"}


@pytest.fixture(scope="module")
def left():
    """A mask of the left half, as large as the content."""
    mask = np.zeros((48, 64), np.float32)
    mask[:, :32] = 1
    return mask


def redness(part):
    """Return how much more red than blue there is."""
    return float((part[..., 0] - part[..., 2]).mean())


def test_each_style_stays_in_its_mask_at_every_level(content, flat, masked, left, tmp_path):
    labels = np.where(left[..., None] > 0, np.uint8([255, 0, 0]), np.uint8([0, 0, 255]))
    Image.fromarray(labels).save(tmp_path / "labels.png")
    settings = masked | {"masks": tmp_path / "labels.png", "mask_colors": ("red", "#00f")}
    levels = {}

    def on_progress(progress):
        levels[progress.shape] = progress.image

    result = stylize(content, flat, **settings, on_progress=on_progress)
    assert result.metadata["masks"] == ["labels.png"]
    assert list(levels) == [(26, 34), (36, 48)]
    for (_, width), image in levels.items():
        assert redness(image[:, : width // 2 - 4]) > 0.2
        assert redness(image[:, width // 2 + 4 :]) < -0.2


@pytest.mark.extended
def test_outside_the_masks_the_content_stays(content, flat, masked, left):
    image = stylize(content, flat[:1], **masked, masks=[left]).image
    photo = resize(resize(content / 255, (36, 48)), (36, 48))
    difference = np.abs(image - photo).mean((0, 2))
    assert difference[:20].mean() > 0.1
    assert difference[28:].max() < 1e-6


def test_many_images_take_no_masks_and_no_style_weights(content, styles, small, left):
    for make in (stylize_many, interpolate_styles):
        for settings in ({"masks": [left, 1 - left]}, {"style_weights": (1.0, 2.0)}):
            with pytest.raises(InputError, match="combine styles in one image; here each image"):
                next(make(content, styles[:2], **small, **settings))


# --- color modes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colored(content, styles, small):
    return {mode: stylize(content, styles[1], **small, color_mode=mode) for mode in CONTENT_MODES}


@pytest.mark.parametrize("mode", CONTENT_MODES)
def test_the_result_has_the_colors_of_the_content(content, alone, colored, mode):
    assert colored[mode].metadata["color_mode"] == mode
    chroma, style_chroma, content_chroma = (
        rgb2yiq(image)[..., 1:]
        for image in (colored[mode].image, alone["adam"][1].image, resize(content / 255, (36, 48)))
    )
    distance = np.linalg.norm(chroma - content_chroma, axis=-1).mean()
    assert distance < 0.8 * np.linalg.norm(style_chroma - content_chroma, axis=-1).mean()


@pytest.mark.parametrize(
    ("mode", "match"),
    [("match", color.match_mean_and_covariance), ("histogram", color.match_histogram)],
)
def test_the_mode_equals_a_style_that_was_matched_before(
    content, styles, small, colored, mode, match
):
    matched = match(styles[1] / np.float32(255), resize(content / 255, (36, 48)))
    expected = stylize(content, matched, **small)
    np.testing.assert_allclose(colored[mode].image, expected.image, atol=1e-3)


def test_luminance_is_the_gray_result_with_the_chroma_of_the_content(
    content, styles, small, colored
):
    photo = resize(content / 255, (36, 48))
    luma, style_luma = (color.rgb_to_luma(x) for x in (photo, styles[1] / np.float32(255)))
    gray = stylize(luma, color.match_luma(style_luma, luma), **small).image
    expected = color.replace_luma(photo, color.rgb_to_luma(gray))
    np.testing.assert_allclose(colored["luminance"].image, expected, atol=1e-3)


def test_the_last_finite_image_of_a_diverged_job_is_in_color(make, content):
    huge = {"style_layers": {"relu1_1": 1e30, "relu2_1": 1}, "style_weight": 1e30}
    with pytest.raises(DivergedError) as caught:
        make(**huge, color_mode="luminance")
    assert (caught.value.step, caught.value.history) == (0, {})
    start = resize(resize(content / 255, (36, 48)), (26, 34))
    for image in (caught.value.image, caught.value.results[0].image):
        np.testing.assert_allclose(image, start, atol=1e-5)
