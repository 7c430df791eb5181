"""A job: everything that is read and decided for the images of one content."""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from nst_jax import images
from nst_jax.errors import InputError
from nst_jax.images import ImageData, ImageSource, color
from nst_jax.kinds import MIN_SIZE
from nst_jax.losses import LossWeights
from nst_jax.losses.objective import normalize_weights
from nst_jax.pipeline.arrays import term_arrays
from nst_jax.pipeline.at_once import (
    MAX_START_SIZE,
    blend,
    image_at_once,
    style_square,
    style_vector,
)
from nst_jax.pipeline.descriptions import fingerprint
from nst_jax.pipeline.engine import Engine
from nst_jax.pipeline.levels import LevelSpec, plan_levels
from nst_jax.pipeline.memory import check_pixels_fit
from nst_jax.settings import Settings
from nst_jax.term import check_named

__all__ = [
    "ImageHashes",
    "Job",
    "as_list",
    "downscale",
    "downscaled_shape",
    "first_image",
    "prepare_job",
    "source_name",
    "style_sizes",
]


@dataclass(frozen=True, eq=False)
class Job:
    """What `nst_jax.run` computes: one image a mix of styles, all from one content.

    Images are float32 RGB in [0, 1] at the output's size.

    Attributes:
        engine: the parts that other jobs share.
        settings: the settings.
        mixes: the weight of each style, summing to 1, for each image.
        style_names: the name of each style.
        levels: from coarse to fine; the last has the output's size.
        content: the content in its own colors, or None.
        content_target: the content as the loss compares it (gray for the color mode luminance), or
            None if it does not count.
        alpha: the content's alpha, or None if it is opaque.
        styles: the style images, no larger than the output needs them.
        masks: where each style applies, or None.
        init_image: the image to start from, at the first level's size; for an ``init`` of
            ``network`` the content, which `first_image` stylizes.
        style_vectors: the vector of each style if ``init`` is ``network``.
        loss_weights: the weights of the loss.
        arrays: what each of the caller's terms compares with, by its name: a pytree, or a function
            of a level's (h, w) that returns it.
        hashes: the SHA-256 of each image, by its attribute's name, and of each style.
        metadata: everything that decides the images, as JSON values.
        start_time: ``time.perf_counter()`` when the job was prepared.
    """

    engine: Engine
    settings: Settings
    mixes: tuple[tuple[float, ...], ...]
    style_names: tuple[str, ...]
    levels: list[LevelSpec]
    content: Float32[np.ndarray, "h w 3"] | None
    content_target: Float32[np.ndarray, "h w 3"] | None
    alpha: Float32[np.ndarray, "h w"] | None
    styles: list[Float32[np.ndarray, "_ _ 3"]]
    masks: Float32[np.ndarray, "r h w"] | None
    init_image: Float[Array, "h0 w0 3"]
    style_vectors: list[Float32[np.ndarray, " 100"]]
    loss_weights: LossWeights
    arrays: Mapping[str, Any]
    hashes: "ImageHashes"
    metadata: dict[str, Any]
    start_time: float

    @property
    def num_steps(self) -> int:
        """The steps of one image through all levels."""
        return sum(level.steps for level in self.levels)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the loss reads."""
        weights = self.loss_weights
        own = dict.fromkeys(layer for term in self.engine.settings.terms for layer in term.layers)
        return tuple({**weights.content_layers, **weights.style_layers, **own})


class ImageHashes(NamedTuple):
    """The SHA-256 of a job's images."""

    shared: tuple[str | None, ...]
    """Of the content, the content as a target, the alpha, the masks and the first image."""
    styles: tuple[str, ...]
    arrays: dict[str, str]
    """Of the arrays of the caller's terms, at the size of the output."""


def prepare_job(
    engine: Engine,
    content: ImageSource | None,
    styles: ImageSource | Sequence[ImageSource],
    settings: Settings,
    *,
    mixes: Sequence[Sequence[float]] | None = None,
    arrays: Mapping[str, Any] | None = None,
) -> Job:
    """Read a job's images and decide everything else.

    Args:
        engine: what the job shares with others.
        content: a path, PIL image or array; None for a texture.
        styles: such an image, or a list of them.
        settings: those of the image; of the others the engine's count.
        mixes: the weight of each style, for each image to be made; None for one image with the
            settings' ``style_weights``.
        arrays: as in `nst_jax.stylize`.

    Raises:
        InputError: a file or a setting that the job cannot use.
    """
    start_time = time.perf_counter()
    terms, arrays = engine.settings.terms, {} if arrays is None else arrays
    check_named("arrays", arrays, terms)
    styles = as_list(styles)
    content_data = None if content is None else images.read(content, name="content")
    shape = _output_shape(content_data, settings)
    check_pixels_fit(shape)
    use_content = content_data is not None and settings.content_weight > 0
    use_style = settings.style_weight > 0
    content_layers = settings.content_layers if use_content else {}
    style_layers = settings.style_layers if use_style else {}
    layers = [*content_layers, *style_layers, *(layer for t in terms for layer in t.layers)]
    levels = plan_levels(settings, shape, max(MIN_SIZE, engine.network.min_size(layers)))
    own_arrays = term_arrays(terms, arrays, shape, shape)  # Bad arrays are refused here.
    if use_style and not styles:
        raise InputError("there is no style image; give at least one, or a style_weight of 0")
    from_network = isinstance(settings.init, str) and settings.init == "network"
    if from_network and (content_data is None or not use_style):
        raise InputError(
            "init is 'network', which stylizes a content in a style, and one of them is missing; "
            "choose noise, gray or an image"
        )
    style_images, squares = [], []
    if use_style:
        for style, size in zip(styles, style_sizes(settings, len(styles), shape), strict=True):
            pixels = images.read(style, name="style").pixels
            style_images.append(downscale(pixels, size))
            if from_network:
                squares.append(style_square(pixels))
    if mixes is None:
        style_weights = settings.style_weights if use_style else None
        mixes = [normalize_weights(len(style_images), style_weights)]
    masks = _read_masks(settings, content_data, len(style_images), shape)
    own_colors = alpha = None
    if content_data is not None:
        own_colors = images.resize(content_data.pixels, shape)
        if content_data.alpha is not None:
            alpha = images.resize(content_data.alpha, shape)
    target = own_colors
    if target is not None:
        target, recolored = color.apply_color_mode(
            settings.color_mode, target, alpha, [*style_images, *squares]
        )
        style_images, squares = recolored[: len(style_images)], recolored[len(style_images) :]
    init_image = _init_image(settings, target, levels[0].shape)
    target = target if use_content else None
    shared = (own_colors, target, alpha, masks, init_image)
    return Job(
        engine=engine,
        settings=settings,
        mixes=tuple(tuple(map(float, mix)) for mix in mixes),
        style_names=tuple(source_name(style) for style in styles),
        levels=levels,
        content=own_colors,
        content_target=target,
        alpha=alpha,
        styles=style_images,
        masks=masks,
        init_image=init_image,
        style_vectors=[_style_vector(engine, square) for square in squares],
        loss_weights=LossWeights(
            settings.content_weight,
            settings.style_weight,
            settings.tv_weight,
            content_layers,
            style_layers,
            {term.name: settings.term_weights.get(term.name, 1.0) for term in terms},
        ),
        arrays=arrays,
        hashes=ImageHashes(
            tuple(None if x is None else _sha256(x) for x in shared),
            tuple(map(_sha256, style_images)),
            {name: fingerprint(jax.tree.leaves(own)) for name, own in own_arrays.items()},
        ),
        metadata=_metadata(engine, settings, levels, content, styles),
        start_time=start_time,
    )


def first_image(job: Job, mix: Sequence[float]) -> Float[Array, "h0 w0 3"]:
    """Return the image from which a mix of the styles starts.

    With an ``init`` of ``network``, several styles share the image by a blend of their vectors, or
    by their masks, outside of which the content stays.
    """
    if not job.style_vectors:
        return job.init_image
    content = np.asarray(job.init_image)
    shape = content.shape[:2]
    content = downscale(content, MAX_START_SIZE)
    if job.masks is None:
        image = _paint(job, content, blend(job.style_vectors, mix))
        return jnp.asarray(images.resize(image, shape))
    masks = np.stack([images.resize(mask, content.shape[:2]) for mask in job.masks])
    shares = masks * np.asarray(mix, np.float32)[:, None, None]
    coverage = np.clip(masks.sum(0), 0, 1) * (shares.sum(0) > 0)
    shares *= coverage / np.maximum(shares.sum(0), np.finfo(np.float32).tiny)
    image = (1 - coverage)[..., None] * content
    for share, vector in zip(shares, job.style_vectors, strict=True):
        image += share[..., None] * _paint(job, content, vector)
    return jnp.asarray(images.resize(image, shape))


def _paint(job: Job, content: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return image_at_once(job.engine.executables, content, vector)


def _style_vector(engine: Engine, square: np.ndarray) -> np.ndarray:
    key = ("vector", _sha256(square))
    return engine.targets.get(key, lambda: style_vector(engine.executables, square))


def _sha256(pixels: np.ndarray | Array) -> str:
    return hashlib.sha256(np.asarray(pixels).tobytes()).hexdigest()


def _metadata(
    engine: Engine,
    settings: Settings,
    levels: Sequence[LevelSpec],
    content: ImageSource | None,
    styles: Sequence[ImageSource],
) -> dict[str, Any]:
    """Return everything that decides the images as JSON values; files by name, without folders."""
    values: dict[str, Any] = {f.name: getattr(settings, f.name) for f in fields(settings)}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    return (
        values
        | lists
        | engine.metadata
        | {
            "version": version("nst-jax"),
            "content": None if content is None else source_name(content),
            "styles": [source_name(style) for style in styles],
            "init": source_name(settings.init),
            "masks": [source_name(mask) for mask in as_list(settings.masks)],
            "optimizer": engine.optimizer_name,
            "devices": max(1, len(engine.devices)),
            "style_loss": _describe_style_loss(settings.style_loss),
            "terms": [repr(term) for term in settings.terms],
            "term_weights": {
                t.name: settings.term_weights.get(t.name, 1.0) for t in settings.terms
            },
            "ema_decay": engine.ema_decay,
            "content_layers": dict(settings.content_layers),
            "style_layers": dict(settings.style_layers),
            "levels": [max(level.shape) for level in levels],
            "steps": [level.steps for level in levels],
            "num_steps": sum(level.steps for level in levels),
            "dtype": engine.dtype,
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
        }
    )


def _describe_style_loss(style_loss: Any) -> Any:
    if isinstance(style_loss, Mapping):
        return {_describe_style_loss(part): weight for part, weight in style_loss.items()}
    return style_loss if isinstance(style_loss, str) else repr(style_loss)


def as_list(sources: ImageSource | Sequence[ImageSource] | None) -> list[ImageSource]:
    """Return one image, several or none as a list."""
    if sources is None:
        return []
    several = list(sources) if isinstance(sources, list | tuple) else [sources]
    return cast(list[ImageSource], several)


def source_name(source: ImageSource) -> str:
    """Return the name of an image: its file without the folder, or its type."""
    if isinstance(source, str | os.PathLike):
        return Path(source).name
    return f"<{type(source).__name__}>"


def style_sizes(settings: Settings, num_styles: int, shape: tuple[int, int]) -> list[int]:
    """Return the longest side of each style for an image of this (h, w).

    Raises:
        InputError: there is not one style scale a style.
    """
    scales = settings.style_scales or (1.0,) * num_styles
    if len(scales) != num_styles:
        raise InputError(f"{len(scales)} style scales for {num_styles} styles; give one each")
    return [max(1, round(max(shape) * scale)) for scale in scales]


def downscale(pixels: Float32[np.ndarray, "_ _ 3"], size: int) -> Float32[np.ndarray, "_ _ 3"]:
    """Scale down to a longest side. A smaller image stays, as enlarging blurs its texture."""
    shape = downscaled_shape(pixels.shape, size)
    return pixels if shape == pixels.shape[:2] else images.resize(pixels, shape)


def downscaled_shape(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Return the (h, w) that `downscale` gives an image of this shape."""
    return (shape[0], shape[1]) if max(shape[:2]) <= size else images.fit_longest_side(shape, size)


def _output_shape(content: ImageData | None, settings: Settings) -> tuple[int, int]:
    if content is None:
        if settings.size is None:
            raise InputError("a texture has no size of its own; give a size in pixels")
        return settings.size, settings.size
    height, width = content.pixels.shape[:2]
    if settings.size is None:
        return height, width
    return images.fit_longest_side((height, width), settings.size)


def _read_masks(
    settings: Settings, content: ImageData | None, num_styles: int, shape: tuple[int, int]
) -> Float32[np.ndarray, "r h w"] | None:
    if settings.masks is None or num_styles == 0:
        return None
    if content is None:
        raise InputError("masks divide a content and a texture has none; leave them out")
    height, width = content.pixels.shape[:2]
    masks = images.read_masks(
        settings.masks, num_styles, (height, width), colors=settings.mask_colors
    )
    return np.stack([images.resize(mask, shape) for mask in masks])


def _init_image(
    settings: Settings, content: Float32[np.ndarray, "h w 3"] | None, shape: tuple[int, int]
) -> Float[Array, "h0 w0 3"]:
    name = settings.init if isinstance(settings.init, str) else None
    if name in ("content", "network"):
        if content is None:
            raise InputError(f"init is {name!r} but there is no content; choose noise or gray")
        return jnp.asarray(images.resize(content, shape))
    if name == "noise":
        return jax.random.uniform(jax.random.key(settings.seed), (*shape, 3))
    if name == "gray":
        return jnp.full((*shape, 3), 0.5)
    return jnp.asarray(images.resize(images.read(settings.init, name="init").pixels, shape))
