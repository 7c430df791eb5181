"""Functions that are not inlined: what they return, and the memory that they are there for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import LossWeights, loss, make_targets
from nst_jax.losses import terms as losses
from nst_jax.models import layers
from nst_jax.models.kernels.noinline import apart

TAPS = ("relu1_1", "relu2_1", "relu3_1")


def both(x, y):
    return x + y, jnp.maximum(x, y) > 0


def test_on_a_cpu_the_function_is_called():
    x, y = jax.random.normal(jax.random.key(0), (2, 8, 16))
    program = jax.jit(lambda x, y: apart(both, x, y)).lower(x, y).compile()
    assert " call(" in program.as_text()
    for got, want in zip(program(x, y), both(x, y), strict=True):
        np.testing.assert_array_equal(got, want)


def test_differentiated_and_batched():
    x = jax.random.normal(jax.random.key(0), (3, 8))
    gradient = jax.jit(jax.vmap(jax.grad(lambda x: apart(jnp.square, x).sum())))(x)
    np.testing.assert_allclose(gradient, 2 * x, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "saved"), [("float32", 0.25), ("bfloat16", 0.1)])
def test_a_step_takes_less_memory(vgg16, photos, monkeypatch, dtype, saved):
    params = jax.tree.map(lambda x: x.astype(dtype), vgg16)
    image = jnp.asarray(photos["astronaut"][:256, :256], jnp.float32) / 255
    layers_at = {"content_layers": ["relu2_2"], "style_layers": TAPS}
    targets = jax.eval_shape(lambda p, x: make_targets(p, x, [x], **layers_at), params, image)
    weights = LossWeights(1.0, 1.0, 0.0, {"relu2_2": 1.0}, dict.fromkeys(TAPS, 1.0))

    def needed():
        def fresh(*args):  # JAX would find what it has traced
            return jax.value_and_grad(loss, has_aux=True)(*args)

        program = jax.jit(fresh).lower(image, params, targets, weights).compile()
        return program.memory_analysis().temp_size_in_bytes

    with_it = needed()
    for module in (layers, losses):
        monkeypatch.setattr(module, "apart", lambda function, *args: function(*args))
    assert with_it < (1 - saved) * needed()
