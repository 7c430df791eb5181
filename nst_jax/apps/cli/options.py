"""The options of the command line: the settings, as a user types them.

An option changes the preset only when the user gives it, so each default stands once, in
`nst_jax.settings`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

import click
from click.core import ParameterSource

from nst_jax._types import ColorMode, Normalization, OptimizerName, Padding, Pooling
from nst_jax.apps.cli.processes import PROCESS_OPTIONS
from nst_jax.settings import DEFAULT_STEPS, PAPER, Settings, override

__all__ = [
    "BATCH_OPTIONS",
    "COLOR_OPTIONS",
    "COMMON_OPTIONS",
    "CONTENT_INIT_OPTIONS",
    "CONTENT_OPTIONS",
    "FILE",
    "FILE_SECTION",
    "INIT_OPTIONS",
    "JOB_OPTIONS",
    "LEVEL_OPTIONS",
    "MASK_OPTIONS",
    "MIX_OPTIONS",
    "OUT_OPTION",
    "QUIET_OPTION",
    "RESUME_OPTION",
    "SIZE_OPTIONS",
    "STYLE_OPTIONS",
    "WEIGHT_OPTIONS",
    "FloatListType",
    "IntOrNoneType",
    "SectionedCommand",
    "pop_settings",
    "section",
    "with_options",
]

DEFAULTS: Final = Settings()
PRESETS: Final = {"default": DEFAULTS, "paper": PAPER}
FILE: Final = click.Path(path_type=Path)


class IntOrNoneType(click.ParamType):
    """A whole number, or a word that means None."""

    def __init__(self, none_word: str) -> None:
        self.none_word = none_word
        self.name = f"pixels|{none_word}"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Parse the value."""
        if value in (None, self.none_word):
            return None
        return click.INT.convert(value, param, ctx)


class IntListType(click.ParamType):
    """Whole numbers separated by commas."""

    name = "n1,n2,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, ...]:
        """Parse the value."""
        items: list[Any] = str(value).split(",")
        numbers = tuple(click.INT.convert(item, param, ctx) for item in items)
        return numbers if len(numbers) > 1 else next(iter(numbers))


class FloatListType(click.ParamType):
    """Numbers separated by commas."""

    name = "x1,x2,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Parse the value."""
        items: list[Any] = str(value).split(",")
        return tuple(click.FLOAT.convert(item, param, ctx) for item in items)


class NameListType(click.ParamType):
    """Names separated by commas."""

    name = "c1,c2,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Parse the value."""
        return tuple(item.strip() for item in str(value).split(","))


class LayerWeightsType(click.ParamType):
    """Layers with their weights, such as ``relu1_1:0.4,relu2_1``; a weight left out is 1."""

    name = "layer[:weight],…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, float]:
        """Parse the value."""
        layers = {}
        for item in str(value).split(","):
            layer, colon, text = item.strip().partition(":")
            if layer in layers:
                self.fail(f"{layer!r} is named twice", param, ctx)
            weight: Any = text if colon else 1.0
            layers[layer] = click.FLOAT.convert(weight, param, ctx)
        return layers


class DevicesType(click.ParamType):
    """A number, or ``all``."""

    name = "n|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the value."""
        return value if value == "all" else click.INT.convert(value, param, ctx)


class StyleLossType(LayerWeightsType):
    """One name, or several with their weights, such as ``gram:1,sliced:0.5``."""

    name = "name[:weight],…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the value."""
        weights = super().convert(value, param, ctx)
        return weights if len(weights) > 1 or ":" in value else next(iter(weights))


def setting_option(flag: str, kind: Any, help_text: str, *, default: str | None = None) -> Any:
    """Return an option for the setting of the same name."""
    name = flag.removeprefix("--").replace("-", "_")
    default_text = default or str(getattr(DEFAULTS, name))
    return click.option(flag, name, type=kind, help=f"{help_text}  [default: {default_text}]")


def literal_choice(literal: Any) -> click.Choice[str]:
    """Return a choice of the members of a Literal."""
    return click.Choice(get_args(literal))


def format_layers(layers: Any) -> str:
    """Write layers as their option takes them."""
    return ",".join(f"{layer}:{weight:g}" for layer, weight in layers.items())


class SectionedCommand(click.Command):
    """A command whose ``--help`` shows the options under the titles that `section` gave them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        others: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                title = getattr(param, "section", None)
                (sections.setdefault(title, []) if title else others).append(record)
        for title, records in [*sections.items(), ("Other" if sections else "Options", others)]:
            with formatter.section(title):
                formatter.write_dl(records)


def section(title: str, *options: Any) -> tuple[Callable[[Any], Any], ...]:
    """Return options that ``--help`` shows under a title."""

    def titled(option: Any) -> Callable[[Any], Any]:
        def decorate(command: Any) -> Any:
            command = option(command)
            command.__click_params__[-1].section = title
            return command

        return decorate

    return tuple(map(titled, options))


FILE_SECTION: Final = "Progress and files"
(OUT_OPTION,) = section(
    FILE_SECTION,
    click.option("-o", "--out", type=FILE, required=True, help="Image to write."),
)
SIZE_OPTIONS: Final = section(
    "Size and steps",
    setting_option(
        "--size", IntOrNoneType("original"), "Longest side of the output; original: the content's."
    ),
    setting_option(
        "--steps",
        IntListType(),
        "Optimization steps at each level, coarsest first; the last value repeats.",
        default=",".join(map(str, DEFAULT_STEPS)),
    ),
)
LEVEL_OPTIONS: Final = section(
    "Size and steps",
    setting_option(
        "--min-size",
        IntOrNoneType("none"),
        "Longest side of the coarsest level; levels grow by √2. none: the final size alone.",
    ),
)
WEIGHT_OPTIONS: Final = section(
    "Content and style",
    setting_option("--content-weight", float, "Higher preserves more of the content."),
    setting_option("--style-weight", float, "Higher takes more of the style."),
)
INIT_OPTIONS: Final = section(
    "Content and style",
    setting_option("--init", str, "Start from noise, gray or an image file.", default="noise"),
)
CONTENT_INIT_OPTIONS: Final = section(
    "Content and style",
    setting_option(
        "--init",
        str,
        "Start from content, network (the image of nst-jax apply), noise, gray or an image file.",
    ),
)
CONTENT_OPTIONS: Final = section(
    "Content and style",
    setting_option(
        "--content-layers",
        LayerWeightsType(),
        "Layers that compare content.",
        default=format_layers(DEFAULTS.content_layers),
    ),
)
STYLE_OPTIONS: Final = section(
    "Content and style",
    setting_option(
        "--style-layers",
        LayerWeightsType(),
        "Layers that compare style. Shallow layers carry color and grain, deep layers shapes.",
        default=format_layers(DEFAULTS.style_layers),
    ),
    setting_option(
        "--style-loss",
        StyleLossType(),
        "What is compared with the style: gram, moments, sliced, nearest, or several with weights.",
    ),
    setting_option(
        "--style-scales",
        FloatListType(),
        "Size of each style relative to the output: larger gives larger strokes.",
        default="1",
    ),
)
MIX_OPTIONS: Final = section(
    "Content and style",
    setting_option(
        "--style-weights", FloatListType(), "Mixing weight of each style.", default="equal"
    ),
)
MASK_OPTIONS: Final = section(
    "Content and style",
    click.option(
        "--mask",
        "masks",
        type=FILE,
        multiple=True,
        help="Where a style applies, as large as the content: white is inside. One a style; or "
        "one for two styles; or one with --mask-colors.",
    ),
    setting_option(
        "--mask-colors",
        NameListType(),
        "Color of each style in a single mask of flat colors, such as red,#00f.",
        default="grayscale masks",
    ),
)
COLOR_OPTIONS: Final = section(
    "Content and style",
    setting_option(
        "--color-mode",
        literal_choice(ColorMode),
        "style: the style's colors. The others preserve the content's: luminance optimizes in "
        "gray; match and histogram recolor the style first.",
    ),
)
COMMON_OPTIONS: Final = section(
    "Optimization and network",
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        default="default",
        show_default=True,
        help="Settings to start from. paper: raw sums, average pooling, noise, one level, "
        "lbfgs-pixels.",
    ),
    setting_option(
        "--optimizer",
        literal_choice(OptimizerName),
        "lbfgs: over a pyramid of the image. lbfgs-pixels: over its pixels. auto: adam for sliced "
        "and nearest, lbfgs otherwise.",
    ),
    setting_option("--learning-rate", float, "Adam's learning rate.", default="0.01"),
    setting_option(
        "--ema-decay",
        float,
        "Decay of the moving average of the iterates.",
        default="0.9 with adam, 0 with L-BFGS",
    ),
    setting_option("--seed", int, "Seed of the noise."),
    setting_option("--tv-weight", float, "Weight of the total variation, which smooths."),
    setting_option(
        "--normalization",
        literal_choice(Normalization),
        "target_energy: losses relative to their target. none: the paper's raw sums.",
    ),
    setting_option("--pooling", literal_choice(Pooling), "Pooling of the network."),
    setting_option("--padding", literal_choice(Padding), "Border of its first convolution."),
    setting_option(
        "--model",
        click.Choice(["auto", "vgg19", "vgg16"]),
        "Network. auto: VGG19 if available, otherwise the bundled VGG16.",
    ),
    setting_option("--weights", FILE, "Weight file (see nst-jax weights).", default="by --model"),
    setting_option(
        "--dtype",
        click.Choice(["auto", "float32", "bfloat16"]),
        "Dtype of the network. auto: bfloat16 on hardware that multiplies it fast.",
    ),
    setting_option("--devices", DevicesType(), "How many devices share the work: a number or all."),
    setting_option(
        "--memory-limit",
        str,
        "Memory to use, such as 8GB; a level that needs more runs tile by tile.",
        default="the free memory",
    ),
)
QUIET_OPTION: Final = click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
RESUME_OPTION: Final = click.option(
    "--resume", is_flag=True, help="Continue where the same command stopped (OUT.checkpoint)."
)
BATCH_OPTIONS: Final = section(
    FILE_SECTION,
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        help="Images in one vmapped loop (with adam).  [default: as many as fit on GPUs and TPUs, "
        "1 on CPUs]",
    ),
    QUIET_OPTION,
)
JOB_OPTIONS: Final = section(
    FILE_SECTION,
    click.option("--preview-every", type=click.IntRange(1), help="Write a preview each N steps."),
    RESUME_OPTION,
    click.option("--log", type=FILE, help="Write the losses of each step there, as JSON lines."),
    click.option("--loss-plot", type=FILE, help="Plot the losses there: PNG, SVG, PDF or JPEG."),
    QUIET_OPTION,
) + section("Several processes", *PROCESS_OPTIONS)


def with_options(*options: Any) -> Callable[[Any], Any]:
    """Add options, or tuples of options, in the order in which ``--help`` shows them."""
    flat = [
        option for group in options for option in (group if isinstance(group, tuple) else (group,))
    ]

    def decorate(command: Any) -> Any:
        for option in reversed(flat):
            command = option(command)
        return command

    return decorate


def pop_settings(options: dict[str, Any]) -> Settings:
    """Remove the settings from a command's options and return them, over the preset's.

    Raises:
        InputError: a setting is out of range.
    """
    context = click.get_current_context()
    preset = PRESETS[options.pop("preset")]
    names = [name for name in options if hasattr(DEFAULTS, name)]
    values = {name: options.pop(name) for name in names}
    explicitly_set = {
        name: value
        for name, value in values.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    return override(preset, explicitly_set)
