"""The other recipes' losses are what they are said to be, and their loops do what they should."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import recipes  # noqa: E402

from nst_jax.images import io as images
from nst_jax.models.weights import load as weights  # noqa: E402

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
