"""The chunks of the compiled loop, and `step`, against plain loops over the same optimizers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimize import problems
from optimize.problems import (
    FAR_GOAL,
    GOAL,
    OPTIMIZERS,
    SHAPE,
    START,
    quadratic,
    rippled,
    uniform,
)

from nst_jax import optimize
from nst_jax.errors import DivergedError, InputError
from nst_jax.optimize import current_iterate, init_state, optimize_chunks, pyramid_lbfgs
from nst_jax.optimize.lbfgs import PATIENCE
from nst_jax.optimize.loop import MAX_CHUNK


def run(optimizer, steps, *, loss=quadratic, start=START, goal=GOAL, ema_decay=0.0, **options):
    """Run to the end; return the chunks, with states that survive the next chunk, and images."""
    chunks, images = [], []
    options |= {"optimizer": OPTIMIZERS.get(optimizer, optimizer), "ema_decay": ema_decay}
    options.setdefault("compile_fn", problems.compile_once)
    for chunk in optimize_chunks(loss, start, (goal,), steps=steps, **options):
        images.append(np.asarray(current_iterate(chunk.state)))
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


@pytest.mark.parametrize("bands", [1, 3])
def test_lbfgs_equals_a_plain_loop_and_shows_its_best_point(bands):
    optimizer = pyramid_lbfgs(memory_size=3, num_bands=bands)
    chunks, images = run(optimizer, 12, loss=rippled, goal=FAR_GOAL, callback_every=1)
    iterates, history = problems.plain_loop(rippled, START, (FAR_GOAL,), optimizer, 12)
    found = history_of(chunks)
    for key, values in history.items():
        np.testing.assert_allclose(found[key], values, 1e-3, err_msg=key)
    points = [START, *iterates]  # the first evaluation is at the start
    for count, image in enumerate(images, start=1):
        best = int(np.argmin(history["total"][:count]))
        np.testing.assert_allclose(image, points[best], atol=1e-3)


def test_optax_lbfgs_works_with_its_own_line_search():
    for optimizer in (optax.lbfgs(memory_size=3), optax.chain(optax.clip(1.0), optax.lbfgs())):
        totals = history_of(run(optimizer, 15, loss=rippled)[0])["total"]
        assert totals[-1] < 0.2 * totals[0]
        assert len(totals) == 15


def test_a_clip_after_each_step_lets_black_and_white_pixels_move():
    for value in (0.0, 1.0):
        _, images = run("lbfgs", 40, start=jnp.full(SHAPE, value))
        np.testing.assert_allclose(images[-1], GOAL, atol=1e-2)


@pytest.mark.parametrize(("name", "ema_decay"), [("adam", 0.5), ("lbfgs", 0.0), ("lbfgs", 0.5)])
def test_step_works_in_ones_own_jit_vmap_and_scan(name, ema_decay):
    @jax.jit
    @jax.vmap
    def scan(image):
        def body(state, _):
            return optimize.step(rippled, state, (GOAL,), optimizer=OPTIMIZERS[name])

        state = init_state(image, optimizer=OPTIMIZERS[name], ema_decay=ema_decay)
        state, metrics = jax.lax.scan(body, state, length=5)
        return current_iterate(state), metrics["total"]

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
        totals = history_of(run(optimizer, 60)[0])["total"]
        assert totals[-1] < 0.5 * totals[0]


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
    ("name", "ema_decay"),
    [("adam", 0.0), ("adam", 0.8), ("sgd", 0.0), ("lbfgs", 0.0), ("lbfgs", 0.8)],
)
def test_a_run_that_is_continued_equals_one_without_a_break_bit_for_bit(name, ema_decay):
    options = {"ema_decay": ema_decay, "callback_every": 3, "compile_fn": problems.compile_once}
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
    assert chunks[-1].state.step == chunks[-1].state.level_step == 5
    state = chunks[-1].state._replace(level_step=np.int32(2))  # as after a change of levels
    chunks, _ = run("adam", 6, start=state, ema_decay=0.5, callback_every=4)
    assert (chunks[-1].state.step, chunks[-1].state.level_step) == (11, 8)
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
        return lambda *args: calls.append(args[-1]) or executable(*args)

    chunks, _ = run(name, 2 * MAX_CHUNK + 7, loss=loss, compile_fn=compile_fn)
    lengths = [len(chunk.metrics["step"]) for chunk in chunks]
    assert calls[:-1] == lengths[:-1]
    assert calls[-1] == lengths[-1] or chunks[-1].converged
    assert len(set(calls)) > 2
    before = len(traces)
    _, images = run(name, 200, loss=loss, goal=1 - GOAL)  # another goal, the same trace
    assert len(traces) == before
    np.testing.assert_allclose(images[-1], 1 - GOAL, atol=0.05)


def test_the_loop_can_be_compiled_for_shapes():
    """This plans the memory of a run before its arrays exist."""
    init = jax.jit(partial(init_state, optimizer=OPTIMIZERS["adam"]))
    state, goal = jax.eval_shape(init, START), jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    jitted, arrays, static = optimize.chunk_lowering_args(
        quadratic, state, (goal,), optimizer=OPTIMIZERS["adam"]
    )
    executable = optimize.aot_compile(jitted, *arrays, **static)
    state, _ = executable(init(START), None, (GOAL,), 3)
    np.testing.assert_array_equal(state.iterate, run("adam", 3)[1][-1])


@pytest.mark.parametrize("batched", [False, True], ids=["one", "two"])
def test_a_second_run_compiles_nothing_for_its_first_state(batched, compilations):
    start = np.stack([START, START]) if batched else START
    options = {"start": start, "batched_args": start if batched else None}
    run("adam", 0, **options)
    before = len(compilations())
    run("adam", 0, **options)
    assert compilations()[before:] == []


# --- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 7, None])
def test_it_ends_at_the_same_step_whatever_the_chunks_when_nothing_better_is_found(every):
    chunks, images = run("lbfgs", 1000, callback_every=every)
    assert [chunk.converged for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    totals = history_of(chunks)["total"]
    whole = history_of(run("lbfgs", 1000)[0])["total"]
    np.testing.assert_array_equal(totals, whole)
    assert PATIENCE <= len(totals) < 1000
    assert totals[:-PATIENCE].min() == totals.min()  # none of the last trials is better
    np.testing.assert_allclose(images[-1], GOAL, atol=1e-3)
    assert not run("lbfgs", 4)[0][-1].converged  # still descending
    chunks, _ = run("sgd", 50, start=GOAL)  # for a first-order optimizer equal totals end nothing
    assert (chunks[-1].state.step, chunks[-1].converged) == (50, False)


def test_a_converged_state_takes_no_more_steps():
    state = run("lbfgs", 1000)[0][-1].state
    (chunk,), (image,) = run("lbfgs", 1000, start=state)
    assert (chunk.metrics, chunk.converged, chunk.compile_seconds) == ({}, True, 0)
    np.testing.assert_array_equal(image, state.opt_state.accepted)


def test_the_first_state_can_be_donated():
    step = jax.jit(
        partial(optimize.step, quadratic, optimizer=OPTIMIZERS["lbfgs"]), donate_argnums=0
    )
    state = init_state(jnp.array(START), optimizer=OPTIMIZERS["lbfgs"], ema_decay=0.5)
    before = state.iterate
    state, _ = step(state, (GOAL,))
    assert before.is_deleted()
    assert state.step == 1


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_loss_gets_another_key_at_each_step_of_any_implementation(impl):
    def noisy(image, key):
        return jnp.square(image).sum(), {"noise": jax.random.uniform(key)}

    key = jax.random.key(3, impl=impl)
    options = {"optimizer": OPTIMIZERS["sgd"], "key": key, "steps": 5}
    noise = optimize.minimize(noisy, START, **options).history["noise"]
    expected = [float(jax.random.uniform(jax.random.fold_in(key, i))) for i in range(5)]
    np.testing.assert_allclose(noise, expected, rtol=1e-6)


def test_any_pytree_can_be_the_variable():
    """Weights of a small network, without a clip."""
    x = uniform(-1, 1, 5, (20, 3))
    goal = {"kernel": uniform(-3, 3, 6, (3, 2)), "bias": jnp.array([5.0, -4.0])}

    def loss(params, x, y):
        return jnp.square(x @ params["kernel"] + params["bias"] - y).mean(), {}

    y = x @ goal["kernel"] + goal["bias"]
    start = jax.tree.map(jnp.zeros_like, goal)
    options = {"optimizer": OPTIMIZERS["lbfgs"], "steps": 60, "project": None}
    result = optimize.minimize(loss, start, (x, y), **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), result.iterate, goal)
    clipped = optimize.minimize(
        loss,
        start,
        (x, y),
        optimizer=OPTIMIZERS["sgd"],
        steps=1,
        project=partial(jax.tree.map, optimize.clip_to_unit),
    )
    assert min(leaf.min() for leaf in jax.tree.leaves(clipped.iterate)) >= 0


def test_rematerialization_takes_less_memory_and_gives_the_same_gradient():
    def loss(image, goal):
        x = image
        for _ in range(20):
            x = jnp.sin(x) + image
        return jnp.square(x - goal).sum(), {}

    def final(goal, remat):
        optimizer = optax.sgd(1e-3)
        state = init_state(jnp.full((64, 64, 3), 0.5), optimizer=optimizer)
        options = {"optimizer": optimizer, "steps": 5, "remat": remat}
        return optimize.run_steps(loss, state, (goal,), **options)[0].iterate.mean()

    goal = jnp.float32(0.3)
    plain, remat = (
        jax.jit(jax.grad(partial(final, remat=each))).lower(goal).compile()
        for each in (False, True)
    )
    np.testing.assert_allclose(plain(goal), remat(goal), rtol=1e-5)
    sizes = [each.memory_analysis().temp_size_in_bytes for each in (plain, remat)]
    assert sizes[1] < 0.5 * sizes[0]


def without_gradient(image, goal):
    return jnp.sqrt((image - goal) ** 2).sum(), {}  # at the goal its slope is 0 / 0


def with_infinite_term(image, goal):
    return jnp.square(image - goal).sum(), {"term": jnp.inf * image.sum()}


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (without_gradient, "sgd"),  # a pixel is not finite though the loss is
        (with_infinite_term, "adam"),
        (lambda image, goal: (jnp.inf * (image - goal).sum(), {}), "lbfgs"),
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
        ("adam", {"start": START.at[1, 2, 0].set(np.nan)}, "not finite; give numbers"),
        (
            "adam",
            {"start": START.at[1, 2, 0].set(np.inf), "steps": 0},
            "not finite; give numbers",
        ),
        ("adam", {"start": START, "batched_args": GOAL[:2]}, "in a batch of 4"),
        ("adam", {"start": "state", "batched_args": START}, "batched_args and a batch go together"),
        ("adam", {"args": GOAL}, "args is a .*; give a tuple"),
        ("adam", {"start": {}}, "the start has no arrays"),
        ("adam", {"start": {"a": START, "b": 1}}, "the start has a int; give arrays of floats"),
        ("adam", {"optimizer": "adam"}, "optimizer is 'adam'; give an Optax transformation"),
        ("adam", {"loss": lambda image, goal: (image.sum(), {"total": 1.0})}, "named total"),
        ("adam", {"loss": lambda image, goal: (image.sum(), {"a": {"b": 1.0}})}, "a as a dict"),
        (
            pyramid_lbfgs(),
            {"start": {"kernel": START, "bias": START[0, 0]}},
            "array of shape \\(3,\\); give images",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options, message):
    options = {"steps": 5, "start": START, "args": (GOAL,), "loss": quadratic} | options
    options.setdefault("optimizer", OPTIMIZERS.get(name, name))
    if isinstance(options["start"], str):
        options["start"] = init_state(START, optimizer=OPTIMIZERS[name])
    loss, start, args = (options.pop(name) for name in ("loss", "start", "args"))
    with pytest.raises(InputError, match=message):
        list(optimize_chunks(loss, start, args, **options))
