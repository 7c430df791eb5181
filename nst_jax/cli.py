"""The command line: ``nst-jax stylize | texture | reconstruct | weights``.

Options say only what differs from the preset, so that every default stands once, in
`nst_jax.settings`. JAX is imported by the commands that compute, not by ``--help``.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import click
from click.core import ParameterSource

from nst_jax.architectures import Padding, Pooling
from nst_jax.cli_weights import group as weights_group
from nst_jax.errors import DivergedError, InputError
from nst_jax.settings import PAPER, Color, Form, Settings

if TYPE_CHECKING:
    from nst_jax.stylization import Result

__all__ = ["main"]

DEFAULTS: Final = Settings()
PRESETS: Final = {"default": DEFAULTS, "paper": PAPER}
INTERRUPTED: Final = 130
FILE: Final = click.Path(path_type=Path)


class Reporting(click.Group):
    """A group whose commands end bad input in one line and exit code 2."""

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


def number(
    text: str, kind: click.ParamType, param: click.Parameter | None, ctx: click.Context | None
) -> float:
    """Parse a number inside a list; a usage error if it is none."""
    try:
        return float(text)
    except ValueError:
        kind.fail(f"{text!r} is not a number", param, ctx)


class Size(click.ParamType):
    """A number of pixels, or ``original`` for the content's own size (None)."""

    name = "pixels|original"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Parse the value."""
        return None if value in (None, "original") else click.INT.convert(value, param, ctx)


class Steps(click.ParamType):
    """Whole numbers separated by commas."""

    name = "n1,n2,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, ...]:
        """Parse the value."""
        items: list[Any] = str(value).split(",")
        several = tuple(click.INT.convert(item, param, ctx) for item in items)
        return several if several[1:] else several[0]


class Scale(click.ParamType):
    """A number of pixels, ``auto``, or ``none`` (None)."""

    name = "pixels|auto|none"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str | None:
        """Parse the value."""
        if value in (None, "none"):
            return None
        return value if value == "auto" else click.INT.convert(value, param, ctx)


class Layers(click.ParamType):
    """Layers with their weights, as ``relu1_1:0.4,relu2_1``; the weight is 1 if left out."""

    name = "layer[:weight],…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, float]:
        """Parse the value."""
        layers = {}
        for item in str(value).split(","):
            tap, colon, weight = item.strip().partition(":")
            if tap in layers:
                self.fail(f"{tap} is named twice", param, ctx)
            layers[tap] = number(weight, self, param, ctx) if colon else 1.0
        return layers


class Weights(click.ParamType):
    """Numbers separated by commas."""

    name = "w1,w2,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Parse the value."""
        return tuple(number(item, self, param, ctx) for item in str(value).split(","))


def setting(flag: str, kind: Any, text: str, *, default: str | None = None) -> Any:
    """Make an option for the setting of the same name; not given, the preset's value stays."""
    name = flag.removeprefix("--").replace("-", "_")
    shown = default or str(getattr(DEFAULTS, name))
    return click.option(flag, name, type=kind, help=f"{text}  [default: {shown}]")


def choice(values: Any) -> click.Choice[str]:
    """Offer the members of a Literal."""
    return click.Choice(get_args(values))


def layers_text(layers: Any) -> str:
    """Write layers as their option takes them."""
    return ",".join(f"{tap}:{weight:g}" for tap, weight in layers.items())


FIRST_OPTIONS: Final = (
    click.option("-o", "--out", type=FILE, required=True, help="The picture to write."),
    setting("--size", Size(), "Longest side of the output."),
    setting("--steps", Steps(), "Updates of the picture at each scale, or from the coarsest on."),
)
INIT: Final = "Start from noise, gray or an image file."
INIT_OPTIONS: Final = (setting("--init", str, INIT, default="noise"),)
CONTENT_INIT: Final = "Start from content, noise, gray or an image file."
CONTENT_INIT_OPTIONS: Final = (setting("--init", str, CONTENT_INIT, default="content"),)
CONTENT_OPTIONS: Final = (
    setting(
        "--content-layers",
        Layers(),
        "Where content is compared.",
        default=layers_text(DEFAULTS.content_layers),
    ),
)
STYLE_OPTIONS: Final = (
    setting(
        "--style-layers",
        Layers(),
        "Where style is compared. Shallow layers carry colour and grain, deep ones shapes.",
        default=layers_text(DEFAULTS.style_layers),
    ),
    setting("--style-weights", Weights(), "How much each style counts.", default="equal parts"),
    setting(
        "--style-scales",
        Weights(),
        "How large each style is taken, against the picture: larger gives larger strokes.",
        default="1",
    ),
)
SCALE_OPTIONS: Final = (
    setting(
        "--min-scale",
        Scale(),
        "From which size on the picture is made, in steps of √2; auto is 128 for more than 256 "
        "pixels, none for others: its own size alone.",
    ),
)
BALANCE_OPTIONS: Final = (
    setting("--content-weight", float, "Higher keeps more of the content."),
    setting("--style-weight", float, "Higher takes more of the style."),
)
COLOR_OPTIONS: Final = (
    setting(
        "--color",
        choice(Color),
        "The style's colours, or the content's: by painting in gray (luminance), or by giving them "
        "to the style first (match: mean and covariance; histogram).",
    ),
)
COMMON_OPTIONS: Final = (
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        default="default",
        show_default=True,
        help="What the options start from; paper: raw sums, average pooling, noise.",
    ),
    setting("--optimizer", click.Choice(["lbfgs", "adam"]), "How to descend."),
    setting("--lr", float, "Adam's learning rate.", default="0.01"),
    setting(
        "--average",
        float,
        "Decay of the average of iterates that is the picture.",
        default="0.9 with Adam, 0 with L-BFGS",
    ),
    setting("--seed", int, "Seed of the noise."),
    setting("--tv", float, "Weight of the total variation, which smooths."),
    setting("--form", choice(Form), "Losses relative to their target, or the paper's raw sums."),
    setting("--pooling", choice(Pooling), "The network's pooling."),
    setting("--padding", choice(Padding), "The border of its first convolution."),
    setting(
        "--model",
        click.Choice(["auto", "vgg19", "vgg16"]),
        "The network; auto is VGG19 if it can be had, else the bundled VGG16.",
    ),
    setting("--weights", FILE, "A weight file to use (see nst-jax weights).", default="by --model"),
    setting(
        "--dtype",
        click.Choice(["auto", "float32", "bfloat16"]),
        "The network's precision; auto is bfloat16 where that is fast (GPUs, TPUs, CPUs with AMX).",
    ),
    click.option(
        "--save-every", type=click.IntRange(1), help="Save a preview every so many steps."
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on from where the same command was stopped; it keeps OUT.checkpoint.",
    ),
    click.option("--trace", type=FILE, help="Write every step's losses there, as JSON lines."),
    click.option("-q", "--quiet", is_flag=True, help="No progress bar."),
)


def with_options(*groups: tuple[Any, ...]) -> Callable[[Any], Any]:
    """Add options in the order in which the help shows them."""

    def decorate(command: Any) -> Any:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


@click.group(cls=Reporting, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nst-jax")
def main() -> None:
    """Paint a photo in the style of a picture: neural style transfer, compiled with JAX."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    logger = logging.getLogger("nst_jax")
    logger.handlers, logger.propagate = [handler], False


main.add_command(weights_group)


@main.command()
@click.argument("content", type=FILE)
@click.argument("style", type=FILE, nargs=-1, required=True)
@with_options(
    FIRST_OPTIONS,
    SCALE_OPTIONS,
    BALANCE_OPTIONS,
    CONTENT_INIT_OPTIONS,
    STYLE_OPTIONS,
    CONTENT_OPTIONS,
    COLOR_OPTIONS,
    COMMON_OPTIONS,
)
def stylize(content: Path, style: tuple[Path, ...], **options: Any) -> None:
    """Paint CONTENT in the style of one or more STYLE pictures."""
    from nst_jax import stylization

    start(partial(stylization.stylize, content, style), (content, *style), options)


@main.command()
@click.argument("style", type=FILE, nargs=-1, required=True)
@with_options(FIRST_OPTIONS, SCALE_OPTIONS, INIT_OPTIONS, STYLE_OPTIONS, COMMON_OPTIONS)
def texture(style: tuple[Path, ...], **options: Any) -> None:
    """Make a square texture from one or more STYLE pictures, starting from noise."""
    from nst_jax import stylization

    start(partial(stylization.texture, style), style, options)


@main.command()
@click.argument("content", type=FILE)
@with_options(FIRST_OPTIONS, INIT_OPTIONS, CONTENT_OPTIONS, COMMON_OPTIONS)
def reconstruct(content: Path, **options: Any) -> None:
    """Rebuild CONTENT from its features alone, starting from noise: what the layers see."""
    from nst_jax import stylization

    start(partial(stylization.reconstruct, content), (content,), options)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Keep the settings that the user gave; the others are the preset's."""
    context = click.get_current_context()
    return {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }


def start(job: Callable[..., "Result"], inputs: tuple[Path, ...], options: dict[str, Any]) -> None:
    """Split a command's options into the job's and the settings', and run the job."""
    from nst_jax.cli_job import run

    names = ("out", "trace", "save_every", "quiet", "resume")
    files = {name: options.pop(name) for name in names}
    preset = PRESETS[options.pop("preset")]
    more = [Path(options[name]) for name in ("init", "weights") if options[name]]
    done = run(partial(job, settings=preset, **given(options)), (*inputs, *more), **files)
    if not done:
        click.get_current_context().exit(INTERRUPTED)


if __name__ == "__main__":
    main()
