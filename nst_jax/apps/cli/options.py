"""The options of the command line. Those of the settings come from `nst_jax.settings`.

An option changes the preset only when the user gives it, so each default stands once.
"""

import inspect
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from nst_jax.apps.cli.processes import PROCESS_OPTIONS
from nst_jax.settings import (
    PAPER,
    SETTINGS,
    Settings,
    option_name,
    override,
    parse_setting,
    setting_text,
)

__all__ = [
    "BATCH_OPTIONS",
    "FILE",
    "FILE_SECTION",
    "JOB_OPTIONS",
    "OUT_OPTION",
    "QUIET_OPTION",
    "RESUME_OPTION",
    "SectionedCommand",
    "pop_settings",
    "section",
    "setting_options",
    "with_options",
]

DEFAULTS: Final = Settings()
PRESETS: Final = {"default": DEFAULTS, "paper": PAPER}
FILE: Final = click.Path(path_type=Path)
FILE_SECTION: Final = "Progress and files"
SECTIONS: Final = {  # the title above the first setting of each section
    "size": "Size and steps",
    "content_weight": "Content and style",
    "content_layers": "Losses",
    "optimizer": "Optimization and network",
}


class SettingType(click.ParamType):
    """The values of a setting, as `nst_jax.settings.parse_setting` reads them."""

    def __init__(self, setting: str) -> None:
        about = SETTINGS[setting]
        self.setting = setting
        self.name = "|".join(filter(None, (about.kind.form, about.none_word)))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the value."""
        return parse_setting(self.setting, value)


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


def setting_options(
    *, without: Collection[str] = (), from_noise: bool = False
) -> list[Callable[[Any], Any]]:
    """Return the options of all settings that a command line can give.

    Args:
        without: settings that the command does not have.
        from_noise: whether the image starts from noise by default, and never from the content.
    """
    options, title = [], ""
    descriptions = describe_settings()
    for name, about in SETTINGS.items():
        title = SECTIONS.get(name, title)
        if name in without or about.kind.parse is None:
            continue
        text, default = descriptions[name]
        if name == "init" and from_noise:
            text, default = text.replace("content, ", ""), "noise"
        if about.kind.choices:
            kind: Any = click.Choice(about.kind.choices)
        else:
            kind = FILE if about.kind.parse is Path else SettingType(name)
        option = click.option(
            option_name(name),
            name,
            type=kind,
            multiple=name == "masks",
            help=f"{text}  [default: {default}]",
        )
        options += section(title, option)
    return [*options, *section(title, PRESET_OPTION)]


def describe_settings() -> dict[str, tuple[str, str]]:
    """Return what ``--help`` says of each setting, from the docstring of `Settings`: the first
    sentence, and the default.

    >>> describe_settings()["min_size"][1], describe_settings()["style_weights"]
    ('128', ('Mixing weight of each style.', 'equal weights'))
    """
    doc = inspect.getdoc(Settings) or ""  # `python -OO` removes it.
    texts = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", doc, re.MULTILINE))
    return {name: _describe(name, texts.get(name, "")) for name in SETTINGS}


def _describe(name: str, text: str) -> tuple[str, str]:
    words = " ".join(text.replace("`", "").split())
    none = re.search(r"None means (.+?)\.(?: |$)", words)
    sentence = f"{words.split('. ')[0].removesuffix('.')}."
    if not text.startswith("`"):
        sentence = sentence[:1].upper() + sentence[1:]
    if none_word := SETTINGS[name].none_word:
        sentence = sentence.replace("None", none_word)
    default = getattr(DEFAULTS, name)
    return sentence, none[1] if default is None and none else setting_text(name, default)


PRESET_OPTION: Final = click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="default",
    show_default=True,
    help="Settings to start from. paper: raw sums, average pooling, noise, one level, "
    "lbfgs-pixels.",
)
(OUT_OPTION,) = section(
    FILE_SECTION,
    click.option("-o", "--out", type=FILE, required=True, help="Image to write."),
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
        help="Images in one vmapped loop.  [default: as many as fit on GPUs and TPUs, 1 on CPUs]",
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
        option
        for group in options
        for option in (group if isinstance(group, list | tuple) else (group,))
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
    values = {name: options.pop(name) for name in SETTINGS if name in options}
    explicitly_set = {
        name: value
        for name, value in values.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    return override(preset, explicitly_set)
