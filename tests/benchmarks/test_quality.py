"""The comparison of pictures: the clock, the judge, the report, the run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import quality  # noqa: E402
import quality_judge  # noqa: E402
import quality_painter  # noqa: E402
import quality_report  # noqa: E402

from nst_jax import Settings
from nst_jax.images import io as images
from nst_jax.models.weights import load as weights  # noqa: E402

# --- the clock -----------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(quality_painter, "time", clock)
    return clock


def test_the_recorder_keeps_the_first_picture_after_each_quarter(clock):
    recorder = quality_painter.Recorder(8.0)
    for now, over in ((1.0, False), (3.0, False), (3.5, False), (7.0, False), (8.0, True)):
        clock.now = now
        assert recorder(10, lambda now=now: np.full((1, 1, 3), now)) is over
    clock.now = 8.5
    marks = recorder.finish(np.full((1, 1, 3), 9.0))
    # at 7 s two quarters were over
    assert [mark.seconds for mark in marks] == [3.0, 7.0, 7.0, 8.5]
    assert [mark.steps for mark in marks] == [20, 40, 40, 50]
    assert [mark.picture[0, 0, 0] for mark in marks] == [3.0, 7.0, 7.0, 9.0]


def test_a_tool_that_ends_early_has_all_its_marks(clock):
    recorder = quality_painter.Recorder(8.0)
    clock.now = 1.0
    assert [mark.seconds for mark in recorder.finish(np.zeros((1, 1, 3)))] == [1.0] * 4


@pytest.mark.parametrize("compilation", [0.0, 20.0])
def test_calibration_finds_the_steps_that_fit(clock, compilation):
    runs = []

    def paint(steps, watch):
        clock.now += 1.0 + 0.5 * steps + (0 if runs else compilation)
        runs.append(steps)

    steps = quality_painter.calibrate(paint, 100.0)
    assert 1.0 + compilation + 0.5 * steps == pytest.approx(100, abs=0.6)
    assert sum(runs[1:]) * 0.5 < 20  # it does not take long


def test_calibration_gives_a_step_where_there_is_no_time(clock):
    def paint(steps, watch):
        clock.now += 10.0 + steps

    assert quality_painter.calibrate(paint, 5.0) == 1


@pytest.mark.parametrize(("second", "wanted"), [(0.5, [10, 20]), (1.0, [10]), (2.0, [10, 7])])
def test_a_run_that_misses_the_time_is_repeated(monkeypatch, tmp_path, second, wanted):
    """Calibrated to 10 steps for 10 s, where a step takes ``second`` in truth; a third of a run
    is at the whole size."""
    asked = []

    def ask(request):
        if "folder" not in request:
            return {"steps": 10}
        asked.append(request["steps"])
        needed = second * asked[-1]
        mark = {"seconds": min(10.0, needed), "steps": asked[-1]}
        return {"marks": [mark], "whole": needed * 2 / 3 < 10}

    monkeypatch.setattr(quality, "ask", ask)
    run = quality.paint({"name": "crowsonkb"}, 10.0, tmp_path)
    assert asked == wanted
    assert f" {wanted[-1]} at each other" in run["schedule"]


# --- the judge and the report --------------------------------------------------------------------


def test_the_judge():
    examples = BENCHMARKS.parent / "examples"
    content, style = (
        images.resize(images.read(examples / name).pixels, (40, 48))
        for name in ("cat.jpg", "ink.jpg")
    )
    judge = quality_judge.Judge(weights.bundled_path(), content, style, 48)
    photo, painting = judge(content), judge(images.resize(style, (80, 96)))
    assert photo.content == pytest.approx(0, abs=1e-6)
    assert photo.half_content == pytest.approx(0, abs=1e-6)
    assert painting.content > 0.1
    assert painting.style < 0.1 * photo.style
    assert painting.other < 0.1 * photo.other
    weighed = Settings().content_weight * painting.content + painting.style
    assert painting.total == pytest.approx(weighed, rel=1e-5)


def section(pair, tools=("nst_jax",), total=0.5):
    photo, style = np.zeros((20, 30, 3), np.float32), np.ones((30, 20, 3), np.float32)
    verdict = dict(zip(quality_judge.Verdict._fields, [total] * 7, strict=True))
    marks = [{"seconds": 1.0 * i, "steps": 10 * i, "verdict": verdict} for i in (1, 2, 3, 4)]
    run = {"marks": marks, "schedule": "7 steps", "picture": photo + 0.5}
    return quality_report.Section(
        pair, photo, style, {"date": "2001-01-01"}, verdict, {tool: dict(run) for tool in tools}
    )


def test_writing_replaces_a_pairs_own_section(tmp_path):
    path, sheets = tmp_path / "b" / "QUALITY.md", tmp_path / "d"
    path.parent.mkdir()
    quality_report.write(section("a", total=0.111), path, sheets)
    quality_report.write(section("b", total=0.222), path, sheets)
    quality_report.write(section("a", ("nst_jax", "crowsonkb"), 0.333), path, sheets)
    text = path.read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Pictures at equal time",
        "## a",
        "## b",
    ]
    assert "0.111" not in text
    assert "0.222" in text
    assert "| crowsonkb | 75% | 3.0 | 30 | 0.333 | 0.333 |" in text
    assert "![a](../d/a.jpg)" in text
    assert Image.open(sheets / "a.jpg").width > Image.open(sheets / "b.jpg").width + 400


def test_a_tool_that_failed_has_a_line(tmp_path):
    broken = section("a", ("nst_jax", "crowsonkb"))
    broken.runs["crowsonkb"] = {"error": "out of memory"}
    quality_report.write(broken, tmp_path / "QUALITY.md", tmp_path)
    text = (tmp_path / "QUALITY.md").read_text()
    assert "- crowsonkb: no picture: out of memory" in text
    assert "| crowsonkb" not in text


def test_a_process_that_is_killed_has_a_reason(monkeypatch):
    ended = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: ended)
    request = {"job": {"name": "neural-style-pt", "device": "cpu"}, "seconds": 1}
    assert quality.ask(request) == {"error": "its process was ended by SIGKILL"}


# --- the run -------------------------------------------------------------------------------------


def test_a_tool_joins_what_was_painted_under_the_same_conditions(monkeypatch, tmp_path):
    def paint(job, seconds, folder):
        folder.mkdir(parents=True)
        for quarter in (1, 2, 3, 4):
            images.write(folder / f"{quarter}.png", np.full((4, 4, 3), quarter / 4))
        marks = [{"seconds": seconds, "steps": 7}] * 4
        return {"marks": [dict(m) for m in marks], "schedule": "", "versions": {job["name"]: "1.2"}}

    def judge(*args):
        return lambda picture: quality_judge.Verdict(*[float(picture.mean())] * 7)

    monkeypatch.setattr(quality, "paint", paint)
    monkeypatch.setattr(quality, "Judge", judge)
    tail = ["--work", str(tmp_path / "work"), "--sheets", str(tmp_path)]
    tail += ["--output", str(tmp_path / "Q.md"), "--pairs", "cat-mosaic"]
    for tools, seconds in (("nst_jax", "5"), ("crowsonkb", "5"), ("neural-style-pt", "6")):
        monkeypatch.setattr(
            sys, "argv", ["quality.py", "--tools", tools, "--seconds", seconds, *tail]
        )
        quality.main()
        lines = (tmp_path / "Q.md").read_text().splitlines()
        painted = {
            line.split(" | ")[0] for line in lines if line.startswith("| ") and "25%" in line
        }
        if seconds == "5":
            assert "| nst_jax" in painted
            assert ("| crowsonkb" in painted) is (tools == "crowsonkb")
        else:
            assert painted == {"| neural-style-pt"}
    assert any("neural-style-pt 1.2" in line for line in lines)
    assert any("50% | 6.0 | 7 | 0.5" in line for line in lines)
    assert str(tmp_path) not in "".join(lines)


def test_the_comparison_runs(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "quality.py"), "--pairs", "coffee-tissue"]
    command += ["--size", "64", "--seconds", "2", "--precision", "float32"]
    command += ["--work", str(tmp_path / "work"), "--sheets", str(tmp_path / "sheets")]
    command += ["--output", str(tmp_path / "QUALITY.md")]
    environment = quality.os.environ | {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "QUALITY.md").read_text()
    assert "no picture" not in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row[0].strip("| ") for row in rows[::4]] == [*quality.TOOLS, "the photo"]
    unpainted = float(rows[-1][5])
    for tool, row in zip(quality.TOOLS, rows[3::4], strict=False):
        assert row[1] == "100%"
        assert int(row[3]) >= 1, tool
        assert float(row[5]) < unpainted, tool
    assert Image.open(tmp_path / "sheets" / "coffee-tissue.jpg").width > 3 * 400
    (folder,) = (tmp_path / "work").iterdir()
    told = json.loads((folder / "coffee-tissue" / "nst_jax" / "run.json").read_text())
    assert told["versions"]["jax"]
