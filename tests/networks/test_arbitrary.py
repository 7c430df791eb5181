"""The arbitrary stylization network, against ONNX Runtime's output of the published files."""

from pathlib import Path

import jax
import numpy as np
import pytest

from nst_jax.errors import InputError
from nst_jax.networks import apply_style, predict_style
from nst_jax.networks.weights import arbitrary, load_arbitrary

REFERENCE = Path(__file__).with_name("arbitrary_reference.npz")


@pytest.fixture(scope="module")
def params():
    return load_arbitrary()


@pytest.fixture(scope="module")
def noise():
    """The images of weights/convert_arbitrary.py, which wrote the reference."""
    rng = np.random.default_rng(0)
    return rng.random((96, 64, 3), np.float32), rng.random((44, 61, 3), np.float32)


@pytest.fixture(scope="module")
def vectors(params):
    styles = np.random.default_rng(1).random((2, 48, 40, 3), np.float32)
    return jax.jit(jax.vmap(predict_style, (None, 0)))(params, styles), styles


def test_the_outputs_are_those_of_onnx_runtime(params, noise):
    style, content = noise
    with np.load(REFERENCE) as reference:
        vector = jax.jit(predict_style)(params, style)
        np.testing.assert_allclose(vector, reference["vector"], atol=1e-4)
        image = jax.jit(apply_style)(params, content, reference["vector"])
        # Its image is as large as the next multiples of 4.
        np.testing.assert_allclose(image[::3, ::3], reference["image"][:15, :21], atol=1e-4)


def test_vmap_over_styles_is_one_style_after_another(params, vectors, noise):
    vectors, styles = vectors
    _, content = noise
    images = jax.jit(jax.vmap(apply_style, (None, None, 0)))(params, content, vectors)
    predict, apply = jax.jit(predict_style), jax.jit(apply_style)
    for style, vector, image in zip(styles, vectors, images, strict=True):
        np.testing.assert_allclose(predict(params, style), vector, atol=1e-5)
        np.testing.assert_allclose(apply(params, content, vector), image, atol=1e-5)


def test_a_blend_of_vectors_lies_between_the_styles(params, vectors, noise):
    (first, second), _ = vectors
    apply = jax.jit(apply_style)
    ends = [apply(params, noise[1], vector) for vector in (first, second)]
    middle = apply(params, noise[1], (first + second) / 2)
    apart = np.abs(ends[0] - ends[1]).mean()
    assert all(0 < np.abs(middle - end).mean() < apart for end in ends)


@pytest.mark.parametrize("shape", [(16, 16), (17, 35), (42, 19)])
def test_any_size_from_16_pixels_gives_an_image_of_that_size(params, shape):
    content = np.linspace(0, 1, 3 * shape[0] * shape[1], dtype=np.float32).reshape(*shape, 3)
    image = jax.jit(apply_style)(params, content, np.zeros(100, np.float32))
    assert image.shape == (*shape, 3)
    assert 0 <= image.min() < image.max() <= 1


def test_gradients_reach_the_photo_the_painting_and_the_parameters(params, noise):
    def brightness(params, content, style):
        return apply_style(params, content, predict_style(params, style)).mean()

    style, content = noise
    gradients = jax.jit(jax.grad(brightness, (0, 1, 2)))(params, content[:24, :20], style[:32])
    for gradient in jax.tree.leaves(gradients):
        assert np.isfinite(gradient).all()
        assert gradient.any()


def test_a_content_that_is_too_small_or_a_batch_is_refused(params, unchecked):
    vector = np.zeros(100, np.float32)
    with pytest.raises(InputError, match=r"shape \(15, 40, 3\); give sides of at least 16 pixels"):
        apply_style(params, np.zeros((15, 40, 3), np.float32), vector)
    for function in (lambda x: apply_style(params, x, vector), lambda x: predict_style(params, x)):
        with pytest.raises(InputError, match=r"give one \(h, w, 3\), and jax.vmap a batch"):
            function(np.zeros((2, 32, 32, 3), np.float32))


def test_a_file_that_is_missing_or_was_changed_is_refused(tmp_path, monkeypatch):
    (tmp_path / "arbitrary.safetensors").write_bytes(bytes(100))
    monkeypatch.setattr(arbitrary, "find_bundled", lambda name: tmp_path / name)
    with pytest.raises(InputError, match=r"SHA-256 expected .*; reinstall nst-jax or check"):
        load_arbitrary()
    monkeypatch.setattr(arbitrary, "find_bundled", lambda name: None)
    with pytest.raises(InputError, match=r"arbitrary.safetensors is missing; reinstall nst-jax"):
        load_arbitrary()
