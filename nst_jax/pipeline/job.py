"""What a job reads and decides before anything is computed."""

import os
import time
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32

from nst_jax.errors import InputError
from nst_jax.images import color as colors
from nst_jax.images import io as images
from nst_jax.images import masks
from nst_jax.images.io import ImageSource
from nst_jax.losses.objective import LossWeights
from nst_jax.models.prepare import prepare_params
from nst_jax.models.weights import load as weight_files
from nst_jax.optimize.loop import has_line_search
from nst_jax.optimize.multiscale import Scale, shapes
from nst_jax.pipeline.memory import parse_bytes
from nst_jax.settings import STEPS, Settings

__all__ = [
    "Job",
    "as_list",
    "average_of",
    "name_of",
    "optimizer_of",
    "prepare",
    "record",
    "shrunk",
    "style_sizes",
]

DEFAULT_LR: Final = 0.01
LBFGS_MEMORY: Final = 10
DEFAULT_AVERAGE: Final = 0.9


class Job(NamedTuple):
    """All that is read and decided before anything is computed. Pictures are float32 RGB."""

    settings: Settings
    content: ImageSource | None
    styles: Sequence[ImageSource]
    scales: list[Scale]
    """From coarse to fine; the last has the output's size."""
    goal: Float32[np.ndarray, "h w 3"] | None
    """The content at the output's size, where it counts."""
    alpha: Float32[np.ndarray, "h w"] | None
    photo: Float32[np.ndarray, "h w 3"] | None
    """The content in its own colours, which `goal` may not have."""
    style_pixels: list[Float32[np.ndarray, "_ _ 3"]]
    """As large as they are used at the output's size."""
    regions: Float32[np.ndarray, "r h w"] | None
    """Where each style paints, if not everywhere."""
    start: Float[Array, "h0 w0 3"]
    """At the first scale."""
    weights: dict[str, str]
    """Which these are: their part of `record`."""
    params: dict[str, dict[str, Any]]
    loss_weights: LossWeights
    memory: int | None
    """How many bytes it may take; None for what is free."""
    begun: float


def prepare(content: ImageSource | None, styles: Sequence[ImageSource], settings: Settings) -> Job:
    """Read a job's pictures and weights.

    Raises:
        InputError: a file or a setting that the job cannot be done with.
    """
    begun = time.perf_counter()
    picture = None if content is None else images.read(content, name="content")
    shape = _output_shape(picture, settings)
    scales = _scales(settings, shape)
    with_content = picture is not None and settings.content_weight > 0
    with_style = settings.style_weight > 0
    if with_style and not styles:
        raise InputError("no style image was given; give at least one, or a style weight of 0")
    style_pixels = []
    if with_style:
        for style, longest in zip(styles, style_sizes(settings, styles, shape), strict=True):
            style_pixels.append(shrunk(images.read(style, name="style").pixels, longest))
    regions = _regions(settings, picture, len(style_pixels), shape)
    goal = None if picture is None else images.resize(picture.pixels, shape)
    alpha = None if picture is None else picture.alpha
    alpha = None if alpha is None else images.resize(alpha, shape)
    photo = goal
    if goal is not None:
        goal, style_pixels = colors.recolored(settings.color, goal, alpha, style_pixels)
    start = _start(settings, goal, scales[0].shape)
    content_layers = settings.content_layers if with_content else {}
    style_layers = settings.style_layers if with_style else {}
    loaded = (
        settings.weights
        if isinstance(settings.weights, weight_files.Weights)
        else weight_files.resolve(settings.model, settings.weights)
    )
    return Job(
        settings,
        content,
        styles,
        scales,
        goal if with_content else None,
        alpha,
        photo,
        style_pixels,
        regions,
        start,
        {
            "model": loaded.model,
            "weights": loaded.path.name,
            "weights_sha256": loaded.sha256,
            "weights_source": loaded.source,
        },
        prepare_params(loaded.params, settings.dtype, [*content_layers, *style_layers]),
        LossWeights(
            settings.content_weight,
            settings.style_weight,
            settings.tv,
            content_layers,
            style_layers,
        ),
        None if settings.memory is None else parse_bytes(settings.memory),
        begun,
    )


def optimizer_of(settings: Settings) -> optax.GradientTransformation:
    """Give the transformation that the settings name or hold."""
    if isinstance(settings.optimizer, str):
        return _named_optimizer(settings.optimizer, settings.lr)
    return settings.optimizer


def average_of(settings: Settings) -> float:
    """Give the decay of the average of iterates."""
    if settings.average is not None:
        return settings.average
    return 0.0 if has_line_search(optimizer_of(settings)) else DEFAULT_AVERAGE


def record(job: Job) -> dict[str, Any]:
    """Tell everything that decides the picture, as JSON values; files by name, without folders."""
    settings = job.settings
    values: dict[str, Any] = {f.name: getattr(settings, f.name) for f in fields(settings)}
    lists = {name: list(v) for name, v in values.items() if isinstance(v, tuple)}
    return (
        values
        | lists
        | job.weights
        | {
            "version": version("nst-jax"),
            "content": None if job.content is None else name_of(job.content),
            "styles": [name_of(style) for style in job.styles],
            "init": name_of(settings.init),
            "masks": [name_of(mask) for mask in as_list(settings.masks)],
            "optimizer": settings.optimizer if isinstance(settings.optimizer, str) else "custom",
            "average": average_of(settings),
            "content_layers": dict(settings.content_layers),
            "style_layers": dict(settings.style_layers),
            "scales": [max(scale.shape) for scale in job.scales],
            "steps": [scale.steps for scale in job.scales],
            "steps_wanted": sum(scale.steps for scale in job.scales),
            "dtype": job.params["conv1_1"]["kernel"].dtype.name,
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
        }
    )


def as_list(sources: ImageSource | Sequence[ImageSource] | None) -> list[ImageSource]:
    """Give one picture, or several, or none, as a list."""
    if sources is None:
        return []
    return cast(
        list[ImageSource], list(sources) if isinstance(sources, list | tuple) else [sources]
    )


def name_of(source: ImageSource) -> str:
    """Name a picture: its file without the folder, or its type."""
    if isinstance(source, str | os.PathLike):
        return Path(source).name
    return f"<{type(source).__name__}>"


def _output_shape(picture: images.Picture | None, settings: Settings) -> tuple[int, int]:
    if picture is None:
        if settings.size is None:
            raise InputError("a texture has no size of its own; give size in pixels")
        return settings.size, settings.size
    if settings.size is None:
        height, width = picture.pixels.shape[:2]
        return height, width
    return images.fit(picture.pixels.shape, settings.size)


def _regions(
    settings: Settings, picture: images.Picture | None, styles: int, shape: tuple[int, int]
) -> Float32[np.ndarray, "r h w"] | None:
    if settings.masks is None or styles == 0:
        return None
    if picture is None:
        raise InputError("masks are regions of a content; a texture has none")
    height, width = picture.pixels.shape[:2]
    regions = masks.read(settings.masks, styles, (height, width), colors=settings.mask_colors)
    return np.stack([images.resize(region, shape) for region in regions])


def _scales(settings: Settings, shape: tuple[int, int]) -> list[Scale]:
    sizes = shapes(shape, settings.min_scale)
    if settings.steps is None:
        steps = STEPS[: len(sizes)]
    else:
        steps = settings.steps if isinstance(settings.steps, tuple) else (settings.steps,)
    if len(steps) > len(sizes):
        sides = ", ".join(str(max(size)) for size in sizes)
        raise InputError(f"{len(steps)} numbers of steps for {len(sizes)} scales ({sides} pixels)")
    steps += steps[-1:] * (len(sizes) - len(steps))
    return [Scale(*pair) for pair in zip(sizes, steps, strict=True)]


def style_sizes(
    settings: Settings, styles: Sequence[ImageSource], shape: tuple[int, int]
) -> list[int]:
    """Give the longest side of each style for a picture of this shape.

    Raises:
        InputError: there is not one style scale for each.
    """
    scales = settings.style_scales or (1.0,) * len(styles)
    if len(scales) != len(styles):
        raise InputError(f"{len(scales)} style scales for {len(styles)} styles; give one each")
    return [max(1, round(max(shape) * scale)) for scale in scales]


def shrunk(pixels: Float32[np.ndarray, "_ _ 3"], longest: int) -> Float32[np.ndarray, "_ _ 3"]:
    """Scale down to a longest side; a smaller picture stays, as enlarging blurs its texture."""
    if max(pixels.shape[:2]) <= longest:
        return pixels
    return images.resize(pixels, images.fit(pixels.shape, longest))


def _start(
    settings: Settings, content: Float32[np.ndarray, "h w 3"] | None, shape: tuple[int, int]
) -> Float[Array, "h0 w0 3"]:
    if isinstance(settings.init, str) and settings.init == "content":
        if content is None:
            raise InputError("init is 'content' but there is no content; choose noise or gray")
        return jnp.asarray(images.resize(content, shape))
    if isinstance(settings.init, str) and settings.init == "noise":
        return jax.random.uniform(jax.random.key(settings.seed), (*shape, 3))
    if isinstance(settings.init, str) and settings.init == "gray":
        return jnp.full((*shape, 3), 0.5)
    return jnp.asarray(images.resize(images.read(settings.init, name="init").pixels, shape))


@cache  # the same object again means no new compilation
def _named_optimizer(name: str, lr: float | None) -> optax.GradientTransformation:
    if name == "adam":
        # Gradients shrink as a picture grows: their median is 2e-5 at 512 pixels, 4e-7 at 4096.
        return optax.adam(lr or DEFAULT_LR, b1=0.9, b2=0.99, eps=1e-12)
    return optax.lbfgs(memory_size=LBFGS_MEMORY)
