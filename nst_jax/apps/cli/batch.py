"""The commands that make many pictures: ``nst-jax batch | interpolate``."""

import json
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nst_jax.apps.cli.options import (
    BALANCE_OPTIONS,
    BATCH_OPTIONS,
    COLOR_OPTIONS,
    COMMON_OPTIONS,
    CONTENT_INIT_OPTIONS,
    CONTENT_OPTIONS,
    FILE,
    OUT_OPTIONS,
    PRESETS,
    QUIET_OPTIONS,
    SCALE_OPTIONS,
    SIZE_OPTIONS,
    STYLE_OPTIONS,
    given,
    with_options,
)
from nst_jax.errors import InputError

if TYPE_CHECKING:
    from nst_jax.optimize.loop import Progress

__all__ = ["INTERRUPTED", "batch", "interpolate"]

BAD_INPUT: Final = 2
INTERRUPTED: Final = 130
SHARED_OPTIONS: Final = (
    *SIZE_OPTIONS,
    *SCALE_OPTIONS,
    *BALANCE_OPTIONS,
    *CONTENT_INIT_OPTIONS,
    *STYLE_OPTIONS,
    *CONTENT_OPTIONS,
    *COLOR_OPTIONS,
    *COMMON_OPTIONS,
    *BATCH_OPTIONS,
    *QUIET_OPTIONS,
)


@click.command()
@click.argument("contents", type=FILE, nargs=-1, required=True)
@with_options(
    (
        click.option(
            "--styles",
            type=FILE,
            multiple=True,
            required=True,
            help="A style picture, or a folder of them; may be given several times.",
        ),
        click.option("-o", "--out", type=FILE, required=True, help="The folder to write to."),
        click.option(
            "--suffix", default=".png", show_default=True, help="Of the files, for their format."
        ),
    ),
    SHARED_OPTIONS,
)
def batch(
    contents: tuple[Path, ...],
    styles: tuple[Path, ...],
    out: Path,
    suffix: str,
    batch: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Paint each of CONTENTS, files or folders of them, in each style.

    Pictures are named CONTENT-STYLE.png. Those that are there already are left, so that the same
    command takes up a run that was stopped. A bad file is told at the end and stops nothing.
    """
    from nst_jax.apps.cli.run import keep_compiled_programs, stop_on_interrupt
    from nst_jax.pipeline.folders import pictures_in, stylize_pairs

    preset = PRESETS[options.pop("preset")]
    for path in (*contents, *styles):
        if path.is_dir() and out.exists() and path.samefile(out):
            raise InputError(f"the folder {str(out)!r} is also an input; choose another")
    found, painters = pictures_in(contents), pictures_in(styles)
    keep_compiled_programs()
    made = skipped = 0
    failures: Counter[str] = Counter()
    with ExitStack() as open_files, stop_on_interrupt() as interrupted:
        bar = Pictures(open_files, len(found) * len(painters), quiet=quiet)

        def on_progress(progress: "Progress") -> bool:
            bar.follow(progress)
            return interrupted(started=True)

        for pair in stylize_pairs(
            found,
            painters,
            out,
            preset,
            suffix=suffix,
            batch=batch,
            on_progress=on_progress,
            **given(options),
        ):
            bar.advance()
            made += pair.error is None and not pair.skipped
            skipped += pair.skipped
            if pair.error is not None:
                failures[str(pair.error)] += 1
        finished = made + skipped + failures.total() == len(found) * len(painters)
        stopped = interrupted(started=True) and not finished
    for failure, pictures in failures.items():
        click.echo(f"error: {failure} ({pictures} of the pictures)", err=True)
    click.echo(f"{out}: {made} pictures made, {skipped} there before, {failures.total()} failed")
    if stopped:
        click.echo(f"{out}: stopped; the same command goes on", err=True)
    if failures or stopped:
        click.get_current_context().exit(INTERRUPTED if stopped else BAD_INPUT)


@click.command()
@click.argument("content", type=FILE)
@click.argument("style", type=FILE, nargs=-1, required=True)
@with_options(
    OUT_OPTIONS,
    (
        click.option(
            "--pictures", type=click.IntRange(2), default=5, show_default=True, help="How many."
        ),
    ),
    SHARED_OPTIONS,
)
def interpolate(
    content: Path,
    style: tuple[Path, ...],
    out: Path,
    pictures: int,
    batch: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Paint CONTENT in blends that go from the first STYLE to the last, as one strip."""
    import numpy as np

    from nst_jax.apps.cli.run import check_files, keep_compiled_programs, stop_on_interrupt
    from nst_jax.images import io as images
    from nst_jax.pipeline import api as stylization

    preset = PRESETS[options.pop("preset")]
    check_files(out, None, (content, *style), previews=False)
    keep_compiled_programs()
    made = []
    with ExitStack() as open_files, stop_on_interrupt() as interrupted:
        bar = Pictures(open_files, pictures, quiet=quiet)

        def on_progress(progress: "Progress") -> bool:
            bar.follow(progress)
            return interrupted(started=True)

        for result in stylization.interpolate(
            content,
            style,
            preset,
            pictures=pictures,
            batch=batch,
            on_progress=on_progress,
            **given(options),
        ):
            if result.settings["stopped"]:
                break
            bar.advance()
            made.append(result)
    if not made:
        click.echo("stopped before the first picture was done", err=True)
        click.get_current_context().exit(INTERRUPTED)
    strip = np.concatenate([result.image for result in made], axis=1)
    images.write(out, strip, metadata={"nst_jax": json.dumps([r.settings for r in made])})
    click.echo(f"{out}: {strip.shape[1]}x{strip.shape[0]}, {len(made)} pictures")
    if len(made) < pictures:
        click.echo(f"{out}: stopped after {len(made)} of {pictures} pictures", err=True)
        click.get_current_context().exit(INTERRUPTED)


class Pictures:
    """Shows how many pictures are done, and the loss and step of those under way; it comes with the
    first step, so that an error before that stands alone."""

    def __init__(self, open_files: ExitStack, total: int, *, quiet: bool) -> None:
        from tqdm import tqdm

        self.open = partial(tqdm, total=total, unit="picture", dynamic_ncols=True, disable=quiet)
        self.open_files, self.done = open_files, 0
        self.bar: tqdm[Any] | None = None

    def follow(self, progress: "Progress") -> None:
        """Show where the pictures under way are."""
        if self.bar is None:
            self.bar = self.open_files.enter_context(self.open(initial=self.done))
        loss = progress.losses[-1]["total"]
        self.bar.set_postfix(step=f"{progress.step}/{progress.steps}", loss=f"{loss:.4g}")

    def advance(self) -> None:
        """Count a picture."""
        self.done += 1
        if self.bar is not None:
            self.bar.update()
