"""L-BFGS over a Laplacian pyramid, against Optax' own over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimize.problems import GOAL, START, compile_once, rippled, uniform

from nst_jax.errors import InputError
from nst_jax.optimize import has_line_search, minimize, minimize_batch, pyramid_lbfgs
from nst_jax.optimize.pyramid import synthesize

STEPS = 12


def run(optimizer, loss=rippled, start=START, args=(GOAL,), steps=STEPS):
    return minimize(loss, start, args, optimizer=optimizer, steps=steps, compile_fn=compile_once)


def test_with_one_band_it_is_l_bfgs_over_pixels():
    plain, pyramid = run(optax.lbfgs(memory_size=3)), run(pyramid_lbfgs(memory_size=3, num_bands=1))
    np.testing.assert_allclose(pyramid.history["total"], plain.history["total"], rtol=1e-5)
    np.testing.assert_allclose(pyramid.image, plain.image, atol=1e-5)


def test_each_band_is_upsampled_and_scaled():
    bands = (jnp.ones((5, 7, 3)), jnp.full((3, 4, 3), 2.0), jnp.full((2, 2, 3), 4.0))
    np.testing.assert_allclose(synthesize(bands, 0.5), 1 + 0.5 * (2 + 0.5 * 4), rtol=1e-6)
    assert synthesize(bands, 0.5).shape == (5, 7, 3)


def test_the_search_direction_is_a_descent_direction_of_the_image():
    optimizer, x = pyramid_lbfgs(), uniform(0, 1, shape=(18, 23, 3))
    value = lambda x: jnp.square(x - 0.3).sum() + jnp.sin(5 * x).sum()  # noqa: E731
    gradient = jax.grad(value)(x)

    @jax.jit
    def update_of(x):
        options = {"value": value(x), "grad": gradient, "value_fn": value}
        return optimizer.update(gradient, optimizer.init(x), x, **options)[0]

    update = update_of(x)
    assert jnp.vdot(update, gradient) < 0
    assert value(x + update) < value(x)


def test_a_broad_change_takes_fewer_steps_than_over_pixels():
    """The loss sees differences of neighbors and one corner, so the tone must spread from there."""

    def loss(image):
        slopes = (
            jnp.square(jnp.diff(image, axis=0)).sum() + jnp.square(jnp.diff(image, axis=1)).sum()
        )
        return slopes + jnp.square(image[0, 0] - 0.8).sum(), {}

    start = jnp.full((32, 32, 3), 0.2)
    totals = [
        run(optimizer, loss, start, (), steps=25).history["total"][-1]
        for optimizer in (optax.lbfgs(), pyramid_lbfgs(gain=0.7))
    ]
    assert totals[1] < 0.1 * totals[0]


def test_it_has_a_line_search_and_takes_one_image():
    assert has_line_search(pyramid_lbfgs())
    with pytest.raises(InputError, match="one image at a time"):
        minimize_batch(
            rippled,
            jnp.stack([START, START]),
            jnp.stack([GOAL, GOAL]),
            optimizer=pyramid_lbfgs(),
            steps=1,
        )
