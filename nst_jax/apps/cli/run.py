"""One job at the command line: progress, previews, a log, Ctrl-C, and an image at the end."""

import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import click
import jax
import numpy as np
from tqdm import tqdm

from nst_jax import images
from nst_jax.apps import plots
from nst_jax.apps.cli.processes import initialize_processes
from nst_jax.errors import DivergedError, InputError, OutOfMemoryError, escape
from nst_jax.files import parse_json, write_atomically
from nst_jax.networks.weights import cache_dir
from nst_jax.optimize import History, allgather
from nst_jax.pipeline import Job, Progress, Result, collect, run
from nst_jax.settings import Settings, setting_files

__all__ = [
    "MetricsWriter",
    "ProgressBar",
    "check_outputs",
    "checkpoint_path",
    "enable_compilation_cache",
    "is_same_file",
    "run_command",
    "show_notes",
    "stop_on_signal",
    "trim_folder",
]

log = logging.getLogger("nst_jax")

MAX_COMPILED_BYTES: Final = 2 * 2**30
"""The bound of the cache of compiled executables, checked when a command starts."""


def run_command(
    prepare: Callable[[], Job],
    settings: Settings,
    inputs: Sequence[Path],
    options: dict[str, Any],
) -> None:
    """Run the job of one image and write the image; exit with 130 if Ctrl-C cut it short.

    Files are written only when there is something to write, so that a job that cannot start changes
    nothing. A preview or a log that cannot be written is reported once, and the job continues.

    Args:
        prepare: returns the job.
        settings: the job's settings, whose files must not be overwritten.
        inputs: the other files that the job reads.
        options: the command's options that are not settings.

    Raises:
        InputError: bad input, or an output that is also another file of the job.
        DivergedError: after the last finite image is written.
        OutOfMemoryError: after the image so far is written.
    """
    out, log_path, loss_plot = options["out"], options["log"], options["loss_plot"]
    preview_every, quiet, resume = options["preview_every"], options["quiet"], options["resume"]
    inputs = [*inputs, *map(Path, setting_files(settings))]
    check_outputs(out, inputs, log_path=log_path, loss_plot=loss_plot)
    enable_compilation_cache()
    initialize_processes(options["coordinator"], options["num_processes"], options["process_id"])
    is_first = jax.process_index() == 0  # Of several processes, it writes the files.
    quiet = quiet or not is_first
    show_notes(quiet=quiet)
    job = prepare()
    images.check_output_path(out, job.levels[-1].shape)
    with ExitStack() as stack:
        stop_requested = stack.enter_context(stop_on_signal())
        bar = stack.enter_context(closing(ProgressBar(quiet=quiet)))
        writer = MetricsWriter(log_path if is_first else None, resume=resume)
        stack.enter_context(closing(writer))
        progresses = run(
            job, callback_every=preview_every, checkpoint=checkpoint_path(out), resume=resume
        )

        def on_progress(progress: Progress) -> bool:
            bar.update(progress)
            writer.write(progress)
            if preview_every and progress.step % preview_every == 0:
                write_preview(out, progress, inputs)
            # A signal may reach one process alone, and earlier than the others.
            return bool(allgather(stop_requested(), progress.state.iterate).any())

        result = None
        try:
            for result in collect(progresses, on_progress):
                if not result.metadata["stopped"]:
                    write_result(result, out, loss_plot)
        except (DivergedError, OutOfMemoryError) as error:
            if jax.process_count() > 1 and isinstance(error, OutOfMemoryError):
                exit_without_the_others(f"error: {error}")
            write_last_image(error, out, loss_plot)
            raise
        except (jax.errors.JaxRuntimeError, ValueError) as error:  # JAX raises both.
            if jax.process_count() > 1 and not isinstance(error, InputError):
                reason = " ".join(str(error).split())[:200]
                exit_without_the_others(
                    f"error: another process of this image ended or cannot be reached ({reason}); "
                    "start all of them again, with --resume if there is a checkpoint"
                )
            raise
        assert result is not None  # The last progress is done.
        if result.metadata["stopped"]:  # Inside, so that a second signal leaves no half file.
            write_result(result, out, loss_plot)
    if result.metadata["stopped"]:
        if is_first:
            report_stop(out, result)
        click.get_current_context().exit(130)
    if is_first:
        report_result(out, result)


def show_notes(*, quiet: bool) -> None:
    """Show what was decided, such as the network that ``auto`` chose, unless the user wants quiet.

    Warnings are always shown.
    """
    log.setLevel(logging.WARNING if quiet else logging.INFO)


def exit_without_the_others(message: str) -> NoReturn:
    """Print a message and end at once: JAX would wait for the other processes at its own end."""
    click.echo(message, err=True)
    sys.stdout.flush()
    os._exit(2)


def write_last_image(
    error: DivergedError | OutOfMemoryError, out: Path, loss_plot: Path | None
) -> None:
    """Write the last finite image.

    Raises:
        InputError: it cannot be written; the message has both errors.
    """
    (result,) = error.results
    try:
        write_result(result, out, loss_plot)
    except InputError as failure:
        raise InputError(f"{error}; {failure}") from error
    label = escape(str(out))
    click.echo(f"{label}: the image of step {error.step}, the last finite one", err=True)


def enable_compilation_cache() -> None:
    """Cache compiled executables on disk, so that the next job of the same shapes starts sooner.

    A cache that the user has set up stays as it is, and one that cannot be written is not used.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_dir() / "compiled"
    trim_folder(folder, MAX_COMPILED_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def trim_folder(folder: Path, max_bytes: int) -> None:
    """Remove the files that were not used for the longest time, until the rest is small enough.

    JAX's own bound (``jax_compilation_cache_max_size``) locks the folder at each access, and a
    process that is killed while it writes there ends the caching for good.
    """
    files = []
    with suppress(OSError):
        for entry in os.scandir(folder):
            with suppress(OSError):  # Another process may remove files too.
                if entry.is_file(follow_symlinks=False):
                    stat = entry.stat(follow_symlinks=False)
                    files.append((max(stat.st_atime, stat.st_mtime), stat.st_size, entry.path))
    kept = 0
    for _, size, path in sorted(files, reverse=True):
        kept += size
        if kept > max_bytes:
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108


def checkpoint_path(out: Path) -> Path:
    """Return the path of the checkpoint of the job that writes ``out``."""
    return out.with_name(f"{out.name}.checkpoint")


def check_outputs(
    out: Path,
    inputs: Sequence[Path],
    *,
    log_path: Path | None = None,
    loss_plot: Path | None = None,
) -> None:
    """Refuse outputs that cannot be written, or that are another file of the job.

    Raises:
        InputError: names the output.
        OSError: a name is too long.
    """
    images.check_output_path(out)
    if loss_plot is not None:
        plots.check_output_path(loss_plot)
    if log_path is not None:
        check_log_path(log_path)
    others = list(inputs)
    outputs = {"output": out, "log": log_path, "loss plot": loss_plot}
    for name, path in {"checkpoint": checkpoint_path(out), **outputs}.items():
        if path is None:
            continue
        with suppress(FileNotFoundError):
            path.lstat()  # A name that is too long would fail after the job.
        for other in others:
            if is_same_file(path, other):
                raise InputError(
                    f"{name} {str(path)!r} is also another file of this job; choose another name"
                )
        others.append(path)


def check_log_path(path: Path) -> None:
    """Refuse a log that cannot be written."""
    written = path if os.access(path, os.F_OK) else path.parent
    if os.path.isdir(path) or not os.access(written, os.W_OK):  # noqa: PTH112
        raise InputError(f"log {str(path)!r} is not a writable file; choose another")


def is_same_file(a: Path, b: Path) -> bool:
    """Return whether both paths are one file, whether or not it exists."""
    if os.path.exists(a) and os.path.exists(b):  # noqa: PTH110 - Path.exists may raise.
        return a.samefile(b)
    return os.path.realpath(a) == os.path.realpath(b)


def write_result(result: Result, out: Path, loss_plot: Path | None) -> None:
    """Write the image, and the plot of its losses; of several processes, the first one does."""
    if jax.process_index() > 0:
        return
    result.save(out)
    if loss_plot is not None and result.history:
        try:
            plots.plot_losses(result.history, loss_plot)
        except InputError as error:
            log.warning("%s", error)


def write_preview(out: Path, progress: Progress, inputs: Sequence[Path]) -> None:
    """Write the current image beside the output: ``out.png`` gives ``out-000050.png``."""
    path = out.with_name(f"{out.stem}-{progress.step:06d}{out.suffix}")
    pixels = progress.image  # All processes take part.
    if jax.process_index() > 0:
        return
    if any(is_same_file(path, other) for other in inputs):
        log.warning("no preview: %r is an input of this job", str(path))
        return
    try:
        images.write(path, pixels)
    except InputError as error:
        log.warning("no preview: %s", error)


def report_stop(out: Path, result: Result) -> None:
    """Say how far a stopped job came and how to continue it."""
    made = result.metadata
    click.echo(
        f"{escape(str(out))}: stopped after {made['steps_done']} of {made['num_steps']} steps; "
        f"the image so far is {made['width']}x{made['height']}; the same command with --resume "
        "continues",
        err=True,
    )


def report_result(out: Path, result: Result) -> None:
    """Say what was made."""
    made = result.metadata
    converged = ", where it converged" if made["converged"] else ""
    levels = f" at {len(made['levels'])} levels" if len(made["levels"]) > 1 else ""
    click.echo(
        f"{escape(str(out))}: {made['width']}x{made['height']}, {made['steps_done']} steps"
        f"{levels}{converged} in {made['seconds']:.0f} s, {made['model'].upper()}, {made['dtype']} "
        f"on {made['device']}"
    )


class ProgressBar:
    """Shows loss, step rate and time left, and the image's number if there are several.

    It appears with the first chunk, so that an error before that stands alone.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet or sys.stderr is None
        self.bar: tqdm[Any] | None = None
        self.index = -1

    def update(self, progress: Progress) -> None:
        """Advance to the chunk's end."""
        if self.quiet:
            return
        if self.bar is None or progress.index != self.index:
            self.close()
            self.index = progress.index
            self.bar = tqdm(total=progress.num_steps, unit="step", dynamic_ncols=True)
            self.bar.start_t -= progress.seconds  # The first chunk counts too.
            self.bar.initial = progress.step - len(progress.metrics.get("step", ()))
            self.bar.n = self.bar.initial
            if progress.num_images > 1:
                first, last = progress.index + 1, progress.index + progress.batch_size
                numbers = f"{first}" if first == last else f"{first}-{last}"
                self.bar.set_description(f"image {numbers} of {progress.num_images}", refresh=False)
        if progress.metrics:
            loss = float(np.mean(progress.metrics["total"][-1]))
            self.bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self.bar.update(progress.step - self.bar.n)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()


class MetricsWriter:
    """Writes the metrics as JSON lines, one a step, with the seconds so far at each chunk's end."""

    def __init__(self, path: Path | None, *, resume: bool) -> None:
        self.path, self.resume = path, resume
        self.file: IO[bytes] | None = None

    def write(self, progress: Progress) -> None:
        """Append a chunk."""
        if self.path is None or not progress.metrics:
            return
        rows = history_rows(progress.metrics)
        rows[-1]["seconds"] = round(progress.seconds, 3)
        try:
            if self.file is None:
                earlier = self.earlier_lines(rows[0]["step"])
                if earlier:  # In one go, so that a full disk costs none of them.
                    write_atomically(self.path, earlier)
                # Unbuffered, so that closing it writes nothing that could fail.
                mode = "ab" if earlier else "wb"
                self.file = open(self.path, mode, buffering=0, opener=_open_at_once)  # noqa: SIM115
            self.append("".join(json.dumps(row) + "\n" for row in rows).encode())
        except OSError as error:
            log.warning("log %r ends here: %s", str(self.path), error.strerror)
            self.path = None

    def append(self, data: bytes) -> None:
        """Write all bytes or, as far as the file allows, none. A full disk takes some of them."""
        assert self.file is not None
        start = self.file.tell() if self.file.seekable() else None
        try:
            while data:
                data = data[self.file.write(data) :]
        except OSError:
            if start is not None:
                self.file.truncate(start)
            raise

    def earlier_lines(self, step: float) -> bytes:
        """Return what an interrupted run wrote up to the checkpoint that this run resumes."""
        if not self.resume or self.path is None or not self.path.exists():
            return b""
        lines = self.path.read_bytes().splitlines(keepends=True)
        complete = [line for line in lines if line.endswith(b"\n")]
        try:
            return b"".join(line for line in complete if parse_json(line)["step"] < step)
        except (ValueError, TypeError, KeyError):
            log.warning("log %r belonged to another job; it is overwritten", str(self.path))
            return b""

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for a reader, if it is a pipe that nobody reads."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def history_rows(history: History) -> list[dict[str, float]]:
    """Return a history as one dict a step, without terms that were not evaluated."""
    rows: list[dict[str, float]] = []
    for i, step in enumerate(history["step"]):
        row: dict[str, float] = {"step": int(step)}
        for name, values in history.items():
            if name != "step" and np.isfinite(values[i]):
                row[name] = int(values[i]) if name == "size" else float(values[i])
        rows.append(row)
    return rows


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM, once steps run, into a request to stop after the chunk.

    Before the first step, and the second time, it interrupts at once.

    Yields:
        A function that returns whether a stop is requested. Call it after each chunk: its first
        call says that steps run.
    """
    running = requested = False

    def handle(signum: int, frame: Any) -> None:
        nonlocal requested
        second_signal, requested = requested, True
        if second_signal or not running:
            # Python ignores what is raised during garbage collection; the request remains.
            raise KeyboardInterrupt
        if sys.stderr is not None:
            os.write(2, b"\nstopping after this chunk; Ctrl-C again to abort\n")

    def stop_requested() -> bool:
        nonlocal running
        running = True
        return requested

    previous_handlers = {
        signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop_requested
    finally:
        for signum, handler in previous_handlers.items():
            signal.signal(signum, handler)
