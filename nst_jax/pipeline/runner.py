"""The one loop of the pipeline: a job's images through its levels, as an iterator of `Progress`.

A consumer reads each `Progress` and stops with ``break``: a progress bar, previews, a metrics log
and the checkpoint are consumers of the same iterator, for one image and for many alike.
"""

import copy
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from numbers import Integral
from pathlib import Path
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from nst_jax import images
from nst_jax.errors import (
    DivergedError,
    InputError,
    MemoryLimitError,
    OutOfMemoryError,
    is_out_of_memory,
    short_repr,
)
from nst_jax.optimize import (
    Chunk,
    History,
    Level,
    State,
    allgather,
    concatenate_history,
    current_iterate,
    has_converged,
    optimize_multiscale,
    select_image,
    spans_processes,
    to_host,
)
from nst_jax.partitioning import shard_batch, shard_state
from nst_jax.pipeline import checkpoint as checkpoints
from nst_jax.pipeline.job import Job, first_image
from nst_jax.pipeline.planning import check_state_fits, choose_batch_size, loss_fn, plan_level
from nst_jax.pipeline.result import Result, postprocess, style_metadata
from nst_jax.pipeline.targets import LevelInputs, compute_targets, level_inputs, mix_targets

__all__ = ["Progress", "collect", "run"]

log = logging.getLogger("nst_jax")

CHECKPOINT_SECONDS: Final = 120.0
"""A job that is killed loses at most about this much."""


@dataclass(frozen=True, eq=False)
class Progress:
    """A job after a chunk of steps, about every two seconds.

    The next chunk reuses the memory of the state. Read ``image`` and `results` before you continue
    the iteration.

    Attributes:
        index: the index of the image among the job's images; of a batch, of its first image.
        batch_size: the number of images that run in one batch.
        num_images: the number of images of the whole job.
        step: the number of steps taken for this image, over all levels.
        num_steps: the number of steps that the image takes over all levels.
        level: the index of the pyramid's level.
        shape: (h, w) of the image at this level.
        metrics: the metrics of this chunk's steps (`nst_jax.optimize.History`), and ``size``, the
            longest side of the image. For a batch the losses are ``(n, k)``.
        seconds: wall-clock time since the first step of this image, without compilation.
        done: whether the image is finished.
        state: the state of the optimization.
    """

    index: int
    batch_size: int
    num_images: int
    step: int
    num_steps: int
    level: int
    shape: tuple[int, int]
    metrics: History
    seconds: float
    done: bool
    state: State
    _batch: "_Batch"

    @cached_property
    def image(self) -> Float32[np.ndarray, "*k h w 3"]:
        """The current image, or the images of a batch, as a `Result` would hold it.

        Raises:
            RuntimeError: the iteration continued before the first access.
        """
        if self.state.step.is_deleted():
            raise RuntimeError(
                "the next steps reused the memory of this image; read image or results() before "
                "you continue the iteration"
            )
        batch = self._batch
        return batch.postprocess(to_host(current_iterate(self.state)))

    @property
    def is_last(self) -> bool:
        """Whether no further images follow those of this batch."""
        return self.index + self.batch_size >= self.num_images

    @property
    def history(self) -> History:
        """The metrics of all steps of this image so far."""
        return concatenate_history(self._batch.metrics)

    def results(self) -> list[Result]:
        """Return the image, or each image of a batch, as it is now."""
        return self._batch.results(self.image, stopped=not self.done)

    def __repr__(self) -> str:
        """Return a short text without arrays."""
        return (
            f"Progress(image {self.index + 1} of {self.num_images}, step {self.step} of "
            f"{self.num_steps}, {self.shape[1]}x{self.shape[0]})"
        )


def run(
    job: Job,
    *,
    batch_size: int | None = None,
    callback_every: int | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> Generator[Progress, None, None]:
    """Compute a job's images, chunk by chunk; the caller owns the loop.

    The content's features and each style's statistics are computed once a level for all images.
    Images run in a vmapped batch on GPUs and TPUs, as many as fit into the memory, and one after
    another on CPUs, where a batch is slower. A level that does not fit into the memory runs tile by
    tile.

    Args:
        job: from `nst_jax.Stylizer.job`.
        batch_size: how many images run in one batch; None for the fastest way.
        callback_every: also yield at multiples of this many steps.
        checkpoint: a file that holds the state. It is written every two minutes, after each image
            of several, when the caller leaves the iteration early, and when the next level needs
            too much memory; it is removed when the caller has received all images and the
            iteration ends.
        resume: continue from that file, with the image that it holds. On the same machine the
            images are bit for bit those of an uninterrupted run.

    Raises:
        InputError: the checkpoint cannot be read or belongs to another job; an option is out of
            range.
        MemoryLimitError: a level does not fit into the memory even in small tiles.
        DivergedError: the loss is not finite; ``results`` holds the last finite images.
        OutOfMemoryError: the device ran out of memory while steps ran; ``results`` holds the
            images so far.

    >>> import numpy as np
    >>> import nst_jax
    >>> photo, painting = np.random.default_rng(0).random((2, 16, 16, 3))
    >>> layers = {"content_layers": {"relu1_1": 1}, "style_layers": {"relu1_1": 1}}
    >>> stylizer = nst_jax.Stylizer(model="vgg16", optimizer="adam", size=16, steps=2, **layers)
    >>> for progress in run(stylizer.job(photo, painting)):
    ...     last = progress.image  # a preview; break to stop
    >>> progress.done, progress.step, last.shape
    (True, 2, (16, 16, 3))
    """
    for name, value in (("batch_size", batch_size), ("callback_every", callback_every)):
        if value is not None and not (isinstance(value, Integral) and value >= 1):
            raise InputError(f"{name} is {short_repr(value)}; give a whole number from 1 up")
    saved = None
    if resume:
        if checkpoint is None:
            raise InputError("resume needs a checkpoint; give its path")
        saved = checkpoints.load(checkpoint, job)
    check_state_fits(job)
    batches = _run_batches(job, batch_size, callback_every, saved)
    if checkpoint is None:
        yield from batches
        return
    progress = None
    saved_at = time.monotonic()
    try:
        for progress in batches:
            yield progress
            is_due = time.monotonic() - saved_at > CHECKPOINT_SECONDS
            is_due = bool(allgather(is_due, progress.state.iterate)[0])
            if is_due or (progress.done and not progress.is_last):
                _save_checkpoint(checkpoint, job, progress)
                saved_at = time.monotonic()
    except GeneratorExit:  # The caller stopped, perhaps by an error; the state is still valid.
        assert progress is not None
        _save_checkpoint(checkpoint, job, progress)
        raise
    except MemoryLimitError:
        # Between two levels the state is still valid; while steps run they reuse its memory.
        if progress is not None and _is_readable(progress.state):
            _save_checkpoint(checkpoint, job, progress)
        raise
    checkpoints.remove(checkpoint)


def collect(
    progresses: Generator[Progress, None, None],
    on_progress: Callable[[Progress], bool | None] | None = None,
) -> Iterator[Result]:
    """Run to the end and yield each image when it is finished.

    Args:
        progresses: from `run`.
        on_progress: called after each chunk; returning True stops there. Then the image so far is
            the last result, and ``metadata["stopped"]`` says so if steps were left.

    >>> import numpy as np
    >>> import nst_jax
    >>> photo, *paintings = np.random.default_rng(0).random((3, 16, 16, 3))
    >>> layers = {"content_layers": {"relu1_1": 1}, "style_layers": {"relu1_1": 1}}
    >>> stylizer = nst_jax.Stylizer(model="vgg16", optimizer="adam", size=16, steps=2, **layers)
    >>> jobs = (stylizer.job(photo, painting) for painting in paintings)
    >>> list(collect(stylizer.run(jobs)))
    [Result(16x16, 2 steps), Result(16x16, 2 steps)]
    """
    with closing(progresses):
        for progress in progresses:
            stop = on_progress is not None and bool(on_progress(progress))
            if stop or progress.done:
                yield from progress.results()
            if stop and not (progress.done and progress.is_last):
                return


def _is_readable(state: State) -> bool:
    """Return whether this process alone can read a state."""
    image = state.iterate
    return not image.is_deleted() and not spans_processes(image)


def _save_checkpoint(path: Path, job: Job, progress: Progress) -> None:
    mixes = job.mixes[progress.index : progress.index + progress.batch_size]
    state = checkpoints.Checkpoint(
        progress.index, len(mixes), progress.level, progress.state, progress.history
    )
    try:
        checkpoints.save(path, job, state)
    except InputError as error:  # No reason to lose the image.
        log.warning("%s", error)


def _run_batches(
    job: Job,
    batch_size: int | None,
    callback_every: int | None,
    saved: checkpoints.Checkpoint | None,
) -> Iterator[Progress]:
    index = 0 if saved is None else saved.index
    size = batch_size or choose_batch_size(job)
    start_time = job.start_time  # What all images share counts for the first ones.
    while index < len(job.mixes):
        count = size if saved is None else saved.num_images
        batch = _Batch(job, index, job.mixes[index : index + count], start_time)
        try:
            yield from batch.run(callback_every, saved)
        except MemoryLimitError as error:
            if len(batch.mixes) == 1:
                raise
            # A batch that was not asked for may start again while that costs no step.
            if isinstance(error, OutOfMemoryError) and (error.step or batch_size or saved):
                raise
            if batch_size is not None or saved is not None:
                advice = "start without resume" if saved is not None else "a smaller batch_size"
                raise MemoryLimitError(
                    f"{len(batch.mixes)} images in one batch: {error}, or {advice}"
                ) from error
            size = (len(batch.mixes) + 1) // 2
            log.info(
                "%d images do not fit together; they run in batches of %d", len(batch.mixes), size
            )
        else:
            index += len(batch.mixes)
            saved = None
            start_time = time.perf_counter()


class _Batch:
    """Images of a job that run together: one, or several in a vmapped loop."""

    def __init__(
        self,
        job: Job,
        index: int,
        mixes: Sequence[Sequence[float]],
        start_time: float,
    ) -> None:
        self.job = job
        self.index = index
        self.mixes = mixes
        self.start_time = start_time
        self.metrics: list[History] = []
        self.planning_seconds = 0.0
        self.inputs: LevelInputs
        self.tile: int | None = None
        self.chunk: Chunk | None = None

    def run(
        self, callback_every: int | None, saved: checkpoints.Checkpoint | None
    ) -> Iterator[Progress]:
        """Optimize through all levels, or through the rest of them after a checkpoint."""
        job = self.job
        if saved is not None:
            first_level, start = saved.level, saved.state
            steps_done = int(np.ravel(start.level_step)[0])
            if bool(has_converged(start).all()):
                steps_done = job.levels[first_level].steps
            self.metrics = [saved.history]
        else:
            starts = [first_image(job, mix) for mix in self.mixes]
            first_level, steps_done = 0, 0
            start = starts[0] if len(starts) == 1 else jnp.stack(starts)
        chunks = optimize_multiscale(
            self.levels(first_level, steps_done),
            start,
            optimizer=job.engine.optimizer,
            ema_decay=job.engine.ema_decay,
            key=job.engine.key(job.settings.seed),
            first_level=first_level,
            callback_every=callback_every,
            compile_fn=job.engine.compile,
        )
        try:
            for chunk in chunks:
                self.chunk = chunk
                yield self.progress(chunk)
        except (DivergedError, OutOfMemoryError) as error:
            error.history = concatenate_history(self.metrics)
            if isinstance(error, OutOfMemoryError) and spans_processes(error.image):
                raise  # To gather the image needs the other processes, which have the memory.
            error.image = self.postprocess(to_host(error.image))
            error.results = self.results(error.image, stopped=True)
            raise
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryLimitError(
                "there is not enough memory; close other programs, or choose a smaller size"
            ) from error

    def levels(self, first_level: int, steps_done: int) -> Iterator[Level]:
        """Yield the optimization problem of each level, computed when it is reached.

        A level whose steps are done, ``steps_done`` of them at the first one, needs no targets.
        """
        for i in range(first_level, len(self.job.levels)):
            is_done = self.job.levels[i].steps == (steps_done if i == first_level else 0)
            yield self.level(
                i, is_done=is_done
            )  # No name here holds the targets of the last level.

    def level(self, i: int, *, is_done: bool) -> Level:
        """Return the optimization problem of one level."""
        job = self.job
        start_time = time.perf_counter()
        self.inputs = level_inputs(job, i)
        if is_done:
            return Level(*job.levels[i], loss_fn())
        plan = plan_level(job, self.inputs, len(self.mixes))
        self.tile, mesh = plan.tile, plan.mesh
        self.planning_seconds += time.perf_counter() - start_time
        level_targets = compute_targets(job, self.inputs, self.mixes, plan.tile, mesh)
        targets = [mix_targets(job, level_targets, mix) for mix in self.mixes]
        params = job.engine.params
        shard_fn = None if mesh is None else partial(shard_state, mesh=mesh)
        if len(targets) == 1:
            args = (params, targets[0], job.loss_weights)
            return Level(*job.levels[i], plan.loss, args, shard_fn=shard_fn)
        styles = jax.tree.map(lambda *each: jnp.stack(each), *(t.style for t in targets))
        if mesh is not None:
            styles = shard_batch(styles, mesh)
        args = (params, replace(targets[0], style={}), job.loss_weights)
        return Level(*job.levels[i], plan.loss, args, styles, shard_fn)

    def progress(self, chunk: Chunk) -> Progress:
        """Record a chunk's metrics and describe where the images are."""
        job = self.job
        level = job.levels[chunk.level]
        metrics = History(chunk.metrics)
        if metrics:
            metrics["size"] = np.full(len(metrics["step"]), max(level.shape))
            self.metrics.append(metrics)
        # Each progress describes its own moment, also after the iteration continued.
        snapshot = copy.copy(self)
        snapshot.metrics = list(self.metrics)
        level_done = chunk.converged or int(np.ravel(chunk.state.level_step)[0]) == level.steps
        progress = Progress(
            index=self.index,
            batch_size=len(self.mixes),
            num_images=len(job.mixes),
            step=int(np.ravel(chunk.state.step)[0]),
            num_steps=job.num_steps,
            level=chunk.level,
            shape=level.shape,
            metrics=metrics,
            seconds=chunk.seconds,
            done=level_done and chunk.level == len(job.levels) - 1,
            state=chunk.state,
            _batch=snapshot,
        )
        if spans_processes(chunk.state.iterate):
            progress.image  # noqa: B018 - All processes gather it here, so that one may read it alone.
        return progress

    def postprocess(self, image: Float32[np.ndarray, "*k h w 3"]) -> np.ndarray:
        """Postprocess images of the current level's size."""
        return postprocess(self.job, self.inputs, image)

    def results(self, image: np.ndarray, *, stopped: bool) -> list[Result]:
        """Return a result for each image."""
        job, chunk = self.job, self.chunk
        height, width = image.shape[-3:-1]
        alpha = None if job.alpha is None else images.resize(job.alpha, (height, width))
        history = concatenate_history(self.metrics)
        timing = {}
        if chunk is not None:
            timing = {
                "seconds": round(time.perf_counter() - self.start_time, 3),
                "compile_seconds": round(chunk.compile_seconds + self.planning_seconds, 3),
                "steps_seconds": round(chunk.seconds, 3),
            }
        return [
            Result(
                pixels,
                alpha,
                select_image(history, i),
                {
                    **job.metadata,
                    **style_metadata(job, mix),
                    "width": width,
                    "height": height,
                    "steps_done": len(history.get("step", ())),
                    "converged": chunk is not None and chunk.converged,
                    "stopped": stopped,
                    "tile": self.tile,
                    **timing,
                },
            )
            for i, (pixels, mix) in enumerate(
                zip(image if image.ndim == 4 else [image], self.mixes, strict=True)
            )
        ]
