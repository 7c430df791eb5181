"""The loop run to its end: one call in, the best point and its history out."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jaxtyping import Array

from nst_jax.errors import DivergedError, OutOfMemoryError
from nst_jax.optimize.history import concatenate_history, select_image
from nst_jax.optimize.loop import aot_compile, optimize_chunks
from nst_jax.optimize.step import clip_to_unit, current_iterate
from nst_jax.optimize.types import (
    Chunk,
    CompileFn,
    History,
    LossFn,
    MinimizeResult,
    Optimizer,
    Project,
)

__all__ = ["minimize", "minimize_batch"]


def minimize(
    loss: LossFn,
    start: Any,
    args: tuple[Any, ...] = (),
    *,
    optimizer: Optimizer,
    steps: int,
    ema_decay: float = 0.0,
    key: Array | None = None,
    project: Project | None = clip_to_unit,
    on_progress: Callable[[Chunk], bool | None] | None = None,
    callback_every: int | None = None,
    compile_fn: CompileFn = aot_compile,
) -> MinimizeResult:
    """Run `optimize_chunks` to its end and return the best point, the history and the state.

    Args:
        loss: and the rest: as in `optimize_chunks`. A second ``optax.adam(0.01)`` compiles the loop
            anew; make an optimizer once and pass it again.
        on_progress: called after each chunk; returning True stops there.

    Raises:
        DivergedError: as in `optimize_chunks`, with the history so far.
        InputError: as in `optimize_chunks`.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nst_jax.optimize import pyramid_lbfgs
    >>> def loss(image, target):
    ...     return ((image - target) ** 2).sum(), {}
    >>> target = jnp.full((2, 2, 3), 0.25)
    >>> result = minimize(loss, jnp.zeros((2, 2, 3)), (target,), optimizer=optax.sgd(0.3), steps=20)
    >>> bool(jnp.allclose(result.iterate, target, atol=1e-6))
    True

    Any other variable needs no clip:

    >>> def distance(variables, target):
    ...     return ((variables["scale"] * 2.0 + variables["shift"] - target) ** 2).sum(), {}
    >>> start = {"scale": jnp.ones(3), "shift": jnp.zeros(3)}
    >>> optimizer = pyramid_lbfgs(num_bands=1)
    >>> options = {"optimizer": optimizer, "steps": 20, "project": None}
    >>> result = minimize(distance, start, (jnp.array([5.0, -7.0, 9.0]),), **options)
    >>> bool(result.history["total"][-1] < 1e-6)
    True
    """
    options = {
        "optimizer": optimizer,
        "steps": steps,
        "ema_decay": ema_decay,
        "key": key,
        "project": project,
        "callback_every": callback_every,
        "compile_fn": compile_fn,
    }
    chunk, history = _run_to_end(optimize_chunks(loss, start, args, **options), on_progress)
    return _result(chunk, current_iterate(chunk.state), history)


def minimize_batch(
    loss: LossFn,
    start: Any,
    batched_args: Any,
    args: tuple[Any, ...] = (),
    *,
    optimizer: Optimizer,
    steps: int,
    ema_decay: float = 0.0,
    key: Array | None = None,
    project: Project | None = clip_to_unit,
    on_progress: Callable[[Chunk], bool | None] | None = None,
    callback_every: int | None = None,
    compile_fn: CompileFn = aot_compile,
) -> list[MinimizeResult]:
    """Minimize ``loss(image, batched_args[i], *args)`` for each of k images in one vmapped loop.

    Each image takes the steps that `minimize` takes with it alone, up to rounding.

    Args:
        loss: the loss of one image.
        start: the k images to start from, or a pytree with a leading axis of k, or such a state.
        batched_args: a pytree of arrays with a leading axis of k: what differs between the images.
        args: the pytrees that the images share.
        optimizer: any Optax transformation. `nst_jax.optimize.pyramid_lbfgs` evaluates each image
            once a step, and an image that has converged stays as it is. The line search of
            ``optax.lbfgs`` evaluates all images as often as the slowest one needs.
        steps: and the rest: as in `minimize`.

    Raises:
        DivergedError: a loss or a pixel of any image is not finite; ``image`` holds all images.
        InputError: as in `optimize_chunks`.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> def loss(image, color):
    ...     return ((image - color) ** 2).mean(), {}
    >>> colors = jnp.array([0.2, 0.4, 0.6])
    >>> starts = jnp.zeros((3, 4, 4, 3))
    >>> results = minimize_batch(loss, starts, colors, optimizer=optax.sgd(12.0), steps=20)
    >>> [round(float(result.iterate.mean()), 2) for result in results]
    [0.2, 0.4, 0.6]
    """
    options = {
        "optimizer": optimizer,
        "steps": steps,
        "batched_args": batched_args,
        "ema_decay": ema_decay,
        "key": key,
        "project": project,
        "callback_every": callback_every,
        "compile_fn": compile_fn,
    }
    chunk, history = _run_to_end(optimize_chunks(loss, start, args, **options), on_progress)
    points = current_iterate(chunk.state)
    return [
        _result(chunk, jax.tree.map(lambda x, i=i: x[i], points), select_image(history, i))
        for i in range(len(chunk.state.step))
    ]


def _run_to_end(
    chunks: Iterator[Chunk], on_progress: Callable[[Chunk], bool | None] | None
) -> tuple[Chunk, History]:
    metrics: list[History] = []
    chunk = None
    try:
        for chunk in chunks:
            metrics.append(chunk.metrics)
            if on_progress is not None and on_progress(chunk):
                break
    except (DivergedError, OutOfMemoryError) as error:
        error.history = concatenate_history(metrics)
        raise
    assert chunk is not None  # There is one even without steps.
    return chunk, concatenate_history(metrics)


def _result(chunk: Chunk, point: Any, history: History) -> MinimizeResult:
    timing = (chunk.compile_seconds, chunk.seconds)
    return MinimizeResult(point, history, chunk.converged, *timing, chunk.state)
