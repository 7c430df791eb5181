"""The comparison of pictures: the recipes' losses and loops, the clock, the report, the run."""

import json
import subprocess
import sys
from dataclasses import replace
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
import recipes  # noqa: E402

from nst_jax import images, weights  # noqa: E402

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


# --- the losses ----------------------------------------------------------------------------------


def tensor(picture):
    return torch.tensor(np.asarray(picture)).permute(2, 0, 1)[None]


def ours(recipe, picture, content, style):
    """The recipe's loss as the benchmark computes it, in float32."""
    extract = recipes.extractor(recipe, weights.bundled_path())
    found = extract(tensor(picture))
    goal = recipes.Measures(extract(tensor(content)).content, extract(tensor(style)).grams)
    if recipe == "neural-style-pt":
        return float(recipes.neural_style_pt_loss(found, goal, 255 * tensor(picture)))
    return float(recipes.crowsonkb_loss(found, goal, tensor(picture)))


def features(reference_features, params, picture, padding, gain):
    taps = reference_features(params, torch.tensor(np.float64(picture)), padding=padding)
    return {tap: taps[tap].numpy() * gain for tap in ("relu4_2", *STYLE_LAYERS)}


def gram(x):
    flat = x.reshape(len(x), -1)
    return flat @ flat.T


def test_the_loss_of_neural_style_pt(vgg16, reference_features, face, cat, roofs):
    gain = 255 * np.mean([0.229, 0.224, 0.225])
    x, p, a = (
        features(reference_features, vgg16, picture, "same", gain) for picture in (face, cat, roofs)
    )
    wanted = 5 * np.mean((x["relu4_2"] - p["relu4_2"]) ** 2)
    for tap in STYLE_LAYERS:
        wanted += 100 * np.mean((gram(x[tap]) / x[tap].size - gram(a[tap]) / a[tap].size) ** 2)
    pixels = 255 * np.float64(face)
    wanted += 1e-3 * (np.abs(np.diff(pixels, axis=0)).sum() + np.abs(np.diff(pixels, axis=1)).sum())
    assert ours("neural-style-pt", face, cat, roofs) == pytest.approx(wanted, rel=1e-3)


def test_the_loss_of_crowsonkb(vgg16, reference_features, face, cat, roofs):
    x, p, a = (
        features(reference_features, vgg16, picture, "replicate", 1)
        for picture in (face, cat, roofs)
    )

    def scaled(difference):
        return np.sum(difference**2) / (np.sum(np.abs(difference)) + 1e-8)

    wanted = 0.015 * scaled(x["relu4_2"] - p["relu4_2"])
    for tap, weight in zip(STYLE_LAYERS, (256, 64, 16, 4, 1), strict=True):
        mean_grams = (gram(f[tap]) / f[tap][0].size for f in (x, a))
        wanted += weight / 341 * scaled(np.subtract(*mean_grams))
    edged = np.pad(np.float64(face), ((1, 1), (1, 1), (0, 0)), mode="edge")
    here = edged[1:-1, 1:-1]
    wanted += 2 * 2 / 3 * np.mean((edged[1:-1, 2:] - here) ** 2 + (edged[2:, 1:-1] - here) ** 2)
    falling, rising = edged[1:, 1:] - edged[:-1, :-1], edged[1:, :-1] - edged[:-1, 1:]
    wanted += 2 / 6 * np.mean(falling**2 + rising**2)
    assert ours("crowsonkb", face, cat, roofs) == pytest.approx(wanted, rel=1e-3)


def test_the_gain_makes_up_for_the_other_training(tmp_path):
    """With weights trained as a recipe's own were there is none."""
    bundled = weights.load(weights.bundled_path())
    path = tmp_path / "caffe.safetensors"
    statistics = {
        "mean": np.float32([123.68, 116.779, 103.939]) / 255,
        "std": np.full(3, 1 / 255, np.float32),
    }
    caffe = replace(bundled, params=bundled.params | {"input": statistics})
    weights.save(path, caffe, dtype="float16")
    assert recipes.extractor("neural-style-pt", path).gain == pytest.approx(1)
    assert recipes.extractor("crowsonkb", weights.bundled_path()).gain == pytest.approx(1)
    gain = recipes.extractor("neural-style-pt", weights.bundled_path()).gain
    assert gain == pytest.approx(57.63, abs=0.01)
    assert recipes.extractor("crowsonkb", path).gain == pytest.approx(1 / gain, rel=1e-3)


def test_a_network_trained_on_larger_pixels_has_features_larger_by_the_gain(vgg16, cat):
    """Pixels 255 σ times as large, biases with them: so are the features."""
    extract = recipes.extractor("neural-style-pt", weights.bundled_path())
    larger = {
        name: {"kernel": layer["kernel"], "bias": layer["bias"] * extract.gain}
        for name, layer in vgg16.items()
        if name != "input"
    }
    larger["input"] = {"mean": vgg16["input"]["mean"], "std": vgg16["input"]["std"] / extract.gain}
    arrays = {name: {k: np.asarray(v) for k, v in layer.items()} for name, layer in larger.items()}
    taps = (recipes.CONTENT_LAYER, *recipes.STYLE_LAYERS)
    network = recipes.Network(arrays, "vgg16", taps, torch.float32, "constant")
    found, wanted = extract(tensor(cat)), recipes.Extractor(network, 1.0)(tensor(cat))
    torch.testing.assert_close(found.content, wanted.content, rtol=1e-3, atol=1e-2)
    for tap, gram in found.grams.items():
        torch.testing.assert_close(gram, wanted.grams[tap], rtol=1e-3, atol=1e-1)


# --- the loops -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pixels():
    return [
        images.resize(images.read(BENCHMARKS.parent / "examples" / name).pixels, (40, 48))
        for name in ("cat.jpg", "ink.jpg")
    ]


@pytest.mark.parametrize("recipe", list(recipes.RECIPES))
def test_a_recipe_lowers_its_loss_and_stops_when_told(recipe, pixels):
    content, style = pixels
    extract = recipes.extractor(recipe, weights.bundled_path())
    seen = []

    def watch(steps, picture):
        seen.append(picture())
        return len(seen) == 12

    last = recipes.RECIPES[recipe](extract, content, style, 48, 100, watch)
    assert len(seen) == 12
    np.testing.assert_array_equal(last, seen[-1])
    assert last.shape == (40, 48, 3)
    assert last.min() >= 0
    assert last.max() <= 1
    assert ours(recipe, last, content, style) < 0.9 * ours(recipe, seen[0], content, style)


def test_crowsonkb_goes_up_the_scales(monkeypatch, pixels):
    assert recipes.scales(512) == [128, 181, 256, 362, 512]
    assert recipes.scales(200) == [141, 200]
    assert recipes.scales(64) == [64]
    optimizers, shapes = [], []

    class Adam(torch.optim.Adam):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            optimizers.append(self)

    def watch(steps, picture):
        shapes.append(picture().shape[:2])
        return False

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    monkeypatch.setattr(recipes, "FIRST_SCALE", 34)
    content, style = pixels
    extract = recipes.extractor("crowsonkb", weights.bundled_path())
    last = recipes.crowsonkb(extract, content, style, 48, 3, watch)
    assert shapes == [(28, 34)] * 6 + [(40, 48)] * 3
    assert last.shape == (40, 48, 3)
    (state,) = optimizers[-1].state.values()
    assert state["step"] == 9  # the moments came along
    assert state["exp_avg"].shape == (1, 3, 40, 48)


def test_the_average_of_iterates_has_no_bias():
    rng = np.random.default_rng(0)
    iterates = rng.random((5, 1, 3, 4, 4))
    average = recipes.Average(torch.tensor(iterates[0]))
    for iterate in iterates[1:]:
        average.update(torch.tensor(iterate))
    shares = 0.99 ** np.arange(5)[::-1]
    wanted = np.tensordot(shares / shares.sum(), iterates, 1)
    np.testing.assert_allclose(average.picture().numpy(), wanted, rtol=1e-10)


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


# --- the judge and the report --------------------------------------------------------------------


def test_the_judge(pixels):
    content, style = pixels
    judge = quality_judge.Judge(weights.bundled_path(), content, style, 48)
    photo, painting = judge(content), judge(images.resize(style, (80, 96)))
    assert photo.content == pytest.approx(0, abs=1e-6)
    assert photo.half_content == pytest.approx(0, abs=1e-6)
    assert painting.content > 0.1
    assert painting.style < 0.1 * photo.style
    assert painting.other < 0.1 * photo.other
    assert painting.total == pytest.approx(0.01 * painting.content + painting.style, rel=1e-5)


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
    quality_report.write([section("a", total=0.111), section("b", total=0.222)], path, sheets)
    quality_report.write([section("a", ("nst_jax", "crowsonkb"), 0.333)], path, sheets)
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
    quality_report.write([broken], tmp_path / "QUALITY.md", tmp_path)
    text = (tmp_path / "QUALITY.md").read_text()
    assert "- crowsonkb: no picture: out of memory" in text
    assert "| crowsonkb" not in text


# --- the run -------------------------------------------------------------------------------------


def run(tmp_path, *tools):
    command = [sys.executable, str(BENCHMARKS / "quality.py"), "--pairs", "coffee-tissue"]
    command += ["--size", "64", "--seconds", "2", "--precision", "float32", "--tools", *tools]
    command += ["--work", str(tmp_path / "work"), "--sheets", str(tmp_path / "sheets")]
    command += ["--output", str(tmp_path / "QUALITY.md")]
    environment = quality.os.environ | {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return (tmp_path / "QUALITY.md").read_text()


def test_the_comparison_runs_and_a_tool_joins_later(tmp_path):
    text = run(tmp_path, "nst_jax", "crowsonkb")
    assert "| neural-style-pt" not in text
    kept = [line for line in text.splitlines() if line.startswith(("| nst_jax", "| crowsonkb"))]
    assert len(kept) == 8
    text = run(tmp_path, "neural-style-pt")
    assert str(tmp_path) not in text
    assert all(line in text for line in kept)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[0].strip("| ") for row in rows[1::4]][:3] == list(quality.TOOLS)
    unpainted = float(rows[-1][5])
    for tool in range(3):
        quarters = rows[1 + 4 * tool : 5 + 4 * tool]
        assert [row[1] for row in quarters] == ["25%", "50%", "75%", "100%"]
        assert 0 < float(quarters[-1][3]) >= float(quarters[0][3])
        assert float(quarters[-1][5]) < unpainted or tool == 1
    assert Image.open(tmp_path / "sheets" / "coffee-tissue.jpg").width > 3 * 400
    (folder,) = (tmp_path / "work").iterdir()
    told = json.loads((folder / "coffee-tissue" / "nst_jax" / "run.json").read_text())
    assert told["versions"]["jax"]
