"""Tile by tile the objective is the same function: its value, its gradient and its targets."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax import minimise
from nst_jax.errors import InputError
from nst_jax.losses import objective
from nst_jax.losses.objective import LossWeights, Targets
from nst_jax.models.architectures import poolings
from nst_jax.models.vgg import VGG, Window, reach
from nst_jax.partitioning import tiling

CONTENT = {"relu2_2": 0.7, "conv3_1": 0.3}
STYLE = {"relu1_1": 0.4, "conv2_1": 0.4, "relu3_1": 1.0}
WEIGHTS = LossWeights(1.0, 1.0, 0.5, CONTENT, STYLE)

whole = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))


def by_tiles(tile):
    return jax.jit(jax.value_and_grad(tiling.loss_by_tiles(tile), has_aux=True))


def pixels(height, width, seed=0):
    """Noise, so that no pixel is like its neighbours and none is without effect."""
    noise = np.random.default_rng(seed).uniform(0, 1, (height, width, 3))
    return jnp.asarray(noise, jnp.float32)


def targets_of(params, height, width, *, make=objective.make_targets, masks=None, **options):
    options = {"content_layers": tuple(CONTENT), "style_layers": tuple(STYLE)} | options
    content = pixels(height, width, 1) if options["content_layers"] else None
    styles = [pixels(36, 43, 2), pixels(40, 32, 3)] if options["style_layers"] else []
    run = jax.jit(lambda params, masks: make(params, content, styles, masks=masks, **options))
    return run(params, masks)


def off_by(found, expected):
    """The largest difference as a share of the largest number."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return float(jnp.abs(found - expected).max() / jnp.abs(expected).max())


def assert_same(found, expected, tolerance=1e-4):
    (total, parts), gradient = found
    (expected_total, expected_parts), expected_gradient = expected
    assert total == pytest.approx(float(expected_total), rel=tolerance)
    assert set(parts) == set(expected_parts)
    for name, part in parts.items():
        assert part == pytest.approx(float(expected_parts[name]), rel=tolerance), name
    assert off_by(gradient, expected_gradient) < tolerance


# --- value and gradient --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "tile", "options"),
    [
        (32, 48, 16, {}),
        (45, 59, 16, {"pooling": "average", "padding": "same", "form": "paper"}),
        (53, 38, 32, {"pooling": "l2", "masks": pixels(2, 53 * 38, 4)[..., 0].reshape(2, 53, 38)}),
        (21, 33, 48, {"padding": "same"}),  # smaller than a tile
        (19, 70, 32, {}),  # one row of tiles
    ],
)
def test_value_and_gradient_are_the_whole_pictures(vgg16, height, width, tile, options):
    targets = targets_of(vgg16, height, width, **options)
    arguments = (pixels(height, width), vgg16, targets, WEIGHTS)
    assert_same(by_tiles(tile)(*arguments), whole(*arguments))


def test_the_deepest_layers_of_the_deeper_network(vgg19):
    content, style = {"relu4_2": 1.0}, {"relu5_1": 1.0}
    weights = LossWeights(1.0, 1.0, 0.0, content, style)
    targets = targets_of(vgg19, 20, 70, content_layers=("relu4_2",), style_layers=("relu5_1",))
    arguments = (pixels(20, 70), vgg19, targets, weights)
    assert_same(by_tiles(32)(*arguments), whole(*arguments))


@pytest.mark.parametrize("kind", ["content", "style", "neither"])
def test_parts_that_are_not_wanted(vgg16, kind):
    content = ("relu1_1",) if kind == "content" else ()
    style = ("conv1_2",) if kind == "style" else ()
    targets = targets_of(vgg16, 20, 34, content_layers=content, style_layers=style)
    layers = (dict.fromkeys(content, 1.0), dict.fromkeys(style, 1.0))
    arguments = (pixels(20, 34), vgg16, targets, LossWeights(1.0, 1.0, 1.0, *layers))
    assert_same(by_tiles(16)(*arguments), whole(*arguments))


FEW = {"relu1_1": 0.3, "conv2_1": 1.0}
FEW_WEIGHTS = LossWeights(1.0, 1.0, 0.5, FEW, FEW)


@pytest.fixture(scope="module")
def few(vgg16):
    """A picture and the loss' other arguments, at two shallow layers."""
    targets = targets_of(vgg16, 21, 34, content_layers=tuple(FEW), style_layers=tuple(FEW))
    return pixels(21, 34), vgg16, targets, FEW_WEIGHTS


def test_half_precision_is_as_near_as_its_rounding(vgg16):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), vgg16)
    targets = targets_of(half, 21, 34, content_layers=("relu1_2",), style_layers=("conv1_2",))
    weights = LossWeights(1.0, 1.0, 0.0, {"relu1_2": 1.0}, {"conv1_2": 1.0})
    arguments = (pixels(21, 34), half, targets, weights)
    assert_same(by_tiles(16)(*arguments), whole(*arguments), 0.02)


# --- what it takes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(vgg16):
    """A picture whose tiles reach beyond its border, and its gradient."""
    arguments = (pixels(45, 59), vgg16, targets_of(vgg16, 45, 59), WEIGHTS)
    return arguments, whole(*arguments)[1]


def anew(arguments):
    """The gradient, traced anew with what has been replaced."""
    return jax.jit(jax.grad(partial(tiling.loss, tile=16), has_aux=True))(*arguments)[0]


def test_a_halo_of_one_stride_less_would_not_do(odd, monkeypatch):
    arguments, expected = odd
    monkeypatch.setattr(tiling, "reach", lambda *known: reach(*known) - 4)
    assert off_by(anew(arguments), expected) > 1e-3


def test_activations_outside_of_the_picture_would_count(odd, monkeypatch):
    arguments, expected = odd
    monkeypatch.setattr(Window, "clear", lambda window, x: x)
    assert off_by(anew(arguments), expected) > 1e-3


def test_one_gram_matrix_a_tile_is_another_loss(vgg16):
    """Halves that are unlike each other, and a style that is the picture's own: as a whole."""
    image = jnp.concatenate([pixels(16, 16), jnp.ones((16, 16, 3))], axis=1)
    layers = {"conv1_1": 1.0}
    targets = objective.make_targets(vgg16, None, [image], style_layers=tuple(layers))
    weights = LossWeights(style_layers=layers)
    (together, _), _ = by_tiles(16)(image, vgg16, targets, weights)
    apart = [whole(half, vgg16, targets, weights)[0][0] for half in jnp.split(image, 2, 1)]
    assert together < 1e-6 * min(apart)


@pytest.mark.parametrize(("model", "tap"), [("vgg16", "conv3_3"), ("vgg19", "relu4_2")])
def test_reach_is_as_far_as_a_position_sees(request, model, tap):
    """With positive weights every pixel that can be seen has a gradient."""
    params = jax.tree.map(jnp.abs, request.getfixturevalue(model))
    size, far = 2 ** poolings(tap), reach(model, [tap])

    def seen(image):
        features = VGG(params, pooling="average", padding="same")(image, [tap])[tap]
        return features[far // size + 1].sum()

    rows = (
        jnp.abs(jax.jit(jax.grad(seen))(pixels(2 * far + 3 * size, size))).sum((1, 2)).nonzero()[0]
    )
    first = (far // size + 1) * size
    assert (rows.min(), rows.max()) == (first - far, first + size - 1 + far)


def test_memory_is_a_tiles(vgg16):
    """Four times the picture takes some more of what is as large as it, but as few activations."""

    def planned(size):
        image = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
        layers = {"relu2_1": 1.0}
        targets = Targets({}, {"relu2_1": jax.ShapeDtypeStruct((128, 128), jnp.float32)})
        weights = LossWeights(style_layers=layers)
        lowered = by_tiles(64).lower(image, vgg16, targets, weights)
        return lowered.compile().memory_analysis().temp_size_in_bytes, image.size * 4

    small, small_image = planned(256)
    large, large_image = planned(512)
    assert large - small < 12 * (large_image - small_image)  # of 64 channels it would be 64 times


# --- transformations -----------------------------------------------------------------------------


def test_vmap_equals_single_calls(few):
    image, *rest = few
    images = jnp.stack([image, 1 - image])
    totals, gradients = jax.vmap(by_tiles(16), (0, None, None, None))(images, *rest)
    for i in range(2):
        found = jax.tree.map(lambda x, i=i: x[i], (totals, gradients))
        assert_same(found, whole(images[i], *rest))


def test_the_loop_and_its_line_search_take_it(few):
    image, *rest = few
    run = partial(minimise, start=image, args=tuple(rest), optimizer=optax.lbfgs(), steps=3)
    expected, found = run(objective.loss), run(tiling.loss_by_tiles(16))
    for one, other in zip(found.history, expected.history, strict=True):
        assert one["total"] == pytest.approx(other["total"], rel=1e-4)


def test_the_same_tile_size_is_the_same_loss():
    assert tiling.loss_by_tiles(32) is tiling.loss_by_tiles(32)
    assert tiling.loss_by_tiles(32) is not tiling.loss_by_tiles(48)


def test_no_array_is_a_constant_of_the_program(few):
    program = jax.make_jaxpr(by_tiles(16))(*few)
    assert sum(np.size(constant) for constant in program.consts) < 100


# --- targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tile", "masked"), [(16, True), (64, False)])
def test_targets_are_the_whole_pictures(vgg16, tile, masked):
    masks = jnp.stack([pixels(33, 50, 4)[..., 0]] * 2) if masked else None
    make = partial(targets_of, vgg16, 33, 50, masks=masks, style_weights=(1.0, 3.0))
    found, expected = make(make=partial(tiling.make_targets, tile=tile)), make()
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert off_by(one, other) < 1e-5


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [0, -16, 8, 40])
def test_a_tile_that_is_no_multiple_of_16_is_refused(few, tile):
    with pytest.raises(InputError, match=f"tile of {tile} pixels; give a multiple of 16"):
        tiling.loss(*few, tile=tile)


def test_a_content_of_another_size_is_refused(few):
    image, *rest = few
    with pytest.raises(InputError, match="content of the image's size"):
        tiling.loss(image[:16], *rest, tile=16)


def test_weights_of_other_layers_are_refused(few):
    with pytest.raises(InputError, match="content weights name the layers"):
        tiling.loss(*few[:3], LossWeights(), tile=16)


def test_a_picture_too_small_for_a_layer_is_refused(vgg16):
    targets = Targets({}, {"relu3_1": jnp.ones((256, 256))})
    weights = LossWeights(style_layers={"relu3_1": 1.0})
    with pytest.raises(InputError, match="40x3 pixels is too small for conv3_1"):
        tiling.loss(pixels(3, 40), vgg16, targets, weights, tile=16)
