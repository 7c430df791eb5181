"""The comparison of images: the clock, the judge, the tools and the report."""

import sys
import types

import numpy as np
import pytest
import quality
import scale_consistency
from click.testing import CliRunner
from processes import ChildError

from nst_jax import Settings, images, weights


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(quality, "time", clock)
    return clock


def test_the_recorder_stores_the_first_image_after_each_quarter(clock):
    recorder = quality.Recorder(8.0)
    for now, is_over in ((1.0, False), (3.0, False), (3.5, False), (7.0, False), (8.0, True)):
        clock.now = now
        assert recorder(10, lambda now=now: now) is is_over
    clock.now = 8.5
    late = (7.0, 40, 7.0)  # after 7 seconds, two quarters are over at once
    assert recorder.finish("last") == [(3.0, 20, 3.0), late, late, (8.5, 50, "last")]


@pytest.mark.parametrize("compilation", [0.0, 20.0])
def test_calibration_finds_the_steps_that_fit(monkeypatch, clock, compilation):
    runs = []

    def tool(steps, callback):
        clock.now += 1.0 + 0.5 * steps + (0 if runs else compilation)
        runs.append(steps)

    monkeypatch.setattr(quality, "make_tool", lambda task: tool)
    steps = quality.calibrate(None, 100.0)
    assert 1.0 + compilation + 0.5 * steps == pytest.approx(95, abs=0.6)
    assert sum(runs[1:]) * 0.5 < 20  # calibration is short
    assert quality.calibrate(None, 1.0) == 1


@pytest.fixture(scope="module")
def judge(pair):
    return quality.Judge(weights.bundled_path(), *pair, 48)


def test_the_judge_scores_style_and_content(pair, judge):
    content, style = pair
    of_content, of_style = (
        dict(zip(quality.SCORES, judge(image), strict=True))
        for image in (content, images.resize(style, (80, 96)))
    )
    assert of_content["content"] == pytest.approx(0, abs=1e-6)
    assert of_content["half content"] == pytest.approx(0, abs=1e-6)
    assert of_style["content"] > 0.1
    assert of_style["style"] < 0.1 * of_content["style"]
    assert of_style["other"] < 0.1 * of_content["other"]
    total = Settings().content_weight * of_style["content"] + of_style["style"]
    assert of_style["total"] == pytest.approx(total, rel=1e-5)


@pytest.mark.extended
@pytest.mark.parametrize(("tool", "steps"), [("nst_jax", 10), ("crowsonkb", 4)])
def test_a_tool_improves_the_content(tool, steps, pair, judge, tmp_path):
    paths = [tmp_path / "content.png", tmp_path / "style.png"]
    for path, image in zip(paths, pair, strict=True):
        images.write(path, image)
    task = quality.Task(tool, tuple(paths), 48, weights.bundled_path(), "float32", "cpu")
    marks = quality.run_tool(task, 1000.0, 2)  # steps at the last of the default levels
    assert [done for _, done, _ in marks] == [steps] * quality.QUARTERS
    assert judge(marks[-1][2])[1] < 0.9 * judge(pair[0])[1]


def test_the_report_has_a_table_a_row_of_images_and_the_failures(monkeypatch, tmp_path):
    def call_in_child(function, task, seconds, *steps):
        if task.tool == "crowsonkb":
            raise ChildError("out of memory")
        if function is quality.calibrate:
            return 7
        return [(seconds * i / 4, 10 * i, np.ones((8, 8, 3))) for i in (1, 2, 3, 4)]

    words = ["--pairs", "coffee-tissue", "--seconds", "8", "--out", str(tmp_path / "report.md")]
    monkeypatch.setattr(sys, "argv", ["quality.py", *words, "--images", str(tmp_path)])
    monkeypatch.setattr(quality, "os", types.SimpleNamespace(environ={}))
    monkeypatch.setattr(quality, "call_in_child", call_in_child)
    monkeypatch.setattr(quality, "Judge", lambda *args: lambda image: range(1, 8))
    quality.main()
    text = (tmp_path / "report.md").read_text()
    assert "| nst_jax | 25% | 2.0 | 10 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |" in text
    assert "| neural-style-pt | 100% | 8.0 | 40 |" in text
    assert "- nst_jax: 7 steps at the last level" in text
    assert "- crowsonkb failed: out of memory" in text
    assert str(tmp_path) not in text
    assert images.read(tmp_path / "coffee-tissue.jpg").pixels.shape[1] > 4 * 300


def test_scale_consistency_compares_the_sizes(monkeypatch, tmp_path, pair):
    def stylize(content, style, *, size, steps, model):
        metadata = {"steps": [steps], "seconds": 1.0}
        return types.SimpleNamespace(image=images.resize(pair[0], (size, size)), metadata=metadata)

    monkeypatch.setattr(scale_consistency, "stylize", stylize)
    monkeypatch.setattr(scale_consistency, "Judge", lambda *args: lambda image: [image.size] * 7)
    words = ["--sizes", "16,32", "--steps", "1", "--image", str(tmp_path / "row.png")]
    done = CliRunner().invoke(scale_consistency.main, words, catch_exceptions=False)
    assert "| 32 | 1 | 1 | 3072.0000 | 4.00 | 3072.000 | 3072.0000 | 4.00 |" in done.output
    assert (tmp_path / "row.png").exists()
