"""What a GPU's compiler is given, lowered where there is none: nothing of what was written for
CPUs or TPUs, and nothing that would call the host."""

import re

import jax
import jax.export
import jax.numpy as jnp
import optax
import pytest

from nst_jax import LossWeights, loss, make_targets
from nst_jax.models.architectures import conv_names, conv_shape
from nst_jax.optimize import loop as optimize

LAYERS = {"relu1_1": 0.5, "relu3_1": 0.5}
CONTENT = {"relu3_2": 1.0}
CONVS = 6  # up to conv3_2


def program(optimizer: optax.GradientTransformationExtraArgs, *, dtype: jnp.dtype) -> str:
    """The loop's StableHLO for a GPU, of a 32-pixel square and VGG16."""
    shape = jax.ShapeDtypeStruct
    params = {"input": {"mean": shape((3,), jnp.float32), "std": shape((3,), jnp.float32)}}
    for name in conv_names("vgg16"):
        kernel = conv_shape(name)
        params[name] = {"kernel": shape(kernel, dtype), "bias": shape(kernel[3:], dtype)}
    image = shape((32, 32, 3), jnp.float32)
    targets = jax.eval_shape(
        lambda params, image: make_targets(
            params, image, [image], content_layers=tuple(CONTENT), style_layers=tuple(LAYERS)
        ),
        params,
        image,
    )
    weights = LossWeights(0.05, 1.0, 0.0, CONTENT, LAYERS)
    state = jax.eval_shape(lambda x: optimize._begin(x, optimizer, 0.0, batched=False), image)
    searches = optimize.has_line_search(optimizer)
    exported = jax.export.export(optimize._chunk, platforms=["cuda"])(
        *state[:3],
        (),
        (params, targets, weights),
        0.0,
        1,
        True,
        loss=loss,
        optimizer=optimizer,
        line_search=searches,
    )
    return exported.mlir_module()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("optimizer", [optax.adam(0.02), optax.lbfgs()], ids=["adam", "lbfgs"])
def test_a_gpu_gets_plain_convolutions_in_its_own_layout(optimizer, dtype):
    text = program(optax.with_extra_args_support(optimizer), dtype=dtype)
    convolutions = re.findall(
        r"stablehlo\.convolution\(.*?dim_numbers = (.*?), window.*-> tensor<\S*x(\w+)>", text
    )
    element = {"float32": "f32", "bfloat16": "bf16"}[jnp.dtype(dtype).name]
    assert set(convolutions) == {("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]", element)}
    assert len(convolutions) >= 2 * CONVS  # forward and back
    assert not re.search(r"callback|infeed|outfeed|send|recv", text)
