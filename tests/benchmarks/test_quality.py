"""The comparison of images: the clock, the runs and the report."""

import os
import sys
import types

import numpy as np
import pytest
import quality
from judge import Scores
from processes import ChildError

from nst_jax import images, weights

pytestmark = pytest.mark.extended


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
