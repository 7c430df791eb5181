"""L-BFGS as an ordinary Optax transformation: one evaluation of the loss an update.

``update(grad, state, params, value=value)`` takes the value and the gradient at the trial point and
returns the step to the next one. It never calls the loss. So a step is a straight line for ``jit``,
``vmap`` and sharding.

A trial that does not lower the value enough (Armijo's rule) is refused: the next trial is nearer to
the accepted point, in the same direction. Values are noisy near a minimum, above all in bfloat16.
So a trial with about the same value is accepted too if the slopes at both ends say that it is
lower (the approximate rule of Hager & Zhang 2005, "A new conjugate gradient method with guaranteed
descent"). Stylizations refuse about one trial in a hundred.

The direction −H·g follows the compact form of Byrd, Nocedal & Schnabel (1994), "Representations of
quasi-Newton matrices", theorem 2.2, with the first inverse Hessian γP. Let s_i be the m latest
steps, y_i the differences of gradients, and z_i = P·y_i. With the upper triangle R_ij = s_i·y_j for
i ≤ j, with D = diag(R) and K_ij = y_i·z_j:

    a = R⁻¹ Sᵀg
    b = R⁻ᵀ ((D + γK) a − γZᵀg)
    H·g = γP·g + S·b − γZ·a

R and K gain a row and a column at each update, so the y_i need no memory. All large work is one
product (2m, N)(N, 2), one (2m)(2m, N) and one P·g.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import export
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int

__all__ = ["LbfgsState", "preconditioned_lbfgs"]

SUFFICIENT_DECREASE: Final = 1e-4
"""Armijo's constant."""
NOISE: Final = 1e-3
"""Values that differ by this share are about the same."""
MIN_CURVATURE: Final = 1e-8
"""A pair is remembered if s·y is above this share of |s·g|."""
PATIENCE: Final = 10
"""The optimization has converged after so many trials in a row without a lower value."""


class LbfgsState(NamedTuple):
    """The state of `preconditioned_lbfgs`."""

    memory: Any
    """Like the variable with a leading axis of 2m: the rows s_i, then the rows z_i."""
    R: Float[Array, "m m"]
    K: Float[Array, "m m"]
    """R and K are in the order of the rows. An empty row has R_ii = 1 and K_ii = 0."""
    oldest: Int[Array, ""]
    """The row that the next pair replaces."""
    gamma: Float[Array, ""]
    accepted: Any
    """The last accepted point."""
    value: Float[Array, ""]
    """The value at the accepted point."""
    lowest: Float[Array, ""]
    """The lowest value so far."""
    grad: Any
    preconditioned: Any
    direction: Any
    step_size: Float[Array, ""]
    stalled: Int[Array, ""]
    """The number of trials in a row without a new lowest value."""
    converged: Bool[Array, ""]
    """Whether the search has ended. Then the variable stays at the accepted point."""
    evaluations: Int[Array, ""]


export.register_namedtuple_serialization(LbfgsState, serialized_name="nst_jax.LbfgsState")


def preconditioned_lbfgs(
    precondition: Callable[[Any], Any], memory_size: int
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS whose first inverse Hessian is γP, for a variable that is any pytree of floats.

    Args:
        precondition: returns P·g for a gradient g; linear, symmetric and positive.
        memory_size: m, the number of steps that it remembers.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> optimizer = preconditioned_lbfgs(lambda g: g, memory_size=3)
    >>> x = jnp.array([4.0, -2.0])
    >>> state = optimizer.init(x)
    >>> for _ in range(12):
    ...     value, grad = jax.value_and_grad(lambda x: (x**2 * jnp.array([1.0, 9.0])).sum())(x)
    ...     step, state = optimizer.update(grad, state, x, value=value)
    ...     x = optax.apply_updates(x, step)
    >>> bool(state.value < 1e-6)
    True
    """
    m = memory_size

    def init(params: Any) -> LbfgsState:
        # Each array has memory of its own, so that the state can be donated.
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return LbfgsState(
            memory=jax.tree.map(lambda x: jnp.zeros((2 * m, *x.shape), x.dtype), params),
            R=jnp.eye(m, dtype=dtype),
            K=jnp.zeros((m, m), dtype),
            oldest=jnp.zeros((), jnp.int32),
            gamma=jnp.ones((), dtype),
            accepted=jax.tree.map(jnp.copy, params),
            value=jnp.full((), jnp.inf, dtype),
            lowest=jnp.full((), jnp.inf, dtype),
            grad=jax.tree.map(jnp.zeros_like, params),
            preconditioned=jax.tree.map(jnp.zeros_like, params),
            direction=jax.tree.map(jnp.zeros_like, params),
            step_size=jnp.ones((), dtype),
            stalled=jnp.zeros((), jnp.int32),
            converged=jnp.zeros((), bool),
            evaluations=jnp.zeros((), jnp.int32),
        )

    def update(
        updates: Any, state: LbfgsState, params: Any = None, *, value: Any, **_: Any
    ) -> tuple[Any, LbfgsState]:
        old, grad = state, updates
        value = jnp.asarray(value, old.value.dtype)
        first = old.evaluations == 0
        step = _subtract(params, old.accepted)
        slope = _dot(old.grad, step)
        is_lower = value <= old.value + SUFFICIENT_DECREASE * jnp.minimum(slope, 0.0)
        is_close = value <= old.lowest + NOISE * jnp.abs(old.lowest)
        is_lower_by_slopes = _dot(grad, step) <= (2 * SUFFICIENT_DECREASE - 1) * slope
        is_accepted = is_lower | (is_close & is_lower_by_slopes & (slope < 0))
        accepted = (first | is_accepted) & ~old.converged

        preconditioned = precondition(grad)
        y, z = _subtract(grad, old.grad), _subtract(preconditioned, old.preconditioned)
        sy, yz = _dot(step, y), _dot(y, z)
        is_kept = accepted & ~first & (sy > MIN_CURVATURE * jnp.abs(slope)) & (yz > 0)
        memory = _write_row(old.memory, step, old.oldest, is_kept)
        memory = _write_row(memory, z, m + old.oldest, is_kept)
        products_y, products_g = _products(memory, y), _products(memory, grad)

        is_new = jnp.arange(m) == old.oldest
        R = jnp.where(is_new, products_y[:m, None], jnp.where(is_new[:, None], 0.0, old.R))
        K = jnp.where(is_new, products_y[m:, None], old.K)
        K = jnp.where(is_new[:, None], products_y[m:], K)
        is_filled = (jnp.diag(old.K) > 0) | is_new
        R = jnp.where(is_filled & is_filled[:, None], R, jnp.eye(m, dtype=R.dtype))
        K = jnp.where(is_filled & is_filled[:, None], K, 0.0)
        R, K = jnp.where(is_kept, R, old.R), jnp.where(is_kept, K, old.K)
        oldest = jnp.where(is_kept, (old.oldest + 1) % m, old.oldest)
        first_gamma = jnp.minimum(1.0, 1 / jnp.sqrt(_dot(grad, preconditioned)))
        gamma = jnp.where(is_kept, sy / yz, jnp.where(first, first_gamma, old.gamma))

        coefficients = _coefficients(R, K, oldest, gamma, products_g)
        steepest = jax.tree.map(lambda pg: -gamma * pg, preconditioned)
        direction = jax.tree.map(
            lambda d, rows: d - jnp.tensordot(coefficients, rows, 1, precision="highest"),
            steepest,
            memory,
        )
        is_descent = _dot(grad, direction) < 0  # False if rounding spoiled the memory.
        direction = _select(is_descent, direction, steepest)
        R = jnp.where(is_descent | ~accepted, R, jnp.eye(m, dtype=R.dtype))
        K = jnp.where(is_descent | ~accepted, K, 0.0)

        # Where the curvature is not positive, the next step in that direction is longer.
        next_size = jnp.where(first | is_kept, jnp.ones_like(old.step_size), 2 * old.step_size)
        shorter = _shorter(old.step_size, value - old.value, slope)
        step_size = jnp.where(accepted, next_size, shorter)
        stalled = jnp.where(first | (accepted & (value < old.lowest)), 0, old.stalled + 1)
        new = LbfgsState(
            memory=memory,
            R=R,
            K=K,
            oldest=oldest,
            gamma=gamma,
            accepted=_select(accepted, params, old.accepted),
            value=jnp.where(accepted, value, old.value),
            lowest=jnp.where(
                first, value, jnp.where(accepted, jnp.minimum(value, old.lowest), old.lowest)
            ),
            grad=_select(accepted, grad, old.grad),
            preconditioned=_select(accepted, preconditioned, old.preconditioned),
            direction=_select(accepted, direction, old.direction),
            step_size=step_size,
            stalled=stalled,
            converged=old.converged | (stalled >= PATIENCE),
            evaluations=old.evaluations + 1,
        )
        length = jnp.where(new.converged, jnp.zeros_like(step_size), step_size)
        trial = jax.tree.map(
            lambda x, d: x + length.astype(x.dtype) * d, new.accepted, new.direction
        )
        return _subtract(trial, params), new

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _coefficients(
    R: Float[Array, "m m"],
    K: Float[Array, "m m"],
    oldest: Int[Array, ""],
    gamma: Float[Array, ""],
    products: Float[Array, "2m"],
) -> Float[Array, "2m"]:
    """Return (b, −γa) in the order of the rows, negated: what the direction takes off each row."""
    m = len(R)
    order = (oldest + jnp.arange(m)) % m  # From the oldest pair to the newest.
    R, K = jnp.triu(R[order][:, order]), K[order][:, order]
    is_filled = jnp.diag(K) > 0
    s_g, z_g = (jnp.where(is_filled, each[order], 0.0) for each in (products[:m], products[m:]))
    a = solve_triangular(R, s_g)
    right = jnp.diag(R) * a + gamma * (jnp.dot(K, a, precision="highest") - z_g)
    b = solve_triangular(R, jnp.where(is_filled, right, 0.0), trans="T")
    rows = jnp.concatenate([order, m + order])
    return jnp.zeros_like(products).at[rows].set(jnp.concatenate([b, -gamma * a]))


def _shorter(
    step_size: Float[Array, ""], rise: Float[Array, ""], slope: Float[Array, ""]
) -> Float[Array, ""]:
    """Return a shorter step: to the lowest point of a parabola, within 0.1 to 0.5 of this one."""
    factor = -slope / (2 * (rise - slope))
    factor = jnp.where(jnp.isfinite(factor), factor, 0.1)  # The value may be infinite or NaN.
    return step_size * jnp.clip(factor, 0.1, 0.5)


def _write_row(memory: Any, row: Any, index: Array, is_kept: Array) -> Any:
    def write(rows: Array, new: Array) -> Array:
        before = jax.lax.dynamic_index_in_dim(rows, index, 0, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(rows, jnp.where(is_kept, new, before), index, 0)

    return jax.tree.map(write, memory, row)


def _products(memory: Any, x: Any) -> Float[Array, "2m"]:
    """Return the product of each row with ``x``, in full precision: TF32 is too coarse."""
    each = jax.tree.map(
        lambda rows, leaf: jnp.tensordot(rows, leaf, leaf.ndim, precision="highest"), memory, x
    )
    return sum(jax.tree.leaves(each))  # pyright: ignore[reportReturnType]


def _dot(x: Any, y: Any) -> Float[Array, ""]:
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), x, y)))  # pyright: ignore


def _subtract(x: Any, y: Any) -> Any:
    return jax.tree.map(jnp.subtract, x, y)


def _select(condition: Array, x: Any, y: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), x, y)
