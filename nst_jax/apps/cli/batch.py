"""The commands that make many images: ``nst-jax batch`` and ``nst-jax interpolate``."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nst_jax.apps.cli.options import (
    BATCH_OPTIONS,
    FILE,
    FILE_SECTION,
    OUT_OPTION,
    RESUME_OPTION,
    SectionedCommand,
    pop_settings,
    section,
    setting_options,
    with_options,
)
from nst_jax.apps.cli.processes import SHARD_OPTION, Worker, resolve_worker
from nst_jax.errors import InputError, escape
from nst_jax.files import parse_json
from nst_jax.settings import setting_files

if TYPE_CHECKING:
    from nst_jax.pipeline import Progress

__all__ = ["batch", "interpolate"]

SHARED_OPTIONS: Final = (
    *setting_options(without={"style_weights", "masks", "mask_colors"}),
    *BATCH_OPTIONS,
)


@click.command(cls=SectionedCommand)
@click.argument("contents", type=FILE, nargs=-1, required=True)
@with_options(
    section(
        FILE_SECTION,
        click.option(
            "--styles",
            type=FILE,
            multiple=True,
            required=True,
            help="A style image or a folder of them; may be given several times.",
        ),
        click.option("-o", "--out", type=FILE, required=True, help="Folder to write to."),
        click.option(
            "--suffix", default=".png", show_default=True, help="Decides the file format."
        ),
        SHARD_OPTION,
    ),
    SHARED_OPTIONS,
)
def batch(
    contents: tuple[Path, ...],
    styles: tuple[Path, ...],
    out: Path,
    suffix: str,
    shard: Worker | str,
    batch_size: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Stylize each of CONTENTS, files or folders of them, with each style.

    Images are named CONTENT-STYLE.png. An image that exists already stays, so the same command
    continues a run that was stopped. A bad file is reported at the end and stops nothing. Several
    processes, as Slurm or MPI launches them, make a share each and do not wait for each other.
    """
    from nst_jax.apps.cli.run import (
        ProgressBar,
        enable_compilation_cache,
        show_notes,
        stop_on_signal,
    )
    from nst_jax.pipeline import list_images, plan_items, slice_for_worker, stylize_folder

    settings = pop_settings(options)
    show_notes(quiet=quiet)
    for path in (*contents, *styles):
        if path.is_dir() and out.exists() and path.samefile(out):
            raise InputError(f"the folder {str(out)!r} is also an input; choose another")
    content_paths, style_paths = list_images(contents), list_images(styles)
    worker = resolve_worker(shard)
    items = plan_items(content_paths, style_paths, out, suffix)
    own_items = slice_for_worker(items, *worker)
    label = escape(str(out))
    if worker.size > 1:
        origin = ", as the launcher says; --shard 1/1 makes all" if shard == "auto" else ""
        click.echo(
            f"{label}: share {worker.rank + 1} of {worker.size}, {len(own_items)} of "
            f"{len(items)} images{origin}",
            err=True,
        )
    enable_compilation_cache()
    made = skipped = 0
    failures: Counter[str] = Counter()
    with ExitStack() as stack:
        stop_requested = stack.enter_context(stop_on_signal())
        bar = stack.enter_context(closing(ProgressBar(quiet=quiet)))

        def on_progress(progress: "Progress") -> bool:
            bar.update(progress)
            return stop_requested()

        for item in stylize_folder(
            content_paths,
            style_paths,
            out,
            settings,
            suffix=suffix,
            worker=worker,
            batch_size=batch_size,
            on_progress=on_progress,
        ):
            made += item.error is None and not item.skipped
            skipped += item.skipped
            if item.error is not None:
                failures[str(item.error)] += 1
    stopped = made + skipped + failures.total() < len(own_items)
    for failure, count in failures.items():
        click.echo(f"error: {failure} ({count} of the images)", err=True)
    click.echo(f"{label}: {made} images made, {skipped} skipped, {failures.total()} failed")
    if worker.size > 1:
        existing = sum(item.out.is_file() for item in items)
        click.echo(
            f"{label}: share {worker.rank + 1} of {worker.size} ends with {existing} of "
            f"{len(items)} images in the folder"
        )
    if stopped:
        click.echo(f"{label}: stopped; the same command continues", err=True)
    if failures or stopped:
        click.get_current_context().exit(130 if stopped else 2)


@click.command(cls=SectionedCommand)
@click.argument("content", type=FILE)
@click.argument("style", type=FILE, nargs=-1, required=True)
@with_options(
    OUT_OPTION,
    click.option(
        "--num-images",
        type=click.IntRange(2, 1000),
        default=5,
        show_default=True,
        help="How many.",
    ),
    RESUME_OPTION,
    SHARED_OPTIONS,
)
def interpolate(
    content: Path,
    style: tuple[Path, ...],
    out: Path,
    num_images: int,
    batch_size: int | None,
    resume: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Stylize CONTENT with mixes that go from the first STYLE to the last, as one strip.

    Each finished image is written as OUT.N.png until the strip is complete.
    """
    from nst_jax import images
    from nst_jax.apps.cli.run import (
        ProgressBar,
        check_outputs,
        checkpoint_path,
        enable_compilation_cache,
        show_notes,
        stop_on_signal,
    )
    from nst_jax.pipeline import Stylizer, run
    from nst_jax.pipeline.api import interpolation_job

    settings = pop_settings(options)
    show_notes(quiet=quiet)
    check_outputs(out, [])
    panels = [out.with_name(f"{out.name}.{i + 1}.png") for i in range(num_images)]
    for path in (out, *panels):
        check_outputs(path, [content, *style, *map(Path, setting_files(settings))])
    enable_compilation_cache()
    job = interpolation_job(Stylizer(settings), content, style, num_images=num_images)
    height, width = job.levels[-1].shape
    images.check_output_path(out, (height, num_images * width))
    done = 0
    with ExitStack() as stack:
        stop_requested = stack.enter_context(stop_on_signal())
        bar = stack.enter_context(closing(ProgressBar(quiet=quiet)))
        progresses = run(job, batch_size=batch_size, checkpoint=checkpoint_path(out), resume=resume)
        stack.enter_context(closing(progresses))
        for progress in progresses:
            bar.update(progress)
            done = progress.index
            if progress.done:
                for i, result in enumerate(progress.results(), start=progress.index):
                    result.save(panels[i])
                done += progress.batch_size
            if done == num_images:
                write_strip(out, panels)  # The checkpoint is removed only when the iteration ends.
            elif stop_requested():
                break
        if 0 < done < num_images:  # Inside, so that a second signal leaves no half file.
            progresses.close()
            write_strip(out, panels[:done])
    if done == 0:
        click.echo("stopped before the first image was finished", err=True)
        click.get_current_context().exit(130)
    label = escape(str(out))
    if done < num_images:
        click.echo(
            f"{label}: stopped after {done} of {num_images} images; the same command with --resume "
            "continues",
            err=True,
        )
        click.get_current_context().exit(130)
    click.echo(f"{label}: {num_images * width}x{height}, {num_images} images")
    for panel in panels:
        with suppress(OSError):
            panel.unlink()


def write_strip(out: Path, panels: Sequence[Path]) -> None:
    """Write the images of the panels side by side, with the metadata of each."""
    import numpy as np

    from nst_jax import images

    pixels, metadata = [], []
    for panel in panels:
        pixels.append(images.read(panel).pixels)
        try:
            metadata.append(parse_json(images.read_metadata(panel).get("nst_jax")))
        except ValueError:
            metadata.append(None)
        if metadata[-1] is None or pixels[-1].shape[0] != pixels[0].shape[0]:
            raise InputError(f"{str(panel)!r} is not of this strip; start without --resume")
    strip = np.concatenate(pixels, axis=1)
    images.write(out, strip, metadata={"nst_jax": json.dumps(metadata)})
