"""What a job reads and decides before anything is computed, and what it has at each scale."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32

from nst_jax import colors, images, masks, tiling
from nst_jax import weights as weight_files
from nst_jax.architectures import poolings
from nst_jax.errors import InputError
from nst_jax.images import ImageSource
from nst_jax.memory import compile_to_fit, parse_bytes
from nst_jax.objective import LossWeights, Targets, make_targets
from nst_jax.optimize import has_line_search
from nst_jax.precision import prepare_params
from nst_jax.pyramid import Scale, shapes
from nst_jax.settings import STEPS, Settings

__all__ = [
    "Job",
    "as_list",
    "average_of",
    "name_of",
    "optimizer_of",
    "prepare",
    "record",
    "targets_at",
    "targets_like",
]

DEFAULT_LR: Final = 0.01
LBFGS_MEMORY: Final = 10
DEFAULT_AVERAGE: Final = 0.9

_OPTIONS = ("content_layers", "style_layers", "style_weights", "form", "pooling", "padding")


def _arrays_of(make: Callable[..., Targets]) -> Callable[..., dict[str, Any]]:
    """Return a dict instead, which `nst_jax.programs` can keep."""

    @wraps(make)
    def arrays(*args: Any, **options: Any) -> dict[str, Any]:
        targets = make(*args, **options)
        names = ("content", "style", "guides", "regions")
        return {name: getattr(targets, name) for name in names}

    return arrays


_plain_targets = jax.jit(_arrays_of(make_targets), static_argnames=_OPTIONS)
_tiled_targets = jax.jit(_arrays_of(tiling.make_targets), static_argnames=(*_OPTIONS, "tile"))


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
        for style, longest in zip(styles, _style_sizes(settings, styles, shape), strict=True):
            style_pixels.append(_shrunk(images.read(style, name="style").pixels, longest))
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


def targets_at(
    job: Job,
    scale: int,
    styles: Sequence[int],
    style_weights: tuple[float, ...] | None = None,
    *,
    with_content: bool,
    tile: int | None = None,
) -> Targets:
    """Make the targets of one scale: of the content, if asked for, and of a blend of styles.

    Args:
        job: the job.
        scale: which of its scales.
        styles: which of its styles.
        style_weights: what each counts in the blend; None for equal parts.
        with_content: whether the content is wanted.
        tile: the longest side of a tile (`nst_jax.tiling`); None for the whole at once.

    Raises:
        TooLargeError: it needs more memory than is free.
    """
    arrays, masks, options = _pictures_at(job, scale, styles, with_content)
    options |= {"style_weights": style_weights}
    if tile is None:
        jitted = _plain_targets
    else:
        jitted = _tiled_targets
        options |= {"tile": tile}
    program = compile_to_fit(jitted, *arrays, masks=masks, static=options)
    kinds = {name: options[name] for name in ("form", "pooling", "padding")}
    return Targets(**program(*arrays, masks=masks), **kinds)


def targets_like(job: Job, scale: int) -> Targets:
    """Give the shapes of the targets of one scale, content and styles, without computing them."""
    settings, shape = job.settings, job.scales[scale].shape
    dtype = job.params["conv1_1"]["kernel"].dtype

    def array(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    def sides(tap: str) -> tuple[int, int]:
        return shape[0] >> poolings(tap), shape[1] >> poolings(tap)

    def filters(tap: str) -> int:
        return len(job.params[tap.replace("relu", "conv")]["bias"])

    content = () if job.goal is None else tuple(settings.content_layers)
    style = tuple(settings.style_layers) if job.style_pixels else ()
    regions = () if job.regions is None or not style else (len(job.regions),)
    return Targets(
        {tap: array(*sides(tap), filters(tap), dtype=dtype) for tap in content},
        {tap: array(*regions, filters(tap), filters(tap)) for tap in style},
        {tap: array(*regions, *sides(tap)) for tap in style if regions},
        array(*regions) if regions else None,
        settings.form,
        settings.pooling,
        settings.padding,
    )


def _pictures_at(
    job: Job, scale: int, styles: Sequence[int], with_content: bool
) -> tuple[tuple[Any, ...], Array | None, dict[str, Any]]:
    """What `make_targets` is called with: arrays, masks and options."""
    settings, shape = job.settings, job.scales[scale].shape
    goal = None
    if with_content and job.goal is not None:
        goal = jnp.asarray(_resized(job.goal, shape))
    sizes = _style_sizes(settings, job.styles, shape) if styles else []
    pixels = [jnp.asarray(_shrunk(job.style_pixels[i], sizes[i])) for i in styles]
    regions = None
    if pixels and job.regions is not None:
        regions = jnp.stack([jnp.asarray(_resized(region, shape)) for region in job.regions])
    options = {
        "content_layers": () if goal is None else tuple(settings.content_layers),
        "style_layers": tuple(settings.style_layers) if pixels else (),
        "form": settings.form,
        "pooling": settings.pooling,
        "padding": settings.padding,
    }
    return (job.params, goal, pixels), regions, options


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


def _style_sizes(
    settings: Settings, styles: Sequence[ImageSource], shape: tuple[int, int]
) -> list[int]:
    """The longest side of each style for a picture of this shape."""
    scales = settings.style_scales or (1.0,) * len(styles)
    if len(scales) != len(styles):
        raise InputError(f"{len(scales)} style scales for {len(styles)} styles; give one each")
    return [max(1, round(max(shape) * scale)) for scale in scales]


def _shrunk(pixels: Float32[np.ndarray, "_ _ 3"], longest: int) -> Float32[np.ndarray, "_ _ 3"]:
    """Scale down to a longest side; a smaller picture stays, as enlarging blurs its texture."""
    if max(pixels.shape[:2]) <= longest:
        return pixels
    return images.resize(pixels, images.fit(pixels.shape, longest))


def _resized(pixels: Float32[np.ndarray, "h w ..."], shape: tuple[int, int]) -> np.ndarray:
    return pixels if pixels.shape[:2] == shape else images.resize(pixels, shape)


def _start(
    settings: Settings, content: Float32[np.ndarray, "h w 3"] | None, shape: tuple[int, int]
) -> Float[Array, "h0 w0 3"]:
    if isinstance(settings.init, str) and settings.init == "content":
        if content is None:
            raise InputError("init is 'content' but there is no content; choose noise or gray")
        return jnp.asarray(_resized(content, shape))
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
