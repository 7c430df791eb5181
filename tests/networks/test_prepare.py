"""Prepared parameters: their dtype and form on each processor, and how close they compute."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax.errors import InputError
from nst_jax.networks import VGG, conv_names, device, prepare, prepare_params, resolve_dtype
from nst_jax.networks.architectures import conv_shape
from nst_jax.networks.kernels.winograd import WinogradKernel

pytestmark = pytest.mark.usefixtures("winograd_as_installed")


@pytest.fixture
def set_cpu_flags(monkeypatch):
    """Return a function that gives the processor these flags and no others."""

    def set_flags(*flags):
        for module in (prepare, device):
            monkeypatch.setattr(module, "cpu_has", lambda *some: not {*some}.isdisjoint(flags))

    return set_flags


@pytest.mark.parametrize(
    ("flags", "dtype", "expected"),
    [
        (["amx_bf16"], "float32", "float32"),
        (["avx512_bf16"], "auto", "bfloat16"),
        ([], "bfloat16", "bfloat16"),
        ([], "auto", "float32"),
    ],
)
def test_deep_layers_take_winograds_form_on_cpu(vgg16, set_cpu_flags, flags, dtype, expected):
    set_cpu_flags(*flags)
    prepared = prepare_params(vgg16, dtype)
    for name in conv_names("vgg16"):
        kernel = prepared[name]["kernel"]
        assert kernel.dtype == prepared[name]["bias"].dtype == expected
        deep = min(conv_shape(name)[2:]) >= 128
        assert isinstance(kernel, WinogradKernel) == deep
        shape = (36, *conv_shape(name)[2:]) if deep else conv_shape(name)
        assert kernel.values.shape == shape


def test_with_amx_bfloat16_kernels_keep_their_form(vgg16, set_cpu_flags):
    set_cpu_flags("amx_bf16", "avx512_bf16")
    prepared = prepare_params(vgg16)
    for name in conv_names("vgg16"):
        kernel = vgg16[name]["kernel"].astype(jnp.bfloat16)
        np.testing.assert_array_equal(prepared[name]["kernel"].values, kernel)
    assert prepared["input"]["mean"].dtype == jnp.float32


def test_layers_deeper_than_requested_stay_as_they_are(vgg16):
    prepared = prepare_params(vgg16, "float32", ["conv2_1", "relu3_1"])
    assert isinstance(prepared["conv3_1"]["kernel"], WinogradKernel)
    assert prepared["conv3_2"]["kernel"] is vgg16["conv3_2"]["kernel"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"layers": ["relu9_1"]}, "unknown layer 'relu9_1'"),
        ({"dtype": "float8"}, "dtype is 'float8'; choose one of auto, float32, bfloat16"),
    ],
)
def test_unknown_layers_and_dtypes_are_refused(vgg16, kwargs, message):
    with pytest.raises(InputError, match=message):
        prepare_params(vgg16, **kwargs)


@pytest.mark.parametrize(
    ("platform", "attributes", "expected"),
    [
        ("gpu", {"compute_capability": "9.0"}, "bfloat16"),
        ("gpu", {"compute_capability": "8.0"}, "bfloat16"),
        ("gpu", {"compute_capability": "7.5"}, "float32"),
        ("gpu", {"compute_capability": "gfx942"}, "bfloat16"),
        ("tpu", {}, "bfloat16"),
    ],
)
def test_auto_is_bfloat16_where_a_device_is_fast_with_it(
    monkeypatch, platform, attributes, expected
):
    device = SimpleNamespace(platform=platform, **attributes)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert resolve_dtype("auto") == expected


def test_prepared_parameters_go_through_export(vgg16, cat):
    params = prepare_params(vgg16, "float32", ["relu3_2"])

    @jax.jit
    def features(params, image):
        return VGG().features(params, image, ["relu3_2"])["relu3_2"]

    exported = jax.export.deserialize(jax.export.export(features)(params, cat).serialize())
    np.testing.assert_array_equal(exported.call(params, cat), features(params, cat))


def test_one_layer_without_a_list_is_refused(vgg16):
    with pytest.raises(InputError, match=r"layers is 'relu3_1'; give a list of layers, such as"):
        prepare_params(vgg16, "float32", "relu3_1")


def test_prepared_parameters_are_not_prepared_again(vgg16):
    with pytest.raises(InputError, match="prepared already"):
        prepare_params(prepare_params(vgg16, "float32"), "float32")


def test_features_and_gradient_are_close_to_those_of_loaded_parameters(vgg16, cat, set_cpu_flags):
    set_cpu_flags()
    assert resolve_dtype("auto") == jnp.float32

    @jax.jit
    @jax.value_and_grad
    def energy(image, params):
        features = VGG().features(params, image, ["relu1_1", "relu3_1"]).values()
        return sum(jnp.square(x.astype(jnp.float32)).mean() for x in features)

    value, gradient = energy(cat, vgg16)
    for dtype, value_error, gradient_error in (("float32", 1e-5, 1e-4), ("bfloat16", 0.02, 0.12)):
        got_value, got_gradient = energy(cat, prepare_params(vgg16, dtype))
        assert float(got_value) == pytest.approx(float(value), rel=value_error)
        difference = jnp.linalg.norm(got_gradient - gradient)
        assert difference < gradient_error * jnp.linalg.norm(gradient)
