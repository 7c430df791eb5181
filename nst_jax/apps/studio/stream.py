"""One job as what the page shows of it: the image, the losses and the time left."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float32

from nst_jax.errors import DivergedError, OutOfMemoryError
from nst_jax.pipeline import Job, Progress, Result, run
from nst_jax.pipeline.at_once import blend, image_at_once, style_square, style_vector
from nst_jax.pipeline.levels import LevelSpec
from nst_jax.pipeline.result import postprocess
from nst_jax.pipeline.targets import level_inputs

__all__ = ["Update", "seconds_left", "stream"]

PREVIEW_STEPS: Final = 3
"""The steps between two previews. A chunk of the length that suits a command takes two seconds."""


@dataclass(frozen=True, eq=False)
class Update:
    """A job after a chunk of steps.

    Attributes:
        image: the current image.
        step: the number of steps taken, over all levels.
        num_steps: the number of steps of all levels.
        level: the index of the level.
        levels: the levels.
        losses: the loss at each step so far.
        sizes: the longest side of the image at each step so far.
        seconds_left: an estimate of the time that the rest takes, or None before there is one.
        result: the image with its metadata, once the job is finished or stopped.
        error: why the job could not go on to its end, or an empty text.
    """

    image: Float32[np.ndarray, "h w 3"]
    step: int
    num_steps: int
    level: int
    levels: list[LevelSpec]
    losses: np.ndarray
    sizes: np.ndarray
    seconds_left: float | None
    result: Result | None = None
    error: str = ""


def stream(job: Job, stop_requested: Callable[[], bool]) -> Iterator[Update]:
    """Run a job and yield an update after each chunk of steps, until it is finished or stopped.

    The first update shows the image of the arbitrary network (`nst_jax.pipeline.at_once`), before
    anything of the job is compiled.

    Args:
        job: a job of one image.
        stop_requested: asked after each chunk. The update after a True has the image so far as its
            result, and is the last one. So is an update with the last finite image after the loss
            diverged or the device ran out of memory, with the error.
    """
    if (image := _image_at_once(job)) is not None:
        yield _first_update(job, image)
    update = None
    seconds = 0.0
    with closing(run(job, callback_every=PREVIEW_STEPS)) as progresses:
        try:
            for progress in progresses:
                stopping = stop_requested()
                update = _update(job, progress, seconds)
                seconds = progress.seconds
                if progress.done or stopping:
                    (result,) = progress.results()
                    yield replace(update, result=result)
                    return
                yield update
        except (DivergedError, OutOfMemoryError) as error:
            if update is None:
                raise
            (result,) = error.results
            yield replace(update, image=result.image, result=result, error=str(error))


def _image_at_once(job: Job) -> Float32[np.ndarray, "h w 3"] | None:
    """Return the network's image of the job, or None if there is no content or no style."""
    if job.content_target is None or not job.styles:
        return None
    executables = job.engine.executables
    vectors = [style_vector(executables, style_square(style)) for style in job.styles]
    image = image_at_once(executables, job.content_target, blend(vectors, job.mixes[0]))
    return postprocess(job, level_inputs(job, len(job.levels) - 1), image)


def _first_update(job: Job, image: Float32[np.ndarray, "h w 3"]) -> Update:
    none = np.zeros(0)
    return Update(image, 0, job.num_steps, 0, job.levels, none, none, seconds_left=None)


def _update(job: Job, progress: Progress, seconds_before: float) -> Update:
    history = progress.history
    num_steps = len(progress.metrics.get("step", ()))
    per_step = (progress.seconds - seconds_before) / num_steps if num_steps else None
    done_before = progress.step - int(np.ravel(progress.state.level_step)[0])
    return Update(
        image=progress.image,
        step=progress.step,
        num_steps=progress.num_steps,
        level=progress.level,
        levels=job.levels,
        losses=np.asarray(history.get("total", ())),
        sizes=np.asarray(history.get("size", ())),
        seconds_left=per_step
        and seconds_left(job.levels, progress.level, progress.step - done_before, per_step),
    )


def seconds_left(
    levels: Sequence[LevelSpec], level: int, steps_at_level: int, seconds_per_step: float
) -> float:
    """Estimate the time of the steps that are left. A step's time grows with the pixels.

    Args:
        levels: all levels.
        level: the index of the current level.
        steps_at_level: the steps taken there.
        seconds_per_step: the time of a step there.
    """
    pixels = np.array([shape[0] * shape[1] for shape, _ in levels[level:]])
    steps = np.array([steps for _, steps in levels[level:]])
    steps[0] -= steps_at_level
    return float(seconds_per_step * (steps * pixels).sum() / pixels[0])
