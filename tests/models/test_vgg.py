"""The network against PyTorch with the same weights, and what makes it cheap to descend."""

import math
from functools import partial
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax import lax

from nst_jax.errors import InputError
from nst_jax.models import layers
from nst_jax.models.kernels.conv3x3 import convolve
from nst_jax.models.layers import POOLING_GAIN, pool, rectify
from nst_jax.models.vgg import VGG, Frozen, tap_names


@pytest.fixture(scope="session", params=["vgg16", "vgg19"])
def params(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def odd(photos):
    """An astronaut, 61 by 83 pixels: every block drops a row or a column."""
    return jnp.asarray(photos["astronaut"][:366:6, :498:6], jnp.float32) / 255


def features(params, image, taps, **options):
    return jax.jit(lambda p, x: VGG(p, **options)(x, taps))(params, image)


def error(got, want):
    """Largest difference as a share of the largest value."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return np.abs(got - want).max() / np.abs(want).max()


def equations(jaxpr):
    """All equations of a program, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(tuple(equation.params.values()), is_leaf=callable):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def convolutions(function, *args):
    """Those in two dimensions: each layer has one, however many other ways platforms take."""
    program = jax.make_jaxpr(function)(*args).jaxpr
    found = [e for e in equations(program) if e.primitive.name == "conv_general_dilated"]
    return [e for e in found if e.invars[0].aval.ndim == 4]


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["replicate", "same"])
@pytest.mark.parametrize("pooling", ["max", "average", "l2"])
def test_every_tap_equals_pytorch(params, odd, pooling, padding, reference_features):
    with torch.no_grad():
        image = torch.from_numpy(np.array(odd))
        want = reference_features(params, image, pooling, padding)
    got = features(params, odd, tuple(want), pooling=pooling, padding=padding)
    assert set(got) == set(want) == set(tap_names(VGG(params).model))
    errors = {tap: error(got[tap].transpose(2, 0, 1), want[tap]) for tap in want}
    assert max(errors.values()) <= 1e-5, errors


def test_blocks_halve_the_size(vgg16, odd):
    taps = [f"relu{block}_1" for block in range(1, 6)]
    sizes = [x.shape for x in features(vgg16, odd, taps).values()]
    assert sizes == [(61, 83, 64), (30, 41, 128), (15, 20, 256), (7, 10, 512), (3, 5, 512)]


def test_only_the_taps_asked_for_come_back(vgg16, petals):
    got = VGG(vgg16)(petals, ("relu2_1", "conv1_2", "relu2_1"))
    assert set(got) == {"conv1_2", "relu2_1"}


def test_vmap_equals_a_loop(params, face, cat):
    taps = ("conv1_1", "relu3_1")
    batch = jnp.stack([face, cat])
    together = jax.vmap(lambda image: VGG(params)(image, taps))(batch)
    for i, image in enumerate(batch):
        for tap, alone in VGG(params)(image, taps).items():
            assert error(together[tap][i], alone) <= 1e-5


def test_bfloat16_parameters_compute_in_bfloat16(vgg16, face):
    taps = ("conv1_1", "relu3_1", "conv5_3")
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), vgg16)
    got, want = features(half, face, taps), features(vgg16, face, taps)
    for tap in taps:
        assert got[tap].dtype == jnp.bfloat16
        difference = jnp.linalg.norm(got[tap].astype(jnp.float32) - want[tap])
        assert difference <= 0.02 * jnp.linalg.norm(want[tap])
    operands = [e.invars for e in convolutions(lambda p, x: VGG(p)(x, taps), half, face)]
    assert {x.aval.dtype for x in chain(*operands)} == {jnp.dtype(jnp.bfloat16)}


# --- pooling -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sizes(vgg16, photos):
    """The RMS at relu2_1 … relu5_1 of five photos, by pooling."""
    taps = [f"relu{block}_1" for block in range(2, 6)]

    @partial(jax.jit, static_argnums=2)
    def measure(params, image, pooling):
        maps = VGG(params, pooling=pooling)(image, taps).values()
        return jnp.stack([jnp.sqrt(jnp.square(x).mean()) for x in maps])

    images = [jnp.asarray(x[:272:2, :400:2], jnp.float32) / 255 for x in photos.values()]
    return {kind: np.array([measure(vgg16, x, kind) for x in images]) for kind in POOLING_GAIN}


@pytest.mark.parametrize("pooling", ["average", "l2"])
def test_gain_keeps_the_size_of_activations(sizes, pooling):
    ratio = np.exp(np.log(sizes[pooling] / sizes["max"]).mean())
    assert ratio == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ties", [False, True])
def test_max_pooling_and_its_gradient_equal_pytorch(ties, dtype):
    """Of equal values the first in reading order gets the gradient, as in PyTorch."""
    rng = np.random.default_rng(0)
    shape = (7, 8, 4)  # an odd last row is dropped; bfloat16 holds whole numbers up to 256
    x = rng.integers(0, 3, shape) if ties else rng.permutation(math.prod(shape)).reshape(shape)
    cotangent = rng.integers(-8, 8, (3, 4, 4))
    theirs = torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32, requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(theirs, 2)
    pooled.backward(torch.tensor(cotangent.transpose(2, 0, 1)[None], dtype=torch.float32))
    assert theirs.grad is not None
    out, pull = jax.vjp(lambda x: pool(x, "max"), jnp.asarray(x, dtype))
    np.testing.assert_array_equal(out, pooled.detach()[0].permute(1, 2, 0))
    gradient = pull(jnp.asarray(cotangent, dtype))[0]
    assert gradient.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(gradient, theirs.grad[0].permute(1, 2, 0))


def test_pooling_by_strides_is_pooling_by_windows():
    """The TPU's way, which does not run on other devices by itself."""
    x = jax.random.normal(jax.random.key(0), (6, 8, 5))
    for strides, windows in zip(
        layers._places_by_strides(x), layers._places_by_windows(x), strict=True
    ):
        np.testing.assert_array_equal(strides, windows)
    place = jax.random.randint(jax.random.key(1), (3, 4, 5), 0, 4).astype(jnp.uint8)
    values = jax.random.normal(jax.random.key(2), (3, 4, 5))
    np.testing.assert_array_equal(
        layers._spread_by_strides(place, values), layers._spread_by_windows(place, values)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rectification_and_both_its_gradients_equal_jaxs(dtype):
    x = jax.random.normal(jax.random.key(0), (5, 7, 3), dtype)
    bias = jnp.asarray([0.5, 0, -1], dtype)
    out, pull = jax.vjp(rectify, x, bias)
    want, reference = jax.vjp(lambda x, bias: jax.nn.relu(x + bias), x, bias)
    np.testing.assert_array_equal(out, want)
    cotangent = jax.random.normal(jax.random.key(1), x.shape, dtype)
    (to_x, to_bias), (x_reference, bias_reference) = pull(cotangent), reference(cotangent)
    np.testing.assert_array_equal(to_x, x_reference)
    np.testing.assert_allclose(*(np.asarray(g, "f4") for g in (to_bias, bias_reference)), rtol=0.02)


def test_whether_it_is_rectified_before_or_after_pooling(vgg16, cat):
    """Before it where the tap stands there, after it otherwise: the same features and gradient."""

    def features(image, taps):
        return VGG(vgg16)(image, taps)["relu3_1"]

    (after, pull), (before, reference) = (
        jax.vjp(partial(features, taps=taps), cat)
        for taps in (["relu3_1"], ["relu1_2", "relu2_2", "relu3_1"])
    )
    np.testing.assert_array_equal(after, before)
    cotangent = jax.random.normal(jax.random.key(0), after.shape)
    assert error(pull(cotangent)[0], reference(cotangent)[0]) < 1e-5


def test_l2_pooling_has_a_finite_gradient_at_zero():
    gradient = jax.grad(lambda x: pool(x, "l2").sum())(jnp.zeros((4, 4, 2)))
    assert not gradient.any()


def test_l2_pooling_of_half_precision_holds_large_activations():
    x = jnp.full((2, 2, 1), 500, jnp.float16)
    assert pool(x, "l2").item() == pytest.approx(POOLING_GAIN["l2"] * 1000, rel=1e-3)


# --- what is computed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "taps", "count"),
    [
        ("vgg16", ("relu1_1",), 1),
        ("vgg16", ("relu1_2", "relu1_2"), 2),
        ("vgg16", ("relu1_2", "conv3_2"), 6),
        ("vgg16", ("relu4_1",), 8),
        ("vgg16", ("relu5_3",), 13),
        ("vgg19", ("relu4_1",), 9),
        ("vgg19", ("relu5_4",), 16),
    ],
)
def test_the_network_is_cut_at_the_deepest_tap(model, taps, count, petals, request):
    params = request.getfixturevalue(model)
    assert len(convolutions(lambda p, x: VGG(p)(x, taps), params, petals)) == count


def test_parameters_are_no_constants_of_the_program(vgg16, petals):
    program = jax.make_jaxpr(lambda p, x: VGG(p)(x, ["relu3_1"]))(vgg16, petals)
    assert sum(np.size(constant) for constant in program.consts) < 100


def test_other_parameters_need_no_new_trace(vgg16, petals):
    traces = []

    @jax.jit
    def run(params, image):
        traces.append(1)
        return VGG(params)(image, ["conv2_1"])["conv2_1"]

    layer = vgg16["conv2_1"]
    other = {**vgg16, "conv2_1": {"kernel": 2 * layer["kernel"], "bias": 2 * layer["bias"]}}
    once, twice = run(vgg16, petals), run(other, petals)
    assert error(twice, 2 * once) < 1e-5
    assert len(traces) == 1


def test_no_variable_is_trainable(params):
    network = VGG(params)
    assert not jax.tree.leaves(nnx.state(network, nnx.Param))
    assert len(jax.tree.leaves(nnx.state(network, Frozen))) == len(jax.tree.leaves(params))


# --- the convolution's own gradient --------------------------------------------------------------


def correlate(x, kernel):
    """``convolve`` as JAX differentiates it."""
    return lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 1, shape), jnp.float32)


def energy(convolution):
    """A function of image and kernel whose gradients depend on both."""
    return lambda x, kernel: (jnp.sin(convolution(x, kernel)) ** 2).sum()


@pytest.fixture(params=[(1, 1, 3, 4), (7, 6, 2, 5), (4, 9, 5, 3)], ids=str)
def operands(request):
    h, w, c, n = request.param
    return normal(h, w, c), normal(3, 3, c, n, seed=1)


@pytest.mark.parametrize("argument", [0, 1])
def test_convolution_has_the_gradient_that_jax_derives(operands, argument):
    got = jax.grad(energy(convolve), argument)(*operands)
    assert error(got, jax.grad(energy(correlate), argument)(*operands)) <= 1e-5


@pytest.mark.parametrize("argument", [0, 1])
def test_convolution_has_the_second_derivative_that_jax_derives(operands, argument):
    def twice(convolution):
        slope = jax.grad(energy(convolution))
        return jax.grad(lambda x, kernel: (slope(x, kernel) ** 2).sum(), argument)(*operands)

    assert error(twice(convolve), twice(correlate)) <= 1e-5


def test_convolution_has_its_gradient_under_vmap_and_in_loops():
    batch, kernel = normal(2, 6, 7, 3), normal(3, 3, 3, 4, seed=1)

    def descend(convolution):
        slope = jax.vmap(jax.grad(energy(convolution)), (0, None))
        return lax.fori_loop(0, 3, lambda _, x: x - 0.01 * slope(x, kernel), batch)

    assert error(descend(convolve), descend(correlate)) <= 1e-5


def test_gradient_reaches_image_and_kernels_of_the_network(vgg16, petals, reference_features):
    def f(params, image):
        return jnp.square(VGG(params)(image, ["relu3_1"])["relu3_1"]).mean()

    to_params, to_image = jax.jit(jax.grad(f, (0, 1)))(vgg16, petals)
    image = torch.from_numpy(np.array(petals, np.float64)).requires_grad_()
    reference_features(vgg16, image, blocks=3)["relu3_1"].square().mean().backward()
    difference = np.linalg.norm(to_image - image.grad.numpy())
    assert difference <= 1e-4 * np.linalg.norm(image.grad.numpy())
    # The last layer is linear in its kernel where it is active: Euler's theorem fixes the product.
    layer = to_params["conv3_1"]
    product = (layer["kernel"] * vgg16["conv3_1"]["kernel"]).sum()
    product += (layer["bias"] * vgg16["conv3_1"]["bias"]).sum()
    assert product == pytest.approx(2 * float(f(vgg16, petals)), rel=1e-3)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tap", ["relu6_1", "conv3_4", "pool1", "relu1", ""])
def test_an_unknown_tap_is_refused(vgg16, petals, tap):
    with pytest.raises(InputError, match=f"unknown layer '{tap}': vgg16"):
        VGG(vgg16)(petals, ["relu1_1", tap])


def test_vgg19_has_more_taps_than_vgg16(vgg19, petals):
    assert "conv3_4" in VGG(vgg19)(petals, ["conv3_4"])


@pytest.mark.parametrize("option", ["pooling", "padding"])
@pytest.mark.usefixtures("unchecked")
def test_an_unknown_option_is_refused(vgg16, option):
    with pytest.raises(InputError, match=f"{option} is 'median'"):
        VGG(vgg16, **{option: "median"})


def test_an_image_too_small_for_a_tap_is_refused(vgg16):
    image = jnp.ones((20, 15, 3))
    assert VGG(vgg16)(image, ["conv4_3"])["conv4_3"].shape == (2, 1, 512)
    with pytest.raises(InputError, match="15x20 pixels is too small for conv5_1"):
        VGG(vgg16)(image, ["conv5_1"])


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_parameters_of_another_network_are_refused(vgg16, change):
    layers = dict(vgg16)
    if change == "missing":
        del layers["conv5_3"]
    else:
        layers["conv3_4"] = layers["conv3_3"]
    with pytest.raises(InputError, match="neither VGG16's 13 nor VGG19's 16"):
        VGG(layers)
