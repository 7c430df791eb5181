"""The commands that make one image: stylize, texture and reconstruct."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from apps.helpers import (
    PROGRAM,
    SMALL,
    STYLIZE,
    WITHOUT_CONTENT,
    WITHOUT_STYLE,
    call,
    error_line,
    full_disk,
    make,
    metadata,
)
from PIL import Image

from nst_jax import images
from nst_jax.apps import plots
from nst_jax.networks import weights
from nst_jax.pipeline import runner

pytestmark = pytest.mark.usefixtures("small_photos")
STRIP = ("interpolate", "content.png", "style.png", "other.png", *SMALL, "--num-images", "3")
FOLDER = ("batch", "content.png", "--styles", "style.png", *SMALL)


def names():
    return {path.name for path in Path().iterdir()} - {"content.png", "style.png", "other.png"}


def test_a_job_writes_its_image_previews_and_log():
    command = [*PROGRAM, *STYLIZE, "--min-size", "20", "--steps", "3,6"]
    command = [word for word in command if word != "-q"]
    command += ["--preview-every", "4", "--log", "log.jsonl", "-o", "out file ü.png"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("out file ü.png: 32x24, 9 steps at 2 levels in ")
    assert "VGG16, float32 on" in run.stdout
    assert "9/9" in run.stderr
    assert "loss=" in run.stderr
    previews = ["out file ü-000004.png", "out file ü-000008.png"]
    assert names() == {"out file ü.png", "log.jsonl", *previews}

    image = images.read("out file ü.png").pixels
    content = images.read("content.png").pixels
    preview = images.read(previews[0]).pixels
    assert 0.01 < np.abs(preview - image).mean() < np.abs(content - image).mean() < 0.5
    made = metadata("out file ü.png")
    assert (made["styles"], made["steps_done"]) == (["style.png"], 9)
    assert made["weights_sha256"] == weights.load(weights.bundled_path()).sha256

    rows = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert [row["size"] for row in rows] == [23] * 3 + [32] * 6
    assert rows[-1]["total"] < rows[3]["total"]
    assert {"content", "style/relu1_1", "seconds"} < rows[-1].keys()


def test_quiet_prints_only_the_result_and_notes():
    result = call(*STYLIZE, "--model", "auto", "-o", "out.png")
    assert result.stdout.count("\n") == result.stderr.count("\n") == 1
    assert result.stderr.startswith("note: Using the bundled VGG16 instead of VGG19")
    assert metadata("out.png")["model"] == "vgg16"


def test_texture_and_reconstruct_start_from_noise():
    texture = make("texture", "style.png", *WITHOUT_CONTENT, "--optimizer", "adam")
    assert texture.shape == (32, 32, 3)
    made = metadata("out.png")
    assert (made["content"], made["content_weight"], made["init"]) == (None, 0, "noise")
    rebuilt = make("reconstruct", "content.png", *WITHOUT_STYLE, "--optimizer", "adam")
    assert rebuilt.shape == (24, 32, 3)
    made = metadata("out.png")
    assert (made["styles"], made["style_weight"], made["init"]) == ([], 0, "noise")


def test_masks_are_gray_files_or_one_file_of_flat_colors():
    mask = Image.new("L", (32, 24))
    mask.paste(255, (0, 0, 16, 24))
    mask.save("mask.png")
    Image.merge("RGB", (mask, mask.point(lambda v: 0), mask.point(lambda v: 255 - v))).save("c.png")
    job = ("stylize", "content.png", "style.png", "other.png", *SMALL, "--optimizer", "adam")
    gray = make(*job, "--mask", "mask.png")
    colors = make(*job, "--mask", "c.png", "--mask-colors", "red, #00f")
    np.testing.assert_array_equal(gray, colors)
    made = metadata("out.png")
    assert (made["masks"], made["mask_colors"]) == (["c.png"], ["red", "#00f"])


def test_a_loss_plot_shows_the_steps_of_the_job(monkeypatch):
    plotted, plot = [], plots.plot_losses
    monkeypatch.setattr(plots, "plot_losses", lambda *a: plotted.append(a[0]) or plot(*a))
    make(*STYLIZE, "--loss-plot", "losses.svg", "--log", "log.jsonl")
    assert call("plot", "log.jsonl", "-o", "again.svg").exit_code == 0
    assert {"losses.svg", "again.svg"} < names()
    of_job, of_log = plotted
    assert len(of_job["total"]) == 6
    np.testing.assert_array_equal(of_job["total"], of_log["total"])


@pytest.mark.extended
def test_later_processes_use_the_executables_of_the_first(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    cache = Path("cache/compiled")
    cache.parent.mkdir()
    cache.touch()  # The first process cannot write its cache.
    command = [*PROGRAM, *STYLIZE, "--optimizer", "adam", "-o", "out.png"]
    entries = []
    for _ in range(3):
        run = subprocess.run(command, capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, "")
        if cache.is_file():
            cache.unlink()
        entries.append({path: path.stat().st_mtime_ns for path in cache.glob("*-cache")})
    assert entries[0] == {}
    assert any(path.name.startswith("jit__run_chunk") for path in entries[1])
    assert entries[1] == entries[2]


LONG = "x" * 300


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ("content 'none.jpg': cannot be opened", ("stylize", "none.jpg", "style.png")),
        ("style 'text.png': not an image", ("stylize", "content.png", "text.png")),
        ("output 'out.gif': unknown extension", (*STYLIZE, "-o", "out.gif")),
        ("log 'missing/log' is not a writable file", (*STYLIZE, "--log", "missing/log")),
        ("File name too long", (*STYLIZE, "-o", f"{LONG}.png")),
        ("File name too long", (*STYLIZE, "-o", f"{LONG}/out.png")),
        ("File name too long", (*STYLIZE, "--log", LONG)),
        ("Not a directory", (*STYLIZE, "--log", "text.png/log")),
        ("are both 0", (*STYLIZE, "--content-weight", "0", "--style-weight", "0")),
        ("bad.safetensors", (*STYLIZE, "--weights", "bad.safetensors")),
        ("memory", (*STYLIZE, "--memory-limit", "1MB")),
        ("checkpoint 'old.png.checkpoint' does not exist", (*STYLIZE, "--resume")),
        ("give at least two", ("interpolate", "content.png", "style.png")),
        ("line 1 has no losses", ("plot", "text.png", "-o", "plot.png")),
        ("Missing argument 'STYLE...'", ("stylize", "content.png")),
        ("--content-weight", ("texture", "style.png", "--content-weight", "1")),
        ("--style-layers", ("reconstruct", "content.png", "--style-layers", "x")),
        ("of 'style', 'luminance', 'match', 'histogram'.", (*STYLIZE, "--color-mode", "sepia")),
        ("not one of 'target_energy', 'none'.", (*STYLIZE, "--normalization", "sepia")),
        ("not one of 'max', 'average', 'scaled_average', 'l2'.", (*STYLIZE, "--pooling", "sepia")),
        ("not one of 'replicate', 'same'.", (*STYLIZE, "--padding", "sepia")),
    ],
)
def test_an_error_is_one_line_and_changes_no_file(message, command):
    Path("text.png").write_text("no image\n")
    Path("bad.safetensors").write_bytes(weights.bundled_path().read_bytes()[:9999])
    Path("old.png").write_bytes(b"old")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert message in error_line(command[0], "-o", "old.png", *command[1:])
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize(
    "command",
    [
        (*STYLIZE, "-o", "content.png"),
        (*STYLIZE, "-o", "link.png"),
        (*STYLIZE, "-o", "a.png", "--init", "a.png"),
        (*STYLIZE, "-o", "a.png", "--mask", "a.png"),
        (*STYLIZE, "-o", "a.png", "--init", "a.png.checkpoint"),
        (*STYLIZE, "-o", "out.png", "--log", "content.png"),
        (*STYLIZE, "-o", "out.png", "--log", "out.png"),
        (*STYLIZE, "-o", "out.png", "--log", "out.png.checkpoint"),
        (*STYLIZE, "-o", "out.png", "--loss-plot", "style.png"),
        (*STYLIZE, "-o", "out.png", "--loss-plot", "a.svg", "--log", "folder/../a.svg"),
        ("interpolate", *STYLIZE[1:3], "other.png", "-o", "content.png"),
        ("interpolate", *STYLIZE[1:3], "out.png.2.png", "-o", "out.png"),
        ("plot", "content.png", "-o", "./content.png"),
        ("weights", "convert", "style.png", "link.png"),
    ],
)
def test_an_output_that_is_another_file_of_the_command_is_refused(command):
    Path("link.png").symlink_to("style.png")
    Path("folder").mkdir()
    for name in ("a.png", "a.png.checkpoint", "out.png.2.png"):
        Path(name).write_bytes(Path("other.png").read_bytes())
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert " is also " in error_line(*command)
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_outputs_beside_the_image_may_fail_without_it(monkeypatch):
    """A preview that is an input, one that is a folder, a full disk below the log, and a plot."""
    Path("out-000002.png").write_bytes(Path("content.png").read_bytes())
    Path("out-000004.png").mkdir()
    monkeypatch.setattr(plots, "write_atomically", full_disk)
    command = ("stylize", "out-000002.png", "style.png", *SMALL, "--preview-every", "2")
    result = call(*command, "--log", "/dev/full", "--loss-plot", "plot.png", "-o", "out.png")
    assert result.exit_code == 0
    notes = result.stderr.splitlines()
    files = ["/dev/full", "out-000002.png", "out-000004.png", "plot.png"]
    assert [line.split("'")[1] for line in notes] == files
    assert all(line.startswith("note: ") for line in notes)
    assert Path("out-000002.png").read_bytes() == Path("content.png").read_bytes()
    assert images.read("out.png").pixels.shape == (24, 32, 3)
    assert images.read("out-000006.png").pixels.shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("size", "job"),
    [
        ("32x24", (*STYLIZE, "-o", "out.webp")),
        ("96x24", (*STRIP, "-o", "out.webp")),
        ("32x24", (*FOLDER, "--suffix", ".webp", "-o", "out")),
    ],
)
def test_an_image_too_large_for_its_format_is_refused_before_it_is_made(size, job, monkeypatch):
    monkeypatch.setitem(images.io.MAX_SIDES, "WEBP", 31)
    monkeypatch.setattr(runner, "_run_batches", None)
    result = call(*job)
    assert result.exit_code == 2
    assert f"{size} pixels are too many for WEBP, whose sides have at most 31; use PNG" in (
        result.stderr
    )
