"""Bias, ReLU and pooling against PyTorch and JAX's own derivatives."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lazy import torch

from nst_jax.networks import VGG, layers
from nst_jax.networks.layers import POOL_SCALE, bias_relu, pool


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bias_relu_and_its_gradients_equal_those_of_jax(dtype):
    x = jax.random.normal(jax.random.key(0), (5, 7, 3), dtype)
    bias = jnp.asarray([0.5, 0, -1], dtype)
    out, pull = jax.vjp(bias_relu, x, bias)
    expected, pull_expected = jax.vjp(lambda x, bias: jax.nn.relu(x + bias), x, bias)
    np.testing.assert_array_equal(out, expected)
    cotangent = jax.random.normal(jax.random.key(1), x.shape, dtype)
    (grad_x, grad_bias), (expected_x, expected_bias) = pull(cotangent), pull_expected(cotangent)
    np.testing.assert_array_equal(grad_x, expected_x)
    np.testing.assert_allclose(
        np.asarray(grad_bias, np.float32), np.asarray(expected_bias, np.float32), rtol=0.02
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ties", [False, True])
def test_max_pooling_and_its_gradient_equal_pytorch(ties, dtype):
    """Of equal values the first in reading order gets the gradient, as in PyTorch."""
    rng = np.random.default_rng(0)
    shape = (7, 8, 4)  # an odd last row is dropped; bfloat16 is exact for integers up to 256
    x = rng.integers(0, 3, shape) if ties else rng.permutation(math.prod(shape)).reshape(shape)
    cotangent = rng.integers(-8, 8, (3, 4, 4))
    x_torch = torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32, requires_grad=True)
    expected = torch.nn.functional.max_pool2d(x_torch, 2)
    expected.backward(torch.tensor(cotangent.transpose(2, 0, 1)[None], dtype=torch.float32))
    out, pull = jax.vjp(lambda x: pool(x, "max"), jnp.asarray(x, dtype))
    np.testing.assert_array_equal(out, expected.detach()[0].permute(1, 2, 0))
    gradient = pull(jnp.asarray(cotangent, dtype))[0]
    assert gradient.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(gradient, x_torch.grad[0].permute(1, 2, 0))


def test_the_tpu_form_of_max_pooling_equals_the_cpu_form():
    x = jax.random.normal(jax.random.key(0), (6, 8, 5))
    np.testing.assert_array_equal(layers._corners_strided(x), layers._corners_reshape(x))
    argmax = jax.random.randint(jax.random.key(1), (3, 4, 5), 0, 4).astype(jnp.uint8)
    strided, pull_strided = jax.vjp(partial(layers._select_strided, argmax), x)
    reshaped, pull_reshaped = jax.vjp(partial(layers._select_reshape, argmax), x)
    np.testing.assert_array_equal(strided, reshaped)
    cotangent = jax.random.normal(jax.random.key(2), (3, 4, 5))
    np.testing.assert_array_equal(*pull_strided(cotangent), *pull_reshaped(cotangent))


def test_l2_pooling_has_a_finite_gradient_at_zero():
    gradient = jax.grad(lambda x: pool(x, "l2").sum())(jnp.zeros((4, 4, 2)))
    assert not gradient.any()


def test_l2_pooling_of_large_half_precision_activations_does_not_overflow():
    x = jnp.full((2, 2, 1), 500, jnp.float16)
    assert pool(x, "l2").item() == pytest.approx(POOL_SCALE["l2"] * 1000, rel=1e-3)


@pytest.mark.campaign
def test_the_scale_keeps_the_size_of_activations(vgg16, photos):
    images = [jnp.asarray(x[:272:2, :400:2], jnp.float32) / 255 for x in photos.values()]

    @partial(jax.jit, static_argnums=2)
    def rms(params, image, pooling):
        features = VGG(pooling).features(params, image, [f"relu{b}_1" for b in range(2, 6)])
        return jnp.stack([jnp.sqrt(jnp.square(x).mean()) for x in features.values()])

    log_rms = {
        pooling: np.mean([np.log(rms(vgg16, image, pooling)) for image in images])
        for pooling in POOL_SCALE
    }
    for pooling in ("scaled_average", "l2"):
        assert np.exp(log_rms[pooling] - log_rms["max"]) == pytest.approx(1, abs=0.1)
