"""The compiled optimization loop: any Optax transformation, in chunks of steps.

`optimize_chunks` runs many steps and leaves the iteration to its caller::

    for chunk in optimize_chunks(loss, image, args, optimizer=optax.adam(0.01), steps=200):
        print(chunk.metrics["total"][-1])  # break to stop

A chunk is one call of one compiled loop, whose number of steps is an argument, so that chunks of
any length share the executable. Between two chunks the host checks that the losses are finite and
chooses the next length so that a chunk lasts about two seconds. That is short enough to follow and
to stop, and long enough to hide the host and the cost of a call: on a CPU, XLA allocates all memory
anew at each call, which costs 0.1 s of page faults at 512 pixels.
"""

import time
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from nst_jax.errors import DivergedError, InputError, OutOfMemoryError, is_out_of_memory
from nst_jax.optimize.processes import allgather, to_host
from nst_jax.optimize.step import (
    check_optimizer,
    check_start,
    clip_to_unit,
    current_iterate,
    find_lbfgs,
    has_converged,
    init_state,
    step,
)
from nst_jax.optimize.types import (
    Chunk,
    CompileFn,
    History,
    LossFn,
    Optimizer,
    Project,
    ShardFn,
    State,
)

__all__ = ["aot_compile", "chunk_lowering_args", "optimize_chunks"]

CHUNK_SECONDS = 2.0
MAX_CHUNK = 1000
"""A constant of the compiled loop: a change has no effect on a loop that was traced before."""


def aot_compile(jitted: Any, *args: Any, **static: Any) -> jax.stages.Compiled:
    """Compile a jitted function ahead of time for these arguments: the default `CompileFn`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> float(aot_compile(jax.jit(jnp.sum), jnp.ones(3))(jnp.ones(3)))
    3.0
    """
    return jitted.lower(*args, **static).compile()


def optimize_chunks(
    loss: LossFn,
    start: Any,
    args: tuple[Any, ...] = (),
    *,
    optimizer: Optimizer,
    steps: int,
    batched_args: Any = None,
    ema_decay: float = 0.0,
    key: Array | None = None,
    project: Project | None = clip_to_unit,
    callback_every: int | None = None,
    compile_fn: CompileFn = aot_compile,
    shard_fn: ShardFn | None = None,
) -> Iterator[Chunk]:
    """Minimize ``loss(x, *args)`` over x, chunk by chunk; the caller owns the loop.

    It ends after ``steps`` steps, or when L-BFGS finds nothing better any more: after ten trials in
    a row without a lower loss. A batch ends when all of it has converged; an image that has
    converged stays as it is.

    Args:
        loss: returns the total and the terms; traced once, with ``args`` as arguments.
        start: x: an image, RGB in [0, 1], ``(h, w, 3)``, or any pytree of float arrays; or a state.
        args: the pytrees that the loss takes after x.
        optimizer: any Optax transformation. The compiled loop belongs to this object: a second
            ``optax.adam(0.01)`` compiles it anew, so make it once and pass it again. Equal calls of
            `nst_jax.optimize.pyramid_lbfgs` return the same object.
        steps: how many steps to take. With 0, one chunk without metrics holds the first state.
        batched_args: for a batch, a pytree of arrays with a leading axis of k: what differs within
            the batch. The arrays of ``start`` have that axis too. The loss is then
            ``loss(x[i], batched_args[i], *args)``.
        ema_decay: as in `nst_jax.optimize.init_state`. A state holds its own.
        key: a random key, for a loss that takes the keyword ``key``: it gets another one at each
            step. A state holds its own.
        project: as in `nst_jax.optimize.step`.
        callback_every: chunks also end at multiples of this many steps.
        compile_fn: compiles the loop.
        shard_fn: divides the first state over devices, where the later ones stay.

    Raises:
        DivergedError: a loss or a variable is not finite; carries the last finite one as ``image``.
        OutOfMemoryError: the device ran out of memory; carries the image so far.
        InputError: an option is out of range, the start is not finite, or the start and
            ``batched_args`` differ in their leading axis.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> def loss(image, target):
    ...     return ((image - target) ** 2).sum(), {}
    >>> options = {"optimizer": optax.sgd(0.25), "steps": 100}
    >>> for chunk in optimize_chunks(loss, jnp.ones((4, 4, 3)), (0.5,), **options):
    ...     if chunk.metrics["total"][-1] < 1e-3:
    ...         break  # or go on to the end
    >>> round(float(chunk.state.iterate.mean()), 1)
    0.5
    """
    optimizer = _with_extra_args(optimizer)
    _check_options(args, steps, callback_every, ema_decay)
    state = _first_state(start, optimizer, batched_args, ema_decay, key, project)
    shardings = None
    if shard_fn is not None:
        state = shard_fn(state)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    converged = _all_converged(state)
    if steps == 0 or converged:
        yield Chunk(state, History(), converged, seconds=0.0, compile_seconds=0.0)
        return

    start_time = time.perf_counter()
    jitted, arrays, static = chunk_lowering_args(
        loss, state, args, optimizer=optimizer, batched_args=batched_args, project=project
    )
    executable = compile_fn(jitted, *arrays, **static)
    first_step_time = time.perf_counter()
    compile_seconds = first_step_time - start_time

    chunk_size = 1
    done = _counter(state.step)
    end = done + steps
    while done < end and not converged:
        num_steps = min(chunk_size, end - done, MAX_CHUNK)
        if callback_every is not None:
            num_steps = min(num_steps, callback_every - done % callback_every)
        last_finite = jax.tree.map(jnp.copy, current_iterate(state))
        chunk_time = time.perf_counter()
        try:
            state, records = executable(state, *arrays[1:-1], num_steps)
            if shardings is not None:  # XLA may have chosen others for its results.
                state = jax.device_put(state, shardings)
            converged = _all_converged(state)  # Waits for the results.
            num_steps = _counter(state.step) - done
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"the device ran out of memory after step {done}; close other programs, or choose "
                "a smaller size",
                image=last_finite,
                step=done,
            ) from error
        rows = {
            name: np.asarray(to_host(column)[:num_steps], np.float64)
            for name, column in records.items()
        }
        if not _is_finite(state, rows, converged=converged):
            raise DivergedError(
                f"the loss stopped being finite between steps {done} and {done + num_steps}; "
                "try a smaller learning rate or smaller weights",
                image=last_finite,
                step=done,
            )
        metrics = History(step=np.arange(done + 1, done + num_steps + 1), **rows)
        done += num_steps
        now = time.perf_counter()
        growth = min(4.0, CHUNK_SECONDS / (now - chunk_time))
        chunk_size = int(allgather(max(1, round(num_steps * growth)), state.step)[0])
        yield Chunk(state, metrics, converged, now - first_step_time, compile_seconds)


def chunk_lowering_args(
    loss: LossFn,
    state: State,
    args: tuple[Any, ...],
    *,
    optimizer: Optimizer,
    batched_args: Any = None,
    project: Project | None = clip_to_unit,
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return what `optimize_chunks` compiles: the jitted loop, its arguments and its static ones.

    The state and the arguments may be shapes (``jax.ShapeDtypeStruct``): use this to plan memory.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nst_jax.optimize import init_state
    >>> def loss(image, target):
    ...     return ((image - target) ** 2).sum(), {}
    >>> optimizer = optax.sgd(0.1)
    >>> state = init_state(jnp.ones((4, 4, 3)), optimizer=optimizer)
    >>> jitted, arrays, static = chunk_lowering_args(loss, state, (0.5,), optimizer=optimizer)
    >>> memory = jitted.lower(*arrays, **static).compile().memory_analysis()
    >>> memory.argument_size_in_bytes > state.iterate.nbytes
    True
    """
    static = {"loss": loss, "optimizer": _with_extra_args(optimizer), "project": project}
    return _run_chunk, (state, batched_args, args, 0), static


@partial(jax.jit, static_argnames=("loss", "optimizer", "project"), donate_argnums=0)
def _run_chunk(
    state: State,
    batched_args: Any,
    args: tuple[Any, ...],
    num_steps: Array | int,
    *,
    loss: LossFn,
    optimizer: Optimizer,
    project: Project | None,
) -> tuple[State, dict[str, Array]]:
    """Take ``num_steps`` steps, or fewer if all of the batch converges.

    Returns the state and the records: each metric as a column of `MAX_CHUNK` rows.
    """

    def one_step(state: State, batched_args: Any) -> tuple[State, dict[str, Array]]:
        own = () if batched_args is None else (batched_args,)
        return step(loss, state, (*own, *args), optimizer=optimizer, project=project)

    if state.step.ndim == 1:
        one_step = jax.vmap(one_step)

    def is_running(carry: tuple[Array, State, dict[str, Array]]) -> Array:
        i, state, _ = carry
        return (i < num_steps) & ~has_converged(state).all()

    def body(carry: tuple[Array, State, dict[str, Array]]) -> Any:
        i, state, records = carry
        state, metrics = one_step(state, batched_args)
        return i + 1, state, jax.tree.map(lambda rows, x: rows.at[i].set(x), records, metrics)

    shapes = jax.eval_shape(one_step, state, batched_args)[1]
    records = jax.tree.map(lambda x: jnp.zeros((MAX_CHUNK, *x.shape), x.dtype), shapes)
    _, state, records = jax.lax.while_loop(is_running, body, (jnp.int32(0), state, records))
    return state, records


@lru_cache(maxsize=64)  # The loop is compiled once for each optimizer object.
def _with_extra_args(optimizer: Optimizer) -> optax.GradientTransformationExtraArgs:
    check_optimizer(optimizer)
    return optax.with_extra_args_support(optimizer)


def _first_state(
    start: Any,
    optimizer: Optimizer,
    batched_args: Any,
    ema_decay: float,
    key: Array | None,
    project: Project | None,
) -> State:
    """Return the first state in memory of its own, because the compiled loop reuses it."""
    point = start.iterate if isinstance(start, State) else start
    check_start(point)
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(point)):
        raise InputError(
            "the start has values that are not finite; give numbers, in [0, 1] for images"
        )
    is_batch = batched_args is not None
    if isinstance(start, State):
        is_batch = np.ndim(start.step) == 1
        size = len(start.step) if is_batch else None
    else:
        size = np.shape(jax.tree.leaves(start)[0])[0] if is_batch else None
    _check_batch(point, batched_args, size)
    if isinstance(start, State):
        return jax.tree.map(jnp.copy, start)
    start = jax.tree.map(jnp.asarray, start)
    leaves, structure = jax.tree.flatten(start)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    _check_update(optimizer, structure, shapes, is_batch)
    return _initial_states(start, optimizer, ema_decay, key, project, is_batch)


@partial(jax.jit, static_argnums=(1, 2, 4, 5))
def _initial_states(
    start: Any,
    optimizer: Optimizer,
    ema_decay: float,
    key: Array | None,
    project: Project | None,
    is_batch: bool,
) -> State:
    init = partial(init_state, optimizer=optimizer, ema_decay=ema_decay, key=key, project=project)
    return jax.vmap(init)(start) if is_batch else init(start)


def _check_options(args: Any, steps: int, callback_every: int | None, ema_decay: float) -> None:
    if not isinstance(args, tuple):
        raise InputError(f"args is a {type(args).__name__}; give a tuple, such as (args,)")
    if steps < 0:
        raise InputError(f"steps is {steps}; give a number from 0 up")
    if callback_every is not None and (callback_every < 1 or callback_every % 1):
        raise InputError(f"callback_every is {callback_every}; give a whole number from 1 up")
    if not 0 <= ema_decay < 1:
        raise InputError(f"ema_decay is {ema_decay}; give a number from 0 to below 1")


@lru_cache(maxsize=256)  # So that a second run traces nothing.
def _check_update(
    optimizer: Optimizer,
    structure: Any,
    leaves: tuple[jax.ShapeDtypeStruct, ...],
    is_batch: bool,
) -> None:
    """Raise `InputError` if the optimizer cannot update this variable; nothing is compiled."""

    def update(x: Any) -> Any:
        def value_fn(x: Any) -> Array:
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(x))  # pyright: ignore

        extra_args = {"value": value_fn(x), "grad": x, "value_fn": value_fn}
        return optimizer.update(x, optimizer.init(x), x, **extra_args)

    try:
        start = jax.tree.unflatten(structure, leaves)
        jax.eval_shape(jax.vmap(update) if is_batch else update, start)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"this Optax transformation cannot update the start ({reason}); choose another, such "
            "as optax.adam(0.01)"
        ) from error


def _check_batch(point: Any, batched_args: Any, size: int | None) -> None:
    if (batched_args is None) != (size is None):
        raise InputError(
            "batched_args and a batch go together; give batched_args and a start with a leading "
            "axis, or neither"
        )
    for name, tree in (("the start", point), ("batched_args", batched_args)):
        for leaf in jax.tree.leaves(tree):
            if size is not None and np.shape(leaf)[:1] != (size,):
                raise InputError(
                    f"{name} has an array of shape {np.shape(leaf)} in a batch of {size}; give it "
                    f"a leading axis of {size}"
                )


def _all_converged(state: State) -> bool:
    return bool(has_converged(state).all())


def _counter(counts: Any) -> int:
    return int(np.ravel(counts)[0])


def _is_finite(state: State, rows: dict[str, np.ndarray], *, converged: bool) -> bool:
    """Return whether the optimization can go on.

    L-BFGS refuses a trial whose loss is not finite, so the accepted point decides. If it finds
    no other trial, the loss is not finite around that point.
    """
    lbfgs = find_lbfgs(state)
    if lbfgs is None:
        losses = list(rows.values())
    else:
        losses = [to_host(lbfgs.value)] + ([rows["total"][-1:]] if converged else [])
    points = jax.tree.leaves((current_iterate(state), state.iterate if lbfgs is None else ()))
    finite = all(bool(jnp.isfinite(each).all()) for each in points)
    return finite and all(np.isfinite(each).all() for each in losses)
