"""L-BFGS against a dense BFGS in float64, and against SciPy's and PyTorch's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax import export
from optimize.problems import float64

from nst_jax import LossWeights, loss, make_targets
from nst_jax.optimize import init_state, preconditioned_lbfgs, pyramid_lbfgs, run_steps, step


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(), {}


CURVATURES = np.geomspace(1, 1e4, 30)


def bowl(x):
    return 0.5 * (jnp.asarray(CURVATURES, x.dtype) * (x - 1) ** 2).sum(), {}


def evaluate(problem, x):
    value, grad = jax.value_and_grad(lambda x: problem(x)[0])(jnp.asarray(x))
    return float(value), np.asarray(grad, np.float64)


def history(problem, start, optimizer, steps):
    """The lowest value so far after each evaluation."""

    @jax.jit
    def run(start):
        state = init_state(start, optimizer=optimizer, project=None)
        return run_steps(problem, state, optimizer=optimizer, steps=steps, project=None)[1]["total"]

    return np.minimum.accumulate(np.asarray(run(start)))


def dense_bfgs(problem, x, P, memory_size, evaluations):
    """The trial points of BFGS from γP over the last pairs, with matrices; all steps are accepted.

    The inverse Hessian is updated pair by pair: H ← VᵀHV + ρssᵀ, V = I − ρysᵀ, ρ = 1 / s·y.
    """
    trials, pairs = [], []
    value, grad = evaluate(problem, x)
    gamma = min(1.0, 1 / np.sqrt(grad @ P @ grad))
    for _ in range(evaluations - 1):
        H = gamma * P
        for s, y in pairs[-memory_size:]:
            rho = 1 / (s @ y)
            V = np.eye(len(s)) - rho * np.outer(y, s)
            H = V.T @ H @ V + rho * np.outer(s, s)
        trial = x - H @ grad
        trials.append(trial)
        new_value, new_grad = evaluate(problem, trial)
        s, y = trial - x, new_grad - grad
        assert new_value < value + 1e-4 * grad @ s  # the problem refuses no trial
        assert s @ y > 0
        pairs.append((s, y))
        gamma = (s @ y) / (y @ P @ y)
        x, value, grad = trial, new_value, new_grad
    return np.array(trials)


def test_the_trials_are_those_of_a_dense_bfgs_with_the_preconditioner():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(12, 12))
    P = np.eye(12) + 0.1 * A @ A.T

    def problem(x):
        return 0.5 * (jnp.geomspace(1, 8, 12) * x**2).sum() + 0.1 * jnp.cos(x).sum(), {}

    with float64():
        start = rng.normal(size=12)
        expected = dense_bfgs(problem, start, P, memory_size=4, evaluations=10)
        optimizer = preconditioned_lbfgs(lambda grad: jnp.asarray(P) @ grad, memory_size=4)
        x, state = jnp.asarray(start), optimizer.init(jnp.asarray(start))
        for trial in expected:
            value, grad = evaluate(problem, x)
            update, state = optimizer.update(jnp.asarray(grad), state, x, value=value)
            x += update
            np.testing.assert_allclose(x, trial, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("size", [2, 20])
def test_rosenbrock_takes_no_more_evaluations_than_scipy(size):
    """Negative curvature, refused trials and a curved valley; in float64."""
    values = []

    def record(x):
        value, grad = evaluate(rosenbrock, x)
        values.append(value)
        return value, grad

    with float64():
        start = np.zeros(size)
        options = {"maxcor": 10, "ftol": 0, "gtol": 1e-9, "maxiter": 1000}
        scipy.optimize.minimize(record, start, jac=True, method="L-BFGS-B", options=options)
        found = history(rosenbrock, jnp.asarray(start), pyramid_lbfgs(num_bands=1), 300)
    needed = int(np.argmax(np.array(values) < 1e-8)) + 1
    assert found[int(1.2 * needed)] < 1e-8
    assert found[-1] < 1e-20


def torch_history(problem, start, steps):
    torch = pytest.importorskip("torch")

    x = torch.tensor(np.asarray(start), requires_grad=True)
    values = []
    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=steps,
        max_eval=steps,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )

    def closure():
        value, grad = evaluate(problem, x.detach().numpy())
        x.grad = torch.tensor(grad, dtype=x.dtype)
        values.append(value)
        return torch.tensor(value)

    optimizer.step(closure)
    return np.minimum.accumulate(values)


def test_an_ill_conditioned_bowl_is_as_deep_as_pytorchs_after_as_many_evaluations():
    with float64():
        start = np.zeros(30)
        theirs = torch_history(bowl, start, 80)
        ours = history(bowl, jnp.asarray(start), pyramid_lbfgs(num_bands=1), 80)
    assert ours[-1] < 1.5 * theirs[-1]
    assert ours[-1] < 1e-4 * ours[0]


def test_in_float32_it_reaches_the_rounding_of_float32():
    found = history(bowl, jnp.zeros(30), pyramid_lbfgs(num_bands=1), 150)
    assert found[-1] < 1e-5 * found[0]


def test_a_small_stylization_is_as_good_as_pytorchs_after_as_many_evaluations(vgg16, cat, roofs):
    content, style = cat[:32, :40], roofs[:40, :40]
    layers = {"relu1_1": 0.5, "relu2_1": 0.5}
    targets = make_targets(
        vgg16, content, [style], content_layers=["relu2_2"], style_layers=list(layers)
    )
    weights = LossWeights(0.05, 1.0, 0.0, {"relu2_2": 1.0}, layers)

    @jax.jit
    def problem(x):
        return loss(x, vgg16, targets, weights)[0], {}

    theirs = torch_history(problem, content, 40)[-1]
    pixels, pyramid = (
        history(problem, content, pyramid_lbfgs(num_bands=bands), 40)[-1] for bands in (1, 5)
    )
    assert pixels < 1.1 * theirs
    assert pyramid < 1.1 * theirs


def test_a_scaled_problem_takes_the_same_steps():
    """Nothing in the algorithm has units, but for the first step."""
    first, scaled = (
        history(lambda x, c=c: (c * rosenbrock(x)[0], {}), jnp.zeros(5), pyramid_lbfgs(5, 1), 60)
        for c in (1e3, 1e6)
    )
    np.testing.assert_allclose(scaled[:20], 1e3 * first[:20], rtol=0.05)


def test_a_stalled_search_ends_at_the_best_point():
    """The gradient lies, so no trial is better."""
    optimizer = preconditioned_lbfgs(lambda grad: grad, memory_size=3)
    x = start = jnp.array([1.0, 2.0])
    state = optimizer.init(x)
    for _ in range(15):
        update, state = optimizer.update(-2 * x, state, x, value=(x**2).sum())
        x += update
    assert bool(state.converged)
    np.testing.assert_array_equal(x, state.accepted)
    assert (x**2).sum() <= 1.001 * (start**2).sum()  # Such values are about the same.


def test_a_step_and_its_state_go_through_export():
    pytest.importorskip("flatbuffers")  # jax.export writes with it
    optimizer = pyramid_lbfgs(memory_size=2)
    goal = jnp.full((6, 6, 3), 0.3)

    def distance(x):
        return jnp.square(x - goal).sum(), {}

    state = init_state(jnp.full((6, 6, 3), 0.9), optimizer=optimizer, ema_decay=0.5)
    one_step = jax.jit(partial(step, distance, optimizer=optimizer))
    again = export.deserialize(export.export(one_step)(state).serialize())
    for _ in range(3):
        expected, _ = one_step(state)
        state, _ = again.call(state)
        jax.tree.map(np.testing.assert_array_equal, state, expected)
