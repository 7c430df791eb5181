"""The inputs and the targets of a job at one level, computed when the level is reached."""

from collections.abc import Sequence
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
from nst_jax.pipeline.job import Job, downscale, downscaled_shape, style_sizes

__all__ = [
    "LevelInputs",
    "LevelTargets",
    "compute_targets",
    "level_inputs",
    "mix_targets",
    "target_shapes",
]


class LevelInputs(NamedTuple):
    """A job's content and masks at one level's size."""

    level: int
    content: Float32[np.ndarray, "h w 3"] | None
    """In its own colors, for the output."""
    content_target: Float32[np.ndarray, "h w 3"] | None
    masks: Float32[np.ndarray, "r h w"] | None
    arrays: dict[str, Any]
    """Of the caller's terms, by name."""


class LevelTargets(NamedTuple):
    """What all images of a job share at one level."""

    content: dict[str, Array]
    """The content's features, by layer."""
    styles: list[dict[str, Any]]
    """The statistics of each style, by layer; empty for one that no image of the batch takes."""
    masks: Float32[Array, "r h w"] | None
    arrays: dict[str, Any]


def level_inputs(job: Job, level: int) -> LevelInputs:
    """Resample a job's content and masks to the size of one level."""
    shape = job.levels[level].shape

    def resize(pixels: np.ndarray | None) -> np.ndarray | None:
        return None if pixels is None else images.resize(pixels, shape)

    target = resize(job.content_target)
    return LevelInputs(
        level,
        target if job.content is job.content_target else resize(job.content),
        target,
        None if job.masks is None else np.stack([images.resize(m, shape) for m in job.masks]),
        term_arrays(job.engine.settings.terms, job.arrays, shape, job.levels[-1].shape),
    )


def compute_targets(
    job: Job,
    inputs: LevelInputs,
    mixes: Sequence[Sequence[float]],
    tile: int | None = None,
    mesh: Mesh | None = None,
) -> LevelTargets:
    """Run the network over the content and the styles of one level, as far as the engine does not
    have their targets.

    Args:
        job: the job.
        inputs: from `level_inputs`.
        mixes: the weights of the styles, for each image of the batch.
        tile: the longest side of a tile (`nst_jax.partitioning`); None for the whole image at once.
        mesh: the devices that share the rows of each image; None for one device.

    Raises:
        MemoryLimitError: it needs more memory than is free.
    """
    engine = job.engine
    options: dict[str, Any] = {"network": engine.network, "tile": tile, "mesh": mesh}

    def run(jitted: Any, image: np.ndarray, **static: Any) -> Any:
        placed = jnp.asarray(image) if mesh is None else shard_image(image, mesh)
        executable = engine.executables.compile(jitted, engine.params, placed, **options, **static)
        return executable(engine.params, placed)

    def content_features() -> dict[str, Array]:
        assert inputs.content_target is not None
        features = run(_content_features, inputs.content_target, layers=content_layers)
        return features if mesh is None else {k: shard_image(x, mesh) for k, x in features.items()}

    def style_statistics(style: np.ndarray, size: int) -> dict[str, Any]:
        image = downscale(style, size)
        found = run(_style_targets, image, layers=style_layers, statistic=engine.statistic)
        return found if mesh is None else replicate(found, mesh)

    content_layers = tuple(job.loss_weights.content_layers)
    style_layers = tuple(job.loss_weights.style_layers)
    shape, content, styles = job.levels[inputs.level].shape, {}, []
    if inputs.content_target is not None:
        key = ("content", job.hashes.shared[1], shape, content_layers, tile, mesh)
        content = engine.targets.get(key, content_features)
    sizes = style_sizes(job.settings, len(job.styles), shape) if job.styles else []
    for i, (style, size) in enumerate(zip(job.styles, sizes, strict=True)):
        if inputs.masks is None and not any(mix[i] for mix in mixes):
            styles.append({})
            continue
        key = ("style", job.hashes.styles[i], downscaled_shape(style.shape, size), tile, mesh)
        statistics = engine.targets.get(
            (*key, style_layers), partial(style_statistics, style, size)
        )
        styles.append(statistics)
    masks, arrays = None if inputs.masks is None else jnp.asarray(inputs.masks), inputs.arrays
    if mesh is not None:
        masks = replicate(masks, mesh)
        arrays = jax.tree.map(lambda x: shard_image(x, mesh), arrays)
    return LevelTargets(content, styles, masks, arrays)


def target_shapes(job: Job, level: int) -> Targets:
    """Return the shapes of the targets of one image, without computing them."""
    engine, shape = job.engine, job.levels[level].shape
    weights = job.loss_weights

    def image(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*shape[:2], 3), jnp.float32)

    def evaluate(jitted: Any, shape: tuple[int, ...], **static: Any) -> Any:
        options = {"network": engine.network, "tile": None, "mesh": None}
        return jitted.eval_shape(engine.params, image(shape), **options, **static)

    content, styles, masks = {}, [], None
    if job.content_target is not None:
        content = evaluate(_content_features, shape, layers=tuple(weights.content_layers))
    sizes = style_sizes(job.settings, len(job.styles), shape) if job.styles else []
    for style, size in zip(job.styles, sizes, strict=True):
        style_shape = downscaled_shape(style.shape, size)
        options = {"layers": tuple(weights.style_layers), "statistic": engine.statistic}
        styles.append(evaluate(_style_targets, style_shape, **options))
    if job.masks is not None:
        masks = jax.ShapeDtypeStruct((len(job.masks), *shape), jnp.float32)
    arrays = term_arrays(engine.settings.terms, job.arrays, shape, job.levels[-1].shape)
    targets: Any = (content, styles, masks, arrays)
    return jax.eval_shape(lambda each: mix_targets(job, LevelTargets(*each), job.mixes[0]), targets)


def mix_targets(job: Job, targets: LevelTargets, mix: Sequence[float]) -> Targets:
    """Return the targets of one image: those of the content, and of a mix of the styles."""
    return combine_targets(
        targets.content,
        targets.styles,
        style_weights=mix if targets.styles else None,
        masks=targets.masks,
        network=job.engine.network,
        normalization=job.engine.settings.normalization,
        statistic=job.engine.statistic,
        terms=tuple(job.engine.settings.terms),
        arrays=targets.arrays,
    )


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
