"""Coarse to fine: what passes from level to level, and the way through the levels."""

import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimize.problems import OPTIMIZERS, compile_once, rippled, uniform

from nst_jax.errors import DivergedError
from nst_jax.optimize import Ema, Level, State, minimize, optimize_multiscale, resample_state

SHAPES, STEPS = [(8, 12), (11, 17), (16, 24)], [5, 3, 4]
GOALS = [uniform(0, 1, seed, (*shape, 3)) for seed, shape in enumerate(SHAPES)]
LEVELS = [
    Level(shape, steps, rippled, (goal,))
    for shape, steps, goal in zip(SHAPES, STEPS, GOALS, strict=True)
]
START = jnp.full((*SHAPES[0], 3), 0.5)
EMA_OPTIONS = [("adam", 0.0), ("adam", 0.6), ("lbfgs", 0.0)]


def run(levels=LEVELS, start=START, name="adam", ema_decay=0.0, **options):
    """Run to the end; return the chunks, with states that survive the next chunk."""
    options |= {"optimizer": OPTIMIZERS[name], "ema_decay": ema_decay}
    options.setdefault("compile_fn", compile_once)
    return [
        chunk._replace(state=jax.tree.map(np.array, chunk.state))
        for chunk in optimize_multiscale(levels, start, **options)
    ]


def column(chunks, name):
    return [x for chunk in chunks if chunk.metrics for x in chunk.metrics[name].tolist()]


def assert_trees_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_each_image_and_its_moments_are_resampled_and_the_ema_restarts():
    optimizer = OPTIMIZERS["adam"]
    images, grads = uniform(0, 1, 1, (2, 8, 12, 3)), uniform(-1, 1, 2, (2, 8, 12, 3))
    opt_state = jax.vmap(optimizer.init)(images)
    for _ in range(3):
        _, opt_state = jax.vmap(optimizer.update)(grads, opt_state, images)
    steps, counts = np.array([30, 30], np.int32), np.array([3, 3], np.int32)
    ema = Ema(images * (1 - 0.5**3), np.array([0.5, 0.5], np.float32))
    batch = State(1 - images, ema, opt_state, steps, counts)
    for state in (batch, jax.tree.map(lambda x: x[1], batch)):  # a batch, and one image alone
        shape = (*state.iterate.shape[:-3], 16, 24, 3)
        image, gradient = (images, grads) if state is batch else (images[1], grads[1])
        found = resample_state(state, (16, 24), optimizer=optimizer)
        expected = jax.image.resize(image, shape, "cubic")  # the EMA without its bias
        np.testing.assert_allclose(found.iterate, jnp.clip(expected, 0, 1), atol=1e-6)
        np.testing.assert_array_equal(found.ema.average, jnp.zeros(shape))
        np.testing.assert_array_equal(found.ema.decay, state.ema.decay)
        np.testing.assert_array_equal(found.step, state.step)
        assert not found.level_step.any()
        first, second, count = (
            optax.tree_utils.tree_get(found.opt_state, name) for name in ("mu", "nu", "count")
        )
        expected = (1 - 0.9**3) * jax.image.resize(gradient, shape, "linear")
        np.testing.assert_allclose(first, expected, atol=1e-5)
        assert second.shape == shape
        assert second.min() >= 0
        assert (count == 3).all()


@pytest.mark.parametrize("optimizer", [OPTIMIZERS["lbfgs"], optax.lbfgs(memory_size=3)])
def test_an_optimizer_that_remembers_steps_starts_afresh(optimizer):
    result = minimize(rippled, START, (GOALS[0],), optimizer=optimizer, steps=3)
    resampled = resample_state(result.state, (16, 24), optimizer=optimizer)
    assert_trees_equal(resampled.opt_state, optimizer.init(resampled.iterate))


@pytest.mark.parametrize(("name", "ema_decay"), EMA_OPTIONS)
def test_a_run_is_its_levels_one_after_another(name, ema_decay):
    options = {"optimizer": OPTIMIZERS[name], "ema_decay": ema_decay, "compile_fn": compile_once}
    chunks = run(name=name, ema_decay=ema_decay)
    state, totals = None, []
    for level in LEVELS:
        start = START
        if state is not None:
            start = resample_state(state, level.shape, optimizer=OPTIMIZERS[name])
        result = minimize(rippled, start, level.args, steps=level.steps, **options)
        state = result.state
        totals += result.history["total"].tolist()
    assert_trees_equal(chunks[-1].state, state)
    assert column(chunks, "total") == totals
    assert column(chunks, "step") == list(range(1, 13))
    for chunk in chunks:
        assert chunk.state.iterate.shape[:2] == SHAPES[chunk.level]
    seconds = [chunk.seconds for chunk in chunks]
    assert seconds == sorted(seconds)  # they count over all levels


@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_a_batch_runs_through_the_levels_as_if_alone(name):
    starts = jnp.stack([START, START / 2])
    levels = [
        level._replace(args=(), batched_args=jnp.stack([goal, 1 - goal]))
        for level, goal in zip(LEVELS[:2], GOALS[:2], strict=True)
    ]
    *_, together = run(levels, starts, name)
    for i, start in enumerate(starts):
        own = [level._replace(args=(level.batched_args[i],), batched_args=None) for level in levels]
        *_, alone = run(own, start, name)
        np.testing.assert_allclose(together.state.iterate[i], alone.state.iterate, atol=1e-4)


def test_levels_are_requested_when_they_are_reached_and_freed_before_the_next():
    goals, alive = [], []

    def level(i):
        alive.append(sum(goal() is not None for goal in goals))
        goal = jnp.array(GOALS[i])
        goals.append(weakref.ref(goal))
        return Level(SHAPES[i], 3, rippled, (goal,))

    for last_level, requested in ((1, [0, 0]), (2, [0, 0, 0])):
        goals.clear()
        alive.clear()
        levels = map(level, range(3))
        for chunk in optimize_multiscale(levels, START, optimizer=OPTIMIZERS["adam"]):
            assert len(goals) == chunk.level + 1
            if chunk.level == last_level:
                break
        assert alive == requested


@pytest.mark.parametrize("without", [0, 1, 2])
def test_a_level_without_steps_only_resamples(without):
    levels = list(LEVELS)
    levels[without] = LEVELS[without]._replace(steps=0)
    chunks = run(levels)
    (empty,) = (chunk for chunk in chunks if chunk.level == without)
    assert empty.metrics == {}
    assert empty.state.iterate.shape[:2] == SHAPES[without]
    if without:
        before = [chunk for chunk in chunks if chunk.level == without - 1][-1]
        expected = resample_state(before.state, SHAPES[without], optimizer=OPTIMIZERS["adam"])
        assert_trees_equal(empty.state, expected)
    assert column(chunks, "step") == list(range(1, 13 - STEPS[without]))


@pytest.mark.parametrize(("name", "ema_decay"), EMA_OPTIONS)
def test_a_run_that_is_resumed_equals_one_without_a_break(name, ema_decay):
    options = {"name": name, "ema_decay": ema_decay, "callback_every": 1}
    whole = run(**options)
    for pause in (2, 5, 6, 8, 12):  # in the middle of levels and at their ends
        saved = whole[pause - 1]
        assert saved.state.step == pause
        rest = run(LEVELS[saved.level :], saved.state, first_level=saved.level, **options)
        assert_trees_equal(rest[-1].state, whole[-1].state)
        assert column(rest, "total") == column(whole[pause:], "total")
        levels = [chunk.level for chunk in rest if chunk.metrics]
        assert levels == [chunk.level for chunk in whole[pause:]]


def test_a_state_of_another_size_is_resampled_for_the_first_level():
    saved = run(LEVELS[:1])[-1].state
    found, expected = run(LEVELS[1:], saved, first_level=1)[-1], run(LEVELS)[-1]
    assert_trees_equal(found.state, expected.state)
    assert found.level == 2


def test_two_levels_of_one_size_both_take_their_steps():
    again = Level(SHAPES[0], 4, rippled, (1 - GOALS[0],))
    chunks = run([LEVELS[0], again], ema_decay=0.6)
    assert column(chunks, "step") == list(range(1, 10))
    assert chunks[-1].state.level_step == 4


def test_a_level_whose_steps_a_state_has_already_taken_is_done():
    saved = run(LEVELS[:1])[-1].state
    (chunk,) = run([LEVELS[0]._replace(steps=1)], saved)
    assert not chunk.metrics
    assert_trees_equal(chunk.state, saved)


def test_a_level_is_compiled_once_and_callback_every_counts_over_all_levels():
    compiled = []

    def compile_fn(jitted, *args, **static):
        compiled.append(args[0].iterate.shape[:2])
        return jitted.lower(*args, **static).compile()

    chunks = run(callback_every=4, compile_fn=compile_fn)
    assert {4, 5, 8, 12} <= {int(chunk.state.step) for chunk in chunks}
    assert compiled == SHAPES
    assert len({chunk.compile_seconds for chunk in chunks}) == 3  # they count over all levels


def test_a_level_that_converges_is_followed_by_the_next():
    chunks = run([LEVELS[0]._replace(steps=1000), *LEVELS[1:]], name="lbfgs")
    assert [chunk.level for chunk in chunks if chunk.converged] == [0]
    assert chunks[-1].level == 2
    assert chunks[-1].state.step < 1000


def test_divergence_at_a_finer_level_carries_an_image_of_its_size():
    levels = [LEVELS[0], LEVELS[1]._replace(args=(GOALS[1] * jnp.nan,)), LEVELS[2]]
    with pytest.raises(DivergedError) as raised:
        run(levels)
    assert raised.value.step == 5
    assert raised.value.image.shape[:2] == SHAPES[1]
    assert jnp.isfinite(raised.value.image).all()
