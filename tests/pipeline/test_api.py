"""Whole jobs: stylize, reconstruct_content, synthesize_texture, and their results."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lazy import torch
from PIL import Image

import nst_jax
from nst_jax import InputError, Settings, reconstruct_content, stylize, synthesize_texture
from nst_jax.images import read, read_metadata, resize
from nst_jax.losses.statistics import gram
from nst_jax.networks.weights import bundled_path

SHAPE = (36, 48)


def psnr(a, b):
    return -10 * np.log10(np.mean(np.square(np.asarray(a) - np.asarray(b))))


@pytest.fixture(scope="module")
def result(alone):
    return alone["adam"][0]


def test_a_result_is_an_image_with_history_and_metadata(result, content, small):
    image = result.image
    assert isinstance(image, np.ndarray)
    assert (image.dtype, image.shape, result.alpha) == (np.float32, (*SHAPE, 3), None)
    assert 0 <= image.min() < image.max() <= 1
    assert np.abs(image - resize(content / 255, SHAPE)).mean() > 0.01

    metadata = result.metadata
    assert json.loads(json.dumps(metadata)) == metadata
    names = {"steps": [3, 5], "weights": bundled_path().name}
    assert metadata == metadata | small | names
    assert (metadata["width"], metadata["height"], metadata["levels"]) == (48, 36, [34, 48])
    assert (metadata["num_steps"], metadata["steps_done"]) == (8, 8)
    assert (metadata["content"], metadata["styles"]) == ("<ndarray>", ["<ndarray>"])
    weights = small["weights"]
    assert (metadata["model"], metadata["weights_sha256"]) == (weights.model, weights.sha256)
    assert (metadata["jax"], metadata["device"]) == (jax.__version__, jax.devices()[0].device_kind)
    assert (metadata["converged"], metadata["stopped"], metadata["tile"]) == (False, False, None)
    assert metadata["ema_decay"] == 0.9  # the default, resolved
    assert metadata["seconds"] >= metadata["steps_seconds"] > 0


def test_the_history_has_a_column_for_each_loss_term(alone):
    for results in alone.values():
        history = results[0].history
        names = {"step", "total", "content", "style", "tv", "size"}
        assert set(history) == names | {"content/relu2_2", "style/relu1_1", "style/relu2_1"}
        assert history["step"].tolist() == list(range(1, 9))
        assert history["size"].tolist() == [34] * 3 + [48] * 5
        assert all(column.shape == (8,) for column in history.values())
        assert all(np.isfinite(column).all() for column in history.values())


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_loss_falls_at_each_level(alone, optimizer):
    total = alone[optimizer][0].history["total"]
    assert total[1:3].min() < total[0]  # L-BFGS may refuse a trial.
    assert total[4:].min() < total[3]


def test_the_history_is_the_loss_of_the_images(make, content, styles, one_level, vgg16):
    """Adam records the loss before each step; the test computes it from the public functions."""
    layers = {name: one_level[name] for name in ("content_layers", "style_layers")}
    images = [jnp.asarray(resize(x / 255, s)) for x, s in ((content, SHAPE), (styles[0], (48, 48)))]
    names = {kind: list(weights) for kind, weights in layers.items()}
    targets = nst_jax.make_targets(vgg16, images[0], images[1:], **names)
    after_two, after_three = (
        make(**one_level | {"steps": steps, "ema_decay": 0}) for steps in (2, 3)
    )
    image = jnp.asarray(after_two.image)
    loss_weights = nst_jax.LossWeights(0.05, 1.0, 0.0, **layers)
    total, terms = nst_jax.loss(image, vgg16, targets, loss_weights)
    for name, value in {"total": total, **terms}.items():
        assert after_three.history[name][2] == pytest.approx(float(value), rel=1e-3)
        np.testing.assert_array_equal(after_three.history[name][:2], after_two.history[name])


def test_paths_pil_images_and_arrays_are_the_same(result, content, styles, small, files):
    for sources in (
        (Image.fromarray(content), Image.fromarray(styles[0])),
        (np.float32(content) / np.float32(255), [np.float32(styles[0]) / np.float32(255)]),
        (files / "contents" / "cat.png", str(files / "styles" / "coffee.png")),
    ):
        same = stylize(*sources, **small)
        np.testing.assert_array_equal(same.image, result.image)
    names = (same.metadata["content"], same.metadata["styles"])
    assert names == ("cat.png", ["coffee.png"])  # without the folder


def test_overrides_replace_single_settings(result, content, styles, small):
    """Here the weight of the total variation, which smooths."""
    smooth = stylize(content, styles[0], Settings(**small), tv_weight=10.0)
    assert smooth.metadata == smooth.metadata | {"tv_weight": 10.0, "size": 48, "steps": [3, 5]}
    roughness = [np.abs(np.diff(made.image, axis=0)).mean() for made in (smooth, result)]
    assert roughness[0] < 0.95 * roughness[1]


def test_the_metadata_of_an_image_makes_it_again(result, make, tmp_path):
    result.save(tmp_path / "out.png")
    pixels = read(tmp_path / "out.png").pixels
    assert np.abs(pixels - result.image).max() <= 0.5 / 255 + 1e-6
    texts = read_metadata(tmp_path / "out.png")
    assert texts["Software"] == f"nst_jax {result.metadata['version']}"
    metadata = json.loads(texts["nst_jax"])
    assert metadata == result.metadata
    names = set(vars(Settings())) - {"masks", "weights"}
    again = make(**{name: metadata[name] for name in names})
    np.testing.assert_array_equal(again.image, result.image)


def test_alpha_is_returned_at_the_size_of_the_image(content, styles, one_level, tmp_path):
    alpha = np.zeros((48, 64), np.uint8)
    alpha[24:, 32:] = 255
    result = stylize(np.dstack([content, alpha]), styles[0], **one_level | {"steps": 1})
    assert (result.alpha.shape, result.alpha.dtype) == (SHAPE, np.float32)
    assert (result.alpha[:, :20] == 0).all()
    assert (result.alpha[22:, 28:] == 1).all()
    result.save(tmp_path / "out.png")
    assert (read(tmp_path / "out.png").alpha[22:, 28:] == 1).all()


def test_the_callback_follows_each_step_and_its_true_stops(make):
    seen = []

    def on_progress(progress):
        seen.append((progress, progress.image))
        return progress.step >= 6

    result = make(on_progress=on_progress, callback_every=3)
    assert {3, 6} <= {progress.step for progress, _ in seen}
    assert (result.metadata["steps_done"], result.metadata["stopped"]) == (6, True)
    steps = np.concatenate([progress.metrics["step"] for progress, _ in seen])
    assert steps.tolist() == result.history["step"].tolist() == list(range(1, 7))
    np.testing.assert_array_equal(seen[-1][1], result.image)


def test_a_reconstruction_is_a_job_without_style(content, styles, one_level):
    """The settings of styles have no effect, neither does min_size."""
    settings = one_level | {"content_weight": 1.0}
    ignored = {"min_size": 34, "style_weights": (1.0, 2.0), "style_scales": (2.0,)}
    reconstruction = reconstruct_content(content, **settings | ignored)
    assert reconstruction.metadata["levels"] == [48]
    assert (reconstruction.metadata["init"], reconstruction.metadata["styles"]) == ("noise", [])
    for given in ([], styles):
        same = stylize(content, given, **settings | {"style_weight": 0, "init": "noise"})
        np.testing.assert_array_equal(same.image, reconstruction.image)


@pytest.mark.extended
def test_a_reconstruction_from_a_shallow_layer_is_the_content(content, small):
    changes = {"content_layers": {"relu1_1": 1}, "steps": 60, "optimizer": "lbfgs"}
    image = reconstruct_content(content, **small | changes).image
    assert psnr(image, resize(content / 255, SHAPE)) > 30


@pytest.mark.extended
def test_a_texture_has_the_gram_matrices_of_its_styles(styles, one_level, vgg16):
    """With weights 3 and 1 they are those of the mixture."""
    pair = [styles[0], 255 - styles[0]]
    settings = one_level | {"steps": 40, "style_weights": (3.0, 1.0), "optimizer": "lbfgs"}
    texture = synthesize_texture(pair, **settings)
    assert texture.image.shape == (48, 48, 3)
    assert (texture.metadata["content"], texture.metadata["init"]) == (None, "noise")
    assert texture.metadata["style_weights"] == [0.75, 0.25]
    images = [jnp.asarray(x) for x in (*(resize(s / 255, (48, 48)) for s in pair), texture.image)]
    features = [nst_jax.VGG().features(vgg16, x, ["relu1_1"])["relu1_1"] for x in images]
    first, second, found = map(gram, features)
    mixture = 0.75 * first + 0.25 * second
    assert jnp.linalg.norm(found - mixture) < 0.1 * jnp.linalg.norm(first - second)
    assert psnr(texture.image, images[0]) < 20  # positions are free


def paper_loss(params, features, image, content, style):
    """The paper's equations 1 to 7 in PyTorch."""
    F, P, S = (features(params, x, "average", "same") for x in (image, content, style))
    content_loss = 0.5 * (F["relu4_2"] - P["relu4_2"]).square().sum()
    style_loss = 0.0
    for layer in nst_jax.PAPER.style_layers:
        N, M, positions = len(F[layer]), F[layer][0].numel(), S[layer][0].numel()
        G, A = (x[layer].flatten(1) @ x[layer].flatten(1).T for x in (F, S))
        error = (G - A * (M / positions)).square().sum()
        style_loss = style_loss + 0.2 * error / (4 * N**2 * M**2)
    alpha, beta = nst_jax.PAPER.content_weight, nst_jax.PAPER.style_weight
    return alpha * content_loss + beta * style_loss


def test_the_paper_preset_is_the_papers_loss(content, styles, vgg16, reference_features):
    """A step of gradient descent shows the gradient."""
    arrays = [content / 255, styles[0] / 255]
    image, *targets = (torch.tensor(x, dtype=torch.float64) for x in (0 * arrays[0] + 0.5, *arrays))
    image.requires_grad_()
    total = paper_loss(vgg16, reference_features, image, *targets)
    total.backward()
    rate = 0.4 / float(image.grad.abs().max())
    changes = {"size": None, "steps": 1, "init": "gray", "weights": vgg16}
    result = stylize(content, styles[0], nst_jax.PAPER, optimizer=optax.sgd(rate), **changes)
    assert result.history["total"][0] == pytest.approx(total.item(), rel=1e-6)
    error = (0.5 - result.image) / rate - image.grad.numpy()
    assert np.linalg.norm(error) < 1e-6 * np.linalg.norm(image.grad)


def test_the_start_is_the_result_without_steps(make, content, styles, one_level):
    def start(**changes):
        return make(**one_level | {"steps": 0} | changes)

    np.testing.assert_allclose(start().image, resize(content / 255, SHAPE), atol=1e-6)
    assert (start(init="gray").image == 0.5).all()
    image = start(init=Image.fromarray(styles[1]))
    np.testing.assert_allclose(image.image, resize(styles[1] / 255, SHAPE), atol=1e-6)
    assert image.metadata["init"] == "<Image>"
    assert (image.history, image.metadata["steps_done"]) == ({}, 0)
    noise, same, other = (start(init="noise", seed=seed).image for seed in (1, 1, 2))
    assert noise.std() == pytest.approx(1 / np.sqrt(12), rel=0.05)
    np.testing.assert_array_equal(noise, same)
    assert np.abs(noise - other).mean() > 0.1


def test_adams_first_step_is_the_learning_rate_in_every_pixel(make, one_level):
    for choice, rate in (({}, 0.01), ({"learning_rate": 0.1}, 0.1)):
        moved = np.abs(make(**one_level | {"steps": 1, "init": "gray"} | choice).image - 0.5)
        assert np.median(moved) == pytest.approx(rate, rel=0.01)


def diverging_after(steps):
    """Make a transformation whose updates are NaN after so many steps."""

    def update(updates, state, params=None):
        scale = jnp.where(state < steps, -0.5, jnp.nan)
        return jax.tree.map(lambda g: scale * g, updates), state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def test_divergence_gives_the_last_finite_image(make, one_level, tmp_path):
    """It also shows that any Optax transformation can be the optimizer."""
    settings = one_level | {"ema_decay": 0}
    expected = make(**settings | {"steps": 1, "optimizer": optax.sgd(0.5)})
    assert expected.metadata["optimizer"] == "custom"
    with pytest.raises(nst_jax.DivergedError, match="stopped being finite between steps 1") as got:
        make(**settings | {"optimizer": diverging_after(1)})
    error = got.value
    (result,) = error.results
    np.testing.assert_allclose(result.image, expected.image, atol=1e-6)
    np.testing.assert_array_equal(error.image, result.image)
    assert error.step == result.metadata["steps_done"] == 1
    assert error.history["step"].tolist() == result.history["step"].tolist() == [1]
    assert result.metadata["stopped"]
    result.save(tmp_path / "last.png")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 3}, "no setting 'step'"),
        ({"style_layers": {"relu9_1": 1}}, "relu9_1"),
        ({"content_layers": {"pool1": 1}}, "pool1"),
        ({"style_weights": (1.0, 2.0)}, "2 style weights for 1 style image"),
        ({"style_scales": (1.0, 2.0)}, "2 style scales for 1 styles; give one each"),
        ({"model": "vgg19"}, "model is 'vgg19' and the weights are of vgg16"),
        ({"model": "vgg19", "weights": bundled_path()}, "contains VGG16, not VGG19"),
        ({"weights": "missing.h5"}, "missing.h5"),
        ({"init": "missing.png"}, "init 'missing.png'"),
        ({"init": np.full((4, 4, 3), np.nan)}, "init (an array)"),
        ({"size": 16, "content_layers": {"relu5_1": 1}}, "too small"),
        ({"callback_every": 0}, "callback_every is 0; give a whole number from 1 up"),
        ({"resume": True}, "resume needs a checkpoint; give its path"),
    ],
    ids=str,
)
def test_what_cannot_run_is_refused_in_one_line(make, one_level, changes, message):
    with pytest.raises(InputError) as caught:
        make(**one_level | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_name_the_image(content, styles, one_level, tmp_path):
    for sources, start in (
        (("none.png", styles[0]), "content 'none.png'"),
        ((content, tmp_path), "style '"),
        ((content, [styles[0], np.zeros((4, 4), np.int64)]), "style (an array)"),
        ((content, []), "there is no style image; give at least one"),
    ):
        with pytest.raises(InputError) as caught:
            stylize(*sources, **one_level)
        assert str(caught.value).startswith(start)


def test_what_a_texture_cannot_be(styles, one_level):
    for changes, message in (
        ({"size": None}, "a texture has no size of its own; give a size in pixels"),
        ({"style_weight": 0}, "both 0"),
        ({"masks": "mask.png"}, "masks divide a content and a texture has none"),
        ({"color_mode": "match"}, "a texture has no content; choose style"),
    ):
        with pytest.raises(InputError, match=message):
            synthesize_texture(styles[0], **one_level | changes)
