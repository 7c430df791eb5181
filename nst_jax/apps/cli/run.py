"""A job at the command line: progress, previews, a trace, Ctrl-C, and a picture at the end."""

import json
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import click
import jax
from tqdm import tqdm

from nst_jax.apps import plots
from nst_jax.errors import DivergedError, InputError
from nst_jax.images import io as images
from nst_jax.images.grid import contact_sheet
from nst_jax.models.weights.load import cache_folder
from nst_jax.optimize.loop import Progress
from nst_jax.pipeline import programs
from nst_jax.pipeline.result import Result

__all__ = ["run"]

log = logging.getLogger("nst_jax")


def run(
    job: Callable[..., Result],
    inputs: tuple[Path, ...],
    more: tuple[Path, ...],
    *,
    out: Path,
    trace: Path | None,
    save_every: int | None,
    plot: Path | None,
    sheet: Path | None,
    quiet: bool,
    resume: bool,
) -> bool:
    """Do ``job(on_progress=…, every=…, checkpoint=…, resume=…)`` and save its picture; False if
    Ctrl-C cut it short.

    ``inputs`` are the pictures that a sheet shows, ``more`` other files that are read.

    Files are opened when there is something to write, so that a job that cannot start leaves
    everything as it was. A preview or a trace that cannot be written is no reason to lose the
    picture: it is told once, and the job goes on.

    Raises:
        InputError: bad input, or files in each other's way.
        DivergedError: after the last good picture has been saved.
    """
    check_files(out, trace, (*inputs, *more), previews=save_every is not None)
    check_extras(plot, sheet, (*inputs, *more, out, *([trace] if trace else [])))
    keep_compiled_programs()
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    with ExitStack() as open_files, stop_on_interrupt() as interrupted:
        show = Bar(open_files, quiet)
        record = Trace(open_files, trace, resume=resume)

        def on_progress(progress: Progress) -> bool:
            show(progress)
            record(progress)
            if save_every and progress.step % save_every == 0:
                save_preview(out, progress)
            return interrupted(started=True)

        try:
            result = job(
                on_progress=on_progress,
                every=save_every,
                checkpoint=out.with_name(f"{out.name}.checkpoint"),
                resume=resume,
            )
        except DivergedError as error:
            error.result.save(out)
            save_extras(plot, sheet, inputs, out, error.result)
            click.echo(f"{out}: the picture of step {error.step}, the last good one", err=True)
            raise
    result.save(out)
    save_extras(plot, sheet, inputs, out, result)
    return tell(out, result.settings)


def keep_compiled_programs() -> None:
    """Keep what is traced and compiled in the cache folder, so that the next job of the same shapes
    starts sooner. A cache that the user has set up already stays as it is, and one that cannot be
    written is done without."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    programs.keep_in(folder)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def check_files(out: Path, trace: Path | None, inputs: tuple[Path, ...], *, previews: bool) -> None:
    """Refuse outputs that cannot be written or would overwrite another file of the job."""
    images.check_output(out)
    pattern = re.compile(rf"{re.escape(out.stem)}-\d{{6,}}{re.escape(out.suffix)}")
    for source in inputs:
        beside = source.absolute().parent == out.absolute().parent
        if previews and beside and pattern.fullmatch(source.name):
            raise InputError(f"a preview could overwrite {str(source)!r}; choose another output")
        if same_file(out, source):
            raise InputError(f"output {str(out)!r} is also an input; choose another name")
        if trace and same_file(trace, source):
            raise InputError(f"trace {str(trace)!r} is also an input; choose another name")
    if trace is None:
        return
    if same_file(trace, out) or trace.absolute() == out.absolute():
        raise InputError(f"trace {str(trace)!r} is also the output; choose another name")
    if os.path.isdir(trace) or not os.access(trace.parent, os.W_OK):  # noqa: PTH112
        raise InputError(f"trace {str(trace)!r}: not a file in a folder that can be written")
    if os.access(trace, os.F_OK) and not os.access(trace, os.W_OK):
        raise InputError(f"trace {str(trace)!r} is read-only; choose another name")


def check_extras(plot: Path | None, sheet: Path | None, others: tuple[Path, ...]) -> None:
    """Refuse a plot or a sheet that cannot be written or would overwrite a file of the job."""
    for name, path, check in (
        ("plot", plot, plots.check_output),
        ("sheet", sheet, images.check_output),
    ):
        if path is None:
            continue
        check(path)
        if any(same_file(path, other) or path.absolute() == other.absolute() for other in others):
            raise InputError(f"{name} {str(path)!r} is another file of this job; rename it")
        others = (*others, path)


def save_extras(
    plot: Path | None, sheet: Path | None, inputs: tuple[Path, ...], out: Path, result: Result
) -> None:
    """Draw the losses, and the inputs beside the picture; the picture is saved already."""
    try:
        if plot is not None and result.history:
            plots.plot_losses(result.history, plot)
        if sheet is not None:
            height = len(result.image)
            shown = [images.read(source).pixels for source in inputs]
            shown = [
                images.resize(pixels, (height, max(1, round(w * height / h))))
                for pixels in shown
                for h, w in [pixels.shape[:2]]
            ]
            names = [source.name for source in (*inputs, out)]
            images.write(sheet, contact_sheet([*shown, result.image], names))
    except InputError as error:
        log.warning("%s", error)


def same_file(a: Path, b: Path) -> bool:
    """Tell whether both exist and are one file; a name too long for the system does not."""
    return os.path.exists(a) and os.path.exists(b) and a.samefile(b)  # noqa: PTH110


def tell(out: Path, made: dict[str, Any]) -> bool:
    """Say what was made; False if Ctrl-C cut it short."""
    if made["stopped"]:
        done = f"{made['steps_done']} of {made['steps_wanted']}"
        click.echo(
            f"{out}: stopped after {done} steps; the picture so far, of "
            f"{made['width']}x{made['height']}; the same command with --resume goes on",
            err=True,
        )
        return False
    early = ", where it converged" if made["converged"] else ""
    scales = made["scales"]
    scales = f" at {len(scales)} scales with {made['programs']} programs" if scales[1:] else ""
    click.echo(
        f"{out}: {made['width']}x{made['height']}, {made['steps_done']} steps{scales}{early} in "
        f"{made['seconds']:.0f} s, {made['model'].upper()}, {made['dtype']} on {made['device']}"
    )
    return True


def save_preview(out: Path, progress: Progress) -> None:
    """Save the picture so far beside the output: ``out.png`` gives ``out-000050.png``."""
    path = out.with_name(f"{out.stem}-{progress.step:06d}{out.suffix}")
    try:
        images.write(path, progress.image)
    except InputError as error:
        log.warning("no preview: %s", error)


class Bar:
    """Shows loss, step rate and time left; it comes with the first chunk, so that an error before
    that stands alone."""

    def __init__(self, open_files: ExitStack, quiet: bool) -> None:
        self.open_files = open_files
        self.quiet = quiet or sys.stderr is None
        self.bar: tqdm[Any] | None = None

    def __call__(self, progress: Progress) -> None:
        """Move on to the chunk's end."""
        if self.quiet:
            return
        if self.bar is None:
            self.bar = tqdm(total=progress.steps, unit="step", dynamic_ncols=True)
            self.bar.start_t -= progress.seconds  # the first chunk counts too
            self.bar.initial = progress.losses[0]["step"] - 1  # after --resume
            self.bar.n = self.bar.initial
            self.open_files.enter_context(self.bar)
        self.bar.set_postfix(loss=f"{progress.losses[-1]['total']:.4g}", refresh=False)
        self.bar.update(progress.step - self.bar.n)


class Trace:
    """Writes the losses, a JSON object a step, with the seconds so far at each chunk's end."""

    def __init__(self, open_files: ExitStack, path: Path | None, *, resume: bool) -> None:
        self.open_files, self.path, self.resume = open_files, path, resume
        self.file: IO[bytes] | None = None

    def __call__(self, progress: Progress) -> None:
        """Append the chunk."""
        if self.path is None:
            return
        *before, last = progress.losses
        entries = [*before, last | {"seconds": round(progress.seconds, 3)}]
        try:
            if self.file is None:
                kept = self.kept_before(entries[0]["step"])
                # Unbuffered: nothing is left to be written, and to fail, when it is closed.
                self.file = self.open_files.enter_context(self.path.open("wb", buffering=0))
                self.file.write(kept)
            self.file.write("".join(json.dumps(entry) + "\n" for entry in entries).encode())
        except OSError as error:
            log.warning("trace %r ends here: %s", str(self.path), error.strerror)
            self.path = None

    def kept_before(self, step: float) -> bytes:
        """What an interrupted run has written up to the checkpoint that this one goes on from."""
        if not self.resume or self.path is None or not self.path.exists():
            return b""
        lines = self.path.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        try:
            return b"".join(line for line in whole if json.loads(line)["step"] < step)
        except (ValueError, TypeError, KeyError):
            log.warning("trace %r was not of this job; it begins anew", str(self.path))
            return b""


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[..., bool]]:
    """Turn the first Ctrl-C or SIGTERM, once steps are under way, into a wish to stop after the
    chunk. Before the first step, and the second time, it interrupts at once."""
    state = {"started": False, "wanted": False}

    def handle(signum: int, frame: Any) -> None:
        again, state["wanted"] = state["wanted"], True
        if again or not state["started"]:
            # Python ignores what is raised during a garbage collection; the wish stays.
            raise KeyboardInterrupt
        os.write(2, b"\nstopping after this step; Ctrl-C again to give up\n")

    def interrupted(*, started: bool) -> bool:
        state["started"] = started
        return state["wanted"]

    usual = {wish: signal.signal(wish, handle) for wish in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for wish, handler in usual.items():
            signal.signal(wish, handler)
