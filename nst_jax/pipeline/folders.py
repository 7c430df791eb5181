"""Every content in every style, into a folder."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nst_jax.errors import DivergedError, InputError
from nst_jax.images import io as images
from nst_jax.optimize.loop import Progress
from nst_jax.pipeline.api import stylize_each
from nst_jax.settings import Settings, changed

__all__ = ["Pair", "pictures_in", "stylize_pairs"]

FORMATS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Pair(NamedTuple):
    """What became of a content in a style."""

    content: Path
    style: Path
    out: Path
    error: Exception | None = None
    """Why there is no picture; None if there is one."""
    skipped: bool = False
    """Whether it was there before."""


def pictures_in(paths: Sequence[Path]) -> list[Path]:
    """Give the files themselves, and the pictures in the folders, by name.

    Raises:
        InputError: a path that is not there, or a folder without pictures.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{str(path)!r} does not exist; give pictures or folders of them")
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in FORMATS)
        if not inside:
            raise InputError(f"the folder {str(path)!r} holds no pictures; put some there")
        found += inside
    return list(dict.fromkeys(found))


def stylize_pairs(
    contents: Sequence[Path],
    styles: Sequence[Path],
    folder: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    suffix: str = ".png",
    batch: int | None = None,
    on_progress: Callable[[Progress], bool | None] | None = None,
    **changes: Any,
) -> Iterator[Pair]:
    """Paint each content in each style, as ``folder/CONTENT-STYLE.png``, and tell of each.

    A picture that is there already is left, so that a run can be taken up again. A file that
    cannot be read or a loss that diverges costs its own pictures alone. The pictures of a content
    run through one compiled program (`nst_jax.stylize_each`), as do contents of the same shape.

    Args:
        contents: picture files.
        styles: picture files.
        folder: where to write; made if it is not there.
        settings: see `Settings`.
        suffix: of the files to write, which names their format.
        batch: as for `nst_jax.stylize_each`.
        on_progress: likewise; returning True ends the run without the pictures under way.
        **changes: single settings by name, over ``settings``.

    Raises:
        InputError: two pairs would be one file, or the folder or format cannot be written.
    """
    folder = Path(folder)
    settings = changed(settings, changes)
    pairs = [
        Pair(content, style, folder / f"{content.stem}-{style.stem}{suffix}")
        for content in contents
        for style in styles
    ]
    _check(pairs, folder)
    broken = {}
    for style in styles:
        try:
            images.read(style, name="style")
        except InputError as error:
            broken[style] = error

    wished = False

    def told(now: Progress) -> bool:
        nonlocal wished
        wish = on_progress is not None and bool(on_progress(now))
        wished = wished or wish
        return wished

    for content in contents:
        left = []
        for pair in pairs:
            if pair.content != content:
                continue
            if pair.out.exists():
                yield pair._replace(skipped=True)
            elif pair.style in broken:
                yield pair._replace(error=broken[pair.style])
            else:
                left.append(pair)
        size = batch
        while left:
            names = [pair.style for pair in left]
            made = stylize_each(content, names, settings, batch=size, on_progress=told)
            try:
                for result in made:
                    if result.settings["stopped"]:
                        return
                    result.save(left[0].out)
                    yield left.pop(0)
            except DivergedError as error:
                if isinstance(error.result, list):  # which of them it was is seen one by one
                    size = 1
                else:
                    yield left.pop(0)._replace(error=error)
            except InputError as error:
                yield from (pair._replace(error=error) for pair in left)
                break


def _check(pairs: Sequence[Pair], folder: Path) -> None:
    """Refuse what would fail at the end of the first picture, or overwrite another."""
    makers: dict[Path, Pair] = {}
    for pair in pairs:
        other = makers.setdefault(pair.out, pair)
        if other is not pair:
            ours, theirs = (f"{p.content.name} with {p.style.name}" for p in (pair, other))
            raise InputError(f"{ours} and {theirs} would both be {pair.out.name!r}; rename one")
        for source in (pair.content, pair.style):
            if pair.out.exists() and pair.out.samefile(source):
                raise InputError(f"{str(source)!r} would be taken for a picture made; rename it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {str(folder)!r} cannot be made: {error.strerror}") from error
    if pairs:
        images.check_output(pairs[0].out)
