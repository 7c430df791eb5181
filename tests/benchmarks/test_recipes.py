"""The losses and loops of the other recipes do what their projects describe."""

import copy
from functools import partial

import numpy as np
import pytest
from lazy import Lazy, torch

from nst_jax import weights

pytestmark = pytest.mark.extended
recipes = Lazy("recipes")

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


def tensor(image):
    return torch.tensor(np.asarray(image)).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def extractors():
    return {name: recipes.Extractor(name, weights.bundled_path()) for name in recipes.RECIPES}


def recipe_loss(name, extract, image, content, style):
    statistics, targets = extract(tensor(image)), extract.targets(tensor(content), tensor(style))
    if name == "neural-style-pt":
        return float(recipes.neural_style_pt_loss(statistics, targets, 255 * tensor(image)))
    return float(recipes.crowsonkb_loss(statistics, targets, tensor(image)))


def features(reference_features, params, image, padding, gain):
    found = reference_features(params, torch.tensor(np.float64(image)), padding=padding)
    return {name: found[name].numpy() * gain for name in ("relu4_2", *STYLE_LAYERS)}


def gram(x):
    flat = x.reshape(len(x), -1)
    return flat @ flat.T


def test_the_loss_of_neural_style_pt(vgg16, reference_features, extractors, face, cat, roofs):
    read = partial(features, reference_features, vgg16, padding="same", gain=255 * 0.226)
    x, p, a = map(read, (face, cat, roofs))
    expected = 5 * np.mean((x["relu4_2"] - p["relu4_2"]) ** 2)
    for name in STYLE_LAYERS:
        difference = gram(x[name]) / x[name].size - gram(a[name]) / a[name].size
        expected += 100 * np.mean(difference**2)
    pixels = 255 * np.float64(face)
    expected += 1e-3 * sum(np.abs(np.diff(pixels, axis=axis)).sum() for axis in (0, 1))
    loss = recipe_loss("neural-style-pt", extractors["neural-style-pt"], face, cat, roofs)
    assert loss == pytest.approx(expected, rel=1e-3)


def test_the_loss_of_crowsonkb(vgg16, reference_features, extractors, face, cat, roofs):
    read = partial(features, reference_features, vgg16, padding="replicate", gain=1)
    x, p, a = map(read, (face, cat, roofs))

    def scaled(difference):
        return np.sum(difference**2) / (np.sum(np.abs(difference)) + 1e-8)

    expected = 0.015 * scaled(x["relu4_2"] - p["relu4_2"])
    for name, weight in zip(STYLE_LAYERS, (256, 64, 16, 4, 1), strict=True):
        mean_grams = (gram(f[name]) / f[name][0].size for f in (x, a))
        expected += weight / 341 * scaled(np.subtract(*mean_grams))
    padded = np.pad(np.float64(face), ((1, 1), (1, 1), (0, 0)), mode="edge")
    center = padded[1:-1, 1:-1]
    right, below = padded[1:-1, 2:] - center, padded[2:, 1:-1] - center
    expected += 2 * 2 / 3 * np.mean(right**2 + below**2)
    falling, rising = padded[1:, 1:] - padded[:-1, :-1], padded[1:, :-1] - padded[:-1, 1:]
    expected += 2 / 6 * np.mean(falling**2 + rising**2)
    loss = recipe_loss("crowsonkb", extractors["crowsonkb"], face, cat, roofs)
    assert loss == pytest.approx(expected, rel=1e-3)


def test_the_gain_is_that_of_the_units_of_the_recipe(extractors, cat):
    """A network that was trained on pixels 1/gain times as large has biases larger by the gain."""
    extract = extractors["neural-style-pt"]
    assert extract.gain == pytest.approx(57.63, abs=0.01)
    assert extractors["crowsonkb"].gain == pytest.approx(1)
    trained = copy.deepcopy(extract)
    trained.network.std /= extract.gain
    for name, conv in trained.network.layers.items():
        if name.startswith("conv"):
            conv.bias.mul_(extract.gain)
    trained.gain = 1.0
    found, expected = extract(tensor(cat)), trained(tensor(cat))
    torch.testing.assert_close(found.content, expected.content, rtol=1e-3, atol=1e-2)
    for name, mean_gram in found.grams.items():
        torch.testing.assert_close(mean_gram, expected.grams[name], rtol=1e-3, atol=1e-1)


@pytest.mark.parametrize("name", ["neural-style-pt", "crowsonkb"])
def test_a_recipe_lowers_its_loss_and_stops_on_request(name, extractors, pair):
    seen = []

    def callback(steps, image):
        seen.append(image())
        return len(seen) == 8

    last = recipes.RECIPES[name](extractors[name], pair, 48, 100, callback)
    assert len(seen) == 8
    np.testing.assert_array_equal(last, seen[-1])
    assert last.shape == (40, 48, 3)
    assert 0 <= last.min() < last.max() <= 1
    first_loss, last_loss = (
        recipe_loss(name, extractors[name], image, *pair) for image in (seen[0], last)
    )
    assert last_loss < 0.9 * first_loss


def test_the_ema_has_no_bias():
    iterates = np.random.default_rng(0).random((5, 1, 3, 4, 4))
    ema = recipes.Ema(torch.tensor(iterates[0]))
    for iterate in iterates[1:]:
        ema.update(torch.tensor(iterate))
    expected = np.average(iterates, axis=0, weights=0.99 ** np.arange(5)[::-1])
    np.testing.assert_allclose(ema.image().numpy(), expected, rtol=1e-10)
