"""Painting: a job's pictures through its scales."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from nst_jax.errors import DivergedError, InputError, TooLargeError
from nst_jax.images import color as colors
from nst_jax.images import io as images
from nst_jax.losses.objective import Targets, loss
from nst_jax.models.weights.validation import Params
from nst_jax.optimize.loop import (
    History,
    OnProgress,
    Outcome,
    Progress,
    has_line_search,
    minimise,
    minimise_each,
)
from nst_jax.optimize.multiscale import Climb, Where, climb
from nst_jax.pipeline import checkpoint
from nst_jax.pipeline.job import Job, average_of, name_of, optimizer_of, record
from nst_jax.pipeline.memory import used_bytes
from nst_jax.pipeline.plan import Plan, ahead, choose, fits, loss_of
from nst_jax.pipeline.result import Result
from nst_jax.pipeline.targets import targets_at
from nst_jax.pipeline.threads import in_threads

__all__ = ["paint", "paint_each"]

log = logging.getLogger("nst_jax")

CHECKPOINT_SECONDS: Final = 120.0
"""A job that is cut off has lost at most about so much."""

_SharedAndOwn = tuple[Targets, list[dict[str, Float32[Array, "n n"]]]]
"""The content's targets, and each picture's Gram matrices."""

ABREAST: Final = 2
"""Pictures at a time on a CPU: two keep two cores busy (98 % of the time, one 85 to 93 %), and more
were not tried on more cores."""


def paint(
    job: Job,
    on_progress: OnProgress | None,
    every: int | None,
    *,
    kept_at: Path | None = None,
    resume: bool = False,
) -> Result:
    """Paint the one picture of a job, of all its styles blended.

    Args:
        job: the job.
        on_progress: as of `nst_jax.stylize`.
        every: likewise.
        kept_at: where the state is kept every two minutes and when the callback stops the job.
        resume: go on from what is kept there.

    Raises:
        InputError, DivergedError: as of `nst_jax.stylize`.
    """

    begun = time.perf_counter()
    plan = choose(job, len(job.scales) - 1)
    preparing = time.perf_counter() - begun
    _tell(job, plan)

    def descend(scale: int, start: Any, **options: Any) -> list[Outcome]:
        nonlocal preparing
        tile = None if plan.tile is None else choose(job, scale).tile
        styles = range(len(job.style_pixels))
        shares = job.settings.style_weights if styles else None
        with ahead(job, scale, tile):
            targets = targets_at(job, scale, styles, shares, with_content=True, tile=tile)
            begun = time.perf_counter()
        preparing += time.perf_counter() - begun
        args = (job.params, targets, job.loss_weights)
        return [minimise(loss_of(tile), start, args, every=every, **options)]

    start = checkpoint.load(kept_at, job) if kept_at is not None and resume else job.start
    told = _teller(job, on_progress, kept_at)
    programs = 2 * len(job.scales)  # one makes the targets, one descends
    own = {"programs": programs, "tile": plan.tile, "planned_bytes": plan.needed}
    (result,) = _climb(job, descend, start, told, [own])
    if "compile_seconds" in result.settings:
        compiling = result.settings["compile_seconds"] + preparing
        result.settings["compile_seconds"] = round(compiling, 3)
    if kept_at is not None and not result.settings["stopped"]:
        with suppress(OSError):  # none was written, or it is not ours to remove
            kept_at.unlink()
    return result


def _tell(job: Job, plan: Plan) -> None:
    """Say before the start what the job will take."""
    height, width = job.scales[-1].shape
    way = "" if plan.tile is None else f", in tiles of up to {plan.tile} pixels"
    if plan.needed is not None:
        size = (used_bytes() + plan.needed) / 2**30
        log.info("%dx%d pixels need about %.2g GiB of memory%s", width, height, size, way)


def paint_each(
    job: Job,
    blends: Sequence[Sequence[float]],
    batch: int | None,
    on_progress: OnProgress | None,
    every: int | None,
) -> Iterator[Result]:
    """Paint a picture of each of several blends of the job's styles.

    The content's targets and each style's Gram matrices are made once, and all pictures run
    through one program a scale: side by side in a vmapped loop; on CPUs, where that loop is slower
    than its pictures one by one, two at a time in threads; elsewhere one after another with a line
    search.

    Args:
        job: the job.
        blends: what each style counts, summing to 1, for each picture.
        batch: how many share a vmapped loop; None for what is fastest, as far as it fits.
        on_progress: as of `nst_jax.stylize_each`.
        every: likewise.

    Raises:
        InputError, DivergedError: as of `nst_jax.stylize_each`.
    """
    on_cpu = jax.default_backend() == "cpu"
    one_by_one = on_cpu or has_line_search(optimizer_of(job.settings))
    size = batch or (1 if one_by_one else len(blends))
    content_at = cache(partial(targets_at, job, styles=(), with_content=True))

    @cache
    def grams_at(scale: int, style: int) -> dict[str, Float32[Array, "n n"]]:
        return targets_at(job, scale, [style], with_content=False).style

    def blend_at(scale: int, shares: Sequence[float]) -> dict[str, Float32[Array, "n n"]]:
        counting = [(i, share) for i, share in enumerate(shares) if share and job.style_pixels]
        parts = [
            {tap: share * gram for tap, gram in grams_at(scale, i).items()} for i, share in counting
        ]
        return jax.tree.map(lambda *grams: sum(grams[1:], grams[0]), *parts) if parts else {}

    making = Lock()

    def targets(scale: int, group: Sequence[Sequence[float]]) -> _SharedAndOwn:
        with making:
            return content_at(scale), [blend_at(scale, shares) for shares in group]

    def paint_one(i: int, told: OnProgress) -> Result:
        (result,) = _paint_group(job, blends[i : i + 1], i, 1, targets, told, every)
        return result

    done = 0
    if batch is None and on_cpu and len(blends) > 1 and fits(job, len(job.scales) - 1, ABREAST):
        try:
            for result in in_threads(paint_one, len(blends), ABREAST, on_progress):
                yield result
                done += 1
        except TooLargeError:  # since then less has been free
            log.info("there is memory for one picture at a time only")
    while done < len(blends):
        group = blends[done : done + size]
        try:
            yield from _paint_group(job, group, done, size, targets, on_progress, every)
        except TooLargeError:
            if batch is not None or size == 1:
                raise
            size = (size + 1) // 2
        else:
            done += len(group)


def _paint_group(
    job: Job,
    group: Sequence[Sequence[float]],
    first: int,
    size: int,
    targets: Callable[[int, Sequence[Sequence[float]]], _SharedAndOwn],
    on_progress: OnProgress | None,
    every: int | None,
) -> list[Result]:
    """Paint some pictures side by side, of which one is the first; a last group that is short is
    filled up, so that it needs no program of its own."""
    full = [*group, *[group[-1]] * (size - len(group))]

    def descend(scale: int, start: Any, **options: Any) -> list[Outcome]:
        shared, own = targets(scale, full)
        if size == 1:
            args = (job.params, replace(shared, style=own[0]), job.loss_weights)
            return [minimise(loss, start, args, every=every, **options)]
        each = jax.tree.map(lambda *grams: jnp.stack(grams), *own)
        args = (job.params, shared, job.loss_weights)
        return minimise_each(_loss_of_style, start, each, args, every=every, **options)

    start = job.start if size == 1 else jnp.stack([job.start] * size)
    named = [_named(job, shares) for shares in group]
    return _climb(job, descend, start, _teller(job, on_progress, None, first), named)


def _loss_of_style(
    image: Float[Array, "h w 3"],
    style: dict[str, Float32[Array, "n n"]],
    params: Params,
    shared: Targets,
    loss_weights: Any,
) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
    return loss(image, params, replace(shared, style=style), loss_weights)


def _named(job: Job, shares: Sequence[float]) -> dict[str, Any]:
    """Say which styles a blend is of."""
    counting = [i for i, share in enumerate(shares) if share]
    names = [name_of(job.styles[i]) for i in counting]
    if len(counting) == 1:
        return {"styles": names}
    return {"styles": names, "style_weights": [shares[i] for i in counting]}


def _climb(
    job: Job,
    descend: Callable[..., list[Outcome]],
    start: Float[Array, "*k h w 3"] | Where,
    told: Callable[[Progress, Where], bool],
    named: Sequence[dict[str, Any]],
) -> list[Result]:
    """Go through the scales; a result for each of ``named``, which says what is its own."""
    settings = job.settings
    try:
        done = climb(
            descend,
            start,
            job.scales,
            optimizer=optimizer_of(settings),
            average=average_of(settings),
            on_progress=told,
        )
    except DivergedError as error:
        batched = error.image.ndim == 4
        pictures = list(error.image) if batched else [error.image]
        histories = error.history if batched else [error.history]
        results = [
            _result(job, own, picture, history)
            for own, picture, history in zip(named, pictures, histories, strict=False)
        ]
        error.result = results if batched else results[0]
        error.image = _finished(job, error.image)
        raise
    return [
        _result(job, own, picture, history, done)
        for own, picture, history in zip(named, done.images, done.histories, strict=False)
    ]


def _teller(
    job: Job, on_progress: OnProgress | None, kept_at: Path | None, picture: int = 0
) -> Callable[[Progress, Where], bool]:
    """Keep the state when it is due, and tell the caller what a `Result` would hold."""
    kept = time.monotonic()

    def told(now: Progress, where: Where) -> bool:
        nonlocal kept
        if on_progress is not None:
            image = jnp.asarray(_finished(job, now.image))
            now = now._replace(image=image, picture=picture)
        stop = on_progress is not None and bool(on_progress(now))
        if kept_at is not None and (stop or time.monotonic() - kept > CHECKPOINT_SECONDS):
            try:
                checkpoint.save(kept_at, job, where)
            except InputError as error:  # no reason to lose the picture
                log.warning("%s", error)
            kept = time.monotonic()
        return stop

    return told


def _finished(job: Job, image: Array) -> np.ndarray:
    """The picture, or pictures, with the photo's chroma where they were computed in gray, and with
    the photo itself where no region is."""
    pixels = np.asarray(image)
    shape = pixels.shape[-3:-1]
    if job.photo is not None and job.settings.color == "luminance":
        chroma = images.resize(job.photo, shape)
        pixels = colors.with_luminance(chroma, colors.luminance(pixels))
    if job.photo is not None and job.regions is not None:
        covered = images.resize(np.clip(job.regions.sum(0), 0, 1), shape)[..., None]
        pixels = covered * pixels + (1 - covered) * images.resize(job.photo, shape)
    return pixels


def _result(
    job: Job, own: dict[str, Any], image: Array, history: History, done: Climb | None = None
) -> Result:
    height, width = image.shape[:2]
    made = record(job) | own
    made |= {"width": width, "height": height, "steps_done": len(history)}
    if done is not None:
        made |= {
            "converged": done.converged,
            "stopped": done.stopped,
            "seconds": round(time.perf_counter() - job.begun, 3),
            "compile_seconds": round(done.compile_seconds, 3),
            "steps_seconds": round(done.seconds, 3),
        }
    alpha = None if job.alpha is None else images.resize(job.alpha, (height, width))
    return Result(_finished(job, image), alpha, history, made)
