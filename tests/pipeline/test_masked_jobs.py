"""Masks in a whole job: each style in its region, at every scale; Python and command line."""

import json

import numpy as np
import pytest
from PIL import Image
from test_cli import EXAMPLES, FOR_BOTH, INK, SWIRLS, call, error_line

from nst_jax import InputError, interpolate, stylize, stylize_each, texture
from nst_jax.images import io as images

pytestmark = pytest.mark.usefixtures("folder")

ASTRONAUT, MASK = EXAMPLES / "astronaut.jpg", EXAMPLES / "astronaut-mask.png"
OPTIONS = {
    "size": 64,
    "min_scale": 32,
    "steps": 12,
    "content_weight": 1e-4,
    "model": "vgg16",
    "dtype": "float32",
    "style_layers": {"relu1_1": 1.0, "relu2_1": 1.0},
    "content_layers": {"relu2_2": 1.0},
}


@pytest.fixture(scope="module")
def flat():
    """A red and a blue style: which of them painted a place is seen in its colour."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 0.1, (48, 48, 1)).astype(np.float32)
    return [np.clip(noise + np.float32(color), 0, 1) for color in ([0.8, 0, 0], [0, 0, 0.8])]


def redness(image, region):
    """How much more red than blue there is in a region's inside."""
    inside = images.resize(region, image.shape[:2]) > 0.99
    return float((image[..., 0] - image[..., 2])[inside].mean())


def test_each_style_paints_its_region_at_every_scale(flat):
    mask = images.read(MASK).pixels[..., 0]
    made = stylize(ASTRONAUT, flat, **OPTIONS, masks=MASK)
    assert made.settings["scales"] == [32, 45, 64]
    assert made.settings["masks"] == ["astronaut-mask.png"]
    assert redness(made.image, mask) > 0.3
    assert redness(made.image, 1 - mask) < -0.3
    swapped = stylize(ASTRONAUT, flat[::-1], **OPTIONS, masks=[mask, 1 - mask])
    assert redness(swapped.image, mask) < -0.3


def test_a_place_without_a_region_keeps_the_photo(flat):
    size = images.read(ASTRONAUT).pixels.shape[:2]
    left = np.zeros(size, np.float32)
    left[:, : size[1] // 3] = 1
    made = stylize(ASTRONAUT, flat[:1], **OPTIONS, masks=[left]).image
    photo = images.resize(images.read(ASTRONAUT).pixels, made.shape[:2])
    apart = np.abs(made - photo).mean((0, 2))
    assert apart[:18].mean() > 0.1
    assert apart[24:].max() < 1e-3


def test_a_mask_of_ones_changes_nothing(flat):
    size = images.read(ASTRONAUT).pixels.shape[:2]
    once = OPTIONS | {"optimizer": "adam", "steps": 3}
    masked = stylize(ASTRONAUT, flat[0], **once, masks=[np.ones(size, np.float32)])
    np.testing.assert_allclose(masked.image, stylize(ASTRONAUT, flat[0], **once).image, atol=2e-3)


def test_masks_on_the_command_line():
    job = ("stylize", ASTRONAUT, SWIRLS, INK, *FOR_BOTH)
    assert call(*job, "--mask", MASK, "-o", "one.png").exit_code == 0
    mask = Image.open(MASK).convert("L")
    labels = Image.composite(*(Image.new("RGB", mask.size, c) for c in ("red", "blue")), mask)
    labels.save("labels.png")
    colors = ("--mask", "labels.png", "--mask-colors", "red, #00f")
    assert call(*job, *colors, "-o", "two.png").exit_code == 0
    assert np.abs(images.read("one.png").pixels - images.read("two.png").pixels).mean() < 0.01
    noted = json.loads(images.read_metadata("two.png")["nst_jax"])
    assert (noted["masks"], noted["mask_colors"]) == (["labels.png"], ["red", "#00f"])

    Image.new("L", (20, 30), 255).save("small.png")
    Image.new("L", mask.size).save("empty.png")
    for masks, message in [
        (("--mask", "small.png"), "mask has 20x30 pixels, the content 512x512"),
        (("--mask", "empty.png"), "style 1 has no region"),
        (("--mask", MASK, "--mask", MASK, "--mask", MASK), "3 masks for 2 styles"),
        (("--mask", "none.png"), "none.png"),
        (("--mask-colors", "red,blue"), "mask_colors name the colours of a mask"),
        (("--mask", "labels.png"), "has colours"),
    ]:
        assert message in error_line(*job, *masks, "-o", "three.png")
    assert "is also an input" in error_line(*job, "--mask", "labels.png", "-o", "labels.png")


def test_jobs_that_masks_do_not_suit(flat):
    with pytest.raises(InputError, match="a texture has none"):
        texture(flat, **OPTIONS, masks=MASK)
    for make in (stylize_each, interpolate):
        with pytest.raises(InputError, match="masks join styles"):
            next(make(ASTRONAUT, flat, **OPTIONS, masks=MASK))
    with pytest.raises(InputError, match="mask_colors is 'red'"):
        stylize(ASTRONAUT, flat, **OPTIONS, masks=MASK, mask_colors="red")
