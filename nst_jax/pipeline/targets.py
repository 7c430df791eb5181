"""What a job aims at, at each of its scales: the targets of its pictures at that size."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from nst_jax.images import io as images
from nst_jax.losses.objective import Targets, make_targets
from nst_jax.models.architectures import poolings
from nst_jax.partitioning import tiling
from nst_jax.pipeline.job import Job, shrunk, style_sizes
from nst_jax.pipeline.memory import compile_to_fit

__all__ = ["targets_at", "targets_like"]

_OPTIONS = ("content_layers", "style_layers", "style_weights", "form", "pooling", "padding")


def _arrays_of(make: Callable[..., Targets]) -> Callable[..., dict[str, Any]]:
    """Return a dict instead, which `nst_jax.pipeline.programs` can keep."""

    @wraps(make)
    def arrays(*args: Any, **options: Any) -> dict[str, Any]:
        targets = make(*args, **options)
        names = ("content", "style", "guides", "regions")
        return {name: getattr(targets, name) for name in names}

    return arrays


_plain_targets = jax.jit(_arrays_of(make_targets), static_argnames=_OPTIONS)
_tiled_targets = jax.jit(_arrays_of(tiling.make_targets), static_argnames=(*_OPTIONS, "tile"))


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
        tile: the longest side of a tile (`nst_jax.partitioning.tiling`); None for the whole at once.

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
        goal = jnp.asarray(images.resize(job.goal, shape))
    sizes = style_sizes(settings, job.styles, shape) if styles else []
    pixels = [jnp.asarray(shrunk(job.style_pixels[i], sizes[i])) for i in styles]
    regions = None
    if pixels and job.regions is not None:
        regions = jnp.stack([jnp.asarray(images.resize(region, shape)) for region in job.regions])
    options = {
        "content_layers": () if goal is None else tuple(settings.content_layers),
        "style_layers": tuple(settings.style_layers) if pixels else (),
        "form": settings.form,
        "pooling": settings.pooling,
        "padding": settings.padding,
    }
    return (job.params, goal, pixels), regions, options
