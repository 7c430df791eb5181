"""The command line: ``nst-jax stylize``, ``texture``, ``batch`` and the other commands.

JAX is imported by the commands that compute, not by ``--help``.
"""

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nst_jax.apps.cli.apply import apply
from nst_jax.apps.cli.batch import batch, interpolate
from nst_jax.apps.cli.doctor import doctor
from nst_jax.apps.cli.options import (
    FILE,
    JOB_OPTIONS,
    OUT_OPTION,
    SectionedCommand,
    pop_settings,
    setting_options,
    with_options,
)
from nst_jax.apps.cli.weights import weights
from nst_jax.errors import DivergedError, InputError, escape, is_out_of_memory
from nst_jax.kinds import parse_bytes

if TYPE_CHECKING:
    from nst_jax.pipeline import Job, Stylizer

__all__ = ["main"]

log = logging.getLogger("nst_jax")

BALANCE: Final = {"content_weight", "style_weight", "color_mode", "masks", "mask_colors"}
CONTENT_SETTINGS: Final = {*BALANCE, "content_layers"}
STYLE_SETTINGS: Final = {
    *BALANCE,
    *("min_size", "style_layers", "style_loss", "style_scales", "style_weights"),
}
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class ErrorReportingGroup(click.Group):
    """A group whose commands report bad input and failed files in one line, with exit code 2."""

    command_class = SectionedCommand

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            with interrupted_by_sigterm():
                return super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            # Click writes some arguments as they are, and some choices on lines of their own.
            message = escape(" ".join(error.format_message().split()))
            raise click.UsageError(message, error.ctx) from error
        except (InputError, DivergedError) as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(EXIT_BAD_INPUT)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            click.echo("error: the device ran out of memory; choose a smaller --size", err=True)
            ctx.exit(EXIT_BAD_INPUT)
        except BrokenPipeError:  # Click ends quietly.
            raise
        except OSError as error:
            click.echo(f"error: {error}; check the path and the free space", err=True)
            ctx.exit(EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            click.echo("\nAborted!", err=True)
            # XLA continues to compile in its own threads and would crash Python at its end.
            os._exit(EXIT_INTERRUPTED)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that temporary files are removed."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def show_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    """Show a warning of a library, such as Pillow about a damaged file, as a note of one line."""
    log.warning("%s", escape(str(message).strip()))


@click.group(cls=ErrorReportingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nst-jax")
def main() -> None:
    """Stylize a photo with the style of another image: neural style transfer, compiled with JAX."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    log.handlers, log.propagate = [handler], False
    warnings.showwarning = show_warning


main.add_command(apply)
main.add_command(batch)
main.add_command(doctor)
main.add_command(interpolate)
main.add_command(weights)


def run(
    prepare: "Callable[[Stylizer], Job]", inputs: Sequence[Path], options: dict[str, Any]
) -> None:
    """Run the job of a command that makes one image."""
    from nst_jax.apps.cli.run import run_command
    from nst_jax.pipeline import Stylizer

    settings = pop_settings(options)
    run_command(lambda: prepare(Stylizer(settings)), settings, inputs, options)


@main.command()
@click.argument("content", type=FILE)
@click.argument("style", type=FILE, nargs=-1, required=True)
@with_options(OUT_OPTION, setting_options(), JOB_OPTIONS)
def stylize(content: Path, style: tuple[Path, ...], **options: Any) -> None:
    """Stylize CONTENT with one or more STYLE images.

    Example: nst-jax stylize photo.jpg painting.jpg -o out.png --size 1024
    """
    run(lambda stylizer: stylizer.job(content, style), (content, *style), options)


@main.command()
@click.argument("style", type=FILE, nargs=-1, required=True)
@with_options(OUT_OPTION, setting_options(without=CONTENT_SETTINGS, from_noise=True), JOB_OPTIONS)
def texture(style: tuple[Path, ...], **options: Any) -> None:
    """Synthesize a square texture from one or more STYLE images, starting from noise."""
    from nst_jax.pipeline.api import texture_job

    run(lambda stylizer: texture_job(stylizer, style), style, options)


@main.command()
@click.argument("content", type=FILE)
@with_options(OUT_OPTION, setting_options(without=STYLE_SETTINGS, from_noise=True), JOB_OPTIONS)
def reconstruct(content: Path, **options: Any) -> None:
    """Reconstruct CONTENT from its features alone, starting from noise: what the layers see."""
    from nst_jax.pipeline.api import content_job

    run(lambda stylizer: content_job(stylizer, content), (content,), options)


@main.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="Port; 0 for a free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. The default is reached from this machine only.",
)
@click.option("--max-upload", default="32MB", show_default=True, help="Largest file to upload.")
def studio(port: int, host: str, max_upload: str) -> None:
    """Serve a local web page: drop a photo and styles, and watch the image form."""
    if find_spec("gradio") is None:
        raise InputError('the studio needs gradio: pip install "nst-jax[studio]"')
    try:
        limit = parse_bytes(max_upload)
    except InputError:
        raise InputError(f"--max-upload is {max_upload!r}; give an amount such as 32MB") from None
    from nst_jax.apps.studio.server import serve

    serve(host, port, limit)


@main.command()
@click.argument("log", type=FILE)
@click.option("-o", "--out", type=FILE, required=True, help="PNG, SVG, PDF or JPEG.")
def plot(log: Path, out: Path) -> None:
    """Plot the losses in LOG, which a job wrote with --log; also while the job runs."""
    from nst_jax.apps import plots
    from nst_jax.apps.cli.run import is_same_file

    if is_same_file(out, log):
        raise InputError(f"output {str(out)!r} is also the log; choose another name")
    plots.plot_losses(plots.read_log(log), out)


if __name__ == "__main__":
    main()
