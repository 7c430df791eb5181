"""Tile by tile the objective is the same function: its value, its gradient and its targets."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from losses.channel_statistics import ChannelMax, ChannelMean, NoisyChannelMean
from losses.example_terms import Contrast, Guide, Peak, Temporal

from nst_jax.errors import InputError
from nst_jax.losses import objective
from nst_jax.losses.objective import LossWeights, Targets, loss
from nst_jax.losses.statistics import Gram
from nst_jax.networks import VGG, PatchWindow
from nst_jax.networks.architectures import conv_names, num_poolings
from nst_jax.optimize import minimize
from nst_jax.partitioning import tiling
from nst_jax.partitioning.tiling import tiled_loss, tiled_loss_fn, tiled_style_targets

DEEP, FEW = ["relu1_1", "relu2_2", "conv3_1"], ["relu1_1", "conv2_1"]

whole = jax.jit(jax.value_and_grad(loss, has_aux=True))


def tiled(tile):
    return jax.jit(jax.value_and_grad(tiled_loss_fn(tile), has_aux=True))


def thin_network(model, filters=8):
    """Random parameters (He et al. 2015), with few filters so that running it costs little."""
    rng, before = np.random.default_rng(7), 3
    params = {"input": {"mean": jnp.full(3, 0.5), "std": jnp.full(3, 0.2)}}
    for name in conv_names(model):
        kernel = rng.normal(0, np.sqrt(2 / (9 * before)), (3, 3, before, filters))
        bias, before = rng.normal(0, 0.1, filters), filters
        params[name] = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    return params


NETWORK = thin_network("vgg16")


def noise(height, width, seed=0):
    """An image in which no pixel is like its neighbors and none is without effect."""
    pixels = np.random.default_rng(seed).uniform(0, 1, (height, width, 3))
    return jnp.asarray(pixels, jnp.float32)


def problem(params, height, width, content=(), style=(), masks=None, **options):
    """The arguments of a loss: image, parameters, random targets, and weights that balance them."""
    rng = np.random.default_rng(2)
    network = VGG(options.pop("pooling", "max"), options.pop("padding", "replicate"))
    options = {"network": network, "normalization": "target_energy", "statistic": Gram()} | options

    def random(layer, *shape):
        filters = params[layer.replace("relu", "conv")]["bias"].size
        shape = [filters if n is None else n >> num_poolings(layer) for n in shape]
        return jnp.asarray(rng.uniform(0, 1, shape), jnp.float32)

    def random_style(layer):
        is_gram = isinstance(options["statistic"], Gram)
        return random(layer, None, None) if is_gram else {"sums": random(layer, None)}

    targets = objective.combine_targets(
        {layer: random(layer, height, width, None) for layer in content},
        [{layer: random_style(layer) for layer in style} for _ in range(2)],
        masks=masks,
        **options,
    )
    args = noise(height, width), params, targets
    ones = [dict.fromkeys(layers, jnp.ones(())) for layers in (content, style)]
    (_, terms), _ = whole(*args, LossWeights(*jnp.ones(3), *ones))
    content_layers = {layer: 1 / terms[f"content/{layer}"] for layer in content}
    style_layers = {layer: 1 / terms[f"style/{layer}"] for layer in style}
    return *args, LossWeights(*jnp.ones(2), 1 / terms["tv"], content_layers, style_layers)


def error(found, expected):
    """The largest difference as a share of the largest number."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    return float(jnp.abs(found - expected).max() / jnp.abs(expected).max())


def assert_same(found, expected, tolerance=1e-4):
    (total, terms), gradient = found
    (expected_total, expected_terms), expected_gradient = expected
    assert total == pytest.approx(float(expected_total), rel=tolerance)
    assert set(terms) == set(expected_terms)
    for name, term in terms.items():
        assert term == pytest.approx(float(expected_terms[name]), rel=tolerance), name
    assert error(gradient, expected_gradient) < tolerance


def soft_masks(height, width):
    return jnp.stack([noise(height, width, 4)[..., 0], noise(height, width, 5)[..., 1]])


# --- value and gradient --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "tile", "content", "style", "options"),
    [
        (53, 38, 16, DEEP, DEEP, {"pooling": "l2", "masks": soft_masks(53, 38)}),
        (19, 50, 32, FEW, FEW, {"pooling": "average", "statistic": Gram("none")}),  # one row
        (21, 33, 48, [], FEW, {"padding": "same"}),  # smaller than a tile
        (20, 34, 16, ["relu1_1"], [], {}),
        (33, 37, 16, [], FEW, {"statistic": ChannelMean(), "masks": soft_masks(33, 37)}),
    ],
)
def test_value_and_gradient_are_those_of_the_whole_image(
    height, width, tile, content, style, options
):
    args = problem(NETWORK, height, width, content, style, **options)
    assert_same(tiled(tile)(*args), whole(*args))


def problem_with_terms(height, width):
    """Terms of pixels, also one that is not additive, and of layers, with arrays of every kind."""
    image, params, targets, weights = problem(NETWORK, height, width, ["relu1_1"], ["relu2_1"])
    arrays = {
        "temporal": {"previous": noise(height, width, 1), "mask": noise(height, width, 2)},
        "guide": {
            "mask": noise(height, width, 3)[..., 0],
            "relu2_1": jnp.stack([noise(height // 2, width // 2, 4)[..., 0]] * 8, -1),
            "color": jnp.ones(8),
        },
    }
    targets = replace(targets, terms=(Temporal(), Contrast(), Guide()), arrays=arrays)
    own_weights = {"temporal": 2.0, "contrast": 5.0, "guide": 0.5}
    return image, params, targets, replace(weights, terms=own_weights)


@pytest.mark.parametrize(("height", "width", "tile"), [(53, 38, 16), (21, 50, 32)])
def test_terms_of_the_user_are_those_of_the_whole_image(height, width, tile):
    args = problem_with_terms(height, width)
    found, expected = tiled(tile)(*args), whole(*args)
    assert_same(found, expected)
    assert {"temporal", "contrast", "guide"} <= set(found[0][1])
    weightless = replace(args[3], terms=dict.fromkeys(("temporal", "contrast", "guide"), 0.0))
    assert error(found[1], whole(*args[:3], weightless)[1]) > 0.01


@pytest.fixture(scope="module")
def few():
    return problem(NETWORK, 21, 34, ["relu1_1"], ["relu1_2"])


def test_bfloat16_differs_by_its_rounding_only():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), NETWORK)
    args = problem(half, 18, 20, ["relu1_1"], ["conv1_1"])
    assert_same(tiled(16)(*args), whole(*args), 0.02)


def test_the_halo_and_the_zeros_outside_of_the_image_are_needed(few, monkeypatch):
    _, expected = whole(*few)
    radius = VGG.receptive_radius
    for target, name, replacement in (
        (VGG, "receptive_radius", lambda *args: radius(*args) - 2),
        (PatchWindow, "zero_outside", lambda window, x: x),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, replacement)
            _, gradient = tiled(16)(*few)
        assert error(gradient, expected) > 1e-3, name


def test_memory_is_that_of_one_tile(vgg16):
    """An image four times as large takes more for what has its size, but not for activations."""

    def planned(size):
        image = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
        layers = {"relu2_1": 1.0}
        targets = Targets({}, {"relu2_1": jax.ShapeDtypeStruct((128, 128), jnp.float32)}, VGG())
        lowered = tiled(64).lower(image, vgg16, targets, LossWeights(style_layers=layers))
        return lowered.compile().memory_analysis().temp_size_in_bytes, image.size * 4

    small, small_image = planned(256)
    large, large_image = planned(512)
    assert large - small < 12 * (large_image - small_image)  # of 64 channels it would be 64 times


# --- in other functions --------------------------------------------------------------------------


def test_vmap_equals_one_image_at_a_time(few):
    image, *rest = few
    images = jnp.stack([image, 1 - image])
    found = jax.vmap(tiled(16), (0, None, None, None))(images, *rest)
    for i in range(2):
        assert_same(jax.tree.map(lambda x, i=i: x[i], found), whole(images[i], *rest))


def test_a_stochastic_statistic_draws_the_numbers_of_the_whole_image():
    args = problem(NETWORK, 21, 34, style=["relu1_2"], statistic=NoisyChannelMean())
    totals = []
    for seed in (1, 2):
        key = jax.random.key(seed)
        assert_same(tiled(16)(*args, key=key), whole(*args, key=key))
        totals.append(float(whole(*args, key=key)[0][0]))
    assert totals[0] != totals[1]


def test_the_line_search_of_optax_takes_the_tiled_loss(few):
    image, *args = few
    options = {"optimizer": optax.lbfgs(), "steps": 3}
    result = minimize(tiled_loss_fn(16), image, tuple(args), **options)
    before, after = (float(whole(x, *args)[0][0]) for x in (image, result.iterate))
    assert result.history["total"][0] == pytest.approx(before, rel=1e-4)
    assert after < 0.9 * before


def test_one_tile_size_is_one_function_without_constants(few):
    """So the optimization compiles it once."""
    assert tiled_loss_fn(32) is tiled_loss_fn(32) is not tiled_loss_fn(48)
    jaxpr = jax.make_jaxpr(tiled(16))(*few)
    assert sum(np.size(constant) for constant in jaxpr.consts) < 100


# --- features and targets ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "layers", "tile"), [("vgg16", FEW, 64), ("vgg19", ["conv2_1", "relu5_1"], 32)]
)
def test_features_and_style_targets_are_those_of_the_whole_image(model, layers, tile):
    args = VGG(), thin_network(model), noise(37, 50)
    expected = VGG().features(*args[1:], layers)
    pairs = [(tiling.tiled_features(*args, layers, tile=tile), expected)]
    for statistic in (Gram(), ChannelMean()):
        found = tiled_style_targets(*args, layers, statistic, tile=tile)
        measured = {layer: statistic.measure(x) for layer, x in expected.items()}
        mean = objective.average_over_positions(VGG(), measured, (37, 50), statistic)
        pairs.append((found, mean))
    for found, expected in pairs:
        errors = jax.tree.map(error, found, expected)
        assert set(errors) == set(layers)
        assert max(jax.tree.leaves(errors)) < 1e-5


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [0, -16, 8, 40])
def test_a_tile_that_is_no_multiple_of_16_is_refused(few, tile):
    with pytest.raises(InputError, match=f"tile is {tile} pixels; give a multiple of 16"):
        tiled_loss(*few, tile=tile)


def test_a_statistic_that_is_not_additive_is_refused(few):
    image, params, targets, weights = few
    with pytest.raises(InputError, match=r"ChannelMax\(\) cannot be measured tile by tile"):
        tiled_loss(image, params, replace(targets, statistic=ChannelMax()), weights, tile=16)
    with pytest.raises(InputError, match=r"ChannelMax\(\) cannot be measured tile by tile"):
        tiled_style_targets(VGG(), params, image, ["relu1_1"], ChannelMax(), tile=16)


def test_a_term_of_layers_that_is_not_additive_is_refused_by_its_name(few):
    image, params, targets, weights = few
    with pytest.raises(InputError, match="the term peak is not additive, so it cannot be measured"):
        tiled_loss(image, params, replace(targets, terms=(Peak(),)), weights, tile=16)


def test_arguments_that_do_not_fit_each_other_are_refused(few):
    image, params, targets, weights = few
    with pytest.raises(InputError, match="content of the image's size"):
        tiled_loss(image[:16], params, targets, weights, tile=16)
    with pytest.raises(InputError, match="content weights name the layers"):
        tiled_loss(image, params, targets, LossWeights(), tile=16)
    layers = {"relu3_1": 1.0}
    targets = Targets({}, layers, VGG())
    with pytest.raises(InputError, match="40x3 pixels is too small for relu3_1"):
        tiled_loss(noise(3, 40), params, targets, LossWeights(style_layers=layers), tile=16)
