"""The whole job: from pictures in to a picture out.

Files, resizing, precision and bookkeeping live here; the mathematics is in `nst_jax.objective`, the
loop in `nst_jax.optimize`.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32

from nst_jax import colors, images
from nst_jax import weights as weight_files
from nst_jax.errors import DivergedError, InputError, TooLargeError
from nst_jax.images import ImageSource
from nst_jax.memory import compile_to_fit
from nst_jax.objective import LossWeights, Targets, loss, make_targets
from nst_jax.optimize import (
    History,
    Outcome,
    Progress,
    has_line_search,
    minimise,
    minimise_each,
)
from nst_jax.precision import network_dtype
from nst_jax.settings import Settings

__all__ = ["Result", "reconstruct", "stylize", "stylize_each", "texture"]

DEFAULT_LR: Final = 0.01
LBFGS_MEMORY: Final = 10

_compiled_targets = jax.jit(
    make_targets,
    static_argnames=(
        "content_layers",
        "style_layers",
        "style_weights",
        "form",
        "pooling",
        "padding",
    ),
)


@dataclass(frozen=True, eq=False)
class Result:
    """A finished picture and how it came about.

    Attributes:
        image: float32 RGB (h, w, 3) in [0, 1], sRGB.
        alpha: the content's alpha (h, w) at the picture's size, or None.
        history: the losses, one entry a step (`nst_jax.optimize.History`).
        settings: everything that decides the picture, as plain JSON values: the settings, the
            model and its weights' SHA-256, versions, and the device; and the times that it took.
    """

    image: Float32[np.ndarray, "h w 3"]
    alpha: Float32[np.ndarray, "h w"] | None
    history: History
    settings: dict[str, Any]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write PNG, JPEG, WebP or TIFF, with alpha where the format has it and the settings as
        metadata (key ``nst_jax``, JSON).

        Raises:
            InputError: the file cannot be written; one that was there before is untouched.
        """
        metadata = {
            "Software": f"nst_jax {self.settings['version']}",
            "nst_jax": json.dumps(self.settings),
        }
        images.write(path, self.image, alpha=self.alpha, metadata=metadata)


def stylize(
    content: ImageSource,
    style: ImageSource | Sequence[ImageSource],
    settings: Settings | None = None,
    *,
    on_progress: Callable[[Progress], bool | None] | None = None,
    every: int | None = None,
    **changes: Any,
) -> Result:
    """Paint ``content`` in the style of one or more pictures (Gatys, Ecker & Bethge 2015).

    Args:
        content: a path, PIL image or array (`nst_jax.images.read`).
        style: one such, or a list of them. Larger ones are scaled down to the output's longest
            side; smaller ones are left, because enlarging would blur their texture.
        settings: see `Settings`.
        on_progress: called about once a second (`nst_jax.optimize.Progress`); returning True
            stops with the picture so far.
        every: call at multiples of this many steps too.
        **changes: single settings by name, over ``settings``.

    Raises:
        InputError: a picture or a setting that the job cannot be done with.
        DivergedError: the loss stopped being finite; its ``image`` is the last good picture and
            its ``result`` a `Result` that holds it.

    ```python
    result = nst_jax.stylize("cat.jpg", "swirls.jpg", size=512)
    result.save("cat-swirls.png")
    ```
    """
    return _run(content, _as_list(style), _settings(settings, changes), on_progress, every)


def reconstruct(
    content: ImageSource,
    settings: Settings | None = None,
    *,
    on_progress: Callable[[Progress], bool | None] | None = None,
    every: int | None = None,
    **changes: Any,
) -> Result:
    """Find a picture with the same features as ``content`` at the content layers, from noise.

    It shows what those layers keep of a picture (the paper's figure 1, content). Arguments and
    errors are `stylize`'s; the style settings and ``color`` have no effect, and an ``init`` of
    content, which would be the solution, stands for noise.
    """
    changes |= {"style_weight": 0.0, "color": "style"}
    settings = _from_noise(_settings(settings, changes))
    return _run(content, (), settings, on_progress, every)


def texture(
    style: ImageSource | Sequence[ImageSource],
    settings: Settings | None = None,
    *,
    on_progress: Callable[[Progress], bool | None] | None = None,
    every: int | None = None,
    **changes: Any,
) -> Result:
    """Synthesise a square texture with the style's Gram matrices, from noise.

    After Gatys, Ecker & Bethge, "Texture Synthesis Using Convolutional Neural Networks" (2015).
    Arguments and errors are `stylize`'s; the content settings have no effect, an ``init`` of
    content, of which there is none, stands for noise, and ``color`` must be ``style``.
    """
    settings = _from_noise(_settings(settings, changes | {"content_weight": 0.0}))
    if settings.color != "style":
        raise InputError(f"color is {settings.color!r}; a texture has no content to take it from")
    return _run(None, _as_list(style), settings, on_progress, every)


def stylize_each(
    content: ImageSource,
    styles: Sequence[ImageSource],
    settings: Settings | None = None,
    *,
    batch: int | None = None,
    on_progress: Callable[[Progress], bool | None] | None = None,
    every: int | None = None,
    **changes: Any,
) -> Iterator[Result]:
    """Paint ``content`` in each of several styles: a picture a style, in their order.

    The photo's features are computed once, and all pictures run through one compiled program. Each
    is what `stylize` makes of its style alone, up to rounding. They come as they are done, so that
    nothing is lost when a later one cannot be made.

    Args:
        content: as for `stylize`.
        styles: a path, PIL image or array each.
        settings: see `Settings`; without style weights, as there is nothing to blend.
        batch: how many pictures are painted side by side, in one vmapped loop. By default one on
            CPUs, where more bring nothing (``benchmarks/RESULTS.md``), and with a line search;
            elsewhere as many as fit the memory.
        on_progress: as for `stylize`, told of each batch from its first step. Of several pictures
            ``image`` is (k, h, w, 3) and the losses are means.
        every: as for `stylize`.
        **changes: single settings by name, over ``settings``.

    Raises:
        InputError: as for `stylize`; or a batch that is out of range or has a line search.
        DivergedError: as for `stylize`. Of several pictures ``result`` is a list.

    ```python
    for name, result in zip(names, nst_jax.stylize_each("cat.jpg", names), strict=True):
        result.save(f"cat-{name}")
    ```
    """
    settings = _settings(settings, changes)
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}; give a whole number from 1 up")
    if settings.style_weights is not None:
        raise InputError("style weights blend styles into one picture; here each has its own")
    styles = _as_list(styles)
    job = _prepare(content, styles, settings)
    one_by_one = jax.default_backend() == "cpu" or has_line_search(_optimizer(settings))
    size = batch or (1 if one_by_one else len(styles))
    shared = _targets(job, [], with_content=True)
    done = 0
    while done < len(styles):
        group = range(done, min(done + size, len(styles)))
        try:
            yield from _paint_group(job, shared, group, size, on_progress, every)
        except TooLargeError:
            if batch is not None or size == 1:
                raise
            size = (size + 1) // 2
        else:
            done += len(group)


def _as_list(style: ImageSource | Sequence[ImageSource]) -> list[ImageSource]:
    return cast(list[ImageSource], list(style) if isinstance(style, list | tuple) else [style])


def _settings(settings: Settings | None, changes: dict[str, Any]) -> Settings:
    unknown = sorted(set(changes) - {field.name for field in fields(Settings)})
    if unknown:
        raise InputError(f"there is no setting {unknown[0]!r}; see nst_jax.Settings")
    return replace(settings or Settings(), **changes)


def _from_noise(settings: Settings) -> Settings:
    from_content = isinstance(settings.init, str) and settings.init == "content"
    return replace(settings, init="noise") if from_content else settings


class _Job(NamedTuple):
    """All that is read and decided before anything is computed."""

    settings: Settings
    content: ImageSource | None
    styles: Sequence[ImageSource]
    goal: Float32[np.ndarray, "h w 3"] | None
    """The content at the output's size, where it counts."""
    alpha: Float32[np.ndarray, "h w"] | None
    chroma: Float32[np.ndarray, "h w 3"] | None
    """The content in colour, where what is computed is gray."""
    style_pixels: list[Float32[np.ndarray, "_ _ 3"]]
    start: Float[Array, "h w 3"]
    weights: weight_files.Weights
    params: dict[str, dict[str, Array]]
    loss_weights: LossWeights
    begun: float


def _prepare(
    content: ImageSource | None, styles: Sequence[ImageSource], settings: Settings
) -> _Job:
    begun = time.perf_counter()
    picture = None if content is None else images.read(content, name="content")
    shape = _output_shape(picture, settings)
    with_content = picture is not None and settings.content_weight > 0
    with_style = settings.style_weight > 0
    if with_style and not styles:
        raise InputError("no style image was given; give at least one, or a style weight of 0")
    style_pixels = [_read_style(style, max(shape)) for style in styles] if with_style else []
    goal = None if picture is None else images.resize(picture.pixels, shape)
    alpha = None if picture is None else picture.alpha
    alpha = None if alpha is None else images.resize(alpha, shape)
    chroma = goal if settings.color == "luminance" else None
    if goal is not None:
        goal, style_pixels = colors.recolored(settings.color, goal, alpha, style_pixels)
    start = _start(settings, goal, shape)
    loaded = (
        settings.weights
        if isinstance(settings.weights, weight_files.Weights)
        else weight_files.resolve(settings.model, settings.weights)
    )
    return _Job(
        settings,
        content,
        styles,
        goal if with_content else None,
        alpha,
        chroma,
        style_pixels,
        start,
        loaded,
        _to_device(loaded.params, network_dtype(settings.dtype)),
        LossWeights(
            settings.content_weight,
            settings.style_weight,
            settings.tv,
            settings.content_layers if with_content else {},
            settings.style_layers if with_style else {},
        ),
        begun,
    )


def _in_color(job: _Job, image: Array) -> np.ndarray:
    """The picture, or pictures, with the content's chroma where they were computed in gray."""
    pixels = np.asarray(image)
    if job.chroma is None:
        return pixels
    return colors.with_luminance(job.chroma, colors.luminance(pixels))


def _told_in_color(
    job: _Job, on_progress: Callable[[Progress], bool | None] | None
) -> Callable[[Progress], bool | None] | None:
    """The callback, which is to see what `Result` would hold."""
    if on_progress is None or job.chroma is None:
        return on_progress
    return lambda now: on_progress(now._replace(image=jnp.asarray(_in_color(job, now.image))))


def _targets(
    job: _Job, style_pixels: Sequence[Float32[np.ndarray, "_ _ 3"]], *, with_content: bool
) -> Targets:
    """The targets of the content, if asked for, and of a blend of styles, if any."""
    goal = job.goal if with_content else None
    pixels = (
        None if goal is None else jnp.asarray(goal),
        [jnp.asarray(style) for style in style_pixels],
    )
    settings = job.settings
    return compile_to_fit(
        _compiled_targets,
        job.params,
        *pixels,
        content_layers=() if goal is None else tuple(settings.content_layers),
        style_layers=tuple(settings.style_layers) if style_pixels else (),
        style_weights=settings.style_weights if style_pixels else None,
        form=settings.form,
        pooling=settings.pooling,
        padding=settings.padding,
    )(job.params, *pixels)


def _run(
    content: ImageSource | None,
    styles: Sequence[ImageSource],
    settings: Settings,
    on_progress: Callable[[Progress], bool | None] | None,
    every: int | None,
) -> Result:
    job = _prepare(content, styles, settings)
    targets = _targets(job, job.style_pixels, with_content=True)
    try:
        outcome = minimise(
            loss,
            job.start,
            (job.params, targets, job.loss_weights),
            optimizer=_optimizer(settings),
            steps=settings.steps,
            on_progress=_told_in_color(job, on_progress),
            every=every,
        )
    except DivergedError as error:
        error.result = _result(job, styles, error.image, error.history)
        error.image = _in_color(job, error.image)
        raise
    return _result(job, styles, outcome.image, outcome.history, outcome)


def _paint_group(
    job: _Job,
    shared: Targets,
    group: range,
    size: int,
    on_progress: Callable[[Progress], bool | None] | None,
    every: int | None,
) -> list[Result]:
    """Paint some of the job's styles side by side; a last group that is short is filled up, so
    that it needs no program of its own."""
    own = [
        _targets(job, job.style_pixels[i : i + 1], with_content=False).style
        if job.style_pixels
        else {}
        for i in group
    ]
    own += [own[-1]] * (size - len(own))
    loop = {
        "optimizer": _optimizer(job.settings),
        "steps": job.settings.steps,
        "on_progress": _told_in_color(job, on_progress),
        "every": every,
    }
    names = [[job.styles[i]] for i in group]
    try:
        if size == 1:
            targets = replace(shared, style=own[0])
            outcomes = [minimise(loss, job.start, (job.params, targets, job.loss_weights), **loop)]
        else:
            outcomes = minimise_each(
                _loss_of_style,
                jnp.stack([job.start] * size),
                jax.tree.map(lambda *grams: jnp.stack(grams), *own),
                (job.params, shared, job.loss_weights),
                **loop,
            )
    except DivergedError as error:
        if size == 1:
            error.result = _result(job, names[0], error.image, error.history)
        else:
            last_good = zip(names, error.image, error.history, strict=False)
            error.result = [_result(job, *one) for one in last_good]
        error.image = _in_color(job, error.image)
        raise
    return [
        _result(job, name, outcome.image, outcome.history, outcome)
        for name, outcome in zip(names, outcomes, strict=False)
    ]


def _loss_of_style(
    image: Float[Array, "h w 3"],
    style: dict[str, Float32[Array, "..."]],
    params: weight_files.Params,
    shared: Targets,
    loss_weights: LossWeights,
) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
    return loss(image, params, replace(shared, style=style), loss_weights)


def _result(
    job: _Job,
    styles: Sequence[ImageSource],
    image: Array,
    history: History,
    outcome: Outcome | None = None,
) -> Result:
    record = _record(job, styles, len(history))
    if outcome is not None:
        record |= {
            "converged": outcome.converged,
            "seconds": round(time.perf_counter() - job.begun, 3),
            "compile_seconds": round(outcome.compile_seconds, 3),
            "steps_seconds": round(outcome.seconds, 3),
        }
    return Result(_in_color(job, image), job.alpha, history, record)


def _output_shape(picture: images.Picture | None, settings: Settings) -> tuple[int, int]:
    if picture is None:
        if settings.size is None:
            raise InputError("a texture has no size of its own; give size in pixels")
        return settings.size, settings.size
    if settings.size is None:
        height, width = picture.pixels.shape[:2]
        return height, width
    return images.fit(picture.pixels.shape, settings.size)


def _read_style(style: ImageSource, longest_side: int) -> Float32[np.ndarray, "_ _ 3"]:
    pixels = images.read(style, name="style").pixels
    if max(pixels.shape[:2]) <= longest_side:
        return pixels
    return images.resize(pixels, images.fit(pixels.shape, longest_side))


def _start(
    settings: Settings, content: Float32[np.ndarray, "h w 3"] | None, shape: tuple[int, int]
) -> Float[Array, "h w 3"]:
    if isinstance(settings.init, str) and settings.init == "content":
        if content is None:
            raise InputError("init is 'content' but there is no content; choose noise or gray")
        return jnp.asarray(content)
    if isinstance(settings.init, str) and settings.init == "noise":
        return jax.random.uniform(jax.random.key(settings.seed), (*shape, 3))
    if isinstance(settings.init, str) and settings.init == "gray":
        return jnp.full((*shape, 3), 0.5)
    return jnp.asarray(images.resize(images.read(settings.init, name="init").pixels, shape))


def _to_device(params: weight_files.Params, dtype: Any) -> dict[str, dict[str, Array]]:
    return {
        layer: {
            name: jnp.asarray(value, jnp.float32 if layer == "input" else dtype)
            for name, value in arrays.items()
        }
        for layer, arrays in params.items()
    }


def _optimizer(settings: Settings) -> optax.GradientTransformation:
    if isinstance(settings.optimizer, str):
        return _named_optimizer(settings.optimizer, settings.lr)
    return settings.optimizer


@cache  # the same object again means no new compilation
def _named_optimizer(name: str, lr: float | None) -> optax.GradientTransformation:
    if name == "adam":
        return optax.adam(lr or DEFAULT_LR, b1=0.9, b2=0.99)
    return optax.lbfgs(memory_size=LBFGS_MEMORY)


def _record(job: _Job, styles: Sequence[ImageSource], steps_done: int) -> dict[str, Any]:
    """Everything that decides the picture, as JSON values; files by name, without their folders."""
    settings = job.settings
    values: dict[str, Any] = {f.name: getattr(settings, f.name) for f in fields(settings)}
    height, width = job.start.shape[:2]
    return values | {
        "version": version("nst-jax"),
        "content": None if job.content is None else _name(job.content),
        "styles": [_name(style) for style in styles],
        "init": _name(settings.init),
        "optimizer": settings.optimizer if isinstance(settings.optimizer, str) else "custom",
        "content_layers": dict(settings.content_layers),
        "style_layers": dict(settings.style_layers),
        "width": width,
        "height": height,
        "steps_done": steps_done,
        "dtype": job.params["conv1_1"]["kernel"].dtype.name,
        "model": job.weights.model,
        "weights": job.weights.path.name,
        "weights_sha256": job.weights.sha256,
        "weights_source": job.weights.source,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def _name(source: ImageSource) -> str:
    if isinstance(source, str | os.PathLike):
        return Path(source).name
    return f"<{type(source).__name__}>"
