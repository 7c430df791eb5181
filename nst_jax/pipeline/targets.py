"""The inputs and the targets of a job at one level, computed when the level is reached."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, PyTree

from nst_jax import images
from nst_jax.losses import StyleStatistic, Targets
from nst_jax.losses.objective import combine_targets, style_targets, whole_features
from nst_jax.networks.protocol import Network
from nst_jax.partitioning import (
    replicate,
    shard_image,
    sharded_features,
    tiled_features,
    tiled_style_targets,
)
from nst_jax.pipeline.arrays import term_arrays
from nst_jax.pipeline.job import Job, downscale, style_sizes
from nst_jax.pipeline.memory import compile_within_limit

__all__ = [
    "LevelInputs",
    "LevelTargets",
    "compute_targets",
    "level_inputs",
    "mix_targets",
    "target_shapes",
]


class LevelInputs(NamedTuple):
    """A job's images at one level's size."""

    content: Float32[np.ndarray, "h w 3"] | None
    """In its own colors, for the output."""
    content_target: Float32[np.ndarray, "h w 3"] | None
    styles: list[Float32[np.ndarray, "_ _ 3"]]
    masks: Float32[np.ndarray, "r h w"] | None
    arrays: dict[str, Any]
    """Of the caller's terms, by name."""


class LevelTargets(NamedTuple):
    """What all images of a job share at one level."""

    content: dict[str, Array]
    """The content's features, by layer."""
    styles: list[dict[str, Any]]
    """The statistics of each style, by layer."""
    masks: Float32[Array, "r h w"] | None
    arrays: dict[str, Any]


def level_inputs(job: Job, level: int) -> LevelInputs:
    """Resample a job's images to the size of one level."""
    shape = job.levels[level].shape

    def resize(pixels: np.ndarray | None) -> np.ndarray | None:
        return None if pixels is None else images.resize(pixels, shape)

    target = resize(job.content_target)
    sizes = style_sizes(job.settings, len(job.styles), shape) if job.styles else []
    return LevelInputs(
        target if job.content is job.content_target else resize(job.content),
        target,
        [downscale(style, size) for style, size in zip(job.styles, sizes, strict=True)],
        None if job.masks is None else np.stack([images.resize(m, shape) for m in job.masks]),
        term_arrays(job.terms, job.arrays, shape, job.levels[-1].shape),
    )


def compute_targets(
    job: Job, inputs: LevelInputs, tile: int | None = None, mesh: Mesh | None = None
) -> LevelTargets:
    """Run the network over the content and the styles of one level.

    Args:
        job: the job.
        inputs: from `level_inputs`.
        tile: the longest side of a tile (`nst_jax.partitioning`); None for the whole image at once.
        mesh: the devices that share the rows of each image; None for one device.

    Raises:
        MemoryLimitError: it needs more memory than is free.
    """

    def run(jitted: Any, *args: Any, **static: Any) -> Any:
        return compile_within_limit(jitted, *args, **static)(*args)

    return _evaluate(job, inputs, tile, mesh, run)


def target_shapes(job: Job, inputs: LevelInputs, mix: Sequence[float]) -> Targets:
    """Return the shapes of the targets of one image, without computing them."""
    shapes = _evaluate(
        job, inputs, None, None, lambda jitted, *args, **static: jitted.eval_shape(*args, **static)
    )
    return jax.eval_shape(lambda targets: mix_targets(job, targets, mix), shapes)


def mix_targets(job: Job, targets: LevelTargets, mix: Sequence[float]) -> Targets:
    """Return the targets of one image: those of the content, and of a mix of the styles."""
    return combine_targets(
        targets.content,
        targets.styles,
        style_weights=mix if targets.styles else None,
        masks=targets.masks,
        network=job.network,
        normalization=job.settings.normalization,
        statistic=job.statistic,
        terms=job.terms,
        arrays=targets.arrays,
    )


def _evaluate(
    job: Job, inputs: LevelInputs, tile: int | None, mesh: Mesh | None, run: Callable[..., Any]
) -> LevelTargets:
    def place(image: np.ndarray) -> Array:
        return jnp.asarray(image) if mesh is None else shard_image(image, mesh)

    options: dict[str, Any] = {"network": job.network, "tile": tile, "mesh": mesh}
    content = {}
    if inputs.content_target is not None:
        layers = tuple(job.loss_weights.content_layers)
        image = place(inputs.content_target)
        content = run(_content_features, job.params, image, layers=layers, **options)
        if mesh is not None:
            content = {layer: shard_image(x, mesh) for layer, x in content.items()}
    options |= {"layers": tuple(job.loss_weights.style_layers), "statistic": job.statistic}
    styles = [run(_style_targets, job.params, place(style), **options) for style in inputs.styles]
    masks, arrays = inputs.masks, inputs.arrays
    if mesh is not None:
        styles, masks = replicate((styles, masks), mesh)
        arrays = jax.tree.map(lambda x: shard_image(x, mesh), arrays)
    return LevelTargets(content, styles, None if masks is None else jnp.asarray(masks), arrays)


@partial(jax.jit, static_argnames=("network", "layers", "tile", "mesh"))
def _content_features(
    params: PyTree,
    image: Float[Array, "h w 3"],
    *,
    network: Network,
    layers: tuple[str, ...],
    tile: int | None,
    mesh: Mesh | None,
) -> dict[str, Array]:
    if tile is not None:
        return tiled_features(network, params, image, layers, tile=tile)
    return _features(network, params, image, layers, mesh)


@partial(jax.jit, static_argnames=("network", "layers", "statistic", "tile", "mesh"))
def _style_targets(
    params: PyTree,
    image: Float[Array, "h w 3"],
    *,
    network: Network,
    layers: tuple[str, ...],
    statistic: StyleStatistic,
    tile: int | None,
    mesh: Mesh | None,
) -> dict[str, Any]:
    if tile is not None:
        return tiled_style_targets(network, params, image, layers, statistic, tile=tile)
    features = _features(network, params, image, layers, mesh)
    return style_targets(network, features, image.shape[:2], statistic)


def _features(
    network: Network,
    params: PyTree,
    image: Float[Array, "h w 3"],
    layers: tuple[str, ...],
    mesh: Mesh | None,
) -> dict[str, Array]:
    if mesh is None:
        return whole_features(network, params, image, layers)
    return sharded_features(network, params, image, layers, mesh=mesh)
