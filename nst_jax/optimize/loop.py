"""The optimisation loop: any Optax transformation, compiled, with the host out of the way.

A *chunk* of steps is one compiled program: a rolled loop whose number of turns is an argument, so
that chunks of any length share it. Between two chunks the host looks at the losses, checks that
they are finite, reports, and chooses the next length so that a chunk lasts about two seconds: short
enough to follow and to stop, long enough to hide the host and what a call costs. On CPUs that is
the page faults of all its memory, which XLA takes anew at every call: 0.1 s at 512 pixels.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from nst_jax.errors import DivergedError, InputError
from nst_jax.pipeline.memory import compile_to_fit

__all__ = [
    "History",
    "LossFn",
    "OnProgress",
    "Outcome",
    "Progress",
    "State",
    "fold",
    "has_line_search",
    "minimise",
    "minimise_each",
    "program_of",
    "shown",
]

CHUNK_SECONDS = 2.0
MAX_CHUNK = 1000
DONATED = (0, 1, 2)
PARTS_EVERY = 10
"""After a line search the loss' parts cost an evaluation of their own, so they are seen at most
once in so many steps."""

STALLED_STEPS = 10
"""A line search that found no better picture this often in a row will find none later either."""

History = list[dict[str, float]]
"""One entry a step: ``step`` (from 1), ``total``, and the loss' parts. They are of the picture
*before* the step, as its gradient needs them; of a line search, *after* the step, and then the
parts are in every tenth entry or so and in that of the last step asked for."""

LossFn = Callable[..., tuple[Array, Mapping[str, Array]]]
"""``loss(image, *args) -> (total, parts)``, as `nst_jax.losses.objective.loss`."""


class State(NamedTuple):
    """All that the loop needs to go on from where it was."""

    image: Float[Array, "*k h w 3"]
    """As the optimizer has it: before the fold, after a line search."""
    mean: Float[Array, "*k h w 3"] | None
    """The average of iterates so far, with its bias, if there is one."""
    opt_state: Any
    step: int
    """How many steps are behind it."""
    averaged: int = 0
    """How many iterates are in the mean."""


class Progress(NamedTuple):
    """What a callback is told after each chunk."""

    step: int
    steps: int
    image: Float[Array, "*k h w 3"]
    losses: History
    """The entries of this chunk; the means over the pictures, of several."""
    seconds: float
    """Wall-clock time since the first step began, compilation apart."""
    state: State
    """Where the loop is; its arrays are reused as soon as the callback returns."""
    picture: int = 0
    """Which of several pictures it is (`nst_jax.stylize_each`), from 0; the first of a batch."""


OnProgress = Callable[[Progress], bool | None]
"""Told after each chunk; returning True stops there."""


class Outcome(NamedTuple):
    """What `minimise` returns."""

    image: Float[Array, "h w 3"]
    history: History
    converged: bool
    """Whether it ended early because the line search found nothing better."""
    compile_seconds: float
    seconds: float
    state: State
    """Where the loop ended (of `minimise_each`, with all pictures)."""


def minimise(
    loss: LossFn,
    start: Float[Array, "h w 3"] | State,
    args: tuple[Any, ...],
    *,
    optimizer: optax.GradientTransformation | optax.GradientTransformationExtraArgs,
    steps: int,
    average: float = 0.0,
    on_progress: OnProgress | None = None,
    every: int | None = None,
) -> Outcome:
    """Minimise ``loss(image, *args)`` over the image.

    First-order transformations are followed by a clip to [0, 1] each step. A transformation whose
    line search keeps what it evaluated (``optax.lbfgs``) moves freely, because a clip would not
    agree with what it has kept; the loss sees its image folded into [0, 1] (`fold`), and so does
    the caller. It ends early when the line search finds nothing better any more.

    Args:
        loss: total and parts; traced once, with ``args`` as arguments, never as constants.
        start: the image to start from, RGB in [0, 1], float32; or the state to go on from.
        args: the pytrees that the loss takes after the image.
        optimizer: any Optax transformation. Pass the same object again to reuse the program.
        steps: how many updates to make now.
        average: the decay of the average of iterates that is returned and shown, (1 − d) Σ dⁱ xₜ₋ᵢ
            without the bias towards its start; 0 for the last iterate itself. The grain that Adam
            leaves on a picture differs from step to step and averages out. Not with a line search.
        on_progress: called after each chunk; returning True stops there.
        every: chunks end at multiples of this many steps, for previews.

    Raises:
        DivergedError: a loss or a pixel stopped being finite; carries the last good picture.
        InputError: ``steps``, ``every`` or ``average`` is out of range, or the start is not finite.
    """
    return _descend(loss, start, (), args, optimizer, steps, average, on_progress, every)[0]


def minimise_each(
    loss: LossFn,
    start: Float[Array, "k h w 3"] | State,
    each: Any,
    args: tuple[Any, ...],
    *,
    optimizer: optax.GradientTransformation | optax.GradientTransformationExtraArgs,
    steps: int,
    average: float = 0.0,
    on_progress: OnProgress | None = None,
    every: int | None = None,
) -> list[Outcome]:
    """Minimise ``loss(image, each[i], *args)`` over each of k images in one vmapped program.

    Every picture takes the steps that `minimise` would take with it alone.

    Args:
        loss: of one picture, ``loss(image, each[i], *args)``.
        start: the images to start from, or the state.
        each: a pytree of arrays with a leading axis of k: what differs between the pictures.
        args: the pytrees that they share.
        optimizer: any Optax transformation without a line search. Under ``vmap`` a line search
            would evaluate both sides of its every decision, for as long as the slowest picture
            needs; pictures one after another are faster.
        steps: and the rest: as for `minimise`.

    Raises:
        DivergedError: a loss or a pixel of any picture stopped being finite. Its ``image`` holds
            all pictures, and its ``history`` one history each.
        InputError: as for `minimise`; or the optimizer searches along lines.
    """
    return _descend(loss, start, (each,), args, optimizer, steps, average, on_progress, every)


def _descend(
    loss: LossFn,
    start: Float[Array, "*k h w 3"] | State,
    each: tuple[Any, ...],
    args: tuple[Any, ...],
    optimizer: optax.GradientTransformation | optax.GradientTransformationExtraArgs,
    steps: int,
    average: float,
    on_progress: OnProgress | None,
    every: int | None,
) -> list[Outcome]:
    if steps < 0:
        raise InputError(f"steps is {steps}; it cannot be negative")
    if every is not None and (every < 1 or every % 1):
        raise InputError(f"every is {every}; give a whole number from 1 up")
    if not 0 <= average < 1:
        raise InputError(f"average is {average}; give a decay from 0 to below 1")
    optimizer = optax.with_extra_args_support(optimizer)
    if not bool(jnp.isfinite(start.image if isinstance(start, State) else start).all()):
        raise InputError("the start image holds values that are not finite numbers")
    state = _begin(start, optimizer, average, batched=bool(each))
    line_search = _keeps_trials(state.opt_state)
    batched = bool(each)
    if batched and line_search:
        raise InputError("an optimizer with a line search takes one picture at a time: minimise")
    if average and line_search:
        raise InputError("an optimizer with a line search has no average of iterates")
    histories: list[History] = [[] for _ in range(len(state.image) if batched else 1)]
    if steps == 0:
        return _outcomes(batched, shown(state, average), histories, False, 0.0, 0.0, state)

    started = time.perf_counter()
    arrays = (each, args, average)
    asked, options = _asked(loss, optimizer, state, *arrays)
    program = compile_to_fit(*asked, **options)
    begun = time.perf_counter()

    length, parts_due, converged, stop, end = 1, 0, False, False, state.step + steps
    while state.step < end and not (stop or converged):
        step = state.step
        count = min(length, end - step, MAX_CHUNK)
        if every is not None:
            count = min(count, every - step % every)
        with_parts = line_search and (step + count >= parts_due or step + count == end)
        good, chunk_begun = shown(state, average), time.perf_counter()
        moving, records = program(*state[:3], *arrays, count, with_parts)
        image, mean, opt_state = jax.tree.unflatten(jax.tree.structure(state[:3]), moving)
        state = State(image, mean, opt_state, step + count, state.averaged + count)
        entries, finite = _entries(jax.device_get(records), step, count, with_parts, len(histories))
        if not (finite and bool(jnp.isfinite(state.image).all())):
            raise DivergedError(
                f"the loss stopped being a finite number between steps {step} and {step + count}; "
                "try a smaller learning rate or smaller weights",
                image=good,
                step=step,
                history=histories if batched else histories[0],
            )
        for history, new in zip(histories, entries, strict=True):
            history += new
        parts_due = state.step + PARTS_EVERY if with_parts else parts_due
        now = time.perf_counter()
        length = max(1, round(count * min(4.0, CHUNK_SECONDS / (now - chunk_begun))))
        recent = [entry["total"] for entry in histories[0][-STALLED_STEPS:]]
        converged = line_search and len(recent) == STALLED_STEPS and len(set(recent)) == 1
        if on_progress is not None:
            picture, means = shown(state, average), _means(entries)
            stop = on_progress(Progress(state.step, end, picture, means, now - begun, state))
    seconds = time.perf_counter() - begun
    final = shown(state, average)
    return _outcomes(batched, final, histories, converged, begun - started, seconds, state)


def program_of(
    loss: LossFn,
    start: jax.ShapeDtypeStruct,
    args: tuple[Any, ...],
    *,
    optimizer: optax.GradientTransformation | optax.GradientTransformationExtraArgs,
    average: float = 0.0,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Tell which program `minimise` will run: what `nst_jax.pipeline.programs.compiled` takes for it.

    Args:
        loss: and the rest: as for `minimise`.
        start: shape and dtype of the start image.
        args: arrays, or shapes and dtypes of such.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    begin = partial(_begin, optimizer=optimizer, average=average, batched=False)
    return _asked(loss, optimizer, jax.eval_shape(begin, start), (), args, average)


def _asked(
    loss: LossFn,
    optimizer: optax.GradientTransformationExtraArgs,
    state: State,
    each: tuple[Any, ...],
    args: tuple[Any, ...],
    average: float,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    static = {
        "loss": loss,
        "optimizer": optimizer,
        "line_search": _keeps_trials(state.opt_state),
    }
    taken = (*state[:3], each, args, average, 0, True)
    return (_chunk, *taken), {"static": static, "donate": DONATED}


def has_line_search(optimizer: optax.GradientTransformation) -> bool:
    """Tell whether a transformation searches along lines and keeps what it evaluated there."""
    return _keeps_trials(jax.eval_shape(optimizer.init, jnp.zeros((1, 1, 3))))


def _keeps_trials(opt_state: Any) -> bool:
    return all(optax.tree_utils.tree_get(opt_state, kept) is not None for kept in ("value", "grad"))


def _begin(
    start: Float[Array, "*k h w 3"] | State,
    optimizer: optax.GradientTransformationExtraArgs,
    average: float,
    *,
    batched: bool,
) -> State:
    """The first state, in memory of its own, because the compiled program reuses it."""
    if isinstance(start, State):
        image, mean, opt_state = jax.tree.map(jnp.array, start[:3])
        return start._replace(image=image, mean=mean, opt_state=opt_state)
    image = jnp.clip(jnp.array(start, jnp.float32), 0, 1)
    init = jax.vmap(optimizer.init) if batched else optimizer.init
    return State(image, jnp.zeros_like(image) if average else None, jax.jit(init)(image), 0)


def shown(state: State, average: float) -> Float[Array, "*k h w 3"]:
    """The picture that the state stands for, in [0, 1]."""
    if state.mean is None or state.averaged == 0:
        return fold(state.image)
    return state.mean / (1 - average**state.averaged)


def _outcomes(
    batched: bool, image: Float[Array, "*k h w 3"], histories: list[History], *rest: Any
) -> list[Outcome]:
    pictures = list(image) if batched else [image]
    return [Outcome(*pair, *rest) for pair in zip(pictures, histories, strict=True)]


@partial(
    jax.jit,
    static_argnames=("loss", "optimizer", "line_search"),
    donate_argnums=DONATED,
)
def _chunk(
    image: Array,
    mean: Array | None,
    opt_state: Any,
    each: tuple[Any, ...],
    args: tuple[Any, ...],
    average: Array | float,
    count: Array | int,
    with_parts: Array | bool,
    *,
    loss: LossFn,
    optimizer: optax.GradientTransformationExtraArgs,
    line_search: bool,
) -> tuple[list[Array], dict[str, Any]]:
    """Take ``count`` steps; returns the leaves of the first three arguments and the records, which
    hold what was seen on the way, `MAX_CHUNK` rows long, and after a line search the parts of the
    ``last`` picture, or zeros if they were not wanted."""

    # Both are used in several places: inside a jit of their own they are traced once for all.
    @jax.jit
    def folded(image: Array, each: tuple[Any, ...]) -> tuple[Array, Mapping[str, Array]]:
        return loss(fold(image), *each, *args)

    @jax.jit
    def step(
        image: Array, opt_state: Any, each: tuple[Any, ...]
    ) -> tuple[Array, Any, dict[str, Any]]:
        def value(image: Array) -> Array:
            return folded(image, each)[0]

        if line_search:  # its last trial has already been evaluated and is kept in the state
            total, grads = optax.value_and_grad_from_state(value)(image, state=opt_state)
            parts = {}
        else:
            (total, parts), grads = jax.value_and_grad(loss, has_aux=True)(image, *each, *args)
        updates, opt_state = optimizer.update(
            grads, opt_state, image, value=total, grad=grads, value_fn=value
        )
        image = jnp.asarray(optax.apply_updates(image, updates))
        if line_search:
            total = optax.tree_utils.tree_get(opt_state, "value")
        else:
            image = jnp.clip(image, 0.0, 1.0)
        return image, opt_state, {"total": total, **parts}

    if each:
        step = jax.vmap(step)

    def turn(i: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        image, mean, opt_state, records = carry
        image, opt_state, record = step(image, opt_state, each)
        mean = None if mean is None else average * mean + (1 - average) * image
        records = jax.tree.map(lambda rows, x: rows.at[i].set(x), records, record)
        return image, mean, opt_state, records

    shapes = jax.eval_shape(step, image, opt_state, each)[2]
    records = jax.tree.map(lambda x: jnp.zeros((MAX_CHUNK, *x.shape), x.dtype), shapes)
    carry = jax.lax.fori_loop(0, count, turn, (image, mean, opt_state, records))
    image, mean, opt_state, records = carry
    if line_search:
        parts = jax.eval_shape(folded, image, each)[1]
        records["last"] = jax.lax.cond(
            with_parts,
            lambda image: folded(image, each)[1],
            lambda image: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), parts),
            image,
        )
    return jax.tree.leaves((image, mean, opt_state)), records


@jax.jit
def fold(image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Mirror values at 0 and at 1 until they are in [0, 1]; those inside stay as they are.

    Clipping instead would leave the pixels outside without a gradient: after 100 steps from noise
    the loss of a reconstruction is then twice as high (relu3_1 of the example cat at 96 pixels:
    0.050 against 0.025), and clipping only at the end loses what the steps had gained (mosaic on
    the cat: 0.035 against 0.023). ``benchmarks/choices.py`` measures it.
    """
    phase = jnp.mod(image, 2.0)
    return jnp.where(phase <= 1.0, phase, 2.0 - phase)


def _entries(
    records: dict[str, Any], before: int, count: int, with_parts: bool, pictures: int
) -> tuple[list[History], bool]:
    """Turn a chunk's records into each picture's history entries; tell whether all are finite."""
    last = records.pop("last", {})
    columns = {name: np.reshape(rows[:count], (count, pictures)) for name, rows in records.items()}
    entries: list[History] = [
        [
            {"step": before + i + 1} | {name: float(rows[i, k]) for name, rows in columns.items()}
            for i in range(count)
        ]
        for k in range(pictures)
    ]
    if with_parts:
        entries[0][-1] |= {name: float(value) for name, value in last.items()}
    finite = all(
        np.isfinite(value) for history in entries for entry in history for value in entry.values()
    )
    return entries, finite


def _means(entries: list[History]) -> History:
    """The mean over the pictures, entry by entry."""
    if len(entries) == 1:
        return entries[0]
    return [
        {name: float(np.mean([entry[name] for entry in row])) for name in row[0]}
        for row in zip(*entries, strict=True)
    ]
