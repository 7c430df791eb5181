"""Coarse to fine: the loop at growing sizes, each starting from what the last one found.

At a small size the network sees large parts of a picture at once, and a step costs little; so the
large shapes of a style are laid out there and larger sizes add detail (Gatys et al. 2017,
"Controlling Perceptual Factors in Neural Style Transfer", section 6).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from nst_jax.errors import DivergedError
from nst_jax.images import io as images
from nst_jax.optimize.loop import History, Outcome, Progress, State, has_line_search, shown

__all__ = ["Climb", "Scale", "Where", "carry", "climb", "shapes"]

NETWORKS_LEAST = 16
"""Pixels that VGG's four poolings need."""


class Scale(NamedTuple):
    """One size of a pyramid."""

    shape: tuple[int, int]
    steps: int


class Where(NamedTuple):
    """A place on the way up, from which `climb` can go on."""

    scale: int
    """Which scale it is, from 0."""
    state: State
    history: History
    """The losses so far; of several pictures their means."""


class Climb(NamedTuple):
    """What `climb` returns."""

    images: list[Float[Array, "h w 3"]]
    histories: list[History]
    """As of `nst_jax.optimize.loop.minimise`; entries also hold ``size``, the scale's longest side."""
    converged: bool
    """Whether the last scale ended early because a line search found nothing better."""
    stopped: bool
    """Whether the callback asked for it while there was something left to do."""
    compile_seconds: float
    seconds: float


def shapes(shape: tuple[int, int], smallest: int | None) -> list[tuple[int, int]]:
    """Give the sizes of a pyramid, from coarse to fine, each √2 times the one before.

    Args:
        shape: (h, w) of the finest.
        smallest: the longest side that none is below, but the finest; None for that one alone.

    >>> shapes((341, 512), 128)
    [(85, 128), (121, 181), (170, 256), (241, 362), (341, 512)]
    """
    coarser, longest = [], max(shape)
    while smallest is not None:
        side = round(longest / 2 ** ((len(coarser) + 1) / 2))
        if side < smallest or min(images.fit(shape, side)) < NETWORKS_LEAST:
            break
        coarser.append(images.fit(shape, side))
    return [*reversed(coarser), shape]


def carry(
    state: State,
    shape: tuple[int, int],
    optimizer: optax.GradientTransformation,
    average: float,
) -> State:
    """Bring a state to another size: its picture as shown, enlarged, and the optimizer's moments.

    Moments, which are of the picture's shape, are resized linearly, so that those that cannot be
    negative stay so. A line search starts afresh: what it remembers are differences of gradients
    of another function, whose products with those of steps resizing would change. So does the
    average of iterates.
    """
    *batch, height, width, channels = state.image.shape
    picture = jax.image.resize(shown(state, average), (*batch, *shape, channels), "cubic")
    picture = jnp.clip(picture, 0, 1)
    if has_line_search(optimizer):
        opt_state = jax.jit(optimizer.init)(picture)
    else:

        def resized(leaf: Array) -> Array:
            if leaf.shape[-3:] != (height, width, channels):
                return leaf
            return jax.image.resize(leaf, (*leaf.shape[:-3], *shape, channels), "linear")

        opt_state = jax.tree.map(resized, state.opt_state)
    mean = None if state.mean is None else jnp.zeros_like(picture)
    return State(picture, mean, opt_state, state.step)


def climb(
    descend: Callable[..., list[Outcome]],
    start: Float[Array, "*k h w 3"] | Where,
    scales: Sequence[Scale],
    *,
    optimizer: optax.GradientTransformation,
    average: float = 0.0,
    on_progress: Callable[[Progress, Where], bool | None] | None = None,
) -> Climb:
    """Optimise at each scale in turn.

    Args:
        descend: optimises at one scale, ``descend(i, start, steps=…, optimizer=…, average=…,
            on_progress=…)``: `nst_jax.optimize.loop.minimise`, or `minimise_each`, with the targets of
            scale i. Returns an outcome a picture.
        start: the picture at the first scale, or several; or where to go on from.
        scales: from coarse to fine.
        optimizer: any Optax transformation; its moments are carried from scale to scale.
        average: the decay of the average of iterates, which restarts at each scale.
        on_progress: as of `minimise`, counting through all scales, the image as large as its
            scale; it is also told where that is.

    Raises:
        DivergedError: with the histories of all scales.
        InputError: as ``descend``.
    """
    where = start if isinstance(start, Where) else Where(0, cast(State, start), [])
    before: list[History] = [where.history]
    so_far = list(where.history)
    compile_seconds, seconds, stopped, state = 0.0, 0.0, False, where.state
    wished = False
    total = sum(scale.steps for scale in scales)
    outcomes: list[Outcome] = []

    def told(now: Progress, i: int, size: dict[str, int]) -> bool:
        nonlocal wished
        losses = [entry | size for entry in now.losses]
        so_far.extend(losses)
        now = now._replace(steps=total, losses=losses, seconds=seconds + now.seconds)
        wished = on_progress is not None and bool(on_progress(now, Where(i, now.state, so_far)))
        return wished

    for i, scale in enumerate(scales[where.scale :], start=where.scale):
        size = {"size": max(scale.shape)}
        if outcomes:
            state = carry(outcomes[0].state, scale.shape, optimizer, average)
        try:
            outcomes = descend(
                i,
                state,
                steps=scale.steps - (state.averaged if isinstance(state, State) else 0),
                optimizer=optimizer,
                average=average,
                on_progress=partial(told, i=i, size=size),
            )
        except DivergedError as error:
            batched = error.image.ndim == 4
            joined = _joined(before, error.history if batched else [error.history], size)
            error.history = joined if batched else joined[0]
            raise
        before = _joined(before, [outcome.history for outcome in outcomes], size)
        compile_seconds += outcomes[0].compile_seconds
        seconds += outcomes[0].seconds
        over = outcomes[0].converged or outcomes[0].state.averaged == scale.steps
        stopped = wished and not (over and i == len(scales) - 1)
        if stopped:
            break
    pictures = [outcome.image for outcome in outcomes]
    return Climb(pictures, before, outcomes[0].converged, stopped, compile_seconds, seconds)


def _joined(before: list[History], now: list[History], size: dict[str, int]) -> list[History]:
    """Append each picture's new entries; at the start there is one history for all."""
    before = before if len(before) == len(now) else before * len(now)
    return [old + [entry | size for entry in new] for old, new in zip(before, now, strict=True)]
