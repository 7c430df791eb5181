"""The loop run to its end, for one image and for several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optimize.problems import GOAL, OPTIMIZERS, START, plain_loop, quadratic, rippled, uniform

from nst_jax import optimize
from nst_jax.errors import DivergedError
from nst_jax.losses.objective import LossWeights, loss, make_targets
from nst_jax.optimize import minimize, minimize_batch, pyramid_lbfgs


def test_the_loss_of_a_style_transfer_falls(vgg16, cat, face):
    content, style, layers = cat[:16, :20], face[:28, :24], {"relu1_2": 1.0}
    targets = make_targets(
        vgg16, content, [style], content_layers=list(layers), style_layers=list(layers)
    )
    args = (vgg16, targets, LossWeights(1.0, 10.0, 0.1, layers, layers))
    start = uniform(0.3, 0.7, shape=content.shape)
    result = minimize(loss, start, args, optimizer=OPTIMIZERS["adam"], steps=15)
    before, after = (float(jax.jit(loss)(image, *args)[0]) for image in (start, result.iterate))
    assert result.history["total"][0] == pytest.approx(before, rel=1e-4)
    assert after < 0.5 * before


@pytest.mark.parametrize(("name", "ema_decay"), [("adam", 0.8), ("lbfgs", 0.0)])
def test_the_result_is_that_of_the_chunks(name, ema_decay):
    options = {"optimizer": OPTIMIZERS[name], "ema_decay": ema_decay, "callback_every": 4}
    *_, last = optimize.optimize_chunks(rippled, START, (GOAL,), steps=15, **options)
    seen = []
    result = minimize(rippled, START, (GOAL,), steps=15, on_progress=seen.append, **options)
    image = optimize.current_iterate(last.state)
    np.testing.assert_array_equal(result.iterate, image)
    jax.tree.map(np.testing.assert_array_equal, result.state, last.state)
    assert (result.converged, result.seconds) == (last.converged, seen[-1].seconds)
    assert result.compile_seconds > 0
    for key in ("step", "total"):
        values = np.concatenate([chunk.metrics[key] for chunk in seen])
        np.testing.assert_array_equal(result.history[key], values)
    assert len(result.history["distance"]) == 15


def test_a_callback_that_returns_true_stops():
    options = {"optimizer": OPTIMIZERS["adam"], "callback_every": 5}
    result = minimize(
        quadratic,
        START,
        (GOAL,),
        steps=1000,
        on_progress=lambda chunk: chunk.state.step >= 10,
        **options,
    )
    assert result.state.step == len(result.history["total"]) == 10
    images, _ = plain_loop(quadratic, START, (GOAL,), OPTIMIZERS["adam"], 10)
    np.testing.assert_allclose(result.iterate, images[-1], 1e-4)
    rest = minimize(quadratic, result.state, (GOAL,), steps=5, **options)
    np.testing.assert_array_equal(rest.history["step"], range(11, 16))


def fragile(image, goal):
    """Not a number once the image is near its goal."""
    total, terms = quadratic(image, goal)
    return jnp.where(total < 0.5, jnp.nan, total), terms


@pytest.mark.parametrize("every", [1, 4, None])
def test_divergence_carries_the_last_finite_image_and_the_history_so_far(every):
    options = {"optimizer": OPTIMIZERS["sgd"], "steps": 300, "callback_every": every}
    with pytest.raises(DivergedError, match="smaller learning rate") as raised:
        minimize(fragile, START, (GOAL,), **options)
    images, history = plain_loop(quadratic, START, (GOAL,), OPTIMIZERS["sgd"], 60)
    finite, step = (history["total"] >= 0.5).sum(), raised.value.step
    assert 1 < finite < 60
    assert 0 < step <= finite
    assert step == finite or every != 1
    np.testing.assert_allclose(raised.value.image, images[step - 1], 1e-4)
    np.testing.assert_allclose(raised.value.history["total"], history["total"][:step], 1e-4)


# --- several images ------------------------------------------------------------------------------

STARTS = uniform(0, 1, seed=3, shape=(3, *START.shape))
GOALS = uniform(0, 1, seed=4, shape=(3, *START.shape))


def weighted(image, goal, weight):
    """Take what differs between the images first, then what they share."""
    total, terms = rippled(image, goal)
    return weight * total, terms


@pytest.mark.parametrize(("name", "ema_decay"), [("adam", 0.7), ("sgd", 0.0), ("lbfgs", 0.0)])
def test_a_batch_equals_one_image_at_a_time_and_can_be_continued(name, ema_decay):
    options = {"optimizer": OPTIMIZERS[name], "ema_decay": ema_decay, "callback_every": 5}
    results = minimize_batch(weighted, STARTS, GOALS, (0.5,), steps=12, **options)
    for start, goal, result in zip(STARTS, GOALS, results, strict=True):
        alone = minimize(weighted, start, (goal, 0.5), steps=12, **options)
        np.testing.assert_allclose(result.iterate, alone.iterate, atol=1e-5)
        assert set(result.history) == set(alone.history)
        for key, values in alone.history.items():
            np.testing.assert_allclose(result.history[key], values, 1e-4, err_msg=key)
    half = minimize_batch(weighted, STARTS, GOALS, (0.5,), steps=7, **options)
    rest = minimize_batch(weighted, half[0].state, GOALS, (0.5,), steps=5, **options)
    for result, expected in zip(rest, results, strict=True):
        np.testing.assert_array_equal(result.iterate, expected.iterate)
        np.testing.assert_array_equal(result.history["step"], range(8, 13))


def test_no_steps_return_the_start():
    options = {"optimizer": OPTIMIZERS["adam"], "steps": 0, "ema_decay": 0.9}
    one = minimize(rippled, START, (GOAL,), **options)
    several = minimize_batch(rippled, STARTS, GOALS, **options)
    np.testing.assert_array_equal(one.iterate, START)
    np.testing.assert_array_equal([result.iterate for result in several], STARTS)
    assert [result.history for result in (one, *several)] == [{}] * 4


def test_a_batch_diverges_with_any_of_its_images():
    starts, goals = jnp.stack([START, START]), jnp.stack([GOAL, START])  # one is at its goal
    with pytest.raises(DivergedError) as raised:
        minimize_batch(fragile, starts, goals, optimizer=OPTIMIZERS["sgd"], steps=20)
    np.testing.assert_array_equal(raised.value.image, starts)
    assert (raised.value.step, raised.value.history) == (0, {})


def test_an_image_of_a_batch_that_has_converged_stays_as_it_is():
    options = {"optimizer": OPTIMIZERS["lbfgs"], "steps": 400}
    starts, goals = jnp.stack([GOAL, START]), jnp.stack([GOAL, 1 - GOAL])  # one is at its goal
    first, second = minimize_batch(quadratic, starts, goals, **options)
    np.testing.assert_array_equal(first.iterate, GOAL)
    alone = minimize(quadratic, START, (1 - GOAL,), **options)
    assert first.converged
    assert 20 < len(alone.history["total"]) < 400
    np.testing.assert_allclose(second.iterate, alone.iterate, atol=1e-4)


def test_a_trial_whose_loss_is_not_finite_is_refused():
    def walled(image, goal):
        total, terms = rippled(image, goal)
        return jnp.where(jnp.abs(image - goal).max() > 0.2, jnp.nan, total), terms

    start, goal = jnp.full_like(GOAL, 0.4), jnp.full_like(GOAL, 0.51)
    result = minimize(walled, start, (goal,), optimizer=pyramid_lbfgs(2, 1), steps=60)
    totals = result.history["total"]
    assert np.isnan(totals).any()  # the loop has met the wall
    assert np.nanmin(totals) < 0.5 * totals[0]
    assert bool(jnp.isfinite(result.iterate).all())
