"""The functions for whole jobs: images in, images out.

Each of them makes a `Stylizer`, prepares a `Job` and runs it to its end. Make a `Stylizer` yourself
for several images, and iterate over `nst_jax.run` to follow a job step by step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Unpack

import numpy as np

from nst_jax.errors import InputError, short_repr
from nst_jax.images import ImageSource
from nst_jax.pipeline.job import Job, as_list, prepare_job
from nst_jax.pipeline.result import Result
from nst_jax.pipeline.runner import collect, run
from nst_jax.pipeline.stylizer import OnProgress, Stylizer, checkpoint_file
from nst_jax.settings import Settings, SettingsOverrides

__all__ = [
    "content_job",
    "interpolate_styles",
    "interpolation_job",
    "many_styles_job",
    "reconstruct_content",
    "stylize",
    "stylize_many",
    "synthesize_texture",
    "texture_job",
]


def stylize(
    content: ImageSource,
    style: ImageSource | Sequence[ImageSource],
    settings: Settings | None = None,
    *,
    on_progress: OnProgress | None = None,
    callback_every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    arrays: Mapping[str, Any] | None = None,
    **overrides: Unpack[SettingsOverrides],
) -> Result:
    """Stylize ``content`` with one or more style images (Gatys, Ecker & Bethge 2015).

    Args:
        content: a path, PIL image or array (`nst_jax.images.read`).
        style: one such image, or a list of them. A larger one is scaled down to the output's
            longest side. A smaller one stays, because enlarging would blur its texture.
        settings: see `Settings`.
        on_progress: called with a `Progress` about every two seconds; returning True stops with the
            image so far.
        callback_every: also call at multiples of this many steps.
        checkpoint: a file that holds the state of the job. It is written every two minutes and when
            ``on_progress`` stops the job, and removed when the image is finished.
        resume: continue from that file. On the same machine the image is bit for bit the one of an
            uninterrupted run.
        arrays: the arrays of each of the settings' ``terms``, by the term's name: a pytree, or a
            function that returns it for a level's (h, w). In a pytree the arrays that have the
            height and the width of the output are resampled for each level
            (``nst_jax.Term.spatial``). New values need no new compilation.
        **overrides: single settings by name, over ``settings``.

    Raises:
        InputError: an image, a setting or a checkpoint that the job cannot use.
        DivergedError: the loss is not finite; ``results`` holds the last finite image.

    For example, with files, ``stylize("cat.jpg", "swirls.jpg", size=512).save("out.png")``. With
    arrays, and layers, steps and a size that take a second:

    >>> import numpy as np
    >>> import nst_jax
    >>> photo, painting = np.random.default_rng(0).random((2, 16, 16, 3))
    >>> layers = {"content_layers": {"relu1_1": 1}, "style_layers": {"relu1_1": 1}}
    >>> quick = nst_jax.Settings(size=16, steps=2, optimizer="adam", model="vgg16", **layers)
    >>> result = stylize(photo, painting, quick, content_weight=0.1)
    >>> result, result.image.dtype, result.history["total"].shape
    (Result(16x16, 2 steps), dtype('float32'), (2,))
    """
    options: dict[str, Any] = {"callback_every": callback_every, "checkpoint": checkpoint}
    stylizer = Stylizer(settings, **overrides)
    return stylizer(
        content, style, on_progress=on_progress, resume=resume, arrays=arrays, **options
    )


def reconstruct_content(
    content: ImageSource,
    settings: Settings | None = None,
    *,
    on_progress: OnProgress | None = None,
    callback_every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **overrides: Unpack[SettingsOverrides],
) -> Result:
    """Find an image with the features of ``content`` at the content layers, from noise.

    It shows what those layers preserve of an image (the paper's figure 1, content). The style
    settings, ``color_mode`` and ``min_size`` have no effect: a coarser level would show more than
    the layers know. An ``init`` of content would be the solution and means noise here.

    Args:
        content: and the rest: as in `stylize`.

    Raises:
        InputError: as in `stylize`.
        DivergedError: as in `stylize`.

    >>> import numpy as np
    >>> photo = np.random.default_rng(0).random((16, 16, 3))
    >>> options = {"size": 16, "steps": 2, "optimizer": "adam", "model": "vgg16"}
    >>> reconstruct_content(photo, content_layers={"relu1_1": 1}, **options)
    Result(16x16, 2 steps)
    """
    job = content_job(Stylizer(settings, **overrides), content)
    (result,) = _results(job, on_progress, callback_every, checkpoint, resume)
    return result


def synthesize_texture(
    style: ImageSource | Sequence[ImageSource],
    settings: Settings | None = None,
    *,
    on_progress: OnProgress | None = None,
    callback_every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **overrides: Unpack[SettingsOverrides],
) -> Result:
    """Synthesize a square texture with the statistics of the style, from noise.

    After Gatys, Ecker & Bethge, "Texture Synthesis Using Convolutional Neural Networks" (2015). The
    content settings have no effect, an ``init`` of content means noise, and ``color_mode`` must be
    ``style``.

    Args:
        style: and the rest: as in `stylize`.

    Raises:
        InputError: as in `stylize`.
        DivergedError: as in `stylize`.

    >>> import numpy as np
    >>> painting = np.random.default_rng(0).random((16, 24, 3))
    >>> options = {"size": 16, "steps": 2, "optimizer": "adam", "model": "vgg16"}
    >>> synthesize_texture(painting, style_layers={"relu1_1": 1}, **options)
    Result(16x16, 2 steps)
    """
    job = texture_job(Stylizer(settings, **overrides), style)
    (result,) = _results(job, on_progress, callback_every, checkpoint, resume)
    return result


def stylize_many(
    content: ImageSource,
    styles: Sequence[ImageSource],
    settings: Settings | None = None,
    *,
    batch_size: int | None = None,
    on_progress: OnProgress | None = None,
    callback_every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **overrides: Unpack[SettingsOverrides],
) -> Iterator[Result]:
    """Stylize ``content`` with each of several styles: one image a style, in their order.

    The content's features are computed once and all images use the same compiled loop. Each image
    is what `stylize` makes of its style alone, up to rounding. Results come as they are finished.

    Args:
        content: as in `stylize`.
        styles: a path, PIL image or array each.
        settings: see `Settings`; without style weights and masks, as nothing is mixed.
        batch_size: how many images run in one vmapped loop; None means as many as fit into the
            memory on GPUs and TPUs, and one after another on CPUs.
        on_progress: as in `stylize`. For a batch ``image`` is ``(k, h, w, 3)``.
        callback_every: as in `stylize`.
        checkpoint: as in `stylize`; it is also written after each image.
        resume: continue with the image in the checkpoint; results before it are not repeated.
        **overrides: single settings by name, over ``settings``.

    Raises:
        InputError: as in `stylize`; or the batch size is out of range.
        DivergedError: as in `stylize`.

    >>> import numpy as np
    >>> import nst_jax
    >>> photo, *paintings = np.random.default_rng(0).random((3, 16, 16, 3))
    >>> layers = {"content_layers": {"relu1_1": 1}, "style_layers": {"relu1_1": 1}}
    >>> quick = nst_jax.Settings(size=16, steps=2, optimizer="adam", model="vgg16", **layers)
    >>> for result in stylize_many(photo, paintings, quick):
    ...     print(result)  # result.save(path)
    Result(16x16, 2 steps)
    Result(16x16, 2 steps)
    """
    job = many_styles_job(Stylizer(settings, **overrides), content, styles)
    yield from _results(job, on_progress, callback_every, checkpoint, resume, batch_size)


def interpolate_styles(
    content: ImageSource,
    styles: Sequence[ImageSource],
    settings: Settings | None = None,
    *,
    num_images: int = 5,
    batch_size: int | None = None,
    on_progress: OnProgress | None = None,
    callback_every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **overrides: Unpack[SettingsOverrides],
) -> Iterator[Result]:
    """Stylize ``content`` with mixes that go from the first style to the last, one image a mix.

    The statistics of two neighboring styles are mixed linearly, in equal steps.

    Args:
        content: as in `stylize`.
        styles: two or more.
        settings: see `Settings`; without style weights, which are set here, and masks.
        num_images: how many mixes, the first and the last style alone among them.
        batch_size: and the rest: as in `stylize_many`.

    Raises:
        InputError: as in `stylize_many`; or there are fewer than two styles or images.
        DivergedError: as in `stylize`.

    >>> import numpy as np
    >>> import nst_jax
    >>> photo, *paintings = np.random.default_rng(0).random((3, 16, 16, 3))
    >>> layers = {"content_layers": {"relu1_1": 1}, "style_layers": {"relu1_1": 1}}
    >>> quick = nst_jax.Settings(size=16, steps=2, optimizer="adam", model="vgg16", **layers)
    >>> strip = interpolate_styles(photo, paintings, quick, num_images=3)
    >>> [result.metadata.get("style_weights") for result in strip]
    [None, [0.5, 0.5], None]
    """
    stylizer = Stylizer(settings, **overrides)
    job = interpolation_job(stylizer, content, styles, num_images=num_images)
    yield from _results(job, on_progress, callback_every, checkpoint, resume, batch_size)


def content_job(stylizer: Stylizer, content: ImageSource) -> Job:
    """Return the job of `reconstruct_content`."""
    settings = replace(stylizer.settings, style_weight=0.0, color_mode="style", min_size=None)
    return prepare_job(stylizer.engine, content, (), _default_init_to_noise(settings))


def texture_job(stylizer: Stylizer, styles: ImageSource | Sequence[ImageSource]) -> Job:
    """Return the job of `synthesize_texture`."""
    settings = _default_init_to_noise(replace(stylizer.settings, content_weight=0.0))
    if settings.color_mode != "style":
        raise InputError(
            f"color_mode is {settings.color_mode!r} and a texture has no content; choose style"
        )
    return prepare_job(stylizer.engine, None, styles, settings)


def many_styles_job(stylizer: Stylizer, content: ImageSource, styles: Sequence[ImageSource]) -> Job:
    """Return the job of `stylize_many`."""
    _require_single_styles(stylizer.settings)
    styles = as_list(styles)  # one alone, too
    return stylizer.job(content, styles, mixes=np.eye(len(styles)).tolist())


def interpolation_job(
    stylizer: Stylizer, content: ImageSource, styles: Sequence[ImageSource], *, num_images: int
) -> Job:
    """Return the job of `interpolate_styles`."""
    _require_single_styles(stylizer.settings)
    styles = as_list(styles)
    if len(styles) < 2 or not isinstance(num_images, Integral) or num_images < 2:
        raise InputError(
            f"{len(styles)} styles and {short_repr(num_images)} images; give at least two of both"
        )
    positions = np.linspace(0, len(styles) - 1, num_images)
    mixes = np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(len(styles)))).tolist()
    return stylizer.job(content, styles, mixes=mixes)


def _results(
    job: Job,
    on_progress: OnProgress | None,
    callback_every: int | None,
    checkpoint: str | os.PathLike[str] | None,
    resume: bool,
    batch_size: int | None = None,
) -> Iterator[Result]:
    options = {"callback_every": callback_every, "resume": resume, "batch_size": batch_size}
    return collect(run(job, checkpoint=checkpoint_file(checkpoint), **options), on_progress)


def _require_single_styles(settings: Settings) -> None:
    for name in ("style_weights", "masks"):
        if getattr(settings, name) is not None:
            raise InputError(f"{name} combine styles in one image; here each image has its own")


def _default_init_to_noise(settings: Settings) -> Settings:
    from_content = isinstance(settings.init, str) and settings.init == "content"
    return replace(settings, init="noise") if from_content else settings
