"""The preconditioner of the pyramid, and what it gains over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimize.problems import compile_once, float64, uniform

from nst_jax.errors import InputError
from nst_jax.optimize import minimize, pyramid_lbfgs
from nst_jax.optimize.pyramid import precondition


def dense(shape, num_bands, gain):
    """U·Uᵀ in float64, where U makes an image of the coefficients of all bands."""
    height, width = shape
    upsampled, matrices = np.eye(height * width), [np.eye(height * width)]
    for _ in range(num_bands - 1):
        h, w = -(-height // 2), -(-width // 2)
        bands = np.eye(h * w).reshape(-1, h, w)
        resized = jax.image.resize(bands, (h * w, 2 * h, 2 * w), "cubic")[:, :height, :width]
        upsampled = gain * upsampled @ np.asarray(resized).reshape(h * w, -1).T
        matrices.append(upsampled)
        height, width = h, w
    synthesis = np.concatenate(matrices, 1)
    return synthesis @ synthesis.T


@pytest.mark.parametrize("shape", [(9, 14), (1, 6), (8, 8)])
def test_the_preconditioner_is_the_square_of_the_synthesis(shape):
    grad = np.random.default_rng(0).normal(size=(*shape, 3))
    with float64():
        found = precondition(jnp.asarray(grad), num_bands=4, gain=0.6)
        assert found.dtype == jnp.float64
        expected = (dense(shape, 4, 0.6) @ grad.reshape(-1, 3)).reshape(grad.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_broad_change_takes_fewer_steps_than_over_pixels():
    """The loss sees differences of neighbors and one corner, so the tone must spread from there."""

    def loss(image):
        slopes = (
            jnp.square(jnp.diff(image, axis=0)).sum() + jnp.square(jnp.diff(image, axis=1)).sum()
        )
        return slopes + jnp.square(image[0, 0] - 0.8).sum(), {}

    start = jnp.full((32, 32, 3), 0.2)
    pixels, pyramid = (
        minimize(loss, start, optimizer=each, steps=25, compile_fn=compile_once).history["total"][
            -1
        ]
        for each in (pyramid_lbfgs(num_bands=1), pyramid_lbfgs(gain=0.7))
    )
    assert pyramid < 0.1 * pixels


def test_equal_calls_share_the_optimizer_and_so_the_compiled_loop():
    assert pyramid_lbfgs(memory_size=4) is pyramid_lbfgs(memory_size=4)
    assert pyramid_lbfgs(memory_size=4) is not pyramid_lbfgs(memory_size=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"memory_size": 0}, "memory_size is 0"), ({"num_bands": 0}, "num_bands is 0")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        pyramid_lbfgs(**options)


def test_it_is_a_part_of_a_chain():
    optimizer = optax.chain(optax.scale(2.0), pyramid_lbfgs(num_bands=2))
    goal = uniform(0.2, 0.8, shape=(8, 8, 3))

    def loss(image):
        return jnp.square(image - goal).sum(), {}

    result = minimize(loss, jnp.zeros((8, 8, 3)), optimizer=optimizer, steps=60)
    np.testing.assert_allclose(result.iterate, goal, atol=1e-2)
