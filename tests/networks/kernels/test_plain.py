"""The switch that turns the kernels off: what is left is JAX's own, and computes the same."""

import jax
import jax.numpy as jnp
import pytest

from nst_jax.networks import VGG, prepare_params

LAYERS = ["relu1_1", "conv2_2"]
OWN = ("optimization_barrier", "inlineable", "_conv_prepared", "_bias_relu", "_max_pool")


def traced(params):
    """A function of its own, because JAX keeps what it has traced."""

    def energy(image):
        features = VGG().features(params, image, LAYERS).values()
        return sum(jnp.square(x.astype(jnp.float32)).mean() for x in features)

    return jax.jit(jax.value_and_grad(energy))


def texts(function, image):
    return str(jax.make_jaxpr(function)(image)) + function.lower(image).as_text()


@pytest.mark.parametrize(
    ("dtype", "value_error", "gradient_error"),
    [("float32", 1e-5, 1e-4), ("bfloat16", 0.02, 0.12)],
)
@pytest.mark.usefixtures("winograd_as_installed")
def test_plain_kernels_are_none_of_this_package_and_agree(
    vgg16, cat, monkeypatch, dtype, value_error, gradient_error
):
    image = cat[:32, :32]
    fast = traced(prepare_params(vgg16, dtype, LAYERS))
    assert all(name in texts(fast, image) for name in OWN[:3])
    value, gradient = fast(image)
    monkeypatch.setenv("NST_JAX_PLAIN_KERNELS", "1")
    params = prepare_params(vgg16, dtype, LAYERS)
    assert isinstance(params["conv2_2"]["kernel"], jax.Array)
    assert params["conv2_2"]["kernel"].dtype == dtype
    plain = traced(params)
    assert not any(name in texts(plain, image) for name in OWN)
    plain_value, plain_gradient = plain(image)
    assert float(plain_value) == pytest.approx(float(value), rel=value_error)
    difference = jnp.linalg.norm(plain_gradient - gradient)
    assert difference < gradient_error * jnp.linalg.norm(gradient)


@pytest.mark.parametrize("value", ["", "0"])
def test_the_switch_is_off(vgg16, monkeypatch, value):
    monkeypatch.setenv("NST_JAX_PLAIN_KERNELS", value)
    assert not isinstance(prepare_params(vgg16)["conv1_1"]["kernel"], jax.Array)
