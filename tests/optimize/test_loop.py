"""The chunks of the compiled loop, and `step`, against plain loops over the same optimizers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optimize import problems
from optimize.problems import FAR_GOAL, GOAL, OPTIMIZERS, SHAPE, START, quadratic, rippled

from nst_jax import optimize
from nst_jax.errors import DivergedError, InputError
from nst_jax.optimize import current_image, init_state, optimize_chunks
from nst_jax.optimize.loop import MAX_CHUNK, PATIENCE


def run(optimizer, steps, *, loss=quadratic, start=START, goal=GOAL, ema_decay=0.0, **options):
    """Run to the end; return the chunks, with states that survive the next chunk, and images."""
    chunks, images = [], []
    options |= {"optimizer": OPTIMIZERS.get(optimizer, optimizer), "ema_decay": ema_decay}
    options.setdefault("compile_fn", problems.compile_once)
    for chunk in optimize_chunks(loss, start, (goal,), steps=steps, **options):
        images.append(np.asarray(current_image(chunk.state, ema_decay)))
        chunks.append(chunk._replace(state=jax.tree.map(np.array, chunk.state)))
    return chunks, images


def history_of(chunks):
    return optimize.concatenate_history([chunk.metrics for chunk in chunks])


def assert_trees_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


# --- the steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_each_step_equals_a_plain_loop(name):
    chunks, images = run(name, 30, goal=FAR_GOAL, callback_every=1)
    expected, history = problems.plain_loop(quadratic, START, (FAR_GOAL,), OPTIMIZERS[name], 30)
    assert any(image.min() == 0 and image.max() == 1 for image in expected)  # the clip matters
    np.testing.assert_allclose(images, expected, 1e-4, 1e-5)
    found = history_of(chunks)
    assert set(found) == {"step", *history}
    for key, values in history.items():
        np.testing.assert_allclose(found[key], values, 1e-4, err_msg=key)


def test_lbfgs_equals_a_plain_loop():
    chunks, images = run("lbfgs", 6, goal=FAR_GOAL, callback_every=1)
    expected, totals = problems.plain_lbfgs(quadratic, START, FAR_GOAL, OPTIMIZERS["lbfgs"], 6)
    np.testing.assert_allclose(images, expected, 1e-3, 1e-4)
    np.testing.assert_allclose(history_of(chunks)["total"], totals, 1e-2)


def test_a_line_search_records_what_follows_a_step_and_some_of_the_terms():
    chunks, images = run("lbfgs", 19, loss=rippled, goal=FAR_GOAL, callback_every=4)
    history = history_of(chunks)
    assert len(history["total"]) == len(history["distance"]) == 19
    recorded = history["step"][np.isfinite(history["distance"])]
    assert recorded[-1] == 19  # at the end, and about every tenth step before it
    assert 2 <= len(recorded) <= 3
    for chunk, image in zip(chunks, images, strict=True):
        total, terms = rippled(image, FAR_GOAL)
        assert chunk.metrics["total"][-1] == pytest.approx(float(total), rel=1e-4)
        if "distance" in chunk.metrics:
            value = chunk.metrics["distance"][-1]
            assert value == pytest.approx(float(terms["distance"]), rel=1e-4)


def test_a_line_search_can_move_black_and_white_pixels():
    """The range is reflected there, and the gradient must lead to its inside."""
    for value in (0.0, 1.0):
        _, images = run("lbfgs", 40, start=jnp.full(SHAPE, value))
        np.testing.assert_allclose(images[-1], GOAL, atol=1e-2)


@given(st.floats(-7, 7, width=32, allow_subnormal=False))
def test_reflection_is_a_triangle_wave_that_leaves_the_range_alone(x):
    image = jnp.full((1, 1, 3), x, jnp.float32)
    expected = abs((np.float64(x) + 1) % 2 - 1)
    np.testing.assert_allclose(optimize.reflect(image), expected, atol=1e-6)
    if 0 <= x <= 1:
        np.testing.assert_array_equal(optimize.reflect(image), image)


@pytest.mark.parametrize(("name", "ema_decay"), [("adam", 0.5), ("lbfgs", 0.0)])
def test_step_works_in_ones_own_jit_vmap_and_scan(name, ema_decay):
    @jax.jit
    @jax.vmap
    def scan(image):
        def body(state, _):
            return optimize.step(rippled, OPTIMIZERS[name], state, (GOAL,), ema_decay=ema_decay)

        state = init_state(image, OPTIMIZERS[name], ema_decay)
        state, metrics = jax.lax.scan(body, state, length=5)
        return current_image(state, ema_decay), metrics["total"]

    starts = jnp.stack([START, 1 - START])
    for start, image, totals in zip(starts, *scan(starts), strict=True):
        chunks, images = run(name, 5, loss=rippled, start=start, ema_decay=ema_decay)
        np.testing.assert_allclose(image, images[-1], atol=1e-4)
        np.testing.assert_allclose(totals, history_of(chunks)["total"], 1e-3)


def test_any_stateful_transformation_can_be_used():
    """The first state of the first is the image itself, whose memory the loop reuses; the second
    has a line search that stores no gradient."""
    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=15)
    chain = optax.chain(optax.sgd(1.0), search)
    for optimizer in (optax.contrib.schedule_free_adamw(0.05), chain):
        assert not optimize.has_line_search(optimizer)
        totals = history_of(run(optimizer, 60)[0])["total"]
        assert totals[-1] < 0.5 * totals[0]
    assert optimize.has_line_search(OPTIMIZERS["lbfgs"])


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_ema_is_that_of_the_iterates_without_bias(decay):
    _, iterates = run("adam", 6, callback_every=1)
    _, images = run("adam", 6, ema_decay=decay, callback_every=1)
    for count, image in enumerate(images, start=1):
        weights = decay ** np.arange(count - 1, -1, -1.0)
        expected = np.tensordot(weights / weights.sum(), iterates[:count], 1)
        np.testing.assert_allclose(image, expected, atol=1e-6)


# --- state in, state out -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ema_decay"), [("adam", 0.0), ("adam", 0.8), ("sgd", 0.0), ("lbfgs", 0.0)]
)
def test_a_run_that_is_continued_equals_one_without_a_break_bit_for_bit(name, ema_decay):
    options = {"ema_decay": ema_decay, "callback_every": 3}
    whole, whole_images = run(name, 8, loss=rippled, ema_decay=ema_decay)  # in other chunks
    before = []
    start = optimize_chunks(rippled, START, (GOAL,), optimizer=OPTIMIZERS[name], steps=8, **options)
    for chunk in start:
        before.append(chunk)
        if chunk.state.step == 3:
            break
    copy = jax.tree.map(np.array, chunk.state)
    after, images = run(name, 5, loss=rippled, start=chunk.state, **options)
    assert_trees_equal(after[-1].state, whole[-1].state)
    np.testing.assert_array_equal(images[-1], whole_images[-1])
    for key in ("step", "total"):
        history = history_of([*before, *after])
        np.testing.assert_array_equal(history[key], history_of(whole)[key])
    assert_trees_equal(copy, chunk.state)  # the caller's state has not been donated


def test_a_state_counts_its_steps():
    chunks, _ = run("adam", 5, ema_decay=0.5)
    assert chunks[-1].state.step == chunks[-1].state.ema_count == 5
    state = chunks[-1].state._replace(ema_count=np.int32(2))  # as after a change of levels
    chunks, _ = run("adam", 6, start=state, ema_decay=0.5, callback_every=4)
    assert (chunks[-1].state.step, chunks[-1].state.ema_count) == (11, 8)
    assert 8 in [chunk.state.step for chunk in chunks]  # multiples are those of all steps


def test_no_steps_yield_the_first_state_alone():
    start = START.at[0, 0, 0].set(1.5)
    (chunk,), (image,) = run("adam", 0, start=start, ema_decay=0.9)
    np.testing.assert_array_equal(image, START.at[0, 0, 0].set(1.0))
    assert (chunk.metrics, chunk.converged, chunk.compile_seconds) == ({}, False, 0)


# --- chunks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_chunks_cover_every_step_once_with_images_in_range(name):
    chunks, images = run(name, 250, goal=FAR_GOAL)
    steps = history_of(chunks)["step"]
    np.testing.assert_array_equal(steps, range(1, len(steps) + 1))
    assert [chunk.metrics["step"][-1] for chunk in chunks] == [c.state.step for c in chunks]
    assert len(steps) == 250 or name == "lbfgs"  # which may find that nothing is left to do
    seconds = [chunk.seconds for chunk in chunks]
    assert sorted(seconds) == seconds
    assert {chunk.compile_seconds for chunk in chunks} == {chunks[0].compile_seconds}
    assert min(image.min() for image in images) >= 0
    assert max(image.max() for image in images) <= 1


@pytest.mark.parametrize("every", [1, 7, MAX_CHUNK + 20])
def test_chunks_end_at_multiples_of_callback_every(every):
    chunks, _ = run("adam", 2 * every + 3, callback_every=every)
    assert {every, 2 * every, 2 * every + 3} <= {int(chunk.state.step) for chunk in chunks}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_chunks_of_all_lengths_share_one_executable(name):
    calls, traces = [], []

    def loss(*args):
        traces.append(1)
        return quadratic(*args)

    def compile_fn(jitted, *args, **static):
        executable = optimize.aot_compile(jitted, *args, **static)
        return lambda *args: calls.append(args[-2]) or executable(*args)

    chunks, _ = run(name, 2 * MAX_CHUNK + 7, loss=loss, compile_fn=compile_fn)
    assert calls == [len(chunk.metrics["step"]) for chunk in chunks]
    assert len(set(calls)) > 2
    before = len(traces)
    _, images = run(name, 200, loss=loss, goal=1 - GOAL)  # another goal, the same trace
    assert len(traces) == before
    np.testing.assert_allclose(images[-1], 1 - GOAL, atol=0.05)


def test_the_loop_can_be_compiled_for_shapes():
    """This plans the memory of a run before its arrays exist."""
    init = jax.jit(partial(init_state, optimizer=OPTIMIZERS["adam"]))
    state, goal = jax.eval_shape(init, START), jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    jitted, arrays, static = optimize.chunk_call(
        quadratic, state, (goal,), optimizer=OPTIMIZERS["adam"]
    )
    executable = optimize.aot_compile(jitted, *arrays, **static)
    state, _ = executable(init(START), None, (GOAL,), 0.0, 3, True)
    np.testing.assert_array_equal(state.image, run("adam", 3)[1][-1])


@pytest.mark.parametrize("start", [START, np.stack([START, START])], ids=["one", "two"])
def test_a_second_run_compiles_nothing_for_its_first_state(start, compilations):
    run("adam", 0, start=start)
    before = len(compilations())
    run("adam", 0, start=start)
    assert compilations()[before:] == []


# --- the end -------------------------------------------------------------------------------------


def test_a_line_search_ends_where_it_finds_nothing_better():
    chunks, images = run("lbfgs", 1000)
    assert [chunk.converged for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    totals = history_of(chunks)["total"]
    assert PATIENCE <= len(totals) < 1000
    assert totals[-1] == totals.min()
    np.testing.assert_allclose(images[-1], GOAL, atol=1e-3)
    assert not run("lbfgs", 4)[0][-1].converged  # still descending
    chunks, _ = run("sgd", 50, start=GOAL)  # without a line search equal totals end nothing
    assert (chunks[-1].state.step, chunks[-1].converged) == (50, False)


def without_gradient(image, goal):
    return jnp.sqrt((image - goal) ** 2).sum(), {}  # at the goal its slope is 0 / 0


def with_infinite_term(image, goal):
    return jnp.square(image - goal).sum(), {"term": jnp.inf * image.sum()}


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (without_gradient, "sgd"),  # a pixel is not finite though the loss is
        (with_infinite_term, "adam"),
        (with_infinite_term, "lbfgs"),
    ],
)
def test_divergence_at_the_first_step_carries_the_start(loss, name):
    with pytest.raises(DivergedError) as raised:
        run(name, 20, loss=loss, start=GOAL)
    np.testing.assert_array_equal(raised.value.image, GOAL)
    assert raised.value.step == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {"steps": -1}, "steps is -1; give a number from 0 up"),
        ("adam", {"callback_every": 0}, "callback_every is 0"),
        ("adam", {"callback_every": 1.5}, "callback_every is 1.5; give a whole number"),
        ("adam", {"ema_decay": 1.0}, "ema_decay is 1.0; give a number from 0 to below 1"),
        ("adam", {"ema_decay": np.nan}, "ema_decay is nan"),
        ("adam", {"ema_decay": 0.5, "start": "state without EMA"}, "the state has no EMA"),
        ("adam", {"start": START.at[1, 2, 0].set(np.nan)}, "not finite; give RGB"),
        ("adam", {"start": START.at[1, 2, 0].set(np.inf), "steps": 0}, "not finite; give RGB"),
        ("lbfgs", {"ema_decay": 0.9}, "line search has no EMA"),
        ("lbfgs", {"start": jnp.stack([START, START])}, "one image at a time"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options, message):
    options = {"steps": 5, "start": START} | options
    if isinstance(options["start"], str):
        options["start"] = init_state(START, OPTIMIZERS[name])
    with pytest.raises(InputError, match=message):
        run(name, **options)
