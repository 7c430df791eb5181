"""Whether a picture is computed at once or tile by tile, by the memory that there is."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp

from nst_jax.errors import TooLargeError
from nst_jax.losses.objective import loss
from nst_jax.optimize.loop import LossFn, program_of
from nst_jax.partitioning.tiling import loss_by_tiles
from nst_jax.pipeline.job import Job, average_of, optimizer_of
from nst_jax.pipeline.memory import free_bytes, give_back, planned_bytes
from nst_jax.pipeline.programs import compiled, is_kept, number_of
from nst_jax.pipeline.targets import targets_like

__all__ = ["Plan", "ahead", "choose", "fits", "loss_of"]

TILES: Final = (None, 2048, 1024, 512, 256)
"""From fast to small; a tile computes its halo too, which is 80 pixels wide."""


class Plan(NamedTuple):
    """How one scale is computed."""

    tile: int | None
    """The longest side of a tile; None for the whole at once."""
    needed: int | None
    """Bytes, by the compiler's plan; None if it does not tell."""


def choose(job: Job, scale: int) -> Plan:
    """Give the fastest way that fits; its program has been compiled, now or in an earlier run.

    Raises:
        TooLargeError: none does.
    """
    shape = job.scales[scale].shape
    budget = _budget(job)
    needed = None
    for tile in TILES:
        if tile is not None and tile >= max(shape):
            continue
        needed = _needed(job, scale, tile)
        if needed is None or budget is None or needed <= budget:
            return Plan(tile, needed)
    raise TooLargeError(
        f"{shape[1]}x{shape[0]} pixels need about {(needed or 0) / 2**30:.2g} GiB of memory even "
        f"in tiles, and may take {(budget or 0) / 2**30:.2g} GiB; choose a smaller size"
    )


def fits(job: Job, scale: int, pictures: int) -> bool:
    """Tell whether so many pictures fit at a time, none in tiles."""
    needed, budget = _needed(job, scale, None), _budget(job)
    return needed is not None and budget is not None and pictures * needed <= budget


@contextmanager
def ahead(job: Job, scale: int, tile: int | None) -> Iterator[None]:
    """Load the program of a scale in a thread, beside what is done meanwhile, if it is kept.

    On CPUs: should a GPU's compiler be needed after all, it times kernels on the device, which must
    have nothing else to do.
    """
    asked, options = _program(job, scale, tile)
    if jax.default_backend() != "cpu" or not is_kept(*asked, **options):
        yield
        return
    done = Event()

    def load() -> None:
        try:
            with suppress(Exception):  # it will be met again when the program is wanted
                compiled(*asked, **options)
        finally:
            done.set()

    Thread(target=load).start()
    yield
    done.wait()  # not join, which Ctrl-C leaves in a state that Python cannot end from


def _needed(job: Job, scale: int, tile: int | None) -> int | None:
    asked, options = _program(job, scale, tile)
    needed = number_of(planned_bytes, *asked, **options)
    give_back()
    return needed


def _program(job: Job, scale: int, tile: int | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    image = jax.ShapeDtypeStruct((*job.scales[scale].shape, 3), jnp.float32)
    args = (job.params, targets_like(job, scale), job.loss_weights)
    loop = {"optimizer": optimizer_of(job.settings), "average": average_of(job.settings)}
    return program_of(loss_of(tile), image, args, **loop)


def _budget(job: Job) -> int | None:
    return free_bytes() if job.memory is None else job.memory


def loss_of(tile: int | None) -> LossFn:
    """Give the loss to minimise, the same object for the same tile."""
    return loss if tile is None else loss_by_tiles(tile)
