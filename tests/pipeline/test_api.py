import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from nst_jax import (
    PAPER,
    VGG,
    DivergedError,
    InputError,
    LossWeights,
    Settings,
    loss,
    make_targets,
    reconstruct,
    stylize,
    texture,
)
from nst_jax.images import io as images
from nst_jax.losses import terms as losses
from nst_jax.models.weights import load as weights
from nst_jax.pipeline import memory, plan

# Shallow layers need a small part of the network, quick to compile.
SHALLOW = {
    "size": 64,
    "steps": 8,
    "model": "vgg16",
    "dtype": "float32",
    "style_layers": {"relu1_1": 0.5, "relu2_1": 0.5},
    "content_layers": {"relu2_2": 1.0},
}


def totals(result):
    return [entry["total"] for entry in result.history]


def psnr(a, b):
    return -10 * np.log10(np.mean(np.square(np.asarray(a) - np.asarray(b))))


def gram(params, image, tap):
    features = VGG(params)(jnp.asarray(image), [tap])[tap]
    return losses.gram(features) / (features.shape[0] * features.shape[1])


@pytest.fixture(scope="module")
def pair(photos):
    """A content of 60 by 90 and a style of 100 by 70 pixels, uint8."""
    return photos["chelsea"][60:180:2, 100:280:2], photos["coffee"][0:300:3, 100:310:3]


@pytest.fixture(scope="module")
def painted(pair):
    """The picture that the tests compare others with."""
    return stylize(*pair, **SHALLOW)


def test_result_is_a_picture_with_its_history_and_settings(painted, pair):
    image = painted.image
    assert isinstance(image, np.ndarray)
    assert (image.dtype, image.shape) == (np.float32, (43, 64, 3))
    assert 0 <= image.min() < image.max() <= 1
    assert painted.alpha is None
    assert np.abs(image - images.resize(pair[0] / 255, (43, 64))).mean() > 0.01

    assert [entry["step"] for entry in painted.history] == list(range(1, 9))
    parts = {"content", "style", "tv", "content/relu2_2", "style/relu1_1", "style/relu2_1"}
    assert parts < set(painted.history[-1])

    made = painted.settings
    assert json.loads(json.dumps(made)) == made
    assert {name: made[name] for name in SHALLOW} == SHALLOW | {"steps": [8]}
    assert (made["width"], made["height"], made["steps_done"]) == (64, 43, 8)
    assert (made["content"], made["styles"]) == ("<ndarray>", ["<ndarray>"])
    assert made["weights_sha256"] == weights.load(weights.bundled_path()).sha256
    assert (made["dtype"], made["device"]) == ("float32", jax.devices()[0].device_kind)
    assert (made["jax"], made["converged"]) == (jax.__version__, False)
    assert made["seconds"] >= made["steps_seconds"] > 0


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_the_loss_falls(painted, pair, optimizer):
    result = painted if optimizer == "lbfgs" else stylize(*pair, **SHALLOW, optimizer="adam")
    assert totals(result)[-1] < 0.5 * totals(result)[0]
    if optimizer == "lbfgs":
        assert totals(result) == sorted(totals(result), reverse=True)


def test_the_history_is_the_loss_of_the_pictures(pair, vgg16):
    """Of Adam, which records what it sees before a step; the loss is put together by hand."""
    content = jnp.asarray(images.resize(pair[0] / 255, (43, 64)))
    style = jnp.asarray(images.resize(pair[1] / 255, (64, 45)))
    layers = {name: SHALLOW[name] for name in ("content_layers", "style_layers")}
    targets = make_targets(vgg16, content, [style], **{k: list(v) for k, v in layers.items()})
    after_three, after_four = (
        stylize(*pair, **SHALLOW | {"steps": steps, "optimizer": "adam", "average": 0})
        for steps in (3, 4)
    )
    total, parts = loss(
        jnp.asarray(after_three.image), vgg16, targets, LossWeights(0.05, 1, 0.0, **layers)
    )
    for name, value in {"total": total, **parts}.items():
        assert after_four.history[3][name] == pytest.approx(float(value), rel=1e-3)
    assert after_four.history[:3] == after_three.history


def test_paths_pil_images_and_arrays_are_the_same(painted, pair, tmp_path):
    for array, name in zip(pair, ("content.png", "style.png"), strict=True):
        Image.fromarray(array).save(tmp_path / name)
    paths = [tmp_path / "content.png", str(tmp_path / "style.png")]
    pictures = [Image.fromarray(array) for array in pair]
    floats = [np.float32(array) / np.float32(255) for array in pair]
    for content, style in (paths, pictures, floats):
        np.testing.assert_array_equal(stylize(content, style, **SHALLOW).image, painted.image)
    made = stylize(*paths, **SHALLOW | {"steps": 1}).settings
    assert (made["content"], made["styles"]) == ("content.png", ["style.png"])


def test_changes_go_over_the_settings(pair):
    result = stylize(*pair, Settings(**SHALLOW), steps=2, tv=0.5)
    assert (result.settings["steps_done"], result.settings["tv"]) == (2, 0.5)
    assert list(result.settings["style_layers"]) == ["relu1_1", "relu2_1"]


def test_save_and_read_back(painted, tmp_path):
    painted.save(tmp_path / "a.png")
    back = images.read(tmp_path / "a.png").pixels
    assert np.abs(back - painted.image).max() <= 0.5 / 255 + 1e-6
    metadata = images.read_metadata(tmp_path / "a.png")
    assert json.loads(metadata["nst_jax"]) == painted.settings
    assert metadata["Software"] == f"nst_jax {painted.settings['version']}"


def test_the_settings_of_a_picture_make_it_again(painted, pair):
    made = painted.settings
    names = ("size", "steps", "content_weight", "style_weight", "content_layers", "style_layers")
    names += ("tv", "form", "pooling", "padding", "optimizer", "lr", "seed", "model", "dtype")
    again = stylize(*pair, **{name: made[name] for name in names})
    np.testing.assert_array_equal(again.image, painted.image)


def test_callback_follows_and_stops(pair):
    seen = []

    def follow(progress):
        seen.append(progress)
        return progress.step >= 6

    result = stylize(*pair, **SHALLOW | {"steps": 50}, on_progress=follow, every=3)
    assert {3, 6} <= {progress.step for progress in seen}
    assert seen[-1].step == result.settings["steps_done"] == 6
    assert [entry for progress in seen for entry in progress.losses] == result.history
    assert all(progress.steps == 50 for progress in seen)
    assert sorted(p.seconds for p in seen) == [p.seconds for p in seen]
    np.testing.assert_array_equal(seen[-1].image, result.image)


def test_an_error_in_the_callback_is_the_callers(pair):
    with pytest.raises(ZeroDivisionError):
        stylize(*pair, **SHALLOW, on_progress=lambda progress: 1 / 0)


def test_without_content_weight_the_content_does_not_count(pair):
    changes = SHALLOW | {"content_weight": 0, "init": "noise"}
    result = stylize(*pair, **changes)
    other = stylize(255 - pair[0], pair[1], **changes)
    np.testing.assert_array_equal(result.image, other.image)
    assert result.history[-1]["content"] == 0
    assert not any(name.startswith("content/") for name in result.history[-1])


def test_without_style_weight_the_style_does_not_count(pair):
    changes = SHALLOW | {"style_weight": 0, "content_weight": 1, "init": "noise"}
    result = stylize(*pair, **changes)
    np.testing.assert_array_equal(stylize(pair[0], [], **changes).image, result.image)
    alone = reconstruct(pair[0], **SHALLOW | {"content_weight": 1})
    np.testing.assert_array_equal(alone.image, result.image)


def test_style_weights_do_not_stop_a_job_without_style(pair):
    changes = SHALLOW | {"steps": 1}
    weighted = reconstruct(pair[0], **changes | {"style_weights": (1.0, 2.0)})
    np.testing.assert_array_equal(weighted.image, reconstruct(pair[0], **changes).image)


def test_reconstruction_of_a_shallow_layer_is_the_content(pair):
    content = images.resize(pair[0] / 255, (43, 64))
    result = reconstruct(pair[0], **SHALLOW | {"content_layers": {"relu1_1": 1}, "steps": 60})
    start = stylize(pair[0], pair[1], **SHALLOW | {"steps": 0, "init": "noise"}).image
    assert psnr(start, content) < 12
    assert psnr(result.image, content) > 30
    assert np.corrcoef(result.image.ravel(), content.ravel())[0, 1] > 0.99


def test_reconstruction_of_a_deep_layer_keeps_less(pair):
    content = images.resize(pair[0] / 255, (43, 64))
    shallow, deep = (
        reconstruct(pair[0], **SHALLOW | {"content_layers": {tap: 1}, "steps": 20}).image
        for tap in ("relu1_1", "relu3_1")
    )
    assert psnr(deep, content) < psnr(shallow, content)


def test_texture_gets_the_styles_gram_matrices(pair, vgg16):
    result = texture(pair[1], **SHALLOW | {"steps": 60})
    assert result.image.shape == (64, 64, 3)
    assert (result.settings["content"], result.settings["init"]) == (None, "noise")
    noise = texture(pair[1], **SHALLOW | {"steps": 0}).image
    style = images.resize(pair[1] / 255, (64, 45))
    for tap in SHALLOW["style_layers"]:
        goal = gram(vgg16, style, tap)

        def distance(image, goal=goal, tap=tap):
            return float(jnp.linalg.norm(gram(vgg16, image, tap) - goal) / jnp.linalg.norm(goal))

        assert distance(result.image) < 0.2 * distance(noise)
    # No position is kept: a texture is no copy.
    assert psnr(result.image[:, :45], style) < 20


def test_two_styles_are_weighed(pair, vgg16):
    """With weights 3 and 1 the Gram matrices are those of the mixture, near the first style."""
    styles = [pair[1], 255 - pair[1]]
    mixed = texture(styles, **SHALLOW | {"steps": 40, "style_weights": (3.0, 1.0)})
    one, other = (gram(vgg16, images.resize(style / 255, (64, 45)), "relu1_1") for style in styles)
    made = gram(vgg16, mixed.image, "relu1_1")
    share = jnp.vdot(made - other, one - other) / jnp.vdot(one - other, one - other)
    assert share == pytest.approx(0.75, abs=0.05)
    assert mixed.settings["styles"] == ["<ndarray>", "<ndarray>"]


def test_one_style_twice_is_one_style(painted, pair):
    twice = stylize(pair[0], [pair[1], pair[1]], **SHALLOW)
    np.testing.assert_allclose(twice.image, painted.image, atol=0.01)


def test_same_seed_same_picture_other_seed_another(pair):
    noisy = SHALLOW | {"init": "noise", "steps": 3}
    one, same, other = (stylize(*pair, **noisy, seed=seed).image for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).mean() > 0.05


@pytest.mark.parametrize("job", [stylize, texture])
def test_starts(pair, job):
    """With no steps the start is the result."""
    inputs = pair if job is stylize else pair[1:]
    start = partial(job, *inputs, **SHALLOW | {"steps": 0})
    gray = start(init="gray").image
    assert (gray == 0.5).all()
    noise = start(init="noise").image
    assert noise.std() == pytest.approx(1 / np.sqrt(12), rel=0.05)
    drawn = start(init=Image.fromarray(pair[1]))
    np.testing.assert_allclose(drawn.image, images.resize(pair[1] / 255, gray.shape[:2]), atol=1e-6)
    assert drawn.settings["init"] == "<Image>"
    assert (drawn.history, drawn.settings["steps_done"]) == ([], 0)


def test_size_none_keeps_the_contents_size(pair):
    result = stylize(*pair, **SHALLOW | {"size": None, "steps": 1})
    assert result.image.shape == (60, 90, 3)
    with pytest.raises(InputError, match="a texture has no size of its own"):
        texture(pair[1], **SHALLOW | {"size": None})


def test_size_larger_than_the_content_enlarges(pair):
    assert stylize(*pair, **SHALLOW | {"size": 120, "steps": 1}).image.shape == (80, 120, 3)


def test_alpha_is_resized_and_returned(pair, tmp_path):
    alpha = np.zeros((60, 90), np.uint8)
    alpha[30:, 45:] = 255
    content = np.dstack([pair[0], alpha])
    result = stylize(content, pair[1], **SHALLOW | {"steps": 1})
    assert (result.alpha.shape, result.alpha.dtype) == ((43, 64), np.float32)
    assert (result.alpha[:, :28] == 0).all()
    assert (result.alpha[:17] == 0).all()
    assert (result.alpha[26:, 36:] == 1).all()
    result.save(tmp_path / "a.webp")
    back = images.read(tmp_path / "a.webp").alpha
    assert np.abs(back - result.alpha).max() <= 0.5 / 255 + 1e-6


def test_loaded_weights_and_a_file_are_the_same(painted, pair):
    path = weights.bundled_path()
    settings = {name: value for name, value in SHALLOW.items() if name != "model"}
    for given in (weights.load(path), path, str(path)):
        result = stylize(*pair, **settings, weights=given)
        np.testing.assert_array_equal(result.image, painted.image)
        assert result.settings["weights"] == path.name
        assert result.settings["model"] == "vgg16"


def test_bfloat16_is_close_to_float32(painted, pair):
    half = stylize(*pair, **SHALLOW | {"dtype": "bfloat16"})
    assert half.image.dtype == np.float32
    assert half.settings["dtype"] == "bfloat16"
    assert not np.array_equal(half.image, painted.image)
    start = images.resize(pair[0] / 255, (43, 64))
    assert psnr(half.image, painted.image) > psnr(start, painted.image) + 10


def test_total_variation_smooths(painted, pair):
    smooth = stylize(*pair, **SHALLOW, tv=10.0)
    assert (
        np.abs(np.diff(smooth.image, axis=0)).mean() < np.abs(np.diff(painted.image, axis=0)).mean()
    )


def test_any_optax_transformation(pair):
    result = stylize(*pair, **SHALLOW, optimizer=optax.sgd(1.0))
    assert totals(result)[-1] < totals(result)[0]
    assert result.settings["optimizer"] == "custom"


def test_a_learning_rate_is_used(pair):
    """Adam's first step is the learning rate in every pixel."""
    adam = SHALLOW | {"steps": 1, "optimizer": "adam", "init": "gray"}
    for lr in (0.01, 0.1):
        moved = np.abs(stylize(*pair, **adam, lr=lr).image - 0.5)
        assert np.median(moved) == pytest.approx(lr, rel=0.01)
    default = stylize(*pair, **adam).image
    assert np.median(np.abs(default - 0.5)) == pytest.approx(0.01, rel=0.01)


def diverging_after(steps):
    """Make a transformation whose updates are no numbers after so many steps."""

    def update(updates, state, params=None):
        step = jnp.where(state < steps, -0.5, jnp.nan)
        return jax.tree.map(lambda g: step * g, updates), state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def test_divergence_gives_the_last_good_picture(pair, tmp_path):
    expected = stylize(*pair, **SHALLOW | {"steps": 1}, optimizer=optax.sgd(0.5))
    with pytest.raises(DivergedError, match="stopped being a finite number") as caught:
        stylize(*pair, **SHALLOW, optimizer=diverging_after(1))
    result = caught.value.result
    assert caught.value.step == result.settings["steps_done"] == len(result.history) == 1
    np.testing.assert_allclose(result.image, expected.image, atol=1e-6)
    result.save(tmp_path / "last.png")
    assert json.loads(images.read_metadata(tmp_path / "last.png")["nst_jax"])["steps_done"] == 1


def test_a_loss_that_overflows_diverges_at_once(pair):
    changes = SHALLOW | {"style_layers": {"relu1_1": 1e30}, "style_weight": 1e30}
    with pytest.raises(DivergedError) as caught:
        stylize(*pair, **changes)
    assert caught.value.step == 0
    start = images.resize(pair[0] / 255, (43, 64))
    np.testing.assert_allclose(caught.value.result.image, start, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 3}, "no setting 'step'"),
        ({"style_layers": {"relu9_1": 1}}, "relu9_1"),
        ({"content_layers": {"pool1": 1}}, "pool1"),
        ({"style_weights": (1.0, 2.0)}, "2 style weights for 1 style image"),
        ({"style_weights": (-1.0,)}, "none may be negative"),
        ({"style_weights": (0.0,)}, "one must count"),
        ({"model": "vgg11"}, "model is 'vgg11'"),
        ({"model": "vgg19", "weights": weights.bundled_path()}, "holds VGG16, not VGG19"),
        ({"weights": "missing.h5"}, "no such file"),
        ({"init": "missing.png"}, "init 'missing.png'"),
        ({"init": np.full((4, 4, 3), np.nan)}, "init"),
        ({"size": 16, "content_layers": {"relu5_1": 1}}, "too small"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_clear_line(pair, changes, message):
    with pytest.raises(InputError) as caught:
        stylize(*pair, **SHALLOW | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pictures_are_named_in_errors(pair, tmp_path):
    for content, style, name in (
        ("none.png", pair[1], "content 'none.png'"),
        (pair[0], tmp_path, "style '"),
        (pair[0], [pair[1], np.zeros((4, 4), np.int64)], "style (an array)"),
        (np.float32(pair[0]), pair[1], "content (an array)"),
    ):
        with pytest.raises(InputError) as caught:
            stylize(content, style, **SHALLOW)
        assert str(caught.value).startswith(name)
    with pytest.raises(InputError, match="no style image was given"):
        stylize(pair[0], [], **SHALLOW)
    with pytest.raises(InputError, match="both 0"):
        texture(pair[1], **SHALLOW | {"style_weight": 0})


def test_a_job_larger_than_the_memory_is_refused(pair, monkeypatch):
    monkeypatch.setattr(plan, "free_bytes", lambda: 2**20)
    with pytest.raises(InputError, match=r"may take 0\.00098 GiB; choose a smaller size"):
        stylize(*pair, **SHALLOW)
    for module in (plan, memory):  # not every device tells
        monkeypatch.setattr(module, "free_bytes", lambda: None)
    assert stylize(*pair, **SHALLOW | {"steps": 1}).settings["steps_done"] == 1


def test_the_preset_weighs_the_parts_as_it_says(pair):
    layers = {name: SHALLOW[name] for name in ("content_layers", "style_layers")}
    changes = {"size": 64, "steps": 1, "model": "vgg16", "init": "gray", **layers}
    result = stylize(*pair, PAPER, **changes, optimizer="adam")
    first = result.history[0]
    style = 0.5 * first["style/relu1_1"] + 0.5 * first["style/relu2_1"]
    assert first["style"] == pytest.approx(style, rel=1e-5)
    assert first["content"] == pytest.approx(first["content/relu2_2"], rel=1e-5)
    total = PAPER.content_weight * first["content"] + PAPER.style_weight * style
    assert first["total"] == pytest.approx(total, rel=1e-5)
    assert result.settings["form"] == "paper"


def test_pieces_in_the_callers_own_jit_vmap_and_grad(vgg16, face, cat, petals):
    """Two pictures painted at once by a caller's own compiled loop."""
    layer_weights = {"relu1_1": 0.5, "relu2_1": 0.5}
    loss_weights = LossWeights(0.01, 1.0, 0.0, {"relu2_1": 1.0}, layer_weights)

    @jax.jit
    def paint(params, contents, style):
        make = partial(make_targets, content_layers=["relu2_1"], style_layers=list(layer_weights))
        targets = jax.vmap(make, (None, 0, None))(params, contents, [style])
        gradient = jax.vmap(jax.value_and_grad(loss, has_aux=True), (0, None, 0, None))

        def step(pictures, _):
            (values, _parts), grads = gradient(pictures, params, targets, loss_weights)
            return jnp.clip(pictures - 0.01 * jnp.sign(grads), 0, 1), values

        return jax.lax.scan(step, contents, length=6)

    pictures, values = paint(vgg16, jnp.stack([face, cat]), petals)
    assert pictures.shape == (2, 64, 80, 3)
    assert (values[-1] < 0.8 * values[0]).all()
    alone, _ = paint(vgg16, cat[None], petals)
    assert np.abs(alone[0] - pictures[1]).mean() < 0.001


def test_features_of_a_batch(vgg16, face, cat):
    read = jax.jit(jax.vmap(lambda params, image: VGG(params)(image, ["conv1_2"]), (None, 0)))
    features = read(vgg16, jnp.stack([face, cat]))["conv1_2"]
    alone = VGG(vgg16)(cat, ["conv1_2"])["conv1_2"]
    np.testing.assert_allclose(features[1], alone, atol=1e-3 * float(jnp.abs(alone).max()))
