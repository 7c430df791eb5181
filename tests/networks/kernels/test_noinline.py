"""Functions that XLA does not inline: their values, and the memory that they save."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax.networks import VGG, layers
from nst_jax.networks.kernels.noinline import noinline

LAYERS = ("relu1_1", "relu2_1", "relu3_1")


def add_and_compare(x, y):
    return x + y, jnp.maximum(x, y) > 0


def test_on_cpu_xla_calls_the_function():
    x, y = jax.random.normal(jax.random.key(0), (2, 8, 16))
    compiled = jax.jit(lambda x, y: noinline(add_and_compare, x, y)).lower(x, y).compile()
    assert " call(" in compiled.as_text()
    for got, want in zip(compiled(x, y), add_and_compare(x, y), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("dtype", "saving"),
    [("float32", 0.25), pytest.param("bfloat16", 0.08, marks=pytest.mark.extended)],
)
def test_a_step_takes_less_memory(vgg16, monkeypatch, dtype, saving):
    params = jax.tree.map(lambda x: x.astype(dtype), vgg16)
    image = jax.ShapeDtypeStruct((256, 256, 3), jnp.float32)

    def temporary_bytes():
        def energy(image, params):  # a new function, because JAX caches traced ones
            features = [
                x.reshape(-1, x.shape[2]) for x in VGG().features(params, image, LAYERS).values()
            ]
            return sum(jnp.square((x.T @ x).astype(jnp.float32)).sum() for x in features)

        compiled = jax.jit(jax.value_and_grad(energy)).lower(image, params).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    with_noinline = temporary_bytes()
    monkeypatch.setattr(layers, "noinline", lambda fn, *args: fn(*args))
    assert with_noinline < (1 - saving) * temporary_bytes()
