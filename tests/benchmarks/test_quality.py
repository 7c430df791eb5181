"""The comparison of images: the clock, the runs and the report."""

import math
import os
import sys
import types

import content_balance
import numpy as np
import pytest
import quality
import scale_consistency
from click.testing import CliRunner
from judge import Scores
from processes import ChildError

from nst_jax import images, weights


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(quality, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("steps", "seconds", "expected"), [(None, 8.0, (9.0, 3)), (2, math.inf, (6.0, 2))]
)
def test_a_recipe_ends_after_its_seconds_or_its_steps(monkeypatch, clock, steps, seconds, expected):
    def recipe(steps, callback):
        while steps != 0:
            clock.now += 3
            if callback(1, lambda: None):
                break
            steps = None if steps is None else steps - 1
        return "image"

    monkeypatch.setattr(quality, "prepare_recipe", lambda task, name: recipe)
    assert quality.run_recipe(None, "crowsonkb", steps, seconds) == (*expected, "image")


@pytest.mark.parametrize("compilation", [0.0, 20.0])
def test_calibration_finds_the_steps_that_fit(monkeypatch, clock, compilation):
    runs = []

    def recipe(steps, callback):
        clock.now += 1.0 + 0.5 * steps + (0 if runs else compilation)
        runs.append(steps)

    monkeypatch.setattr(quality, "prepare_recipe", lambda task, name: recipe)
    steps = quality.calibrate(None, "crowsonkb", 100.0)
    assert 1.0 + compilation + 0.5 * steps == pytest.approx(95, abs=0.6)
    assert quality.calibrate(None, "crowsonkb", 1.0) == 1


def test_the_runs_of_a_recipe(monkeypatch):
    """Its own steps without a limit; or the time of nst_jax, with steps that were calibrated."""
    calls = []
    monkeypatch.setattr(quality, "call_in_child", lambda *args: calls.append(args) or 7)
    nst_jax = quality.Outcome(30.0, 480, None)
    for run in quality.RUNS:
        quality.perform("task", run, nst_jax)
    assert calls == [
        (quality.run_recipe, "task", "neural-style-pt", 1000, math.inf),
        (quality.run_recipe, "task", "neural-style-pt", None, 30.0),
        (quality.run_recipe, "task", "crowsonkb", 500, math.inf),
        (quality.calibrate, "task", "crowsonkb", 30.0),
        (quality.run_recipe, "task", "crowsonkb", 7, 30.0),
    ]
    with pytest.raises(ChildError, match="as much time as nst_jax, which failed"):
        quality.perform("task", "crowsonkb-equal-time", None)


@pytest.fixture
def report(monkeypatch, tmp_path):
    """Return a function that runs the command with other words and returns its report."""

    def call_in_child(function, task, what, *steps):
        if what == {"style_loss": "sliced"}:
            raise ChildError("out of memory")
        if function is quality.calibrate:
            return 7
        return quality.Outcome(12.34, 480, np.full((8, 8, 3), 0.5))

    def run(*words):
        always = ["quality.py", "--alexnet", "sdist", "--out", str(tmp_path / "report.md")]
        monkeypatch.setattr(sys, "argv", [*always, "--images", str(tmp_path / "images"), *words])
        quality.main()
        return (tmp_path / "report.md").read_text()

    monkeypatch.setattr(quality, "os", types.SimpleNamespace(environ={}, path=os.path))
    monkeypatch.setattr(quality, "call_in_child", call_in_child)
    judge = lambda image: Scores(float(image.max()), len(image), image.shape[1])  # noqa: E731
    monkeypatch.setattr(quality, "Judge", lambda *args: judge)
    return run


def test_the_report_has_a_table_a_row_of_images_and_the_failures(report, tmp_path):
    for name, gray, shape in (("photo", 0.2, (20, 30, 3)), ("style", 0.8, (40, 40, 3))):
        images.write(tmp_path / f"{name}.png", np.full(shape, gray))
    text = report("--pair", str(tmp_path / "photo.png"), str(tmp_path / "style.png"))
    section = text[text.index("## ") :].split("\n\n")
    row = "| 12.3 | 480 | 0.500 | 8.0000 | 8.0000 |"
    assert section[1].splitlines() == [
        "| run | seconds | steps | LPIPS | style | CFSD |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(f"| {run} {row}" for run in ("nst_jax", "nst_jax-moments", "nst_jax-nearest")),
        *(f"| {run} {row}" for run in quality.RUNS),
        "| the content itself | – | – | 0.200 | 20.0000 | 30.0000 |",
        "| the style itself | – | – | 0.800 | 20.0000 | 30.0000 |",
    ]
    assert section[2].strip() == "- nst_jax-sliced failed: out of memory"
    assert section[3].strip() == "![photo-style](images/photo-style.jpg)"
    assert str(tmp_path) not in text
    grid = images.read(tmp_path / "images" / "photo-style.jpg").pixels
    assert grid.shape[1] > 9 * 400  # the pair and seven runs


def test_the_default_pairs_are_examples_and_runs_can_be_selected(report, tmp_path):
    variant = ("--variant", "slow", '{"steps": [3, 2]}')
    text = report(*variant, "--runs", "crowsonkb-finished")
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == ["## astronaut-swirls", "## cat-mosaic", "## coffee-tissue", "## All pairs"]
    for run, count in (("nst_jax", 3), ("nst_jax-slow", 3), ("crowsonkb-finished", 3)):
        assert text.count(f"| {run} | 12.3") == count
        assert f"| {run} | 3 | 1.000 | 1.000 | 1.000 |" in text
    assert "nst_jax-sliced" not in text
    assert "neural-style-pt" not in text


def test_the_summary_is_a_geometric_mean_over_the_pairs_that_have_both():
    scores = [
        {"nst_jax": Scores(0.5, 0.2, 1.0), "nst_jax-slow": Scores(1.0, 0.1, 1.0)},
        {"nst_jax": Scores(0.5, 0.2, 1.0), "nst_jax-slow": Scores(2.0, 0.1, 4.0)},
        {"nst_jax-slow": Scores(9.0, 9.0, 9.0)},
    ]
    assert "| nst_jax-slow | 2 | 2.828 | 0.500 | 2.000 |" in quality.summarize(scores)


def test_two_pairs_with_the_same_names_are_refused(report, capsys):
    with pytest.raises(SystemExit):
        report("--pair", "a/x.png", "y.png", "--pair", "b/x.png", "y.png")
    assert "the same file names" in capsys.readouterr().err


@pytest.mark.extended
@pytest.mark.parametrize(("run", "change"), [("nst_jax", 0.5), ("crowsonkb-equal-time", 0.05)])
def test_a_tool_moves_the_colors_to_the_style(monkeypatch, run, change, pair, tmp_path):
    monkeypatch.setattr(quality, "call_in_child", lambda function, *args: function(*args))
    paths = [tmp_path / "content.png", tmp_path / "style.png"]
    for path, image in zip(paths, pair, strict=True):
        images.write(path, image)
    task = quality.Task(tuple(paths), 48, weights.bundled_path(), "float32", "cpu")
    if run == "nst_jax":
        seconds, steps, image = quality.run_nst_jax(task, {"steps": [200]})
    else:
        seconds, steps, image = quality.perform(task, run, quality.Outcome(8.0, 0, None))
    assert run == "nst_jax" or 4 < seconds < 12
    assert steps > 10
    assert image.shape == pair[0].shape
    content, style, found = (
        np.stack([x.mean(axis=(0, 1)), x.std(axis=(0, 1))]) for x in (*pair, image)
    )
    assert np.abs(found - style).sum() < (1 - change) * np.abs(content - style).sum()


def test_scale_consistency_compares_the_sizes(monkeypatch, tmp_path, pair):
    def stylize(content, style, *, size, steps, model):
        metadata = {"steps": [steps], "seconds": 1.0}
        return types.SimpleNamespace(image=images.resize(pair[0], (size, size)), metadata=metadata)

    monkeypatch.setattr(scale_consistency, "stylize", stylize)
    judge = lambda image: Scores(len(image), image.size, 0.0)  # noqa: E731
    monkeypatch.setattr(scale_consistency, "Judge", lambda *args: judge)
    words = ["--alexnet", "sdist", "--sizes", "16,32", "--steps", "1"]
    words += ["--image", str(tmp_path / "row.png")]
    done = CliRunner().invoke(scale_consistency.main, words, catch_exceptions=False)
    assert "| 32 | 1 | 1 | 32.000 | 3072.0000 | 0.0000 |" in done.output
    assert (tmp_path / "row.png").exists()


def test_the_content_balance_compares_each_photo_with_the_median(monkeypatch):
    """The stub's LPIPS is 0.5, and 1 for photos whose brightest pixel is below 0.25."""
    monkeypatch.setattr(
        content_balance, "stylize", lambda photo, *_: types.SimpleNamespace(image=photo)
    )
    judge = lambda image: Scores(1.0 if image.max() < 0.25 else 0.5, 0.0, 0.0)  # noqa: E731
    monkeypatch.setattr(content_balance, "Judge", lambda *_: judge)
    done = CliRunner().invoke(content_balance.main, ["--alexnet", "x"], catch_exceptions=False)
    assert done.output.count("| 1.00 |") == 11
    assert "| astronaut, dark | 1.000 | 1.000 | 1.000 | 1.000 | 2.00 |" in done.output
    assert "median: 0.500; single images from 1.00 to 2.00 of it" in done.output
