"""The strip of mixes between styles: nst-jax interpolate."""

from pathlib import Path

import numpy as np
import pytest
from apps.helpers import SMALL, STYLIZE, call, error_line, follow, make, metadata

from nst_jax import images

pytestmark = pytest.mark.usefixtures("small_photos")

JOB = ("interpolate", "content.png", "style.png", "other.png", *SMALL, "--num-images", "3")


def names():
    return sorted(path.name for path in Path().glob("out*"))


def test_a_strip_goes_from_the_first_style_to_the_last():
    result = call(*(word for word in JOB if word != "-q"), "-o", "out.png")
    assert (result.exit_code, result.stdout) == (0, "out.png: 96x24, 3 images\n")
    assert "image 2 of 3" in result.stderr
    assert names() == ["out.png"]
    strip = images.read("out.png").pixels
    first = make(*STYLIZE, out="first.png")
    last = make("stylize", "content.png", "other.png", *SMALL, out="last.png")
    np.testing.assert_allclose(strip[:, :32], first, atol=2 / 255)
    np.testing.assert_allclose(strip[:, 64:], last, atol=2 / 255)
    assert [made.get("style_weights") for made in metadata("out.png")] == [None, [0.5, 0.5], None]


def test_a_note_says_what_auto_is():
    command = (*(word for word in JOB if word != "-q"), "--dtype", "auto", "--steps", "0")
    result = call(*command, "-o", "out.png")
    dtype = metadata("out.png")[0]["dtype"]
    assert result.stderr.count(f"note: the network is VGG16 in {dtype}\n") == 1


def test_a_stop_in_the_second_image_resumes_to_the_same_strip(monkeypatch):
    whole = make(*JOB, out="whole.png")
    with monkeypatch.context() as patch:
        follow(patch, (1, 1))
        result = call(*JOB, "-o", "out.png")
        assert (result.exit_code, result.stdout) == (130, "")
        assert "stopped after 1 of 3 images; the same command with --resume" in result.stderr
    assert names() == ["out.png", "out.png.1.png", "out.png.checkpoint"]
    np.testing.assert_array_equal(images.read("out.png").pixels, whole[:, :32])
    with monkeypatch.context() as patch:
        chunks = follow(patch)
        np.testing.assert_array_equal(make(*JOB, "--resume"), whole)
    assert min(chunks) > (1, 1)
    assert names() == ["out.png"]


def test_a_stop_in_the_first_image_leaves_a_checkpoint_alone(monkeypatch):
    follow(monkeypatch, (0, 2))
    result = call(*JOB, "-o", "out.png")
    assert (result.exit_code, result.stdout) == (130, "")
    assert "stopped before the first image was finished" in result.stderr
    assert names() == ["out.png.checkpoint"]


def test_a_strip_that_cannot_be_written_loses_no_image(monkeypatch):
    with monkeypatch.context() as patch:
        follow(patch, (2, 6), action=lambda: Path("out.png").mkdir())
        assert "out.png" in error_line(*JOB, "-o", "out.png")
    Path("out.png").rmdir()
    with monkeypatch.context() as patch:
        chunks = follow(patch)
        assert make(*JOB, "--resume").shape == (24, 96, 3)
    assert chunks == [(2, 6)]
    assert names() == ["out.png"]
