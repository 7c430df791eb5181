"""The command line's options: the settings, as a user types them.

Options say only what differs from the preset, so that every default stands once, in
`nst_jax.settings`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

import click
from click.core import ParameterSource

from nst_jax.models.architectures import Padding, Pooling
from nst_jax.settings import PAPER, STEPS, Color, Form, Settings

__all__ = [
    "BALANCE_OPTIONS",
    "BATCH_OPTIONS",
    "COLOR_OPTIONS",
    "COMMON_OPTIONS",
    "CONTENT_INIT_OPTIONS",
    "CONTENT_OPTIONS",
    "FILE",
    "INIT_OPTIONS",
    "JOB_OPTIONS",
    "MASK_OPTIONS",
    "OUT_OPTIONS",
    "PRESETS",
    "QUIET_OPTIONS",
    "SCALE_OPTIONS",
    "SIZE_OPTIONS",
    "STYLE_OPTIONS",
    "STYLE_WEIGHT_OPTIONS",
    "given",
    "with_options",
]

DEFAULTS: Final = Settings()
PRESETS: Final = {"default": DEFAULTS, "paper": PAPER}
FILE: Final = click.Path(path_type=Path)


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
    """A number of pixels, or ``none`` (None)."""

    name = "pixels|none"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Parse the value."""
        return None if value in (None, "none") else click.INT.convert(value, param, ctx)


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


class Names(click.ParamType):
    """Names separated by commas."""

    name = "c1,c2,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Parse the value."""
        return tuple(item.strip() for item in str(value).split(","))


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


OUT_OPTIONS: Final = (
    click.option("-o", "--out", type=FILE, required=True, help="The picture to write."),
)
SIZE_OPTIONS: Final = (
    setting("--size", Size(), "Longest side of the output."),
    setting(
        "--steps",
        Steps(),
        "Updates of the picture at each scale, or from the coarsest on, the last for the rest.",
        default=",".join(map(str, STEPS)),
    ),
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
    setting(
        "--style-scales",
        Weights(),
        "How large each style is taken, against the picture: larger gives larger strokes.",
        default="1",
    ),
)
STYLE_WEIGHT_OPTIONS: Final = (
    setting("--style-weights", Weights(), "How much each style counts.", default="equal parts"),
)
MASK_OPTIONS: Final = (
    click.option(
        "--mask",
        "masks",
        type=FILE,
        multiple=True,
        help="Where a style paints, as large as the content: white is in. One a style; or one "
        "alone, for two styles; or one with --mask-colors.",
    ),
    setting(
        "--mask-colors",
        Names(),
        "The styles' colours in a single mask of flat colours, as red,#00f.",
        default="gray masks",
    ),
)
SCALE_OPTIONS: Final = (
    setting(
        "--min-scale",
        Scale(),
        "From which size on the picture is made, in steps of √2; none for its own size alone.",
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
        "The network's precision; auto is bfloat16 where that is fast (GPUs, TPUs, CPUs with AMX "
        "or AVX-512's bfloat16).",
    ),
    setting(
        "--memory",
        str,
        "How much the computation may take, as 8GB; above it works tile by tile.",
        default="what is free",
    ),
)
QUIET_OPTIONS: Final = (click.option("-q", "--quiet", is_flag=True, help="No progress bar."),)
BATCH_OPTIONS: Final = (
    click.option(
        "--batch",
        type=click.IntRange(1),
        help="How many pictures share a vmapped loop (with Adam); 1 for one after another.  "
        "[default: as many as fit on GPUs and TPUs; on CPUs two side by side, in threads]",
    ),
)
JOB_OPTIONS: Final = (
    click.option(
        "--save-every", type=click.IntRange(1), help="Save a preview every so many steps."
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on from where the same command was stopped; it keeps OUT.checkpoint.",
    ),
    click.option("--trace", type=FILE, help="Write every step's losses there, as JSON lines."),
    click.option("--plot", type=FILE, help="Draw the losses there, as PNG, SVG, PDF or JPEG."),
    click.option("--sheet", type=FILE, help="Show inputs and picture side by side there."),
    *QUIET_OPTIONS,
)


def with_options(*groups: tuple[Any, ...]) -> Callable[[Any], Any]:
    """Add options in the order in which the help shows them."""

    def decorate(command: Any) -> Any:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Keep the settings that the user gave; the others are the preset's."""
    context = click.get_current_context()
    return {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
