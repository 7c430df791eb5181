"""Each content in each style, into a folder."""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple, TypeVar, Unpack

from nst_jax import images
from nst_jax.errors import DivergedError, InputError
from nst_jax.pipeline import checkpoint as checkpoints
from nst_jax.pipeline.api import many_styles_job
from nst_jax.pipeline.runner import Progress, run
from nst_jax.pipeline.stylizer import Stylizer
from nst_jax.settings import Settings, SettingsOverrides

__all__ = ["FolderItem", "list_images", "plan_items", "slice_for_worker", "stylize_folder"]

CHECKPOINT_NAME: Final = ".nst_jax.checkpoint"
READABLE_SUFFIXES: Final = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


T = TypeVar("T")


class FolderItem(NamedTuple):
    """What became of one content in one style."""

    content: Path
    style: Path
    out: Path
    error: Exception | None = None
    """Why there is no image; None if there is one."""
    skipped: bool = False
    """Whether the image was there before."""


def list_images(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the files themselves, and the images in the folders, by name.

    Raises:
        InputError: a path does not exist, a folder has no images, or ``paths`` is no list.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.jpg", "notes.txt"):
    ...         (Path(folder) / name).touch()
    ...     [path.name for path in list_images([Path(folder)])]
    ['a.jpg', 'b.png']
    """
    files: list[Path] = []
    for path in _as_paths(paths):
        if not path.exists():
            raise InputError(f"{str(path)!r} does not exist; give images or folders of them")
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(f for f in path.iterdir() if f.suffix.lower() in READABLE_SUFFIXES)
        if not inside:
            raise InputError(f"the folder {str(path)!r} has no images; put some there")
        files += inside
    return list(dict.fromkeys(files))


def _as_paths(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(paths, str | os.PathLike):
        raise InputError(f"{os.fspath(paths)!r} is one path; give a list, such as [path]")
    return [Path(path) for path in paths]


def plan_items(
    contents: Sequence[Path], styles: Sequence[Path], folder: Path, suffix: str
) -> list[FolderItem]:
    """Return an item for each content and style: ``folder/CONTENT-STYLE.png``.

    >>> from pathlib import Path
    >>> (item,) = plan_items([Path("cat.jpg")], [Path("ink.jpg")], Path("out"), ".png")
    >>> item.out.name
    'cat-ink.png'
    """
    return [
        FolderItem(content, style, folder / f"{content.stem}-{style.stem}{suffix}")
        for content in contents
        for style in styles
    ]


def slice_for_worker(items: Sequence[T], rank: int, size: int) -> Sequence[T]:
    """Return the items of the worker with this rank, of ``size`` that take nearly equal parts.

    Raises:
        InputError: the rank is not from 0 to below ``size``.

    >>> [slice_for_worker("abcde", i, 3) for i in range(3)]
    ['a', 'bc', 'de']
    """
    if not 0 <= rank < size:
        raise InputError(f"there is no worker of rank {rank} among {size}; count from 0")
    return items[len(items) * rank // size : len(items) * (rank + 1) // size]


def stylize_folder(
    contents: Sequence[str | os.PathLike[str]],
    styles: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    suffix: str = ".png",
    worker: tuple[int, int] = (0, 1),
    batch_size: int | None = None,
    on_progress: Callable[[Progress], bool | None] | None = None,
    **overrides: Unpack[SettingsOverrides],
) -> Iterator[FolderItem]:
    """Stylize each content with each style, as ``folder/CONTENT-STYLE.png``.

    An image that exists already stays, so a run can be continued. A stopped run saves a checkpoint
    in the folder, and the next run continues from it. A file that cannot be read and a loss that
    diverges cost their own images only. The images of a content use one compiled loop
    (`nst_jax.stylize_many`), and so do contents of the same shape.

    Args:
        contents: image files.
        styles: image files.
        folder: where to write; created if it does not exist.
        settings: see `Settings`.
        suffix: the suffix of the files, which decides their format.
        worker: (rank, size): make only the share of the images for this one of several processes,
            whose ranks count from 0. They need not know of each other, and a lost one costs its own
            share.
        batch_size: as in `nst_jax.stylize_many`.
        on_progress: as in `nst_jax.stylize`; returning True stops the run.
        **overrides: single settings by name, over ``settings``.

    Yields:
        `FolderItem`: one for each content and style, when it is decided what becomes of it.

    Raises:
        InputError: two items would be one file, the folder or format cannot be written, or there is
            no such share.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import nst_jax
    >>> layers = {"content_layers": {"relu1_1": 1}, "style_layers": {"relu1_1": 1}}
    >>> quick = nst_jax.Settings(size=16, steps=2, optimizer="adam", model="vgg16", **layers)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [Path(folder) / name for name in ("cat.png", "ink.png")]
    ...     for path in paths:
    ...         nst_jax.images.write(path, np.random.default_rng(0).random((16, 16, 3)))
    ...     for item in stylize_folder(paths[:1], paths[1:], f"{folder}/out", quick):
    ...         print(item.out.name, item.error)
    cat-ink.png None
    """
    folder = Path(folder)
    items = plan_items(_as_paths(contents), _as_paths(styles), folder, suffix)
    _check_items(items, folder)
    items = slice_for_worker(items, *worker)
    stylizer = Stylizer(settings, **overrides)  # It reads the network, which takes a while.
    checkpoint = folder / CHECKPOINT_NAME
    rank, size = worker
    if size > 1:
        checkpoint = folder / f".nst_jax.{rank + 1}-of-{size}.checkpoint"
    unreadable = {}
    for style in dict.fromkeys(item.style for item in items):
        try:
            images.read(style, name="style")
        except InputError as error:
            unreadable[style] = error

    for content in dict.fromkeys(item.content for item in items):
        pending = []
        for item in items:
            if item.content != content:
                continue
            if item.out.is_dir():
                error = InputError(f"output {str(item.out)!r}: is a folder; rename or remove it")
                yield item._replace(error=error)
            elif item.out.exists():
                yield item._replace(skipped=True)
            elif item.style in unreadable:
                yield item._replace(error=unreadable[item.style])
            else:
                pending.append(item)
        images_at_once, resume = batch_size, True
        while pending:
            try:
                stopped = yield from _stylize_pending(
                    pending, checkpoint, stylizer, images_at_once, on_progress, resume=resume
                )
                if stopped:
                    return
            except DivergedError:  # Of a batch: one by one from the start, to see which it was.
                images_at_once, resume = 1, False
            except InputError as error:
                yield from (item._replace(error=error) for item in pending)
                break


def _stylize_pending(
    pending: list[FolderItem],
    checkpoint: Path,
    stylizer: Stylizer,
    batch_size: int | None,
    on_progress: Callable[[Progress], bool | None] | None,
    *,
    resume: bool,
) -> Generator[FolderItem, None, bool]:
    """Stylize one content with several styles. Each item that is saved or that diverges leaves
    ``pending`` and is yielded; after one that diverges, the rest stays. Returns whether the caller
    stopped the run.

    Raises:
        DivergedError: an image of a batch diverged.
    """
    items = list(pending)
    job = many_styles_job(stylizer, items[0].content, [item.style for item in items])
    images.check_output_path(items[0].out, job.levels[-1].shape)
    saved_index = checkpoints.index_of(checkpoint, job) if resume else None
    progresses = run(
        job, batch_size=batch_size, checkpoint=checkpoint, resume=saved_index is not None
    )
    index = saved_index or 0
    stop = False
    try:
        with closing(progresses):
            for progress in progresses:
                stop = on_progress is not None and bool(on_progress(progress))
                if progress.done:
                    index = progress.index + progress.batch_size
                    batch = items[progress.index : index]
                    for item, result in zip(batch, progress.results(), strict=True):
                        result.save(item.out)
                        pending.remove(item)
                        yield item
                if stop and not (progress.done and progress.is_last):
                    return True
    except DivergedError as error:
        if len(error.results) > 1:
            raise
        pending.remove(items[index])
        yield items[index]._replace(error=error)
    return stop


def _check_items(items: Sequence[FolderItem], folder: Path) -> None:
    """Refuse what would fail after the first image, or write two images to one file."""
    claimed_by: dict[Path, FolderItem] = {}
    for item in items:
        other = claimed_by.setdefault(item.out, item)
        if other is not item:
            both = (f"{i.content.name} with {i.style.name}" for i in (item, other))
            raise InputError(
                f"{' and '.join(both)} would both be written to {item.out.name!r}; rename one"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {str(folder)!r} cannot be created: {error.strerror}"
        ) from error
    if items:
        images.check_output_path(items[0].out)
