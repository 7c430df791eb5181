"""What the compiler of a GPU gets, lowered on a machine without one: the plain convolution, without
the forms for CPUs and TPUs, and no operation that calls the host."""

import re

import jax
import jax.export
import jax.numpy as jnp
import optax
import pytest

from nst_jax import LossWeights, loss, make_targets
from nst_jax.networks.architectures import conv_names, conv_shape
from nst_jax.networks.kernels.conv3x3 import DirectKernel
from nst_jax.optimize import chunk_lowering_args, init_state, pyramid_lbfgs

STYLE_LAYERS = {"relu1_1": 0.5, "relu3_1": 0.5}
CONTENT_LAYERS = {"relu3_2": 1.0}
NUM_CONVS = 6  # up to conv3_2


def lower_for_cuda(optimizer, dtype):
    """Return the StableHLO of the compiled loop for a 32-pixel square and VGG16."""
    shape = jax.ShapeDtypeStruct
    params = {"input": {"mean": shape((3,), jnp.float32), "std": shape((3,), jnp.float32)}}
    for name in conv_names("vgg16"):
        kernel = conv_shape(name)
        prepared = DirectKernel(shape(kernel, dtype))  # what prepare_params returns on a GPU
        params[name] = {"kernel": prepared, "bias": shape(kernel[3:], dtype)}
    image = shape((32, 32, 3), jnp.float32)
    layers = {"content_layers": tuple(CONTENT_LAYERS), "style_layers": tuple(STYLE_LAYERS)}
    targets = jax.eval_shape(lambda p, x: make_targets(p, x, [x], **layers), params, image)
    loss_weights = LossWeights(0.05, 1.0, 0.0, CONTENT_LAYERS, STYLE_LAYERS)
    state = jax.eval_shape(lambda x: init_state(x, optimizer=optimizer), image)
    args = (params, targets, loss_weights)
    jitted, arrays, static = chunk_lowering_args(loss, state, args, optimizer=optimizer)
    return jax.export.export(jitted, platforms=["cuda"])(*arrays, **static).mlir_module()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("optimizer", [optax.adam(0.02), pyramid_lbfgs()], ids=["adam", "lbfgs"])
def test_a_gpu_gets_plain_convolutions_in_its_own_layout(optimizer, dtype):
    text = lower_for_cuda(optimizer, dtype)
    convolutions = re.findall(
        r"stablehlo\.convolution\(.*?dim_numbers = (.*?), window.*-> tensor<\S*x(\w+)>", text
    )
    element = {"float32": "f32", "bfloat16": "bf16"}[jnp.dtype(dtype).name]
    forward = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    backward = "[b, 0, 1, f]x[0, 1, o, i]->[b, 0, 1, f]"  # the transpose that JAX derives
    assert set(convolutions) == {(forward, element), (backward, element)}
    assert len(convolutions) == 2 * NUM_CONVS  # one copy of the network, forward and backward
    assert not re.search(r"callback|infeed|outfeed|send|recv", text)
