"""Photos in the style of a painting in one pass of a network: nst-jax apply."""

import json
from pathlib import Path

import numpy as np
import pytest
from apps.helpers import call, error_line, make
from PIL import Image

from nst_jax import images

pytestmark = pytest.mark.usefixtures("small_photos")

APPLY = ("apply", "--style", "style.png", "-q")


def test_one_photo_becomes_a_file_of_its_size():
    result = call(*APPLY, "content.png", "-o", "out.png", "--size", "original")
    assert (result.exit_code, result.output) == (0, "out.png: 32x24\n")
    made = json.loads(images.read_metadata("out.png")["nst_jax.apply"])
    assert (made["content"], made["styles"]) == ("content.png", ["style.png"])


def test_the_size_is_the_longest_side_and_alpha_stays():
    photo = Image.open("content.png")
    photo.putalpha(Image.new("L", photo.size, 128))
    photo.save("half.png")
    call(*APPLY, "half.png", "-o", "out.png", "--size", "40")
    assert Image.open("out.png").mode == "RGBA"
    assert Image.open("out.png").size == (40, 30)


def test_a_folder_becomes_a_folder_and_a_bad_photo_stops_nothing():
    Path("photos").mkdir()
    for name in ("content.png", "other.png"):
        Path(name).rename(f"photos/{name}")
    Path("photos/bad.png").write_bytes(b"no image")
    result = call(*APPLY, "photos", "-o", "out/deep", "--suffix", ".jpg", "--size", "32")
    assert (result.exit_code, result.stdout) == (2, "out/deep: 2 images made, 1 failed\n")
    assert result.stderr.startswith("error: photo 'photos/bad.png': not an image")
    made = sorted(path.name for path in Path("out/deep").iterdir())
    assert made == ["content-style.jpg", "other-style.jpg"]


def test_several_styles_are_blended_by_their_weights():
    def apply(*arguments):
        return make("apply", "content.png", "--size", "32", *arguments)

    first, second = apply("--style", "style.png"), apply("--style", "other.png")
    both = ("--style", "style.png", "--style", "other.png", "--style-weights")
    np.testing.assert_array_equal(apply(*both, "1,0"), first)
    middle = apply(*both, "1,1")
    apart = np.abs(first - second).mean()
    assert all(0 < np.abs(middle - image).mean() < apart for image in (first, second))


BAD_COMMANDS = {
    "no such photo": (("none.png", "-o", "a.png"), "'none.png' does not exist; give images"),
    "a bad style": (("content.png", "--style", "bad.png", "-o", "a.png"), "not an image"),
    "a format": (("content.png", "-o", "a.gif"), "unknown extension; use one of .png"),
    "the photo itself": (("content.png", "-o", "content.png"), "is also another file of this job"),
    "the style itself": (("content.png", "-o", "style.png"), "is also another file of this job"),
    "a file for two": (("content.png", "other.png", "-o", "style.png"), "cannot be created: File"),
    "its own folder": ((".", "-o", "."), "the folder '.' is also an input; choose another"),
    "one name": (("content.png", "deep", "-o", "a"), "two photos would both be written to"),
    "a size": (("content.png", "-o", "a.png", "--size", "8"), "size is 8; give a whole number"),
    "a narrow photo": (("narrow.png", "-o", "a.png"), r"give sides of at least 16 pixels"),
    "weights": (
        ("content.png", "-o", "a.png", "--style-weights", "1,2"),
        "2 style weights for 1 style images; give one each",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_bad_input_is_refused_in_one_line(arguments, message):
    Path("bad.png").write_bytes(b"no image")
    Path("deep").mkdir()
    Image.open("content.png").save("deep/content.png")
    Image.new("RGB", (400, 4)).save("narrow.png")
    before = {path: path.read_bytes() for path in Path().glob("*.png")}
    assert message in error_line(*APPLY, *arguments)
    assert {path: path.read_bytes() for path in Path().glob("*.png")} == before
