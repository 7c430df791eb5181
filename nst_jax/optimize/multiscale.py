"""Coarse to fine: the loop at growing sizes, each level starting from the result of the last.

At a small size the network sees large parts of the image at once and a step costs little. So large
shapes of the style are laid out there, and larger sizes add detail (Gatys et al. 2017, "Controlling
Perceptual Factors in Neural Style Transfer", section 6).
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.errors import InputError
from nst_jax.optimize.loop import aot_compile, optimize_chunks
from nst_jax.optimize.resize import resize
from nst_jax.optimize.step import clip_to_unit, current_iterate
from nst_jax.optimize.types import (
    Chunk,
    CompileFn,
    History,
    LossFn,
    Optimizer,
    ShardFn,
    State,
)

__all__ = ["Level", "optimize_multiscale", "resample_state"]


class Level(NamedTuple):
    """The optimization problem at one size.

    >>> def loss(image, brightness):
    ...     return (image.mean() - brightness) ** 2, {}
    >>> levels = [Level((side, side), steps=2, loss=loss, args=(0.25,)) for side in (8, 16)]
    >>> levels[1].shape
    (16, 16)
    """

    shape: tuple[int, int]
    """(h, w) of the image."""
    steps: int
    loss: LossFn
    args: tuple[Any, ...] = ()
    """The arguments of the loss after the image: targets of this size, parameters, weights."""
    batched_args: Any = None
    """As in `nst_jax.optimize.optimize_chunks`."""
    shard_fn: ShardFn | None = None
    """As in `nst_jax.optimize.optimize_chunks`."""


def resample_state(state: State, shape: tuple[int, int], *, optimizer: Optimizer) -> State:
    """Resample a state to another size: the image that it stands for, and the optimizer's moments.

    Moments have the shape of the image. They are resampled linearly, so that those that cannot be
    negative stay so. An optimizer that remembers several steps, as L-BFGS does, starts afresh: its
    memory holds differences of gradients of another function, and resampling would change their
    products with the steps. The EMA starts afresh too.

    Args:
        state: of one image or of k.
        shape: the new (h, w).
        optimizer: the one that made the state.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nst_jax.optimize import init_state
    >>> optimizer = optax.sgd(0.1, momentum=0.9)
    >>> state = init_state(jnp.full((8, 8, 3), 0.5), optimizer=optimizer)
    >>> resample_state(state, (16, 16), optimizer=optimizer).iterate.shape
    (16, 16, 3)
    """
    before = state.iterate.shape
    image = clip_to_unit(resize(current_iterate(state), shape, "cubic"))
    leaves = jax.tree.leaves(state.opt_state)
    if any(leaf.ndim > len(before) and leaf.shape[-3:] == before[-3:] for leaf in leaves):
        opt_state = _initial_opt_state(image, optimizer)
    else:

        def resample(leaf: Array) -> Array:
            return resize(leaf, shape, "linear") if leaf.shape == before else leaf

        opt_state = jax.tree.map(resample, state.opt_state)
    ema = None if state.ema is None else state.ema._replace(average=jnp.zeros_like(image))
    level_step = jnp.zeros_like(state.level_step)
    return State(image, ema, opt_state, state.step, level_step, state.key)


@partial(jax.jit, static_argnums=1)
def _initial_opt_state(image: Float[Array, "*k h w 3"], optimizer: Optimizer) -> Any:
    return (jax.vmap(optimizer.init) if image.ndim == 4 else optimizer.init)(image)


def optimize_multiscale(
    levels: Iterable[Level],
    start: Float[Array, "*k h w 3"] | Float[np.ndarray, "*k h w 3"] | State,
    *,
    optimizer: Optimizer,
    ema_decay: float = 0.0,
    key: Array | None = None,
    first_level: int = 0,
    callback_every: int | None = None,
    compile_fn: CompileFn = aot_compile,
) -> Iterator[Chunk]:
    """Optimize at each level in turn, chunk by chunk; the caller owns the loop.

    Args:
        levels: from coarse to fine. A level is requested only when it is reached, so a generator
            can compute its targets then.
        start: the image, or k images, at the size of the first of ``levels``; or a state, as in
            a chunk of an earlier run, whose ``level_step`` steps at that level count as done.
        optimizer: any Optax transformation. Its moments are resampled from level to level; L-BFGS
            starts afresh (`resample_state`).
        ema_decay: as in `nst_jax.optimize.init_state`. The EMA starts afresh at each level.
        key: as in `nst_jax.optimize.optimize_chunks`.
        first_level: the index of the first of ``levels``.
        callback_every: as in `nst_jax.optimize.optimize_chunks`, counted over all levels.
        compile_fn: as in `nst_jax.optimize.optimize_chunks`.

    Yields:
        `Chunk`: ``seconds`` and ``compile_seconds`` count over all levels. A level without steps
        yields one chunk without metrics.

    Raises:
        DivergedError: as in `nst_jax.optimize.optimize_chunks`.
        InputError: as in `nst_jax.optimize.optimize_chunks`; or the image has another size than the
            first level.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nst_jax.optimize import Level
    >>> def loss(image, brightness):
    ...     return (image.mean() - brightness) ** 2, {}
    >>> levels = [Level((side, side), steps=2, loss=loss, args=(0.25,)) for side in (8, 16)]
    >>> chunks = optimize_multiscale(levels, jnp.ones((8, 8, 3)), optimizer=optax.sgd(0.1))
    >>> for chunk in chunks:
    ...     last = chunk
    >>> last.level, last.state.iterate.shape, int(last.state.step)
    (1, (16, 16, 3), 4)
    """
    before = Chunk(cast(State, start), History(), converged=False, seconds=0.0, compile_seconds=0.0)
    index = first_level  # enumerate would hold a level while the next one is computed.
    for level in levels:
        steps = level.steps
        if isinstance(start, State):
            if index > first_level or start.iterate.shape[-3:-1] != level.shape:
                start = resample_state(start, level.shape, optimizer=optimizer)
            steps = max(0, steps - int(np.ravel(start.level_step)[0]))
        elif np.shape(start)[-3:-1] != level.shape:
            raise InputError(
                f"the start has the shape {np.shape(start)} and the first level "
                f"{level.shape}; give a start of the level's height and width"
            )
        chunk = before
        for chunk in optimize_chunks(
            level.loss,
            start,
            level.args,
            optimizer=optimizer,
            steps=steps,
            batched_args=level.batched_args,
            ema_decay=ema_decay,
            key=key,
            callback_every=callback_every,
            compile_fn=compile_fn,
            shard_fn=level.shard_fn,
        ):
            chunk = chunk._replace(
                level=index,
                seconds=before.seconds + chunk.seconds,
                compile_seconds=before.compile_seconds + chunk.compile_seconds,
            )
            yield chunk
        before, start = chunk, chunk.state
        index += 1
        del level  # Its targets are freed before the next level computes its own.
