"""Winograd's convolution against sums written out in float64, and where it is used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import WINOGRAD_CHANNELS
from hypothesis import given, settings
from hypothesis import strategies as st
from test_convolution import arrays, close, gradient_reference, reference

from nst_jax import VGG, InputError, LossWeights, loss, make_targets, prepare_params
from nst_jax.models import prepare as precision
from nst_jax.models.architectures import conv_names
from nst_jax.models.kernels.conv3x3 import convolve
from nst_jax.models.kernels.winograd import transform

LAYERS = ("relu1_2", "relu2_2", "relu3_1", "relu4_1")


@pytest.fixture(autouse=True)
def _channels_as_for_users(monkeypatch):
    monkeypatch.setattr(precision, "WINOGRAD_CHANNELS", WINOGRAD_CHANNELS)


@pytest.mark.parametrize("border", ["SAME", "VALID"])
@pytest.mark.parametrize("shape", [(7, 9, 3, 8), (8, 16, 8, 16), (3, 4, 16, 3)], ids=str)
def test_value_and_gradient_equal_the_sums_written_out(shape, border):
    x, kernel = arrays(*shape, "float32")
    out, pull = jax.vjp(lambda x: convolve(x, transform(kernel), border), x)
    close(out, reference(x, kernel, border), "float32")
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=out.shape), jnp.float32)
    close(pull(cotangent)[0], gradient_reference(cotangent, kernel, border), "float32")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 8), st.integers(1, 8))
def test_any_shape(h, w, c, n):
    x, kernel = arrays(h, w, c, n, "float32")
    got = jax.jit(convolve)(x, transform(kernel))
    close(got, reference(x, kernel, "SAME"), "float32")


@pytest.mark.parametrize(("dtype", "said"), [("float32", 2e-6), ("bfloat16", 1.3e-2)])
def test_is_as_accurate_as_said(dtype, said):
    """In a layer's depth, behind a rectification, and back: root mean squares."""
    x, kernel = arrays(16, 16, 256, 128, "float32")
    x = jnp.maximum(x, 0)
    out, pull = jax.vjp(lambda x: convolve(x, transform(kernel, dtype)), x.astype(dtype))
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=out.shape), dtype)
    pairs = [
        (out, reference(x, kernel, "SAME")),
        (pull(cotangent)[0], gradient_reference(cotangent, kernel, "SAME")),
    ]
    for got, want in pairs:
        assert got.dtype == dtype
        off = np.asarray(got, np.float64) - want
        assert np.sqrt(np.square(off).mean() / np.square(want).mean()) < said


def test_several_pictures_at_once():
    x, kernel = arrays(9, 6, 8, 4, "float32")
    both = jnp.stack([x, 1 - x])
    got = jax.vmap(convolve, (0, None))(both, transform(kernel))
    close(got[1], reference(1 - x, kernel, "SAME"), "float32")


def test_the_kernels_gradient_is_that_of_any_linear_function():
    x, kernel = arrays(6, 7, 4, 3, "float32")
    kernel = transform(kernel)
    cotangent = jnp.asarray(np.random.default_rng(2).normal(size=(6, 7, 3)), jnp.float32)

    def weighed(kernel):
        return (convolve(x, kernel) * cotangent).sum()

    change = jnp.asarray(np.random.default_rng(3).normal(size=kernel.shape), jnp.float32)
    along = (jax.grad(weighed)(kernel) * change).sum()
    assert float(along) == pytest.approx(float(weighed(change)), rel=1e-4)


# --- prepared parameters -------------------------------------------------------------------------


@pytest.fixture
def processor(monkeypatch):
    """Make it one that has just these of its features."""

    def having(*features):
        monkeypatch.setattr(
            "nst_jax.precision._processor_has", lambda *flags: not {*flags}.isdisjoint(features)
        )

    return having


@pytest.mark.parametrize(
    ("features", "dtype", "number"),
    [
        (["amx_bf16"], "float32", "float32"),
        (["avx512_bf16"], "bfloat16", "bfloat16"),
        (["avx512_bf16"], "auto", "bfloat16"),
        ([], "bfloat16", "bfloat16"),
        ([], "auto", "float32"),
    ],
)
def test_on_a_cpu_deep_layers_go_by_winograd(vgg16, processor, features, dtype, number):
    processor(*features)
    prepared = prepare_params(vgg16, dtype)
    for name in conv_names("vgg16"):
        kernel = prepared[name]["kernel"]
        taps, depth, filters = 9, *vgg16[name]["kernel"].shape[2:]
        assert kernel.dtype == number
        if min(depth, filters) >= 128:
            assert kernel.shape == (36, depth, filters)
        else:
            assert kernel.size == taps * depth * filters


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_with_amx_bfloat16_stays_as_it_is(vgg16, processor, dtype):
    processor("amx_bf16", "avx512_bf16")
    prepared = prepare_params(vgg16, dtype)
    for name in conv_names("vgg16"):
        np.testing.assert_array_equal(
            prepared[name]["kernel"], jnp.asarray(vgg16[name]["kernel"], jnp.bfloat16)
        )
    assert prepared["input"]["mean"].dtype == jnp.float32


def test_what_nothing_reads_is_left_alone(vgg16):
    prepared = prepare_params(vgg16, "float32", ["conv2_1", "relu3_1"])
    assert prepared["conv3_1"]["kernel"].shape == (36, 128, 256)
    assert prepared["conv3_2"]["kernel"] is vgg16["conv3_2"]["kernel"]
    features = VGG(prepared)(jnp.zeros((16, 16, 3)), ["relu3_1"])
    np.testing.assert_allclose(
        features["relu3_1"], VGG(vgg16)(jnp.zeros((16, 16, 3)), ["relu3_1"])["relu3_1"], atol=1e-4
    )


def test_an_unknown_layer_is_told(vgg16):
    with pytest.raises(InputError, match="unknown layer 'relu9_1'"):
        prepare_params(vgg16, "float32", ["relu9_1"])


@pytest.mark.parametrize(
    ("pooling", "dtype", "loss_off", "gradient_off"),
    [
        ("max", "float32", 1e-5, 1e-3),
        ("average", "float32", 1e-5, 1e-3),
        ("max", "bfloat16", 1e-3, 0.12),
    ],
)
def test_loss_and_gradient_are_those_of_the_plain_parameters(
    vgg16, cat, roofs, processor, pooling, dtype, loss_off, gradient_off
):
    processor()
    weights = LossWeights(0.05, 1.0, 0.0, {"relu3_1": 1.0}, dict.fromkeys(LAYERS, 0.25))
    start = jnp.clip(cat + 0.1 * jax.random.normal(jax.random.key(0), cat.shape), 0, 1)

    def both(params):
        targets = make_targets(
            params,
            cat,
            [roofs],
            content_layers=["relu3_1"],
            style_layers=LAYERS,
            pooling=pooling,
        )
        value = jax.value_and_grad(loss, has_aux=True)
        (total, _), gradient = jax.jit(value)(start, params, targets, weights)
        return float(total), np.asarray(gradient)

    (plain, direction), (ours, gradient) = both(vgg16), both(prepare_params(vgg16, dtype))
    off = np.linalg.norm(gradient - direction) / np.linalg.norm(direction)
    assert ours == pytest.approx(plain, rel=loss_off)
    assert off < gradient_off
