"""The whole job: from pictures in to a picture out.

Reading and bookkeeping are in `nst_jax.pipeline.job`, what it aims at in `nst_jax.pipeline.targets`, the way through
the scales in `nst_jax.pipeline.runner`, the mathematics in `nst_jax.losses.objective`, the loop in
`nst_jax.optimize.loop`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nst_jax.errors import InputError
from nst_jax.images.io import ImageSource
from nst_jax.optimize.loop import Progress
from nst_jax.pipeline.job import as_list, prepare
from nst_jax.pipeline.result import Result
from nst_jax.pipeline.runner import paint, paint_each
from nst_jax.settings import Settings, changed

__all__ = ["Result", "interpolate", "reconstruct", "stylize", "stylize_each", "texture"]


def stylize(
    content: ImageSource,
    style: ImageSource | Sequence[ImageSource],
    settings: Settings | None = None,
    *,
    on_progress: Callable[[Progress], bool | None] | None = None,
    every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **changes: Any,
) -> Result:
    """Paint ``content`` in the style of one or more pictures (Gatys, Ecker & Bethge 2015).

    Args:
        content: a path, PIL image or array (`nst_jax.images.io.read`).
        style: one such, or a list of them. Larger ones are scaled down to the output's longest
            side; smaller ones are left, because enlarging would blur their texture.
        settings: see `Settings`.
        on_progress: called about every two seconds (`nst_jax.optimize.loop.Progress`); returning True
            stops with the picture so far.
        every: call at multiples of this many steps too.
        checkpoint: a file that keeps the job's state, written every two minutes and when
            ``on_progress`` stops it, and removed when the picture is done.
        resume: go on from that file. The picture is then, on the same machine, the one that an
            uninterrupted run makes, bit for bit.
        **changes: single settings by name, over ``settings``.

    Raises:
        InputError: a picture, a setting or a checkpoint that the job cannot be done with.
        DivergedError: the loss stopped being finite; its ``image`` is the last good picture and
            its ``result`` a `Result` that holds it.

    ```python
    result = nst_jax.stylize("cat.jpg", "swirls.jpg", size=512)
    result.save("cat-swirls.png")
    ```
    """
    job = prepare(content, as_list(style), changed(settings, changes))
    return paint(job, on_progress, every, kept_at=_path(checkpoint), resume=resume)


def reconstruct(
    content: ImageSource,
    settings: Settings | None = None,
    *,
    on_progress: Callable[[Progress], bool | None] | None = None,
    every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **changes: Any,
) -> Result:
    """Find a picture with the same features as ``content`` at the content layers, from noise.

    It shows what those layers keep of a picture (the paper's figure 1, content). Arguments and
    errors are `stylize`'s; the style settings, ``color`` and ``min_scale`` have no effect, since a
    smaller scale would tell more than the layers know, and an ``init`` of content, which would be
    the solution, stands for noise.
    """
    changes |= {"style_weight": 0.0, "color": "style", "min_scale": None}
    job = prepare(content, (), _from_noise(changed(settings, changes)))
    return paint(job, on_progress, every, kept_at=_path(checkpoint), resume=resume)


def texture(
    style: ImageSource | Sequence[ImageSource],
    settings: Settings | None = None,
    *,
    on_progress: Callable[[Progress], bool | None] | None = None,
    every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **changes: Any,
) -> Result:
    """Synthesise a square texture with the style's Gram matrices, from noise.

    After Gatys, Ecker & Bethge, "Texture Synthesis Using Convolutional Neural Networks" (2015).
    Arguments and errors are `stylize`'s; the content settings have no effect, an ``init`` of
    content, of which there is none, stands for noise, and ``color`` must be ``style``.
    """
    settings = _from_noise(changed(settings, changes | {"content_weight": 0.0}))
    if settings.color != "style":
        raise InputError(f"color is {settings.color!r}; a texture has no content to take it from")
    job = prepare(None, as_list(style), settings)
    return paint(job, on_progress, every, kept_at=_path(checkpoint), resume=resume)


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
        batch: how many pictures share a vmapped loop; 1 for one after another. By default as many
            as fit the memory; but one after another with a line search; and on CPUs two at a time,
            if both fit, in a thread each, which is faster there (``benchmarks/NOTES.md``).
        on_progress: as for `stylize`, told of each picture or batch from its first step; its
            ``picture`` says which. Of a batch ``image`` is (k, h, w, 3) and the losses are means.
            Two at a time call it from their threads, but never both at once.
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
    settings = changed(settings, changes)
    _no_blend(settings)
    styles = as_list(styles)
    blends = np.eye(len(styles)).tolist()
    yield from paint_each(
        prepare(content, styles, settings), blends, _batch(batch), on_progress, every
    )


def interpolate(
    content: ImageSource,
    styles: Sequence[ImageSource],
    settings: Settings | None = None,
    *,
    pictures: int = 5,
    batch: int | None = None,
    on_progress: Callable[[Progress], bool | None] | None = None,
    every: int | None = None,
    **changes: Any,
) -> Iterator[Result]:
    """Paint ``content`` in blends that go from the first style to the last, a picture a blend.

    The Gram matrices of two neighbouring styles are mixed linearly, in equal steps. As with
    `stylize_each`, whose other arguments and errors these are, what is shared is computed once and
    one program makes all pictures.

    Args:
        content: as for `stylize`.
        styles: two or more.
        settings: see `Settings`; without style weights, which are set here.
        pictures: how many blends, the first and the last style alone among them.
        batch: and the rest: as for `stylize_each`.

    Raises:
        InputError: as for `stylize_each`; or there are fewer than two styles or pictures.
    """
    settings = changed(settings, changes)
    _no_blend(settings)
    styles = as_list(styles)
    if len(styles) < 2 or pictures < 2:
        raise InputError(
            f"{len(styles)} styles and {pictures} pictures; give at least two styles to go between "
            "and two pictures"
        )
    places = np.linspace(0, len(styles) - 1, pictures)
    blends = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(len(styles)))).tolist()
    yield from paint_each(
        prepare(content, styles, settings), blends, _batch(batch), on_progress, every
    )


def _no_blend(settings: Settings) -> None:
    if settings.style_weights is not None:
        raise InputError("style weights blend styles into one picture; here there are several")
    if settings.masks is not None:
        raise InputError("masks join styles in one picture; here there are several")


def _batch(batch: int | None) -> int | None:
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}; give a whole number from 1 up")
    return batch


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)


def _from_noise(settings: Settings) -> Settings:
    from_content = isinstance(settings.init, str) and settings.init == "content"
    return replace(settings, init="noise") if from_content else settings
