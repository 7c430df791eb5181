"""``nst-jax apply``: photos in the style of a painting in one pass of a network."""

import json
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import click

from nst_jax.apps.cli.options import (
    FILE,
    QUIET_OPTION,
    SectionedCommand,
    SettingType,
)
from nst_jax.errors import InputError, escape

__all__ = ["apply"]


@click.command(cls=SectionedCommand)
@click.argument("photos", type=FILE, nargs=-1, required=True)
@click.option(
    "--style",
    "styles",
    type=FILE,
    multiple=True,
    required=True,
    help="A painting; several are blended.",
)
@click.option(
    "-o", "--out", type=FILE, required=True, help="Image to write; of several photos, a folder."
)
@click.option(
    "--style-weights",
    type=SettingType("style_weights"),
    help="Mixing weight of each style.  [default: equal]",
)
@click.option(
    "--size",
    type=SettingType("size"),
    default=512,
    show_default=True,
    help="Longest side of the output; original: the photo's.",
)
@click.option(
    "--suffix", default=".png", show_default=True, help="Decides the file format in a folder."
)
@QUIET_OPTION
def apply(
    photos: tuple[Path, ...],
    styles: tuple[Path, ...],
    out: Path,
    style_weights: tuple[float, ...] | None,
    size: int | None,
    suffix: str,
    quiet: bool,
) -> None:
    """Paint PHOTOS, files or folders of them, in the style of a painting, without optimization.

    It takes about a second where stylize takes a minute, and its images are rougher. In a folder
    they are named PHOTO-STYLE.png. A bad photo is reported at the end and stops nothing.
    """
    from tqdm import tqdm

    from nst_jax import images
    from nst_jax.apps.cli.run import check_outputs, enable_compilation_cache
    from nst_jax.losses.objective import normalize_weights
    from nst_jax.pipeline import list_images
    from nst_jax.pipeline.at_once import blend, image_at_once, style_square, style_vector
    from nst_jax.pipeline.caches import Executables
    from nst_jax.settings import Settings

    Settings(size=size, style_weights=style_weights)  # refuses what is out of range
    sources = list_images(photos)
    outputs = [out]
    if to_folder := len(sources) > 1 or photos[0].is_dir():
        outputs = _outputs_in_folder(photos, sources, styles, out, suffix)
    for path in outputs:
        check_outputs(path, [*sources, *styles])
    shares = normalize_weights(len(styles), style_weights)
    squares = [style_square(images.read(style, name="style").pixels) for style in styles]
    enable_compilation_cache()
    executables = Executables()
    vector = blend([style_vector(executables, square) for square in squares], shares)
    failures: Counter[str] = Counter()
    pairs = list(zip(sources, outputs, strict=True))
    for photo, path in tqdm(pairs, unit=" images", disable=quiet or not to_folder):
        try:
            data = images.read(photo, name="photo")
            shape = data.pixels.shape[:2]
            shape = shape if size is None else images.fit_longest_side(shape, size)
            pixels = image_at_once(executables, images.resize(data.pixels, shape), vector)
            alpha = None if data.alpha is None else images.resize(data.alpha, shape)
            images.write(path, pixels, alpha=alpha, metadata=_metadata(photo, styles, shares))
        except InputError as error:
            if not to_folder:
                raise
            failures[str(error)] += 1
            continue
        if not to_folder:
            click.echo(f"{escape(str(out))}: {shape[1]}x{shape[0]}")
    for failure in failures:
        click.echo(f"error: {failure}", err=True)
    if to_folder:
        made = len(sources) - failures.total()
        click.echo(f"{escape(str(out))}: {made} images made, {failures.total()} failed")
    if failures:
        click.get_current_context().exit(2)


def _outputs_in_folder(
    photos: Sequence[Path], sources: Sequence[Path], styles: Sequence[Path], out: Path, suffix: str
) -> list[Path]:
    """Make the folder and return the output of each source.

    Raises:
        InputError: the folder is one of ``photos`` or cannot be made, or two outputs are one file.
    """
    if any(path.is_dir() and out.exists() and path.samefile(out) for path in photos):
        raise InputError(f"the folder {str(out)!r} is also an input; choose another")
    name = "-".join(style.stem for style in styles)
    outputs = [out / f"{source.stem}-{name}{suffix}" for source in sources]
    twice = [path for path, count in Counter(outputs).items() if count > 1]
    if twice:
        raise InputError(f"two photos would both be written to {str(twice[0])!r}; rename one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {str(out)!r} cannot be created: {error.strerror}") from error
    return outputs


def _metadata(photo: Path, styles: Sequence[Path], shares: Sequence[float]) -> dict[str, str]:
    """Return what made an image; no settings of a job, so not under their key."""
    made = {
        "content": photo.name,
        "styles": [style.name for style in styles],
        "style_weights": list(shares),
        "network": "arbitrary",
    }
    return {"Software": f"nst_jax {version('nst-jax')}", "nst_jax.apply": json.dumps(made)}
