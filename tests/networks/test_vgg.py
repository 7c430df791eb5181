"""The network against PyTorch with the same parameters, and what it computes of itself."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from lazy import torch

from nst_jax.errors import InputError
from nst_jax.networks import VGG, PatchWindow, conv_names, layer_names
from nst_jax.networks.vgg import FrozenParam, VGGModule


def relative_error(got, expected):
    """Largest difference divided by the largest value."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    return np.abs(got - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("model", "pooling", "padding"),
    [
        ("vgg16", "max", "replicate"),
        ("vgg16", "average", "same"),
        ("vgg16", "scaled_average", "replicate"),
        ("vgg16", "l2", "replicate"),
        ("vgg19", "max", "same"),
    ],
)
def test_every_layer_equals_pytorch(model, pooling, padding, photos, reference_features, request):
    params = request.getfixturevalue(model)
    # 61 by 83 pixels: every pooling drops a row or a column.
    image = np.float32(photos["astronaut"][:366:6, :498:6]) / 255
    with torch.no_grad():
        expected = reference_features(params, torch.from_numpy(image), pooling, padding)
    network = jax.jit(VGG(pooling, padding).features, static_argnums=2)
    features = network(params, jnp.asarray(image), layer_names(model))
    assert tuple(expected) == layer_names(model)
    errors = {
        layer: relative_error(features[layer].transpose(2, 0, 1), expected[layer])
        for layer in expected
    }
    assert max(errors.values()) <= 1e-5, errors


def test_the_gradients_reach_image_and_parameters(vgg16, petals, reference_features):
    def energy(params, image):
        return jnp.square(VGG().features(params, image, ["relu3_1"])["relu3_1"]).mean()

    value, (to_params, to_image) = jax.jit(jax.value_and_grad(energy, (0, 1)))(vgg16, petals)
    image = torch.from_numpy(np.array(petals, np.float64)).requires_grad_()
    reference_features(vgg16, image, blocks=3)["relu3_1"].square().mean().backward()
    difference = np.linalg.norm(to_image - image.grad.numpy())
    assert difference <= 1e-4 * np.linalg.norm(image.grad.numpy())
    # The features are homogeneous in the last layer's parameters, so Euler's theorem applies.
    products = jax.tree.map(jnp.vdot, to_params["conv3_1"], vgg16["conv3_1"])
    assert sum(products.values()) == pytest.approx(2 * float(value), rel=1e-3)


def test_vmap_equals_one_image_at_a_time(vgg16, face, cat):
    def features(params, image):
        return VGG().features(params, image, ["relu3_1"])["relu3_1"]

    images = jnp.stack([face, cat])
    batch = jax.jit(jax.vmap(features, (None, 0)))(vgg16, images)
    for got, image in zip(batch, images, strict=True):
        assert relative_error(got, jax.jit(features)(vgg16, image)) <= 1e-5


def test_bfloat16_parameters_compute_in_bfloat16(vgg16, face):
    layers = ("conv1_1", "relu3_1", "conv4_1")
    network = jax.jit(lambda params, image: VGG().features(params, image, layers))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), vgg16)
    features, expected = network(half, face), network(vgg16, face)
    for layer in layers:
        assert features[layer].dtype == jnp.bfloat16
        difference = jnp.linalg.norm(features[layer].astype(jnp.float32) - expected[layer])
        assert difference <= 0.02 * jnp.linalg.norm(expected[layer])
    operand_dtypes = {x.aval.dtype for e in convolutions(network, half, face) for x in e.invars}
    assert operand_dtypes == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("padding", ["replicate", "same"])
def test_a_patch_has_the_features_of_the_image(vgg16, face, padding):
    """A patch of 32 by 48 pixels that extends 8 rows above and 16 columns left of the image."""
    layers = ("conv1_2", "relu3_1")
    network = VGG(padding=padding)
    radius = network.receptive_radius(vgg16, layers)
    image = face[:61, :77]
    patch = jnp.pad(image, ((8, 0), (16, 0), (0, 0)), mode="edge")[:32, :48]
    features, expected = (
        network.features(vgg16, patch, layers, PatchWindow(-8, -16, 61, 77)),
        network.features(vgg16, image, layers),
    )
    for layer, stride in zip(layers, (1, 4), strict=True):
        top, left, correct = 8 // stride, 16 // stride, -(-radius // stride)
        assert not features[layer][:top].any()
        assert not features[layer][:, :left].any()
        inside = features[layer][top:-correct, left:-correct]
        height, width = inside.shape[:2]
        assert height * width > 0
        assert relative_error(inside, expected[layer][:height, :width]) <= 1e-5


def convolutions(function, *args):
    """The two-dimensional convolutions of a traced function: one for each layer."""

    def equations(jaxpr):
        for equation in jaxpr.eqns:
            yield equation
            for parameter in jax.tree.leaves(tuple(equation.params.values()), is_leaf=callable):
                inner = getattr(parameter, "jaxpr", parameter)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)

    found = equations(jax.make_jaxpr(function)(*args).jaxpr)
    return [
        equation
        for equation in found
        if equation.primitive.name == "conv_general_dilated" and equation.invars[0].aval.ndim == 4
    ]


@pytest.mark.parametrize(
    ("model", "layers", "count"),
    [("vgg16", ("relu1_2", "conv3_2"), 6), ("vgg19", ("relu4_1",), 9), ("vgg16", (), 0)],
)
def test_only_the_requested_layers_are_computed(model, layers, count, petals, request):
    params = request.getfixturevalue(model)
    assert len(convolutions(lambda p, x: VGG().features(p, x, layers), params, petals)) == count
    assert set(jax.eval_shape(lambda p, x: VGG().features(p, x, layers), params, petals)) == set(
        layers
    )


def test_parameters_are_arguments_of_the_traced_function(vgg16, petals):
    jaxpr = jax.make_jaxpr(lambda p, x: VGG().features(p, x, ["relu3_1"]))(vgg16, petals)
    assert sum(np.size(constant) for constant in jaxpr.consts) < 100


def test_no_parameter_is_trainable(vgg19):
    network = VGGModule(vgg19, "max", "replicate")
    assert not jax.tree.leaves(nnx.state(network, nnx.Param))
    assert len(jax.tree.leaves(nnx.state(network, FrozenParam))) == len(jax.tree.leaves(vgg19))


def test_only_what_computes_imports_jax():
    code = """
import sys
from nst_jax.networks import conv_names, weights
assert "jax" not in sys.modules
from nst_jax.networks import VGG
assert "jax" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("layer", ["relu6_1", "conv3_4", "pool1", "relu1", ""])
def test_unknown_layers_are_refused(vgg16, petals, layer):
    with pytest.raises(InputError, match=f"unknown layer '{layer}': vgg16"):
        VGG().features(vgg16, petals, ["relu1_1", layer])


def test_one_layer_without_a_list_is_refused(vgg16, petals):
    with pytest.raises(InputError, match=r"layers is 'relu3_1'; give a list of layers, such as"):
        VGG().features(vgg16, petals, "relu3_1")


@pytest.mark.parametrize("option", ["pooling", "padding"])
@pytest.mark.usefixtures("unchecked")
def test_unknown_options_are_refused(option):
    with pytest.raises(InputError, match=f"{option} is 'median'; choose one of"):
        VGG(**{option: "median"})


def test_images_too_small_for_a_layer_are_refused(vgg16):
    def features(layer):
        return jax.eval_shape(lambda x: VGG().features(vgg16, x, [layer]), jnp.ones((20, 15, 3)))[
            layer
        ]

    assert features("conv4_3").shape == (2, 1, 512)
    with pytest.raises(InputError, match="15x20 pixels is too small for conv5_1, which needs 16"):
        features("conv5_1")


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_parameters_of_another_network_are_refused(vgg16, petals, change):
    params = {name: vgg16[name] for name in ("input", *conv_names("vgg16"))}
    if change == "missing":
        del params["conv5_3"]
    else:
        params["conv3_4"] = params["conv3_3"]
    with pytest.raises(InputError, match="neither VGG16's 13 nor VGG19's 16"):
        VGG().features(params, petals, ["relu1_1"])
