"""``init="network"``: the optimizer starts from an image of the arbitrary stylization network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from nst_jax import InputError, Settings, Stylizer, reconstruct_content, synthesize_texture
from nst_jax.networks import apply_style, predict_style
from nst_jax.networks.weights import load_arbitrary
from nst_jax.pipeline import at_once, job
from nst_jax.pipeline.api import many_styles_job
from nst_jax.pipeline.job import first_image


@pytest.fixture(scope="module")
def stylizer(small):
    return Stylizer(**small, init="network")


def paint(content, *styles, shape=(26, 34), weights=None):
    """What the two networks make of images in uint8."""
    params = load_arbitrary()
    squares = [np.float32(Image.fromarray(s).resize((256, 256), 3)) / 255 for s in styles]
    vectors = jnp.stack([jax.jit(predict_style)(params, square) for square in squares])
    vector = jnp.average(vectors, axis=0, weights=weights and np.float32(weights))
    small = np.float32(Image.fromarray(content).resize(shape[::-1], 3)) / 255
    return jax.jit(apply_style)(params, small, vector)


def start(job, index=0):
    return first_image(job, job.mixes[index])


def test_the_start_is_the_image_of_the_network_at_the_first_level(stylizer, content, styles):
    image = start(stylizer.job(content, styles[0]))
    assert (image.shape, image.dtype) == ((26, 34, 3), jnp.float32)
    np.testing.assert_allclose(image, paint(content, styles[0]), atol=0.02)


def test_the_steps_begin_there(stylizer, content, styles):
    result = stylizer(content, styles[0], steps=0, min_size=None)
    np.testing.assert_allclose(result.image, paint(content, styles[0], shape=(36, 48)), atol=0.02)


def test_several_styles_share_the_start_by_their_weights(stylizer, content, styles):
    image = start(stylizer.job(content, styles[:2], style_weights=(3, 1)))
    np.testing.assert_allclose(image, paint(content, *styles[:2], weights=[3, 1]), atol=0.02)


def test_each_image_of_a_job_starts_in_its_own_style(stylizer, content, styles):
    many = many_styles_job(stylizer, content, styles)
    for i, style in enumerate(styles):
        alone = start(stylizer.job(content, style))
        np.testing.assert_array_equal(start(many, i), alone)


def test_masks_divide_the_start(stylizer, content, styles):
    mask = np.zeros(content.shape[:2], np.uint8)
    mask[:, :32] = 255
    halves = start(stylizer.job(content, styles[:2], masks=mask))
    left, right = (start(stylizer.job(content, style)) for style in styles[:2])
    np.testing.assert_allclose(halves[:, :14], left[:, :14], atol=1e-6)
    np.testing.assert_allclose(halves[:, 20:], right[:, 20:], atol=1e-6)


def test_outside_of_all_masks_the_start_is_the_content(stylizer, content, styles):
    mask = np.zeros(content.shape[:2], np.uint8)
    mask[:, :32] = 255
    masked = stylizer.job(content, styles[:1], masks=[mask])
    np.testing.assert_allclose(start(masked)[:, 20:], masked.init_image[:, 20:], atol=1e-6)


def test_two_runs_are_equal_bit_for_bit(small, content, styles):
    first, second = (Stylizer(**small, init="network")(content, styles[0]).image for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_resumed_job_ends_as_one_that_was_not_stopped(
    job_of, content, styles, checkpoint, leave_at, stylizer
):
    leave_at(job_of(init="network"), 2)
    resumed = stylizer(content, styles[0], checkpoint=checkpoint, resume=True)
    np.testing.assert_array_equal(resumed.image, stylizer(content, styles[0]).image)


def test_a_large_start_is_enlarged(stylizer, content, styles, monkeypatch):
    monkeypatch.setattr(job, "MAX_START_SIZE", 24)
    seen = []
    monkeypatch.setattr(
        job, "image_at_once", lambda _, content, vector: seen.append(content.shape) or content
    )
    image = start(stylizer.job(content, styles[0]))
    assert (image.shape, seen) == ((26, 34, 3), [(18, 24, 3)])


def test_in_gray_the_start_is_gray(stylizer, content, styles, monkeypatch):
    seen = []
    predict = at_once.style_vector
    monkeypatch.setattr(job, "style_vector", lambda *a: seen.append(a[1]) or predict(*a))
    gray = stylizer.job(content, styles[0], color_mode="luminance")
    for image in (gray.init_image, *seen):
        np.testing.assert_allclose(image[..., 0], image[..., 2], atol=1e-5)


@pytest.mark.parametrize("make", [synthesize_texture, reconstruct_content])
def test_a_job_without_a_content_or_a_style_is_refused(small, content, make):
    with pytest.raises(InputError, match=r"init is 'network', .*; choose noise, gray or an image"):
        make(content, Settings(**small | {"steps": 3}, init="network"))
