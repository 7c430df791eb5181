"""How a job fits into the memory: images in one batch, and tiles of one image."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from nst_jax.errors import MemoryLimitError
from nst_jax.losses import LossWeights, Targets, loss
from nst_jax.optimize import LossFn, State, chunk_lowering_args
from nst_jax.partitioning import sharded_loss_fn, tile_unit, tiled_loss_fn
from nst_jax.pipeline.job import Job, downscaled_shape, style_sizes
from nst_jax.pipeline.memory import available_bytes, required_bytes
from nst_jax.pipeline.targets import LevelInputs, target_shapes

__all__ = ["LevelPlan", "check_state_fits", "choose_batch_size", "loss_fn", "plan_level"]

log = logging.getLogger("nst_jax")

MAX_GPU_ELEMENTS: Final = 2**31
"""Many of cuDNN's kernels do not index larger arrays."""
LARGEST_FILTERS: Final = 64
"""The largest features, those at the image's own resolution, have about so many filters."""
TILE_SIZES: Final = (2048, 1024, 512, 256)
"""From fast to small. A tile computes its halo too, which is 80 pixels wide in VGG19."""


@dataclass(frozen=True)
class LevelPlan:
    """How a level runs.

    Attributes:
        tile: the longest side of a tile; None for the whole image at once.
        mesh: the devices that share the images; None for one device.
        loss: the loss that the loop minimizes.
    """

    tile: int | None
    mesh: Mesh | None
    loss: LossFn


def plan_level(job: Job, inputs: LevelInputs, batch_size: int) -> LevelPlan:
    """Decide how a level runs: one image whole or tile by tile, or a batch, on one device or more.

    The engine keeps the plan for other levels of these shapes.

    Raises:
        MemoryLimitError: one image does not fit even in the smallest tiles.
    """
    level = inputs.level
    shape = job.levels[level].shape
    sizes = style_sizes(job.settings, len(job.styles), shape) if job.styles else []
    styles = [downscaled_shape(s.shape, size) for s, size in zip(job.styles, sizes, strict=True)]
    masks = 0 if job.masks is None else len(job.masks)
    key = (shape, tuple(styles), masks, job.content_target is None, job.layers, batch_size)
    leaves, structure = jax.tree.flatten(inputs.arrays)
    key = (*key, structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves))
    if key not in job.engine.plans:
        mesh = job.engine.mesh(shape[0], batch_size)
        tile = choose_tile(job, level) if batch_size == 1 and mesh is None else None
        loss = loss_fn(tile, mesh)
        loss = loss if batch_size == 1 else batched_loss_fn(loss)
        job.engine.plans[key] = LevelPlan(tile, mesh, loss)
    return job.engine.plans[key]


def check_state_fits(job: Job) -> None:
    """Refuse at once, not after the coarse levels, what cannot fit in any number of tiles."""
    shape = (*job.levels[-1].shape, 3)
    plans, key = job.engine.plans, ("state", shape)
    if key not in plans:
        leaves = jax.tree.leaves(_state_shapes(job, len(job.levels) - 1))
        plans[key] = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    needed = plans[key]
    limit = job.engine.memory_limit or available_bytes()
    needed //= max(1, len(job.engine.devices))
    if limit is not None and needed > limit:
        raise MemoryLimitError(
            f"{shape[1]}x{shape[0]} pixels need {needed / 2**30:.2g} GiB of memory for the "
            f"optimizer alone and may use {limit / 2**30:.2g} GiB; choose a smaller size, or adam"
        )


def choose_batch_size(job: Job) -> int:
    """Return how many images run fastest in one batch and fit into the memory."""
    if len(job.mixes) == 1:
        return 1
    groups = job.engine.num_image_groups
    if jax.default_backend() == "cpu":
        return min(len(job.mixes), groups)
    additive = job.engine.statistic.additive
    if not additive and len({style.shape for style in job.styles}) > 1:
        return 1
    limit = job.engine.memory_limit or available_bytes()
    try:
        executable = _compile_planned(job, len(job.levels) - 1, None, limit)
    except MemoryLimitError:
        return 1  # in tiles
    needed = required_bytes(executable)
    if limit is None or needed is None:
        return len(job.mixes)
    return min(len(job.mixes), limit // needed * groups)


def choose_tile(job: Job, level: int) -> int | None:
    """Return the longest side of a tile with which one image fits into the memory; None for the
    whole image at once.

    Raises:
        MemoryLimitError: it does not fit even in the smallest tiles.
    """
    shape = job.levels[level].shape
    limit = job.engine.memory_limit or available_bytes()
    obstacle = _why_no_tiles(job)
    tiles: list[int | None] = [None]
    if obstacle is None:
        unit = tile_unit(job.engine.network, job.layers)
        sizes = [size - size % unit for size in TILE_SIZES]
        tiles += [size for size in sizes if 0 < size < max(shape)]
    if _is_too_large_for_cudnn(shape) and len(tiles) > 1:
        tiles.remove(None)
    reason = None
    for tile in tiles:
        try:
            _compile_planned(job, level, tile, limit)
        except MemoryLimitError as error:
            reason = error
            continue
        if tile is not None:
            log.info("%dx%d pixels run in tiles of up to %d pixels", shape[1], shape[0], tile)
        return tile
    tried = f" cannot run in tiles, because {obstacle}" if obstacle else ", even in tiles"
    raise MemoryLimitError(f"{shape[1]}x{shape[0]} pixels{tried}: {reason}")


def _compile_planned(
    job: Job, level: int, tile: int | None, limit: int | None
) -> jax.stages.Compiled:
    """Compile the loop of one image at this level, from shapes alone."""
    engine = job.engine
    args = (engine.params, target_shapes(job, level), job.loss_weights)
    state, loss = _state_shapes(job, level), loss_fn(tile)
    jitted, arrays, static = chunk_lowering_args(loss, state, args, optimizer=engine.optimizer)
    return engine.executables.compile(jitted, *arrays, limit=limit, **static)


def _state_shapes(job: Job, level: int) -> State:
    image = jax.ShapeDtypeStruct((*job.levels[level].shape, 3), jnp.float32)
    return jax.eval_shape(partial(job.engine.init_state, seed=job.settings.seed), image)


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
    for term in job.engine.settings.terms:
        if term.layers and not term.additive:
            return f"the term {term.name} is not additive"
    if not job.engine.statistic.additive:
        return f"{job.engine.statistic} needs all positions at once"
    if job.engine.network.receptive_radius(job.engine.params, job.layers) is None:
        return f"{job.engine.network} has no finite receptive radius"
    return None
