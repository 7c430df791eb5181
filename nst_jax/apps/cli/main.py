"""The command line: ``nst-jax stylize``, ``texture``, ``batch`` and the other commands.

JAX is imported by the commands that compute, not by ``--help``.
"""

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nst_jax.apps.cli.batch import INTERRUPTED, batch, interpolate
from nst_jax.apps.cli.options import (
    BALANCE_OPTIONS,
    COLOR_OPTIONS,
    COMMON_OPTIONS,
    CONTENT_INIT_OPTIONS,
    CONTENT_OPTIONS,
    FILE,
    INIT_OPTIONS,
    JOB_OPTIONS,
    MASK_OPTIONS,
    OUT_OPTIONS,
    PRESETS,
    SCALE_OPTIONS,
    SIZE_OPTIONS,
    STYLE_OPTIONS,
    STYLE_WEIGHT_OPTIONS,
    given,
    with_options,
)
from nst_jax.apps.cli.weights import group as weights_group
from nst_jax.errors import DivergedError, InputError

if TYPE_CHECKING:
    from nst_jax.pipeline.api import Result

__all__ = ["main"]


class Reporting(click.Group):
    """A group whose commands end bad input in one line and exit code 2, and at once on Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (InputError, DivergedError) as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except (MemoryError, RuntimeError) as error:
            if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
                raise
            click.echo("error: the device ran out of memory; choose a smaller --size", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("\nAborted!", err=True)
            # XLA goes on compiling in threads of its own, and brings Python down as it ends.
            os._exit(INTERRUPTED)


@click.group(cls=Reporting, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nst-jax")
def main() -> None:
    """Paint a photo in the style of a picture: neural style transfer, compiled with JAX."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    logger = logging.getLogger("nst_jax")
    logger.handlers, logger.propagate = [handler], False


main.add_command(batch)
main.add_command(interpolate)
main.add_command(weights_group)


@main.command()
@click.argument("content", type=FILE)
@click.argument("style", type=FILE, nargs=-1, required=True)
@with_options(
    OUT_OPTIONS,
    SIZE_OPTIONS,
    SCALE_OPTIONS,
    BALANCE_OPTIONS,
    CONTENT_INIT_OPTIONS,
    STYLE_WEIGHT_OPTIONS,
    MASK_OPTIONS,
    STYLE_OPTIONS,
    CONTENT_OPTIONS,
    COLOR_OPTIONS,
    COMMON_OPTIONS,
    JOB_OPTIONS,
)
def stylize(content: Path, style: tuple[Path, ...], **options: Any) -> None:
    """Paint CONTENT in the style of one or more STYLE pictures."""
    from nst_jax.pipeline import api as stylization

    start(partial(stylization.stylize, content, style), (content, *style), options)


@main.command()
@click.argument("style", type=FILE, nargs=-1, required=True)
@with_options(
    OUT_OPTIONS,
    SIZE_OPTIONS,
    SCALE_OPTIONS,
    INIT_OPTIONS,
    STYLE_WEIGHT_OPTIONS,
    STYLE_OPTIONS,
    COMMON_OPTIONS,
    JOB_OPTIONS,
)
def texture(style: tuple[Path, ...], **options: Any) -> None:
    """Make a square texture from one or more STYLE pictures, starting from noise."""
    from nst_jax.pipeline import api as stylization

    start(partial(stylization.texture, style), style, options)


@main.command()
@click.argument("content", type=FILE)
@with_options(OUT_OPTIONS, SIZE_OPTIONS, INIT_OPTIONS, CONTENT_OPTIONS, COMMON_OPTIONS, JOB_OPTIONS)
def reconstruct(content: Path, **options: Any) -> None:
    """Rebuild CONTENT from its features alone, starting from noise: what the layers see."""
    from nst_jax.pipeline import api as stylization

    start(partial(stylization.reconstruct, content), (content,), options)


def start(job: Callable[..., "Result"], inputs: tuple[Path, ...], options: dict[str, Any]) -> None:
    """Split a command's options into the job's and the settings', and run the job."""
    from nst_jax.apps.cli.run import run

    names = ("out", "trace", "save_every", "plot", "sheet", "quiet", "resume")
    files = {name: options.pop(name) for name in names}
    preset = PRESETS[options.pop("preset")]
    more = [Path(options[name]) for name in ("init", "weights") if options[name]]
    more += options.get("masks") or ()
    done = run(partial(job, settings=preset, **given(options)), inputs, tuple(more), **files)
    if not done:
        click.get_current_context().exit(INTERRUPTED)


@main.command()
@click.argument("trace", type=FILE)
@click.option("-o", "--out", type=FILE, required=True, help="PNG, SVG, PDF or JPEG.")
def plot(trace: Path, out: Path) -> None:
    """Draw the losses that a job wrote to TRACE; also while it runs."""
    from nst_jax.apps import plots

    if out.exists() and trace.exists() and out.samefile(trace):
        raise InputError(f"output {str(out)!r} is also the trace; choose another name")
    plots.plot_losses(plots.read_trace(trace), out)


if __name__ == "__main__":
    main()
