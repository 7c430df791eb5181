"""How a job fits into the memory: images in one batch, and tiles of one image."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from nst_jax.errors import MemoryLimitError
from nst_jax.losses import LossWeights, Targets, loss
from nst_jax.optimize import LossFn, chunk_lowering_args
from nst_jax.partitioning import sharded_loss_fn, tile_unit, tiled_loss_fn
from nst_jax.pipeline.job import Job
from nst_jax.pipeline.memory import available_bytes, compile_within_limit, required_bytes
from nst_jax.pipeline.targets import LevelInputs, level_inputs, target_shapes

__all__ = ["batched_loss_fn", "check_state_fits", "choose_batch_size", "choose_tile", "loss_fn"]

log = logging.getLogger("nst_jax")

MAX_GPU_ELEMENTS: Final = 2**31
"""Many of cuDNN's kernels do not index larger arrays."""
LARGEST_FILTERS: Final = 64
"""The largest features, those at the image's own resolution, have about so many filters."""
TILE_SIZES: Final = (2048, 1024, 512, 256)
"""From fast to small. A tile computes its halo too, which is 80 pixels wide in VGG19."""


def check_state_fits(job: Job) -> None:
    """Refuse at once, not after the coarse levels, what cannot fit in any number of tiles."""
    shape = (*job.levels[-1].shape, 3)
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    state = jax.eval_shape(job.init_state, image)
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    limit = job.memory_limit or available_bytes()
    needed //= max(1, len(job.devices))
    if limit is not None and needed > limit:
        raise MemoryLimitError(
            f"{shape[1]}x{shape[0]} pixels need {needed / 2**30:.2g} GiB of memory for the "
            f"optimizer alone and may use {limit / 2**30:.2g} GiB; choose a smaller size, or adam"
        )


def choose_batch_size(job: Job) -> int:
    """Return how many images run fastest in one batch and fit into the memory."""
    if len(job.mixes) == 1:
        return 1
    if jax.default_backend() == "cpu":
        return min(len(job.mixes), job.num_image_groups)
    if not job.statistic.additive and len({style.shape for style in job.styles}) > 1:
        return 1
    finest = len(job.levels) - 1
    limit = job.memory_limit or available_bytes()
    jitted, arrays, static = _planned_call(job, finest, level_inputs(job, finest), None)
    try:
        executable = compile_within_limit(jitted, *arrays, limit=limit, **static)
    except MemoryLimitError:
        return 1  # in tiles
    needed = required_bytes(executable)
    if limit is None or needed is None:
        return len(job.mixes)
    return min(len(job.mixes), limit // needed * job.num_image_groups)


def choose_tile(job: Job, level: int, inputs: LevelInputs) -> int | None:
    """Return the longest side of a tile with which one image fits into the memory; None for the
    whole image at once, as on several devices.

    Raises:
        MemoryLimitError: it does not fit even in the smallest tiles.
    """
    if job.devices:
        return None
    shape = job.levels[level].shape
    limit = job.memory_limit or available_bytes()
    obstacle = _why_no_tiles(job)
    tiles: list[int | None] = [None]
    if obstacle is None:
        unit = tile_unit(job.network, job.layers)
        sizes = [size - size % unit for size in TILE_SIZES]
        tiles += [size for size in sizes if 0 < size < max(shape)]
    if _is_too_large_for_cudnn(shape) and len(tiles) > 1:
        tiles.remove(None)
    reason = None
    for tile in tiles:
        jitted, arrays, static = _planned_call(job, level, inputs, tile)
        try:
            compile_within_limit(jitted, *arrays, limit=limit, **static)
        except MemoryLimitError as error:
            reason = error
            continue
        if tile is not None:
            log.info("%dx%d pixels run in tiles of up to %d pixels", shape[1], shape[0], tile)
        return tile
    tried = f", and no tiles, because {obstacle}" if obstacle else ", even in tiles"
    raise MemoryLimitError(f"{shape[1]}x{shape[0]} pixels{tried}: {reason}")


def _planned_call(job: Job, level: int, inputs: LevelInputs, tile: int | None) -> Any:
    """Return what the loop will compile for one image at this level, from shapes alone."""
    image = jax.ShapeDtypeStruct((*job.levels[level].shape, 3), jnp.float32)
    state = jax.eval_shape(job.init_state, image)
    args = (job.params, target_shapes(job, inputs, job.mixes[0]), job.loss_weights)
    return chunk_lowering_args(loss_fn(tile), state, args, optimizer=job.optimizer)


def loss_fn(tile: int | None = None, mesh: Mesh | None = None) -> LossFn:
    """Return the loss of the whole image, or tile by tile, or over a mesh; the same object for the
    same tile or mesh."""
    if tile is not None:
        return tiled_loss_fn(tile)
    return loss if mesh is None else sharded_loss_fn(mesh)


@cache  # The loop is compiled once for each loss.
def batched_loss_fn(loss: LossFn) -> LossFn:
    """Return ``loss`` with the style targets as a first argument of their own, which differs
    between the images of a batch."""

    def loss_with_style(
        image: Array,
        style: dict[str, Any],
        params: PyTree,
        targets: Targets,
        weights: LossWeights,
        **key: Array,
    ) -> tuple[Array, Mapping[str, Array]]:
        return loss(image, params, replace(targets, style=style), weights, **key)

    return loss_with_style


def _is_too_large_for_cudnn(shape: tuple[int, int]) -> bool:
    elements = shape[0] * shape[1] * LARGEST_FILTERS
    return jax.default_backend() == "gpu" and elements >= MAX_GPU_ELEMENTS


def _why_no_tiles(job: Job) -> str | None:
    """Return why a job cannot run tile by tile; None if it can."""
    for term in job.terms:
        if term.layers and not term.additive:
            return f"the term {term.name} is not additive"
    if not job.statistic.additive:
        return f"{job.statistic} needs all positions at once"
    if job.network.receptive_radius(job.params, job.layers) is None:
        return f"{job.network} has no finite receptive radius"
    return None
