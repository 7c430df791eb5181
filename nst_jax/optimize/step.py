"""One step of the optimization: a pure function of its state, for any loss and any optimizer.

`step` evaluates the loss and its gradient once. The Optax transformation chooses the update, and
`project` brings the variable back to where it is allowed. All optimizers are treated alike. Use it
inside your own ``jit``, ``scan`` or ``vmap``. `nst_jax.optimize.optimize_chunks` runs many steps.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from nst_jax.errors import InputError
from nst_jax.optimize.lbfgs import LbfgsState
from nst_jax.optimize.types import Ema, LossFn, Optimizer, Project, State

__all__ = [
    "check_optimizer",
    "clip_to_unit",
    "current_iterate",
    "find_lbfgs",
    "has_converged",
    "init_state",
    "run_steps",
    "step",
]


def clip_to_unit(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Clip an image to [0, 1].

    >>> clip_to_unit(jnp.array([-0.5, 0.25, 2.0]))
    Array([0.  , 0.25, 1.  ], dtype=float32)
    """
    return jnp.clip(x, 0.0, 1.0)


def init_state(
    start: Any,
    *,
    optimizer: Optimizer,
    ema_decay: float | Array = 0.0,
    key: Array | None = None,
    project: Project | None = clip_to_unit,
) -> State:
    """Return the state before the first step. Pure.

    Args:
        start: an image, or any pytree of float arrays; float32 or better afterwards.
        optimizer: any Optax transformation.
        ema_decay: decay d of the moving average (1 − d) Σ dⁱ xₜ₋ᵢ; 0 for none. The grain that Adam
            leaves in an image differs from step to step and averages out.
        key: a random key for a loss that draws random numbers.
        project: as in `step`.

    Raises:
        InputError: the start is no pytree of float arrays, or the optimizer is none.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> init_state(jnp.full((4, 4, 3), 0.5), optimizer=optax.adam(0.02))
    State(iterate of shape (4, 4, 3), step 0)
    """
    check_start(start)
    check_optimizer(optimizer)
    iterate = jax.tree.map(lambda x: jnp.array(x, jnp.promote_types(x.dtype, jnp.float32)), start)
    if project is not None:
        iterate = project(iterate)
    ema = None
    if not (isinstance(ema_decay, float | int) and ema_decay == 0):
        dtype = jnp.result_type(*jax.tree.leaves(iterate))
        ema = Ema(jax.tree.map(jnp.zeros_like, iterate), jnp.asarray(ema_decay, dtype))
    step, level_step = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    return State(iterate, ema, optimizer.init(iterate), step, level_step, key)


def step(
    loss: LossFn,
    state: State,
    args: tuple[Any, ...] = (),
    *,
    optimizer: Optimizer,
    project: Project | None = clip_to_unit,
) -> tuple[State, dict[str, Array]]:
    """Take one step: one evaluation of the loss and of its gradient. Pure.

    Args:
        loss: ``loss(x, *args) -> (total, terms)``.
        state: from `init_state` or an earlier step.
        args: the arguments of the loss after the variable.
        optimizer: any Optax transformation. It also gets the keywords ``value``, ``grad`` and
            ``value_fn``, which the line search of ``optax.lbfgs`` needs. That search evaluates the
            loss again; `nst_jax.optimize.pyramid_lbfgs` does not.
        project: brings the variable back to where it is allowed, after the update. The default is
            for images. Give None for any other variable, such as latents or a network's weights.

    Returns:
        The next state, and the metrics: ``total`` and the terms before the step.

    Raises:
        InputError: the loss does not return a scalar and a dict of scalars; ``args`` is no tuple.

    >>> from functools import partial
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nst_jax.optimize import init_state
    >>> def loss(image, target):
    ...     return ((image - target) ** 2).sum(), {}
    >>> optimizer = optax.sgd(0.25)
    >>> state = init_state(jnp.ones((4, 4, 3)), optimizer=optimizer)
    >>> state, metrics = jax.jit(partial(step, loss, optimizer=optimizer))(state, (0.5,))
    >>> float(metrics["total"]), float(state.iterate[0, 0, 0])
    (12.0, 0.75)
    """
    if not isinstance(args, tuple):
        raise InputError(f"args is a {type(args).__name__}; give a tuple, such as (args,)")
    key = None if state.key is None else jax.random.fold_in(state.key, state.step)
    keyword = {} if key is None else {"key": key}

    def value_and_terms(x: Any) -> tuple[Array, Mapping[str, Array]]:
        return _checked(loss(x, *args, **keyword))

    (total, terms), grad = jax.value_and_grad(value_and_terms, has_aux=True)(state.iterate)
    with jax.named_scope("optimizer"):
        updates, opt_state = optax.with_extra_args_support(optimizer).update(
            grad,
            state.opt_state,
            state.iterate,
            value=total,
            grad=grad,
            value_fn=lambda x: value_and_terms(x)[0],
        )
        iterate = optax.apply_updates(state.iterate, updates)
    if project is not None:
        iterate = project(iterate)
    new = State(iterate, state.ema, opt_state, state.step + 1, state.level_step + 1, state.key)
    if state.ema is not None:
        average, decay = state.ema
        point = _accepted_point(new)
        average = jax.tree.map(lambda a, x: decay * a + (1 - decay) * x, average, point)
        new = new._replace(ema=Ema(average, decay))
    return new, {"total": total, **terms}


def run_steps(
    loss: LossFn,
    state: State,
    args: tuple[Any, ...] = (),
    *,
    optimizer: Optimizer,
    steps: int,
    project: Project | None = clip_to_unit,
    remat: bool = False,
) -> tuple[State, dict[str, Array]]:
    """Take a fixed number of steps without the host. Pure: use it inside your own ``jit``.

    It is differentiable with respect to ``args``, for instance. Reverse mode then stores what each
    step computed.

    Args:
        loss: and the rest: as in `step`.
        steps: how many steps to take; static.
        remat: compute the activations of the loss again in the backward pass, instead of storing
            those of all steps. The memory of a gradient through 8 steps at 32 pixels fell from 48
            to 10 MiB at equal time.

    Returns:
        The last state, and the metrics of `step` with a leading axis of ``steps``.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nst_jax.optimize import init_state
    >>> def loss(image, target):
    ...     return ((image - target) ** 2).sum(), {}
    >>> @jax.jit
    ... def final_total(target):
    ...     optimizer = optax.sgd(0.25)
    ...     state = init_state(jnp.ones((4, 4, 3)), optimizer=optimizer)
    ...     _, metrics = run_steps(loss, state, (target,), optimizer=optimizer, steps=2)
    ...     return metrics["total"][-1]
    >>> float(final_total(0.5)), float(jax.grad(final_total)(0.5))
    (3.0, -12.0)
    """
    loss = jax.checkpoint(loss) if remat else loss

    def body(state: State, _: None) -> tuple[State, dict[str, Array]]:
        return step(loss, state, args, optimizer=optimizer, project=project)

    return jax.lax.scan(body, state, length=steps)


def current_iterate(state: State) -> Any:
    """Return the point that a state stands for: the one to show and to keep.

    It is the bias-corrected EMA if there is one, the last accepted point with L-BFGS, and otherwise
    the iterate. States of a batch give a batch.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nst_jax.optimize import init_state
    >>> state = init_state(jnp.full((4, 4, 3), 0.5), optimizer=optax.sgd(0.1))
    >>> float(current_iterate(state).max())
    0.5
    """
    point = _accepted_point(state)
    if state.ema is None:
        return point
    average, decay = state.ema
    started = state.level_step > 0
    correction = jnp.where(started, 1 - decay**state.level_step, 1)

    def corrected(average: Array, x: Array) -> Array:
        axes = tuple(range(jnp.ndim(started), jnp.ndim(x)))
        divisor, is_average = (jnp.expand_dims(each, axes) for each in (correction, started))
        return jnp.where(is_average, average / divisor.astype(x.dtype), x)

    return jax.tree.map(corrected, average, point)


def has_converged(state: State) -> Array:
    """Return whether the optimizer finds nothing better any more: a bool, or one each of a batch.

    Only `nst_jax.optimize.pyramid_lbfgs` knows.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> bool(has_converged(init_state(jnp.ones((4, 4, 3)), optimizer=optax.sgd(0.1))))
    False
    """
    lbfgs = find_lbfgs(state)
    return jnp.zeros_like(state.step, bool) if lbfgs is None else lbfgs.converged


def find_lbfgs(state: State) -> LbfgsState | None:
    """Return the part of a state that belongs to `nst_jax.optimize.pyramid_lbfgs`, if any."""

    def is_lbfgs(node: Any) -> bool:
        return isinstance(node, LbfgsState)

    nodes = jax.tree.leaves(state.opt_state, is_leaf=is_lbfgs)
    return next(filter(is_lbfgs, nodes), None)


def check_start(start: Any) -> None:
    """Raise `InputError` unless a variable is a pytree of float arrays."""
    leaves = jax.tree.leaves(start)
    for leaf in leaves:
        if not hasattr(leaf, "dtype"):
            raise InputError(f"the start has a {type(leaf).__name__}; give arrays of floats")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise InputError(
                f"the start has the dtype {leaf.dtype}; give floats, in [0, 1] for images"
            )
    if not leaves:
        raise InputError("the start has no arrays; give an image or a pytree of float arrays")


def check_optimizer(optimizer: Any) -> None:
    """Raise `InputError` unless an object is an Optax transformation."""
    if not (callable(getattr(optimizer, "init", None)) and hasattr(optimizer, "update")):
        raise InputError(
            f"optimizer is {optimizer!r}; give an Optax transformation, such as optax.adam(0.01)"
        )


def _accepted_point(state: State) -> Any:
    lbfgs = find_lbfgs(state)
    return state.iterate if lbfgs is None else lbfgs.accepted


def _checked(result: Any) -> tuple[Array, Mapping[str, Array]]:
    """Check what a loss returned, which costs nothing once it is traced."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise InputError(
            "the loss must return (total, terms), a scalar and a dict of scalars; return "
            "(total, {}) if there are no terms"
        )
    total, terms = result
    if "total" in terms:
        raise InputError("the loss has a term named total, which names the sum; choose another")
    for name, value in {"total": total, **terms}.items():
        if isinstance(value, Mapping | tuple | list):
            raise InputError(f"the loss returns {name} as a {type(value).__name__}; give scalars")
        if jnp.shape(value) != ():
            raise InputError(f"the loss returns {name} of shape {jnp.shape(value)}; give scalars")
    return total, terms
