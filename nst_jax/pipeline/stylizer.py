"""`Stylizer`: what is made once, and images made with it one after another."""

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from nst_jax.errors import InputError, short_repr
from nst_jax.images import ImageSource
from nst_jax.pipeline.engine import Engine, make_engine
from nst_jax.pipeline.job import Job, prepare_job
from nst_jax.pipeline.result import Result
from nst_jax.pipeline.runner import Progress, collect, run
from nst_jax.settings import ENGINE_SETTINGS, Settings, SettingsOverrides, override

__all__ = ["OnProgress", "Stylizer"]

OnProgress = Callable[[Progress], bool | None]


class Stylizer:
    """A network, its parameters and an optimizer, made once for many images.

    The first job loads the weights. The second image of the same shapes reads no weights, computes
    no targets of a style again, and traces and compiles nothing. Targets of styles are kept by the
    content of the image and by the level's shape, up to 256 MiB, and compiled programs up to 128.

    Args:
        settings: see `Settings`. Those of the network, the losses' layers, the optimizer and the
            devices are fixed here (`nst_jax.settings.ENGINE_SETTINGS`). The others are the
            defaults of the images.
        **overrides: single settings by name, over ``settings``.

    Raises:
        InputError: devices or an optimizer that cannot be used.

    >>> import numpy as np
    >>> photo, other, painting = np.random.default_rng(0).random((3, 16, 16, 3))
    >>> layers = {"content_layers": {"relu1_1": 1}, "style_layers": {"relu1_1": 1}}
    >>> stylizer = Stylizer(model="vgg16", optimizer="adam", size=16, steps=2, **layers)
    >>> stylizer(photo, painting)  # compiles
    Result(16x16, 2 steps)
    >>> stylizer(other, painting, content_weight=0.1)  # only steps
    Result(16x16, 2 steps)
    """

    def __init__(
        self, settings: Settings | None = None, **overrides: Unpack[SettingsOverrides]
    ) -> None:
        self.engine: Engine = make_engine(override(settings, overrides))

    @property
    def settings(self) -> Settings:
        """The settings that it was made with."""
        return self.engine.settings

    def __repr__(self) -> str:
        """Return a short text without arrays."""
        engine = self.engine
        return f"Stylizer({engine.network}, {engine.dtype}, {engine.optimizer_name})"

    def __call__(
        self,
        content: ImageSource,
        style: ImageSource | Sequence[ImageSource],
        *,
        on_progress: OnProgress | None = None,
        callback_every: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        arrays: Mapping[str, Any] | None = None,
        **image_settings: Unpack[SettingsOverrides],
    ) -> Result:
        """Stylize ``content`` with one or more style images; see `nst_jax.stylize`.

        Raises:
            InputError: as in `nst_jax.stylize`; or a setting belongs to the stylizer.
            DivergedError: as in `nst_jax.stylize`.
        """
        job = self.job(content, style, arrays=arrays, **image_settings)
        options: dict[str, Any] = {"callback_every": callback_every, "resume": resume}
        progresses = run(job, checkpoint=checkpoint_file(checkpoint), **options)
        (result,) = collect(progresses, on_progress)
        return result

    def job(
        self,
        content: ImageSource | None,
        styles: ImageSource | Sequence[ImageSource],
        *,
        mixes: Sequence[Sequence[float]] | None = None,
        arrays: Mapping[str, Any] | None = None,
        **image_settings: Unpack[SettingsOverrides],
    ) -> Job:
        """Read the images of a job and decide its levels.

        Args:
            content: a path, PIL image or array; None for a texture.
            styles: such an image, or a list of them.
            mixes: the weight of each style, for each image to be made; None for one image with the
                settings' ``style_weights``.
            arrays: as in `nst_jax.stylize`.
            **image_settings: single settings of these images.

        Raises:
            InputError: an image, a setting or weights that cannot be used, or a setting of the
                stylizer.

        >>> import numpy as np
        >>> photo, painting = np.random.default_rng(0).random((2, 48, 64, 3))
        >>> layers = {"content_layers": {"relu1_1": 1}, "style_layers": {"relu1_1": 1}}
        >>> stylizer = Stylizer(model="vgg16", **layers)
        >>> job = stylizer.job(photo, painting, size=32, min_size=16)
        >>> [level.shape for level in job.levels], job.num_steps
        ([(17, 23), (24, 32)], 300)
        """
        for name in image_settings:
            if name in ENGINE_SETTINGS:
                raise InputError(
                    f"{name} belongs to the stylizer and is fixed when it is made; make another "
                    f"one, with {name}={short_repr(image_settings[name])}"
                )
        settings = override(self.settings, image_settings)
        return prepare_job(self.engine, content, styles, settings, mixes=mixes, arrays=arrays)

    def run(self, jobs: Job | Iterable[Job], **options: Any) -> Generator[Progress, None, None]:
        """Run jobs one after another, chunk by chunk; the caller owns the loop.

        Args:
            jobs: from `job`; they may come from a generator.
            **options: as in `nst_jax.run`.

        Raises:
            InputError: as in `nst_jax.run`.
            DivergedError: as in `nst_jax.run`.
        """
        for job in [jobs] if isinstance(jobs, Job) else jobs:
            yield from run(job, **options)


def checkpoint_file(checkpoint: str | os.PathLike[str] | None) -> Path | None:
    """Return the path of a checkpoint.

    Raises:
        InputError: it is no path.
    """
    if checkpoint is not None and not isinstance(checkpoint, str | os.PathLike):
        raise InputError(f"checkpoint is {short_repr(checkpoint)}; give the path of a file")
    return None if checkpoint is None else Path(checkpoint)
