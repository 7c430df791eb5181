"""Networks that are not VGG run whole jobs, which know them by the protocol alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.other_networks import PatchTransformer, StridedCNN

import nst_jax
from nst_jax import InputError, LossWeights, make_targets
from nst_jax.errors import MemoryLimitError
from nst_jax.losses import objective
from nst_jax.networks import Network
from nst_jax.partitioning import (
    make_mesh,
    replicate,
    shard_image,
    sharded_loss_fn,
    sharding,
    tile_unit,
    tiled_loss_fn,
)
from nst_jax.pipeline import caches, planning

CNN, TRANSFORMER = StridedCNN(), PatchTransformer()
PARAMS = {network: network.init(jax.random.key(0)) for network in (CNN, TRANSFORMER)}
LAYERS = {CNN: ("conv1", "conv2"), TRANSFORMER: ("block1", "block2")}
BOTH = pytest.mark.parametrize("network", [CNN, TRANSFORMER], ids=["cnn", "transformer"])


def settings_of(network):
    """A job of two levels, 34 and 48 pixels, with 3 and 4 steps."""
    shallow, deep = LAYERS[network]
    return {
        "network": network,
        "weights": PARAMS[network],
        "content_layers": {deep: 1.0},
        "style_layers": {shallow: 0.5, deep: 0.5},
        "size": 48,
        "min_size": 34,
        "steps": (3, 4),
        "dtype": "float32",
        "optimizer": "adam",
    }


@pytest.fixture(scope="module")
def content(cat):
    return np.asarray(cat[:48, :40])


@pytest.fixture(scope="module")
def style(petals):
    return np.asarray(petals[:, :48])


@pytest.fixture(scope="module")
def results(content, style):
    return {
        network: nst_jax.stylize(content, style, **settings_of(network))
        for network in (CNN, TRANSFORMER)
    }


def problem(network, image, content, style, masks=None):
    """The arguments of a loss."""
    shallow, deep = LAYERS[network]
    targets = make_targets(
        PARAMS[network],
        content,
        [style] if masks is None else [style, style[::-1]],
        content_layers=[deep],
        style_layers=[shallow, deep],
        masks=masks,
        network=network,
    )
    weights = LossWeights(1.0, 1.0, 0.1, {deep: 1.0}, {shallow: 0.5, deep: 0.5})
    return image, PARAMS[network], targets, weights


def value_and_grad(loss):
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def assert_same(found, expected):
    (total, terms), gradient = found
    (expected_total, expected_terms), expected_gradient = expected
    assert float(total) == pytest.approx(float(expected_total), rel=1e-4)
    for name, term in expected_terms.items():
        assert float(terms[name]) == pytest.approx(float(term), rel=1e-4), name
    difference = jnp.abs(gradient - expected_gradient).max()
    assert difference < 1e-4 * jnp.abs(expected_gradient).max()


def soft_masks(height, width):
    return jnp.asarray(np.random.default_rng(3).uniform(0, 1, (2, height, width)), jnp.float32)


# --- the loss ------------------------------------------------------------------------------------


@BOTH
def test_the_loss_and_its_gradient(network, face, cat, petals):
    args = problem(network, face, cat, petals)
    (_, terms), gradient = value_and_grad(nst_jax.loss)(*args)
    assert {f"style/{layer}" for layer in LAYERS[network]} < set(terms)
    assert all(np.isfinite(float(term)) and term > 0 for term in terms.values())
    direction = gradient / jnp.linalg.norm(gradient)
    above, below = (nst_jax.loss(face + step * direction, *args[1:])[0] for step in (0.1, -0.1))
    assert (above - below) / 0.2 == pytest.approx(float(jnp.linalg.norm(gradient)), rel=0.05)
    own = make_targets(PARAMS[network], cat, content_layers=[LAYERS[network][1]], network=network)
    at_content = nst_jax.loss(
        cat, PARAMS[network], own, LossWeights(content_layers={LAYERS[network][1]: 1.0})
    )
    assert at_content[0] == 0


@BOTH
def test_equal_networks_share_what_is_compiled(network, face, cat, petals, compilations):
    step = value_and_grad(nst_jax.loss)
    step(*problem(network, face, cat, petals))
    count = compilations().count("jit(loss)")
    assert count == 1
    again = type(network)()
    assert again is not network
    step(*problem(again, face, cat, petals))
    assert compilations().count("jit(loss)") == count


@pytest.mark.parametrize(("layer", "stride"), [("conv1", 3), ("conv2", 6)])
def test_masks_are_averaged_over_the_pixels_of_a_position(layer, stride):
    masks = soft_masks(50, 41)
    found = objective.downsample_masks(CNN, masks, layer)
    h, w = CNN.grid(layer, (50, 41))
    assert found.shape == (2, h, w)
    blocks = masks[:, : h * stride, : w * stride].reshape(2, h, stride, w, stride)
    np.testing.assert_allclose(found, blocks.mean((2, 4)), 1e-5)


class RoundedUp(StridedCNN):
    """A layer whose last position extends beyond the image."""

    def stride(self, layer):
        return 4

    def grid(self, layer, shape):
        return -(-shape[0] // 4), -(-shape[1] // 4)


def test_a_mask_repeats_its_edge_where_a_position_extends_beyond_the_image():
    mask = jnp.zeros((1, 5, 4)).at[0, 4].set(jnp.asarray([0.0, 0.0, 1.0, 1.0]))
    found = objective.downsample_masks(RoundedUp(), mask, "layer")
    np.testing.assert_array_equal(found, [[[0.0], [0.5]]])


# --- whole jobs ----------------------------------------------------------------------------------


@BOTH
def test_a_job_makes_an_image_and_names_the_network(network, results, content):
    assert isinstance(network, Network)
    result = results[network]
    assert result.image.shape == content.shape
    assert result.history["total"][-1] < result.history["total"][3]
    assert result.metadata["network"] == repr(network)
    assert len(result.metadata["weights_sha256"]) == 64
    vgg = {name: result.metadata[name] for name in ("model", "pooling", "padding")}
    assert set(vgg.values()) == {None}
    assert result.metadata["levels"] == [34, 48]


@BOTH
def test_a_job_resumes_from_its_checkpoint(network, results, content, style, tmp_path):
    options = settings_of(network) | {"checkpoint": tmp_path / "job.checkpoint"}
    stopped = nst_jax.stylize(content, style, on_progress=lambda progress: True, **options)
    assert stopped.metadata["stopped"]
    other = jax.tree.map(lambda x: 2 * x, PARAMS[network])
    with pytest.raises(InputError, match="weights_sha256 is"):
        nst_jax.stylize(content, style, resume=True, **options | {"weights": other})
    resumed = nst_jax.stylize(content, style, resume=True, **options)
    np.testing.assert_array_equal(resumed.image, results[network].image)


@BOTH
def test_masks_bring_two_styles_into_one_image(network, results, content, style):
    left = np.zeros(content.shape[:2], np.float32)
    left[:, :20] = 1
    masks = [left, 1 - left]
    result = nst_jax.stylize(content, [style, 1 - style], masks=masks, **settings_of(network))
    whole = results[network].image
    difference = np.abs(result.image - whole).mean((0, 2))
    assert difference[:12].mean() < difference[-12:].mean()


def test_a_level_is_as_large_as_the_network_needs(content, style):
    network = PatchTransformer(patch=40)
    options = settings_of(TRANSFORMER) | {
        "network": network,
        "weights": network.init(jax.random.key(0)),
    }
    result = nst_jax.stylize(content, style, **options | {"steps": 1})
    assert result.metadata["levels"] == [48]
    with pytest.raises(InputError, match="33x40 pixels is too small for block2, which needs 40x40"):
        nst_jax.stylize(content, style, **options | {"steps": 1, "size": 40})


# --- tiles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_tiles_of_a_convolutional_network_equal_the_whole_image(masked, roofs, petals):
    image = jnp.tile(roofs, (2, 1, 1))[:101, :53]  # Each stride drops a row or a column.
    masks = soft_masks(101, 53) if masked else None
    args = problem(CNN, image, image[::-1], petals, masks)
    assert tile_unit(CNN, LAYERS[CNN]) == 48
    expected = value_and_grad(nst_jax.loss)(*args)
    assert_same(value_and_grad(tiled_loss_fn(48))(*args), expected)
    narrow = type("Narrow", (StridedCNN,), {"receptive_radius": lambda *args: 0})()
    targets = replace(args[2], network=narrow)
    _, gradient = value_and_grad(tiled_loss_fn(48))(*args[:2], targets, args[3])
    assert jnp.abs(gradient - expected[1]).max() > 1e-3 * jnp.abs(expected[1]).max()


@pytest.fixture
def whole_images_do_not_fit(monkeypatch):
    """Let the memory suffice for tiles only, and tiles be smaller than these images."""

    def compile_fn(jitted, *args, limit, **static):
        if static.get("loss") is nst_jax.loss:
            raise MemoryLimitError("this needs too much memory")
        return compile_within_limit(jitted, *args, limit=limit, **static)

    compile_within_limit = caches.compile_within_limit
    monkeypatch.setattr(planning, "TILE_SIZES", (64,))
    monkeypatch.setattr(caches, "compile_within_limit", compile_fn)


def large(network):
    return settings_of(network) | {"size": 72, "min_size": None, "steps": 3}


def test_a_job_of_a_convolutional_network_runs_in_tiles(
    face, style, whole_images_do_not_fit, monkeypatch
):
    tiled = nst_jax.stylize(np.asarray(face), style, **large(CNN))
    assert tiled.metadata["tile"] == 48
    monkeypatch.undo()
    whole = nst_jax.stylize(np.asarray(face), style, **large(CNN))
    assert whole.metadata["tile"] is None
    np.testing.assert_allclose(tiled.image, whole.image, atol=1e-3)


def test_tiles_of_a_transformer_are_refused(face, cat, style, whole_images_do_not_fit):
    message = r"PatchTransformer\(.*\) has no finite receptive radius"
    with pytest.raises(InputError, match=f"{message}, so it cannot run tile by tile"):
        tiled_loss_fn(32)(*problem(TRANSFORMER, face, cat, face))
    with pytest.raises(MemoryLimitError, match=f"72x58 .* cannot run in tiles, because {message}"):
        nst_jax.stylize(np.asarray(face), style, **large(TRANSFORMER))


# --- devices -------------------------------------------------------------------------------------


def test_rows_of_a_convolutional_network_over_devices_equal_the_whole_image(
    roofs, petals, monkeypatch
):
    monkeypatch.setattr(sharding, "MIN_ROWS", 16)
    image = jnp.tile(roofs, (2, 1, 1))[:101, :53]
    args = problem(CNN, image, image[::-1], petals, soft_masks(101, 53))
    mesh = make_mesh(jax.devices()[:4], 101)
    assert mesh.shape["rows"] == 4
    found = value_and_grad(sharded_loss_fn(mesh))(
        shard_image(image, mesh), *replicate(args[1:], mesh)
    )
    assert_same(found, value_and_grad(nst_jax.loss)(*args))


def test_a_job_of_a_convolutional_network_runs_on_devices(content, style, results, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_ROWS", 16)
    result = nst_jax.stylize(content, style, devices=2, **settings_of(CNN))
    assert result.metadata["devices"] == 2
    assert np.abs(result.image - results[CNN].image).mean() < 1e-2


def test_a_transformer_on_several_devices_is_refused(face, cat, style):
    args = problem(TRANSFORMER, face, cat, face)
    with pytest.raises(InputError, match="cannot be divided over devices; use one device"):
        sharded_loss_fn(make_mesh(jax.devices()[:2], 64))(*args)
    with pytest.raises(InputError, match=r"devices is 2 and PatchTransformer.* give 1"):
        nst_jax.stylize(np.asarray(face), style, devices=2, **settings_of(TRANSFORMER))


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "resnet"}, "network is 'resnet'; give an object with features, grid, stride"),
        ({"network": StridedCNN}, "network is <class .*StridedCNN'>; give an object with features"),
        ({"network": nst_jax}, "network is <module 'nst_jax'.*; give an object with features"),
        ({"weights": None}, "and weights is None; give its parameters"),
        (
            {"weights": "a.safetensors"},
            "weights is 'a.safetensors'; give the parameters of",
        ),
        ({"model": "vgg16"}, "model is 'vgg16' and the network is StridedCNN"),
        ({"pooling": "l2"}, "pooling and padding are VGG's and a network is given"),
        (
            {"content_layers": {"relu4_2": 1.0}},
            "unknown layer 'relu4_2'; choose one of conv1",
        ),
    ],
)
def test_settings_that_do_not_fit_the_network_are_refused(content, style, changes, message):
    with pytest.raises(InputError, match=message):
        nst_jax.stylize(content, style, **settings_of(CNN) | changes)


def test_a_network_without_a_hash_is_refused():
    unhashable = type("Unhashable", (StridedCNN,), {"__hash__": None})()
    with pytest.raises(InputError, match="which has no hash; make it a frozen dataclass"):
        nst_jax.Settings(network=unhashable)


def test_vgg_given_as_the_network_has_its_options(content, style):
    options = settings_of(CNN) | {"content_layers": {"relu1_1": 1}, "style_layers": {"relu2_1": 1}}
    options |= {"weights": None, "model": "vgg16", "min_size": None, "steps": 1}
    given = nst_jax.stylize(content, style, **options | {"network": nst_jax.VGG("average")})
    named = nst_jax.stylize(content, style, **options | {"network": None}, pooling="average")
    np.testing.assert_array_equal(given.image, named.image)
    for name in ("network", "model", "pooling", "padding"):
        assert given.metadata[name] == named.metadata[name]
