"""Each content with each style: nst-jax batch."""

from pathlib import Path

import numpy as np
import pytest
from apps.helpers import SMALL, call, error_line, follow, make, metadata

from nst_jax import images
from nst_jax.pipeline import planning

pytestmark = pytest.mark.usefixtures("small_photos")

JOB = ("batch", "content.png", "--styles", "style.png", "--styles", "other.png", *SMALL)


def names(folder="out"):
    return sorted(path.name for path in Path(folder).iterdir())


def test_bad_files_are_counted_at_the_end_and_stop_nothing():
    Path("styles").mkdir()
    for name in ("style.png", "other.png"):
        Path(name).rename(f"styles/{name}")
    for name in ("bad.png", "styles/worse.png"):
        Path(name).write_bytes(b"no image")
    result = call("batch", "content.png", "bad.png", "--styles", "styles", *SMALL, "-o", "out")
    assert result.exit_code == 2
    assert result.stdout == "out: 2 images made, 0 skipped, 4 failed\n"
    bad, worse = sorted(result.stderr.splitlines())
    assert bad.startswith("error: content 'bad.png': not an image")
    assert bad.endswith("(2 of the images)")
    assert "worse.png" in worse
    assert names() == ["content-other.png", "content-style.png"]
    alone = make("stylize", "content.png", "styles/style.png", *SMALL)
    np.testing.assert_allclose(images.read("out/content-style.png").pixels, alone, atol=2 / 255)
    made = metadata("out/content-other.png")
    assert (made["content"], made["styles"]) == ("content.png", ["other.png"])


@pytest.mark.parametrize("quiet", [True, False])
def test_a_note_says_once_what_auto_is(quiet):
    command = [word for word in JOB if quiet or word != "-q"]
    result = call(*command, "--dtype", "auto", "--steps", "0", "-o", "out")
    assert result.stdout == "out: 2 images made, 0 skipped, 0 failed\n"
    note = f"note: the network is VGG16 in {metadata('out/content-other.png')['dtype']}"
    assert result.stderr.count(note) == (0 if quiet else 1)


def test_an_image_that_exists_stays():
    Path("out/deeper").mkdir(parents=True)
    Path("out/deeper/content-style.webp").write_bytes(b"mine")
    command = (*JOB, "--suffix", ".webp", "-o", "out/deeper")
    for made, skipped in ((1, 1), (0, 2)):
        result = call(*command)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == f"out/deeper: {made} images made, {skipped} skipped, 0 failed\n"
    assert Path("out/deeper/content-style.webp").read_bytes() == b"mine"
    assert names("out/deeper") == ["content-other.webp", "content-style.webp"]


def test_the_same_command_continues_a_stopped_run_from_its_checkpoint(monkeypatch):
    assert call(*JOB, "-o", "whole").exit_code == 0
    with monkeypatch.context() as patch:
        follow(patch, (1, 1))
        result = call(*JOB, "-o", "out")
        assert result.exit_code == 130
        assert result.stdout == "out: 1 images made, 0 skipped, 0 failed\n"
        assert result.stderr.splitlines()[-1] == "out: stopped; the same command continues"
    assert names() == [".nst_jax.checkpoint", "content-style.png"]
    with monkeypatch.context() as patch:
        chunks = follow(patch)
        result = call(*JOB, "-o", "out")
        assert result.stdout == "out: 1 images made, 1 skipped, 0 failed\n"
    assert result.exit_code == 0
    assert min(step for _, step in chunks) > 1
    assert names() == ["content-other.png", "content-style.png"]
    for name in names():
        images_made = (images.read(Path(folder) / name).pixels for folder in ("whole", "out"))
        np.testing.assert_array_equal(*images_made)


@pytest.mark.extended
def test_a_memory_limit_leads_to_the_tiles_of_stylize(monkeypatch):
    monkeypatch.setattr(planning, "TILE_SIZES", (16,))
    options = (*SMALL, "--size", "64", "--optimizer", "adam", "--steps", "2")
    limit = ("--memory-limit", "4MB")  # The whole image needs 5.6 MB, tiles of 16 pixels 2.4 MB.
    assert call(*JOB, *options, *limit, "-o", "out").exit_code == 0
    for style in ("style", "other"):
        path = f"out/content-{style}.png"
        alone = make("stylize", "content.png", f"{style}.png", *options, *limit)
        assert metadata("out.png")["tile"] == metadata(path)["tile"] == 16
        np.testing.assert_allclose(images.read(path).pixels, alone, atol=2 / 255)


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ("'none' does not exist", ("content.png", "--styles", "none")),
        ("folder 'in' is also an input", ("in", "--styles", "style.png", "-o", "in")),
        ("cannot be created", ("content.png", "--styles", "style.png", "-o", "content.png/out")),
        ("Missing option '--styles'", ("content.png",)),
        ("File name too long", ("content.png", "--styles", "style.png", "-o", "x" * 300)),
    ],
)
def test_an_error_is_one_line_and_leaves_no_image(message, command):
    Path("in").mkdir()
    Path("in/content.png").write_bytes(Path("content.png").read_bytes())
    assert message in error_line("batch", "-o", "out", *command)
    assert len(list(Path().rglob("*.png"))) == 4
