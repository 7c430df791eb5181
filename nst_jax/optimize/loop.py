"""The compiled optimization loop: any Optax transformation, in chunks of steps.

`step` is one update, a pure function for your own ``jit``, ``scan`` or ``vmap``. `optimize_chunks`
runs many of them and leaves the iteration to its caller::

    for chunk in optimize_chunks(loss, image, args, optimizer=optax.adam(0.01), steps=200):
        print(chunk.metrics["total"][-1])  # break to stop

A chunk is one call of one compiled loop, whose number of steps is an argument, so that chunks of
any length share the executable. Between two chunks the host checks that the losses are finite and
chooses the next length so that a chunk lasts about two seconds. That is short enough to follow and
to stop, and long enough to hide the host and the cost of a call: on a CPU, XLA allocates all memory
anew at each call, which costs 0.1 s of page faults at 512 pixels.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from nst_jax.errors import DivergedError, InputError, OutOfMemoryError, is_out_of_memory
from nst_jax.optimize.processes import agree, to_host
from nst_jax.optimize.types import (
    Chunk,
    CompileFn,
    History,
    LossFn,
    Optimizer,
    PlaceFn,
    State,
)

__all__ = [
    "aot_compile",
    "chunk_call",
    "current_image",
    "has_line_search",
    "init_state",
    "optimize_chunks",
    "reflect",
    "run_steps",
    "step",
]

CHUNK_SECONDS = 2.0
MAX_CHUNK = 1000
"""A constant of the compiled loop: a change has no effect on a loop that was traced before."""
TERMS_EVERY = 10
"""After a line search the loss terms cost an extra evaluation, so they are recorded at most once in
this many steps."""
PATIENCE = 10
"""The optimization has converged when the line search finds nothing better this often in a row."""


def init_state(
    image: Float[Array, "h w 3"],
    optimizer: Optimizer,
    ema_decay: float = 0.0,
    key: Array | None = None,
) -> State:
    """Return the state before the first step, for an image in [0, 1] (clipped). Pure.

    ``key`` is a random key for a loss that draws random numbers.

    Raises:
        InputError: the image is no float array.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> init_state(jnp.full((4, 4, 3), 0.5), optax.adam(0.02))
    State(image of shape (4, 4, 3), step 0)
    """
    _check_start(image)
    image = jnp.asarray(image)
    image = jnp.clip(image.astype(jnp.promote_types(image.dtype, jnp.float32)), 0, 1)
    ema = jnp.zeros_like(image) if ema_decay else None
    zero = jnp.zeros((), jnp.int32)
    key_data = None if key is None else jax.random.key_data(key)
    return State(image, ema, optimizer.init(image), zero, zero, key_data)


def step(
    loss: LossFn,
    optimizer: Optimizer,
    state: State,
    args: tuple[Any, ...] = (),
    *,
    ema_decay: float | Array = 0.0,
) -> tuple[State, dict[str, Array]]:
    """Take one step. Pure: use it inside your own ``jit``, ``scan`` or ``vmap``.

    A first-order step is followed by a clip to [0, 1]. After a line search (``optax.lbfgs``) a clip
    would contradict the values and gradients that the optimizer stores, so the iterate moves freely
    and the loss sees its reflection into [0, 1] (`reflect`).

    Args:
        loss: ``loss(image, *args) -> (total, terms)``.
        optimizer: any Optax transformation.
        state: from `init_state` or an earlier step.
        args: the arguments of the loss after the image.
        ema_decay: the decay of the moving average, if the state has one.

    Returns:
        The next state, and the metrics: ``total`` and the terms before the step; with a line search
        only ``total``, after the step.

    Raises:
        InputError: the loss does not return a scalar and a dict of scalars.

    >>> from functools import partial
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nst_jax.optimize import init_state
    >>> def loss(image, target):
    ...     return ((image - target) ** 2).sum(), {}
    >>> optimizer = optax.sgd(0.25)
    >>> state = init_state(jnp.ones((4, 4, 3)), optimizer)
    >>> state, metrics = jax.jit(partial(step, loss, optimizer))(state, (0.5,))
    >>> float(metrics["total"]), float(state.image[0, 0, 0])
    (12.0, 0.75)
    """
    image, ema, opt_state = state[:3]
    optimizer = optax.with_extra_args_support(optimizer)
    key = _step_key(state)

    def value(image: Array) -> Array:
        return _reflected_loss(loss, image, args, key)[0]

    def value_and_terms(image: Array) -> tuple[Array, Mapping[str, Array]]:
        return _evaluate(loss, image, args, key)

    if _is_line_search_state(opt_state):
        terms = {}
        if key is None:  # The last trial of the line search is evaluated and stored in the state.
            total, grads = optax.value_and_grad_from_state(value)(image, state=opt_state)
        else:
            total, grads = jax.value_and_grad(value)(image)
    else:
        (total, terms), grads = jax.value_and_grad(value_and_terms, has_aux=True)(image)
    updates, opt_state = optimizer.update(
        grads, opt_state, image, value=total, grad=grads, value_fn=value
    )
    image = jnp.asarray(optax.apply_updates(image, updates))
    if _is_line_search_state(opt_state):
        total = optax.tree_utils.tree_get(opt_state, "value")
    else:
        image = jnp.clip(image, 0.0, 1.0)
    if ema is not None:
        ema = ema_decay * ema + (1 - ema_decay) * image
    state = State(image, ema, opt_state, state.step + 1, state.ema_count + 1, state.key)
    return state, {"total": jnp.asarray(total), **terms}


def run_steps(
    loss: LossFn,
    optimizer: Optimizer,
    state: State,
    args: tuple[Any, ...] = (),
    *,
    num_steps: int,
    ema_decay: float | Array = 0.0,
) -> tuple[State, dict[str, Array]]:
    """Take a fixed number of steps without the host. Pure: use it inside your own ``jit``.

    With a first-order optimizer it is differentiable, with respect to ``args`` for instance.

    Args:
        loss: and the rest: as in `step`.
        num_steps: how many steps to take; static.

    Returns:
        The last state, and the metrics of `step` with a leading axis of ``num_steps``.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nst_jax.optimize import init_state
    >>> def loss(image, target):
    ...     return ((image - target) ** 2).sum(), {}
    >>> @jax.jit
    ... def final_total(target):
    ...     optimizer = optax.sgd(0.25)
    ...     state = init_state(jnp.ones((4, 4, 3)), optimizer)
    ...     return run_steps(loss, optimizer, state, (target,), num_steps=2)[1]["total"][-1]
    >>> float(final_total(0.5)), float(jax.grad(final_total)(0.5))
    (3.0, -12.0)
    """

    def body(state: State, _: None) -> tuple[State, dict[str, Array]]:
        return step(loss, optimizer, state, args, ema_decay=ema_decay)

    return jax.lax.scan(body, state, length=num_steps)


def current_image(state: State, ema_decay: float | Array = 0.0) -> Float[Array, "*k h w 3"]:
    """Return the image that a state stands for, in [0, 1]: the bias-corrected EMA if there is one,
    otherwise the reflected iterate.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nst_jax.optimize import init_state
    >>> state = init_state(jnp.full((4, 4, 3), 0.5), optax.sgd(0.1))
    >>> float(current_image(state).max())
    0.5
    """
    image = reflect(state.image)
    if state.ema is None:
        return image
    count = state.ema_count
    bias_correction = jnp.asarray(1 - ema_decay**count, image.dtype)[..., None, None, None]
    started = jnp.asarray(count > 0)[..., None, None, None]
    return jnp.where(started, state.ema / bias_correction, image)


@jax.jit
def reflect(image: Float[Array, "*k h w 3"]) -> Float[Array, "*k h w 3"]:
    """Reflect values at 0 and at 1 until they are in [0, 1]; values inside stay as they are.

    A clip instead would leave pixels outside [0, 1] without a gradient. After 100 steps from noise
    the loss of a reconstruction is then twice as high (relu3_1 of the example cat at 96 pixels:
    0.050 against 0.025). A single clip at the end loses what the steps gained (mosaic on the cat:
    0.035 against 0.023). ``benchmarks/ablations.py`` measures both.

    >>> import jax.numpy as jnp
    >>> reflect(jnp.array([-0.25, 0.5, 1.25]))
    Array([0.25, 0.5 , 0.75], dtype=float32)
    """
    phase = jnp.mod(image, 2.0)
    return jnp.where(phase <= 1.0, phase, 2.0 - phase)


def has_line_search(optimizer: Optimizer) -> bool:
    """Return whether a transformation has a line search that stores what it evaluates.

    >>> import optax
    >>> has_line_search(optax.lbfgs()), has_line_search(optax.adam(0.01))
    (True, False)
    """
    return _is_line_search_state(jax.eval_shape(optimizer.init, jnp.zeros((1, 1, 3))))


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
    start: Float[Array, "*k h w 3"] | Float[np.ndarray, "*k h w 3"] | State,
    args: tuple[Any, ...] = (),
    *,
    optimizer: Optimizer,
    steps: int,
    batched_args: Any = None,
    ema_decay: float = 0.0,
    key: Array | None = None,
    callback_every: int | None = None,
    compile_fn: CompileFn = aot_compile,
    place_fn: PlaceFn | None = None,
) -> Iterator[Chunk]:
    """Minimize ``loss(image, *args)`` over the image, chunk by chunk; the caller owns the loop.

    It ends after ``steps`` steps, or when the line search finds nothing better any more.

    Args:
        loss: returns the total and the terms; traced once, with ``args`` as arguments.
        start: the image to start from, RGB in [0, 1], ``(h, w, 3)``, or k of them; or a state.
        args: the pytrees that the loss takes after the image.
        optimizer: any Optax transformation. Pass the same object again to reuse the executable.
        steps: how many steps to take. With 0, one chunk without metrics holds the first state.
        batched_args: for k images, a pytree of arrays with a leading axis of k: what differs
            between them. The loss is then ``loss(image, batched_args[i], *args)``.
        ema_decay: decay d of the moving average (1 − d) Σ dⁱ xₜ₋ᵢ; 0 for none. The grain that Adam
            leaves in an image differs from step to step and averages out. Not with a line search.
        key: a random key, for a loss that takes the keyword ``key``: it gets another one at each
            step. A state holds its own.
        callback_every: chunks also end at multiples of this many steps.
        compile_fn: compiles the loop.
        place_fn: puts the first state on devices, where the later ones stay.

    Raises:
        DivergedError: a loss or a pixel is not finite; carries the last finite image.
        OutOfMemoryError: the device ran out of memory; carries the image so far.
        InputError: an option is out of range, the start is not finite, the state has no EMA, the
            images and ``batched_args`` differ in number, or the optimizer's line search meets a
            batch (see `minimize_batch`) or an EMA.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> def loss(image, target):
    ...     return ((image - target) ** 2).sum(), {}
    >>> options = {"optimizer": optax.sgd(0.25), "steps": 100}
    >>> for chunk in optimize_chunks(loss, jnp.ones((4, 4, 3)), (0.5,), **options):
    ...     if chunk.metrics["total"][-1] < 1e-3:
    ...         break  # or go on to the end
    >>> round(float(chunk.state.image.mean()), 1)
    0.5
    """
    optimizer = _with_extra_args(optimizer)
    state = _first_state(start, optimizer, ema_decay, key)
    shardings = None
    if place_fn is not None:
        state = place_fn(state)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    line_search = _is_line_search_state(state.opt_state)
    _check_options(state, steps, callback_every, ema_decay, line_search)
    _check_batch(state, batched_args)
    if steps == 0:
        yield Chunk(state, History(), converged=False, seconds=0.0, compile_seconds=0.0)
        return

    start_time = time.perf_counter()
    jitted, arrays, static = chunk_call(
        loss,
        state,
        args,
        optimizer=optimizer,
        batched_args=batched_args,
        ema_decay=ema_decay,
    )
    executable = compile_fn(jitted, *arrays, **static)
    first_step_time = time.perf_counter()
    compile_seconds = first_step_time - start_time

    chunk_size, next_terms_step, converged = 1, 0, False
    recent_totals: deque[float] = deque(maxlen=PATIENCE)
    done = _counter(state.step)
    end = done + steps
    while done < end and not converged:
        num_steps = min(chunk_size, end - done, MAX_CHUNK)
        if callback_every is not None:
            num_steps = min(num_steps, callback_every - done % callback_every)
        with_terms = line_search and (
            done + num_steps >= next_terms_step or done + num_steps == end
        )
        last_finite = current_image(state, ema_decay)
        chunk_time = time.perf_counter()
        try:
            state, records = executable(state, *arrays[1:-2], num_steps, with_terms)
            if shardings is not None:  # XLA may have chosen others for its results.
                state = jax.device_put(state, shardings)
            counters = jax.device_get((state.step, state.ema_count))  # Waits for the results.
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"the device ran out of memory after step {done}; close other programs, or choose "
                "a smaller size",
                image=last_finite,
                step=done,
            ) from error
        state = state._replace(step=counters[0], ema_count=counters[1])
        records = jax.tree.map(to_host, records)
        metrics, finite = _metrics_of(records, done, num_steps, with_terms)
        pixels = [state.image] if state.ema is None else [state.image, state.ema]
        if not (finite and all(bool(jnp.isfinite(each).all()) for each in pixels)):
            raise DivergedError(
                f"the loss stopped being finite between steps {done} and {done + num_steps}; "
                "try a smaller learning rate or smaller weights",
                image=last_finite,
                step=done,
            )
        done += num_steps
        if with_terms:
            next_terms_step = done + TERMS_EVERY
        now = time.perf_counter()
        growth = min(4.0, CHUNK_SECONDS / (now - chunk_time))
        chunk_size = int(agree(max(1, round(num_steps * growth)), state.image)[0])
        if line_search:
            recent_totals.extend(metrics["total"].tolist())
            converged = len(recent_totals) == PATIENCE and len(set(recent_totals)) == 1
        yield Chunk(state, metrics, converged, now - first_step_time, compile_seconds)


def chunk_call(
    loss: LossFn,
    state: State,
    args: tuple[Any, ...],
    *,
    optimizer: Optimizer,
    batched_args: Any = None,
    ema_decay: float = 0.0,
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return what `optimize_chunks` compiles: the jitted loop, its arguments and its static ones.

    The state and the arguments may be shapes (``jax.ShapeDtypeStruct``): use this to plan memory.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nst_jax.optimize import init_state
    >>> def loss(image, target):
    ...     return ((image - target) ** 2).sum(), {}
    >>> optimizer = optax.sgd(0.1)
    >>> state = init_state(jnp.ones((4, 4, 3)), optimizer)
    >>> jitted, arrays, static = chunk_call(loss, state, (0.5,), optimizer=optimizer)
    >>> memory = jitted.lower(*arrays, **static).compile().memory_analysis()
    >>> memory.argument_size_in_bytes > state.image.nbytes
    True
    """
    arrays = (state, batched_args, args, ema_decay, 0, True)
    static = {"loss": loss, "optimizer": _with_extra_args(optimizer)}
    return _run_chunk, arrays, static


@partial(jax.jit, static_argnames=("loss", "optimizer"), donate_argnums=0)
def _run_chunk(
    state: State,
    batched_args: Any,
    args: tuple[Any, ...],
    ema_decay: Array | float,
    num_steps: Array | int,
    with_terms: Array | bool,
    *,
    loss: LossFn,
    optimizer: Optimizer,
) -> tuple[State, dict[str, Any]]:
    """Take ``num_steps`` steps.

    Returns the state and the records: each metric as a column of `MAX_CHUNK` rows, and after a line
    search the terms of the ``last`` image, or zeros without ``with_terms``.
    """

    def one_step(state: State, batched_args: Any) -> tuple[State, dict[str, Array]]:
        own = () if batched_args is None else (batched_args,)
        return step(loss, optimizer, state, (*own, *args), ema_decay=ema_decay)

    if state.image.ndim == 4:
        one_step = jax.vmap(one_step)

    def body_fn(i: Array, carry: tuple[State, dict[str, Array]]) -> tuple[Any, Any]:
        state, records = carry
        state, metrics = one_step(state, batched_args)
        return state, jax.tree.map(lambda rows, x: rows.at[i].set(x), records, metrics)

    shapes = jax.eval_shape(one_step, state, batched_args)[1]
    records = jax.tree.map(lambda x: jnp.zeros((MAX_CHUNK, *x.shape), x.dtype), shapes)
    state, records = jax.lax.fori_loop(0, num_steps, body_fn, (state, records))
    if _is_line_search_state(state.opt_state):
        terms = jax.eval_shape(_reflected_loss, loss, state.image, args, _step_key(state))[1]
        records["last"] = jax.lax.cond(
            with_terms,
            lambda image: _reflected_loss(loss, image, args, _step_key(state))[1],
            lambda image: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), terms),
            state.image,
        )
    return state, records


@partial(jax.jit, static_argnums=0)  # Traced once for all its uses in a line search.
def _reflected_loss(
    loss: LossFn, image: Array, args: tuple[Any, ...], key: Array | None
) -> tuple[Array, Mapping[str, Array]]:
    return _evaluate(loss, reflect(image), args, key)


def _evaluate(
    loss: LossFn, image: Array, args: tuple[Any, ...], key: Array | None
) -> tuple[Array, Mapping[str, Array]]:
    """Call the loss and check what it returns, which costs nothing once it is traced."""
    result = loss(image, *args) if key is None else loss(image, *args, key=key)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise InputError(
            "the loss must return (total, terms), a scalar and a dict of scalars; return "
            "(total, {}) if there are no terms"
        )
    for name, value in {"total": result[0], **result[1]}.items():
        if jnp.shape(value) != ():
            raise InputError(f"the loss returns {name} of shape {jnp.shape(value)}; give scalars")
    return result


def _step_key(state: State) -> Array | None:
    if state.key is None:
        return None
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)


@lru_cache(maxsize=64)  # The loop is compiled once for each optimizer object.
def _with_extra_args(optimizer: Optimizer) -> optax.GradientTransformationExtraArgs:
    optimizer = optax.with_extra_args_support(optimizer)

    def update(image: Array) -> Any:
        extra_args = {"value": image.sum(), "grad": image, "value_fn": jnp.sum}
        return optimizer.update(image, optimizer.init(image), image, **extra_args)

    try:
        jax.eval_shape(update, jnp.zeros((1, 1, 3)))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"this Optax transformation cannot update a single array ({reason}); choose another, "
            "such as optax.adam(0.01)"
        ) from error
    return optimizer


def _first_state(
    start: Float[Array, "*k h w 3"] | Float[np.ndarray, "*k h w 3"] | State,
    optimizer: Optimizer,
    ema_decay: float,
    key: Array | None,
) -> State:
    """Return the first state in memory of its own, because the compiled loop reuses it."""
    pixels = start.image if isinstance(start, State) else start
    _check_start(pixels)
    if not bool(jnp.isfinite(pixels).all()):
        raise InputError("the start image has values that are not finite; give RGB in [0, 1]")
    if isinstance(start, State):
        state = jax.tree.map(jnp.array, start)
        # Counters on the host, as after a chunk: `current_image` rounds differently on the device.
        return state._replace(step=np.asarray(start.step), ema_count=np.asarray(start.ema_count))
    return _initial_states(jnp.asarray(start), optimizer, ema_decay, key)


@partial(jax.jit, static_argnums=(1, 2))
def _initial_states(
    images: Float[Array, "*k h w 3"], optimizer: Optimizer, ema_decay: float, key: Array | None
) -> State:
    init = partial(init_state, optimizer=optimizer, ema_decay=ema_decay, key=key)
    return jax.vmap(init)(images) if images.ndim == 4 else init(images)


def _check_start(image: Any) -> None:
    if not hasattr(image, "dtype"):
        raise InputError(f"the start is a {type(image).__name__}; give one array of floats")
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise InputError(f"the start image has dtype {image.dtype}; give floats in [0, 1]")


def _check_options(
    state: State, steps: int, callback_every: int | None, ema_decay: float, line_search: bool
) -> None:
    if steps < 0:
        raise InputError(f"steps is {steps}; give a number from 0 up")
    if callback_every is not None and (callback_every < 1 or callback_every % 1):
        raise InputError(f"callback_every is {callback_every}; give a whole number from 1 up")
    if not 0 <= ema_decay < 1:
        raise InputError(f"ema_decay is {ema_decay}; give a number from 0 to below 1")
    if line_search and state.image.ndim == 4:
        raise InputError(
            "an optimizer with a line search takes one image at a time; use minimize, or an "
            "optimizer such as optax.adam"
        )
    if line_search and ema_decay:
        raise InputError("an optimizer with a line search has no EMA; give ema_decay=0")
    if ema_decay and state.ema is None:
        raise InputError("the state has no EMA; give ema_decay=0, or start from its image")


def _check_batch(state: State, batched_args: Any) -> None:
    if batched_args is None:
        return
    if state.image.ndim != 4:
        raise InputError(
            f"the start has the shape {state.image.shape}; for batched_args give k images "
            "(k, h, w, 3)"
        )
    for leaf in jax.tree.leaves(batched_args):
        if np.shape(leaf)[:1] != state.image.shape[:1]:
            raise InputError(
                f"batched_args has an array of shape {np.shape(leaf)} for {len(state.image)} "
                f"images; give it a leading axis of {len(state.image)}"
            )


def _is_line_search_state(opt_state: Any) -> bool:
    names = ("value", "grad")
    return all(optax.tree_utils.tree_get(opt_state, name) is not None for name in names)


def _counter(counts: Any) -> int:
    return int(np.ravel(counts)[0])


def _metrics_of(
    records: dict[str, Any], done: int, num_steps: int, with_terms: bool
) -> tuple[History, bool]:
    """Return a chunk's metrics, and whether all of them are finite."""
    last = records.pop("last", {})
    metrics = {name: np.asarray(rows[:num_steps], np.float64) for name, rows in records.items()}
    finite = all(np.isfinite(values).all() for values in metrics.values())
    if with_terms:
        finite = finite and all(np.isfinite(value) for value in last.values())
        for name, value in last.items():
            metrics[name] = np.full(num_steps, np.nan)
            metrics[name][-1] = value
    return History(step=np.arange(done + 1, done + num_steps + 1), **metrics), finite
