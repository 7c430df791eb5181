"""Paths that name no image, no file that can be written, or nothing that can be printed."""

import os
import shutil
from pathlib import Path

import pytest
from apps.helpers import SMALL
from reliability.hostile import assert_clear, assert_each, attempt, attempt_apart, rarely, refusal

from nst_jax import images, weights
from nst_jax.apps import plots
from nst_jax.networks.weights import bundled_path

pytestmark = pytest.mark.usefixtures("photo_folder")

RAW = os.fsdecode(b"caf\xe9.png")  # A name in Latin-1, as old disks have them.
NAMES = (
    *("new\nline.png", "tab\t.png", "esc\x1b[31m.png", "bell\a.png", "cr\r.png", "back\b.png"),
    *("'.png", '".png', "`.png", "$(touch ran).png", "%s%n.png", "{}.png", "\\.png", "a b .png"),
    *("*.png", "-.png", "\u202egnp.png", "\u2028.png", "\u00a0.png", "é.png", "💥.png", RAW),
)
PLACES = {  # command lines with a path in one place
    "content": ("stylize", "{}", "style.png", *SMALL, "-o", "out.png"),
    "style": ("stylize", "content.png", "{}", *SMALL, "-o", "out.png"),
    "mask": ("stylize", "content.png", "style.png", "--mask", "{}", *SMALL, "-o", "out.png"),
    "init": ("stylize", "content.png", "style.png", "--init={}", *SMALL, "-o", "out.png"),
    "weights": ("stylize", "content.png", "style.png", *SMALL, "--weights", "{}", "-o", "out.png"),
    "texture": ("texture", "{}", "-o", "out.png", "--model", "vgg16"),
    "reconstruct": ("reconstruct", "{}", "-o", "out.png", "--model", "vgg16"),
    "interpolate": ("interpolate", "content.png", "style.png", "{}", *SMALL, "-o", "out.png"),
    "batch content": ("batch", "{}", "--styles", "style.png", *SMALL, "-o", "made"),
    "batch style": ("batch", "content.png", "--styles", "{}", *SMALL, "-o", "made"),
    "verify": ("weights", "verify", "{}"),
    "convert": ("weights", "convert", "{}", "out.safetensors"),
    "plot": ("plot", "{}", "-o", "plot.svg"),
}
OUTPUTS = {
    "out": ("stylize", "content.png", "style.png", *SMALL, "-o", "{}"),
    "log": ("stylize", "content.png", "style.png", *SMALL, "-o", "out.png", "--log", "{}"),
    "plot": ("stylize", "content.png", "style.png", *SMALL, "-o", "out.png", "--loss-plot", "{}"),
    "interpolate": ("interpolate", "content.png", "style.png", "other.png", *SMALL, "-o", "{}"),
    "batch": ("batch", "content.png", "--styles", "style.png", *SMALL, "-o", "{}"),
    "of plot": ("plot", "log", "-o", "{}"),
    "convert": ("weights", "convert", "style.png", "{}"),
}


def at(line, path):
    return [word.replace("{}", str(path)) for word in line]


@pytest.fixture(scope="module")
def special(photo_folder):
    """Files that are no regular files, or cannot be reached."""
    Path("folder").mkdir()
    Path("log").write_bytes(b'{"step": 1, "total": 1}\n')
    os.mkfifo("pipe.png")
    for name, target in {
        "link to a pipe.png": "pipe.png",
        "link to zeros.png": "/dev/zero",
        "link to a folder.png": "folder",
        "dangling.png": "missing.png",
        "dangling far.png": "missing/missing.png",
        "loop.png": "loop.png",
        "loop a.png": "loop b.png",
        "loop b.png": "loop a.png",
        "link to content.png": "content.png",
    }.items():
        Path(name).symlink_to(target)
    os.link("content.png", "hard link.png")


UNREADABLE = (
    *("folder", "pipe.png", "link to a pipe.png", "link to zeros.png", "link to a folder.png"),
    *(
        "dangling.png",
        "loop.png",
        "loop a.png",
        "missing.png",
        "missing/a.png",
        "content.png/a.png",
    ),
    *("/dev/zero", "/dev/null", "/dev/full", "/dev/stdin", "/proc/self/mem", "/proc/self/environ"),
    *("", ".", "..", "/", "~", "x" * 300, "x/" * 2500, "folder/../missing.png", *NAMES),
)
UNWRITABLE = (
    *("missing/out.png", "folder", "content.png/out.png", "out", "out.gif", "out.png.", ".png"),
    *("pipe.png", "link to a pipe.png", "link to a folder.png", "dangling far.png", "loop.png"),
    *("/dev/null", "/dev/full", "/proc/out.png", "/sys/out.png", "", ".", "..", "/", "folder/"),
    *("x" * 300 + ".png", "x" * 251 + ".png", "x/" * 2500 + "out.png", "é" * 150 + ".png"),
)
INPUTS = (  # spellings of an input
    *("content.png", "./content.png", "folder/../content.png", "link to content.png"),
    *("hard link.png", ".//content.png", "{folder}/content.png"),
)


def entries():
    return {path: path.lstat().st_mtime_ns for path in Path().rglob("*")}


@pytest.mark.parametrize("place", rarely(PLACES, ["content", "batch style", "verify", "plot"]))
def test_a_path_that_cannot_be_read_is_named_in_one_line(place, special, stops_at_start):
    def check(path):
        outcome = attempt(*at(PLACES[place], path))
        assert_clear(outcome)
        assert outcome.code == 2 or (place.startswith("batch") and path in ("", ".")), outcome

    assert_each(check, UNREADABLE)


@pytest.mark.parametrize("path", UNWRITABLE, ids=lambda p: ascii(p)[:24])
@pytest.mark.parametrize("place", OUTPUTS)
def test_an_output_that_cannot_be_written_is_refused_before_the_job(
    place, path, special, stops_at_start
):
    before = entries()
    outcome = attempt(*at(OUTPUTS[place], path))
    assert_clear(outcome)
    if place in ("out", "interpolate") and not path.startswith(("/proc", "/sys")):
        assert outcome.code == 2
        assert entries() == before
    for name in ("pipe.png", "/dev/null", "/dev/full", "link to a pipe.png", "loop.png"):
        assert not Path(name).is_file(), f"{name} was replaced"


@pytest.mark.parametrize("spelling", INPUTS)
@pytest.mark.parametrize("place", ["out", "log", "plot", "interpolate", "convert", "of plot"])
def test_an_output_is_never_an_input(place, spelling, special, stops_at_start, photo_folder):
    shutil.copy("style.png", "saved.png")
    path = spelling.format(folder=photo_folder)
    before = Path("content.png").read_bytes()
    line = at(OUTPUTS[place], path)
    if place in ("convert", "of plot"):
        line = [
            word.replace("style.png", "content.png").replace("log", "content.png") for word in line
        ]
    assert attempt(*line).code == 2
    assert Path("content.png").read_bytes() == before


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_files_of_any_name_are_read_and_written(name, photo_folder):
    shutil.copy("content.png", name)
    line = at(PLACES["content"], f"./{name}")
    outcome = attempt(*line, "--steps", "0", "-o", f"out {name}")
    assert_clear(outcome)
    assert outcome.code == 0
    assert images.read(f"out {name}").pixels.shape == (24, 32, 3)
    assert not Path("ran").exists()
    Path(name).unlink()


@pytest.mark.parametrize("path", ["a\0b.png", "\0", "x" * 300, "x" * 5000, "loop.png/a", "", "."])
def test_functions_refuse_a_path_in_one_line(path, special):
    pixels = images.read("content.png").pixels
    assert refusal(images.read, path)
    assert refusal(images.read_metadata, path)
    assert refusal(images.write, path, pixels)
    assert refusal(images.write, f"none/{path}.png", pixels)
    assert refusal(weights.load, path)
    assert refusal(weights.save, path, weights.load(bundled_path()))
    assert refusal(plots.read_log, path)
    assert refusal(plots.plot_losses, {}, path)


@pytest.mark.parametrize("name", rarely([RAW, "new\nline.png"], [RAW]), ids=ascii)
def test_a_strict_terminal_shows_the_name_of_every_output(name, special):
    line = at(OUTPUTS["out"], name)
    outcome = attempt_apart(*line, "--steps", "0", PYTHONIOENCODING="utf-8:strict")
    assert_clear(outcome)
    assert outcome.code == 0


def test_a_log_that_is_a_pipe_without_a_reader_costs_no_image(special):
    outcome = attempt(*at(OUTPUTS["log"], "pipe.png"), "--steps", "1", "--optimizer", "adam")
    assert_clear(outcome)
    assert (outcome.code, outcome.stderr.count("log 'pipe.png' ends here")) == (0, 1)
    assert Path("pipe.png").is_fifo()
