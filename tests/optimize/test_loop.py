"""The compiled loop against a plain Python loop over the same Optax transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax.errors import DivergedError, InputError
from nst_jax.losses.objective import LossWeights, make_targets
from nst_jax.losses.objective import loss as style_transfer
from nst_jax.optimize.loop import MAX_CHUNK, minimise

SHAPE = (4, 5, 3)
STEEPNESS = jnp.asarray(np.geomspace(0.1, 2, np.prod(SHAPE)).reshape(SHAPE), jnp.float32)


def uniform(low, high, seed=0, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape), jnp.float32)


START, GOAL = uniform(0, 1), uniform(0.2, 0.8, seed=1)


def quadratic(image, goal):
    """A bowl whose sides are steeper in some directions than in others."""
    squares = STEEPNESS * (image - goal) ** 2
    return squares.sum(), {"mean": squares.mean(), "first": squares[0, 0, 0]}


def sgd():
    return optax.chain(optax.clip(0.5), optax.sgd(0.02, momentum=0.9))


OPTIMIZERS = {"adam": lambda: optax.adam(0.02), "lbfgs": optax.lbfgs, "sgd": sgd}
FIRST_ORDER = ["adam", "sgd"]


class Recorder:
    """A callback that keeps what it was told, and asks to stop at a step."""

    def __init__(self, stop_at=None):
        self.reports, self.stop_at = [], stop_at

    def __call__(self, progress):
        self.reports.append(progress)
        return self.stop_at is not None and progress.step >= self.stop_at

    @property
    def steps(self):
        return [report.step for report in self.reports]


def counted(loss):
    """Return the loss and the list that grows each time Python runs it, that is, at each trace."""
    traces = []

    def traced(*args):
        traces.append(1)
        return loss(*args)

    return traced, traces


def plain_loop(loss, image, args, optimizer, steps):
    """Images after each step, and the total and parts before it, without any compiled loop."""
    state, images, history = optimizer.init(image), [], []
    for step in range(1, steps + 1):
        (total, parts), grads = jax.value_and_grad(loss, has_aux=True)(image, *args)
        updates, state = optimizer.update(grads, state, image)
        image = jnp.clip(optax.apply_updates(image, updates), 0, 1)
        images.append(image)
        history.append({"step": step, "total": total, **parts})
    return images, history


def plain_lbfgs(loss, image, args, steps):
    """The loop that Optax' documentation gives for a line search."""
    optimizer, totals = optax.lbfgs(), []

    def f(x):
        return loss(x, *args)[0]

    @jax.jit
    def step(image, state):
        total, grads = optax.value_and_grad_from_state(f)(image, state=state)
        updates, state = optimizer.update(grads, state, image, value=total, grad=grads, value_fn=f)
        return optax.apply_updates(image, updates), state, total

    state = optimizer.init(image)
    for _ in range(steps):
        state = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)  # one type, one compilation
        image, state, total = step(image, state)
        totals.append(float(total))
    return image, totals


# --- results -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_quadratic_is_minimised(name):
    outcome = minimise(quadratic, START, (GOAL,), optimizer=OPTIMIZERS[name](), steps=150)
    assert quadratic(outcome.image, GOAL)[0] < 1e-3 * quadratic(START, GOAL)[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_objective_is_reduced(name, vgg16, cat, face):
    content, style = cat[:32, :40], face[:36, :32]
    layers = {"relu2_1": 1.0}
    targets = make_targets(
        vgg16, content, [style], content_layers=list(layers), style_layers=list(layers)
    )
    args = (vgg16, targets, LossWeights(1.0, 10.0, 0.1, layers, layers))
    start = uniform(0.3, 0.7, shape=content.shape)
    optimizer = OPTIMIZERS[name]()
    outcome = minimise(style_transfer, start, args, optimizer=optimizer, steps=15)
    before, after = (float(style_transfer(x, *args)[0]) for x in (start, outcome.image))
    told = outcome.history[-1 if name == "lbfgs" else 0]["total"]
    assert told == pytest.approx(after if name == "lbfgs" else before, rel=1e-4)
    assert after < 0.5 * before


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_each_step_equals_a_plain_loops(name):
    goal = uniform(-0.5, 1.5, seed=2)  # so that the clip matters
    recorder = Recorder()
    outcome = minimise(
        quadratic,
        START,
        (goal,),
        optimizer=OPTIMIZERS[name](),
        steps=30,
        on_progress=recorder,
        every=1,
    )
    images, history = plain_loop(quadratic, START, (goal,), OPTIMIZERS[name](), 30)
    assert any(image.min() == 0 and image.max() == 1 for image in images)
    for report, image in zip(recorder.reports, images, strict=True):
        np.testing.assert_allclose(report.image, image, 1e-4, 1e-5)
    np.testing.assert_array_equal(outcome.image, recorder.reports[-1].image)
    for got, want in zip(outcome.history, history, strict=True):
        assert got == pytest.approx({key: float(x) for key, x in want.items()}, rel=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_chunks_do_not_change_the_result(name):
    run = [
        minimise(quadratic, START, (GOAL,), optimizer=OPTIMIZERS[name](), steps=12, every=every)
        for every in (None, 5)
    ]
    np.testing.assert_allclose(run[0].image, run[1].image, 1e-5)
    totals = [[entry["total"] for entry in outcome.history] for outcome in run]
    np.testing.assert_allclose(*totals, 1e-5)


def test_lbfgs_equals_a_plain_loop():
    outcome = minimise(quadratic, START, (GOAL,), optimizer=optax.lbfgs(), steps=8)
    image, totals = plain_lbfgs(quadratic, START, (GOAL,), 8)
    np.testing.assert_allclose(outcome.image, image, 1e-3)
    after = [*totals[1:], float(quadratic(image, GOAL)[0])]  # the program tells what follows a step
    np.testing.assert_allclose([entry["total"] for entry in outcome.history], after, 1e-2)


def test_lbfgs_records_every_total_and_now_and_then_the_parts_that_follow():
    recorder = Recorder()
    outcome = minimise(
        quadratic,
        START,
        (GOAL,),
        optimizer=optax.lbfgs(),
        steps=8,
        every=3,
        on_progress=recorder,
    )
    assert [entry["step"] for entry in outcome.history] == list(range(1, 9))
    assert all("total" in entry for entry in outcome.history)
    assert "mean" in outcome.history[-1]
    with_parts = [report for report in recorder.reports if "mean" in report.losses[-1]]
    assert len(with_parts) == sum("mean" in entry for entry in outcome.history)
    for report in with_parts:
        for name, part in quadratic(report.image, GOAL)[1].items():
            assert report.losses[-1][name] == pytest.approx(float(part), rel=1e-3, abs=1e-9)


def test_a_line_search_reports_the_loss_of_what_it_returns():
    goal = uniform(-0.5, 1.5, seed=2)  # mostly out of reach
    outcome = minimise(quadratic, START, (goal,), optimizer=optax.lbfgs(), steps=40)
    delivered, start, best = (
        float(quadratic(image, goal)[0]) for image in (outcome.image, START, jnp.clip(goal, 0, 1))
    )
    assert outcome.history[-1]["total"] == pytest.approx(delivered, rel=1e-4)
    assert delivered - best < 0.05 * (start - best)


def test_a_saturated_pixel_can_still_move():
    """Black and white are where the range is folded; the gradient must lead inwards there."""
    for start in (0.0, 1.0):
        image = jnp.full(SHAPE, start)
        outcome = minimise(quadratic, image, (GOAL,), optimizer=optax.lbfgs(), steps=40)
        np.testing.assert_allclose(outcome.image, GOAL, atol=1e-2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pictures_stay_in_the_unit_range(name):
    goal = uniform(-0.5, 1.5, seed=2)
    recorder = Recorder()
    optimizer = OPTIMIZERS[name]()
    outcome = minimise(
        quadratic, START, (goal,), optimizer=optimizer, steps=60, on_progress=recorder
    )
    for image in (outcome.image, *(report.image for report in recorder.reports)):
        assert image.min() >= 0
        assert image.max() <= 1


def test_any_stateful_transformation_can_be_used():
    """Its first state may be the image itself, whose memory the loop reuses."""
    optimizer = optax.contrib.schedule_free_adamw(0.05)
    outcome = minimise(quadratic, START, (GOAL,), optimizer=optimizer, steps=100)
    assert outcome.history[-1]["total"] < 0.1 * outcome.history[0]["total"]


# --- compilation and memory ----------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_chunks_of_all_lengths_share_one_program(name):
    counts = set()
    for steps in (1, 3 * MAX_CHUNK + 7):
        loss, traces = counted(quadratic)
        recorder = Recorder()
        minimise(
            loss,
            START,
            (GOAL,),
            optimizer=OPTIMIZERS[name](),
            steps=steps,
            on_progress=recorder,
        )
        counts.add(len(traces))
    assert len({len(report.losses) for report in recorder.reports}) > 1
    assert len(counts) == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_optimizer_reuses_the_program(name):
    loss, traces = counted(quadratic)
    optimizer = OPTIMIZERS[name]()
    minimise(loss, START, (GOAL,), optimizer=optimizer, steps=3)
    before = len(traces)
    other = minimise(loss, START, (1 - GOAL,), optimizer=optimizer, steps=200)
    assert len(traces) == before
    np.testing.assert_allclose(other.image, 1 - GOAL, atol=0.05)  # no old goal is built in


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_callers_arrays_survive(name):
    start, goal = jnp.array(START), jnp.array(GOAL)
    recorder = Recorder()
    minimise(
        quadratic,
        start,
        (goal,),
        optimizer=OPTIMIZERS[name](),
        steps=7,
        every=2,
        on_progress=recorder,
    )
    np.testing.assert_array_equal(start, START)
    np.testing.assert_array_equal(goal, GOAL)
    assert len({np.asarray(report.image).tobytes() for report in recorder.reports}) == len(
        recorder.reports
    )


# --- progress ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_progress_covers_every_step_once(name):
    recorder = Recorder()
    outcome = minimise(
        quadratic,
        START,
        (GOAL,),
        optimizer=OPTIMIZERS[name](),
        steps=250,
        on_progress=recorder,
    )
    assert [entry for report in recorder.reports for entry in report.losses] == outcome.history
    steps = [entry["step"] for entry in outcome.history]
    assert steps == list(range(1, len(steps) + 1))
    if name in FIRST_ORDER:  # a line search may find that there is nothing left to do
        assert len(steps) == 250
    assert [report.losses[-1]["step"] for report in recorder.reports] == recorder.steps
    assert {report.steps for report in recorder.reports} == {250}
    seconds = [report.seconds for report in recorder.reports]
    assert sorted(seconds) == seconds
    assert outcome.seconds >= seconds[-1]


@pytest.mark.parametrize("every", [1, 7, MAX_CHUNK + 20])
def test_chunks_end_at_multiples(every):
    recorder = Recorder()
    minimise(
        quadratic,
        START,
        (GOAL,),
        optimizer=optax.adam(0.02),
        steps=2 * every + 3,
        every=every,
        on_progress=recorder,
    )
    assert {every, 2 * every, 2 * every + 3} <= set(recorder.steps)


def test_a_true_callback_stops():
    recorder = Recorder(stop_at=10)
    outcome = minimise(
        quadratic,
        START,
        (GOAL,),
        optimizer=optax.adam(0.02),
        steps=1000,
        every=5,
        on_progress=recorder,
    )
    assert recorder.steps[-1] == len(outcome.history) == 10
    images, _ = plain_loop(quadratic, START, (GOAL,), optax.adam(0.02), 10)
    np.testing.assert_allclose(outcome.image, images[-1], 1e-4)


def test_a_line_search_ends_where_nothing_better_is_found():
    outcome = minimise(quadratic, START, (GOAL,), optimizer=optax.lbfgs(), steps=1000)
    assert outcome.converged
    assert len(outcome.history) < 1000
    np.testing.assert_allclose(outcome.image, GOAL, atol=1e-3)
    assert outcome.history[-1]["total"] <= min(entry["total"] for entry in outcome.history)


def test_a_line_search_that_is_still_descending_has_not_converged():
    outcome = minimise(quadratic, START, (GOAL,), optimizer=optax.lbfgs(), steps=4)
    assert len(outcome.history) == 4
    assert not outcome.converged


def test_first_order_steps_are_all_taken():
    outcome = minimise(quadratic, GOAL, (GOAL,), optimizer=optax.sgd(0.1), steps=50)
    assert len(outcome.history) == 50  # though every total is the same
    assert not outcome.converged


# --- ends ----------------------------------------------------------------------------------------


def fragile(image, goal):
    """Not a number once the image is near its goal."""
    total, parts = quadratic(image, goal)
    return jnp.where(total < 0.5, jnp.nan, total), parts


@pytest.mark.parametrize("every", [1, 4, None])
def test_divergence_hands_over_the_last_picture_that_was_checked(every):
    recorder = Recorder()
    with pytest.raises(DivergedError, match="smaller learning rate") as raised:
        minimise(
            fragile,
            START,
            (GOAL,),
            optimizer=sgd(),
            steps=300,
            every=every,
            on_progress=recorder,
        )
    caught = raised.value
    images, history = plain_loop(quadratic, START, (GOAL,), sgd(), 300)
    finite = sum(entry["total"] >= 0.5 for entry in history)
    assert 1 < finite < 100
    assert caught.step == recorder.steps[-1] == len(caught.history) <= finite
    if every == 1:
        assert caught.step == finite
    np.testing.assert_allclose(caught.image, images[caught.step - 1], 1e-4)
    assert all(np.isfinite(entry["total"]) for entry in caught.history)


def test_divergence_of_a_pixel_is_seen_though_the_loss_is_finite():
    def loss(image, goal):
        return jnp.sqrt((image - goal) ** 2).sum(), {}  # its slope at the goal is 0 / 0

    with pytest.raises(DivergedError) as raised:
        minimise(loss, GOAL, (GOAL,), optimizer=optax.sgd(0.1), steps=1)
    np.testing.assert_array_equal(raised.value.image, GOAL)
    assert raised.value.step == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_divergence_at_the_first_step(name):
    def loss(image, goal):
        return jnp.log(-1 - (image - goal) ** 2).sum(), {}

    with pytest.raises(DivergedError) as raised:
        minimise(loss, START, (GOAL,), optimizer=OPTIMIZERS[name](), steps=20)
    np.testing.assert_array_equal(raised.value.image, START)
    assert (raised.value.step, raised.value.history) == (0, [])


def test_a_part_that_is_not_finite_is_divergence():
    def loss(image, goal):
        total, _ = quadratic(image, goal)
        return total, {"part": total / 0}

    with pytest.raises(DivergedError):
        minimise(loss, START, (GOAL,), optimizer=optax.adam(0.02), steps=3)


def test_no_steps_return_the_start():
    loss, traces = counted(quadratic)
    start = START.at[0, 0, 0].set(1.5)
    outcome = minimise(loss, start, (GOAL,), optimizer=optax.adam(0.02), steps=0)
    np.testing.assert_array_equal(outcome.image, START.at[0, 0, 0].set(1.0))
    assert not outcome.history
    assert not traces


def test_negative_steps_are_refused():
    with pytest.raises(InputError, match="steps is -1"):
        minimise(quadratic, START, (GOAL,), optimizer=optax.adam(0.02), steps=-1)


@pytest.mark.parametrize("pixel", [np.nan, np.inf])
@pytest.mark.parametrize("steps", [0, 5])
def test_a_start_that_is_not_finite_is_refused(pixel, steps):
    start = START.at[1, 2, 0].set(pixel)
    with pytest.raises(InputError, match="start image"):
        minimise(quadratic, start, (GOAL,), optimizer=optax.adam(0.02), steps=steps)


@pytest.mark.parametrize("every", [0, -1])
def test_every_out_of_range_is_refused(every):
    with pytest.raises(InputError, match=f"every is {every}"):
        minimise(quadratic, START, (GOAL,), optimizer=optax.adam(0.02), steps=5, every=every)


def test_a_line_search_that_keeps_no_gradient_runs():
    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=15)
    outcome = minimise(
        quadratic, START, (GOAL,), optimizer=optax.chain(optax.sgd(1.0), search), steps=30
    )
    assert quadratic(outcome.image, GOAL)[0] < 0.5 * quadratic(START, GOAL)[0]


# --- the average of iterates, and going on --------------------------------------------------------


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_average_is_that_of_the_iterates_without_bias(decay):
    start, goal = uniform(0, 1), uniform(0, 1, seed=1)
    optimizer, steps = optax.adam(0.1), 6
    iterates = [
        np.asarray(minimise(quadratic, start, (goal,), optimizer=optimizer, steps=n).image)
        for n in range(1, steps + 1)
    ]
    shares = np.array([decay ** (steps - n) for n in range(1, steps + 1)])
    want = np.tensordot(shares / shares.sum(), iterates, 1)
    seen = []
    outcome = minimise(
        quadratic,
        start,
        (goal,),
        optimizer=optimizer,
        steps=steps,
        average=decay,
        on_progress=lambda progress: seen.append(progress) and None,
    )
    np.testing.assert_allclose(outcome.image, want, atol=1e-6)
    np.testing.assert_allclose(seen[0].image, iterates[0], atol=1e-6)
    np.testing.assert_allclose(seen[-1].image, want, atol=1e-6)


@pytest.mark.parametrize(("name", "average"), [("adam", 0.0), ("adam", 0.8), ("lbfgs", 0.0)])
def test_going_on_from_a_state_equals_going_through(name, average):
    start, goal = uniform(0, 1), uniform(0, 1, seed=1)
    optimizer = optax.adam(0.01) if name == "adam" else optax.lbfgs(memory_size=3)
    options = {"optimizer": optimizer, "average": average}
    through = minimise(rippled, start, (goal,), **options, steps=7)
    half = minimise(rippled, start, (goal,), **options, steps=3)
    before = jax.tree.map(np.asarray, half.state)
    rest = minimise(rippled, half.state, (goal,), **options, steps=4)
    np.testing.assert_array_equal(rest.image, through.image)
    assert [(e["step"], e["total"]) for e in half.history + rest.history] == [
        (entry["step"], entry["total"]) for entry in through.history
    ]
    jax.tree.map(np.testing.assert_array_equal, before, half.state)  # still the caller's


def rippled(image, goal):
    """Not a quadratic, so that L-BFGS takes more than a step or two."""
    total = jnp.square(image - goal).sum() + 0.1 * jnp.cos(9 * image).sum()
    return total, {}


@pytest.mark.parametrize("average", [-0.1, 1.0, float("nan")])
def test_an_average_out_of_range_is_refused(average):
    with pytest.raises(InputError, match="average"):
        minimise(
            quadratic, uniform(0, 1), (0.5,), optimizer=optax.sgd(0.1), steps=1, average=average
        )


def test_a_line_search_has_no_average():
    with pytest.raises(InputError, match="no average"):
        minimise(quadratic, uniform(0, 1), (0.5,), optimizer=optax.lbfgs(), steps=1, average=0.9)
