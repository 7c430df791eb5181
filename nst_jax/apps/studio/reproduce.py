"""A job as a command line and as Python, and the settings inside a finished image."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from nst_jax import images
from nst_jax.errors import InputError
from nst_jax.files import parse_json
from nst_jax.settings import DEFAULT_STEPS, INIT_NAMES, Settings

__all__ = [
    "command",
    "missing_files",
    "option_text",
    "parse_metadata",
    "read_settings",
    "settings_as_stopped",
    "snippet",
]

# Metadata keys that are not restored as settings: the file of the weights follows from the model,
# and the devices and their memory are another machine's.
NOT_READ = ("weights", "network", "devices", "memory_limit", "terms", "term_weights")
DAMAGED = "the settings inside the image are damaged ({}); give the file as it was saved"
WORDS_FOR_NONE = {"size": "original", "min_size": "none"}


def option_text(name: str, value: Any) -> str:
    """Write a setting as its option takes it."""
    if value is None:
        return WORDS_FOR_NONE[name]
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{option_text(name, weight)}" for key, weight in value.items())
    if isinstance(value, list | tuple):
        return ",".join(option_text(name, item) for item in value)
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


def command(settings: Settings, content: str, styles: Sequence[str], out: str) -> str:
    """Return the ``nst-jax stylize`` command that makes the image of these settings.

    Args:
        settings: the settings. Images in them are names of files.
        content: the name of the photo.
        styles: the names of the styles.
        out: the name of the image to write.
    """
    words = ["nst-jax", "stylize", *map(_as_argument, (content, *styles)), "-o", _as_argument(out)]
    for name, value in _changes(settings).items():
        if name == "masks":
            for mask in value if isinstance(value, list | tuple) else [value]:
                words += ["--mask", _as_argument(mask)]
        else:
            words += [f"--{name.replace('_', '-')}", option_text(name, value)]
    return shlex.join(words)


def snippet(settings: Settings, content: str, styles: Sequence[str], out: str) -> str:
    """Return the Python that makes the image of these settings; the arguments are `command`'s."""
    style = repr(styles[0] if len(styles) == 1 else list(styles))
    lines = [f"    {content!r},", f"    {style},"]
    lines += [f"    {name}={value!r}," for name, value in _changes(settings).items()]
    body = "\n".join(["import nst_jax", "", "result = nst_jax.stylize(", *lines, ")"])
    return f"{body}\nresult.save({out!r})\n"


def _changes(settings: Settings) -> dict[str, Any]:
    defaults = Settings()
    values = {field.name: getattr(settings, field.name) for field in fields(Settings)}
    return {name: value for name, value in values.items() if value != getattr(defaults, name)}


def _as_argument(name: Any) -> str:
    """A file whose name begins with a dash would be taken for an option."""
    text = str(name)
    return f"./{text}" if text.startswith("-") else text


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata that `nst_jax.Result.save` wrote into an image.

    Raises:
        InputError: the file is no image, or has no settings inside.
    """
    text = images.read_metadata(path).get("nst_jax")
    if text is None:
        raise InputError(
            f"image {Path(path).name!r}: has no settings inside; give an image that nst_jax saved"
        )
    try:
        metadata = parse_json(text)
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise InputError(
            f"image {Path(path).name!r}: its settings are damaged; give the file as it was saved"
        )
    return metadata


def parse_metadata(metadata: Mapping[str, Any]) -> Settings:
    """Return the settings of an image's metadata, with the names of its other images.

    Raises:
        InputError: a setting is out of range, or stands for code that a file cannot hold.
    """
    own = metadata.get("terms") or metadata.get("network")
    if own or metadata.get("optimizer") == "custom":
        raise InputError(
            "the image was made with an optimizer, terms or a network of its own; use Python"
        )
    names = {field.name for field in fields(Settings)}.difference(NOT_READ)
    values = {name: metadata[name] for name in names if name in metadata}
    if not values.get("masks"):
        values["masks"] = None
    named = [values.get("init", ""), *_as_list(values["masks"])]
    if not all(isinstance(name, str) for name in named):
        raise InputError(DAMAGED.format("an image in them has no name"))
    steps = values.get("steps")
    if isinstance(steps, list) and steps == _default_steps(len(steps)):
        values["steps"] = None
    expected_decay = 0.9 if values.get("optimizer") == "adam" else 0.0
    if values.get("ema_decay") == expected_decay:
        values["ema_decay"] = None
    try:
        return Settings(**values)
    except TypeError as error:
        raise InputError(DAMAGED.format(error)) from error


def settings_as_stopped(metadata: Mapping[str, Any]) -> Settings:
    """Return the settings that make the image as it is, also if it was stopped.

    A stopped image has the size of the level where it stopped. Its settings take the same steps,
    and none at the levels after it, which only enlarge the image.

    Raises:
        InputError: as in `parse_metadata`.
    """
    settings = parse_metadata(metadata)
    if not metadata.get("stopped"):
        return settings
    try:
        reached = metadata["levels"].index(max(metadata["width"], metadata["height"]))
        planned = metadata["steps"]
        left = metadata["steps_done"] - sum(planned[:reached])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(DAMAGED.format("they do not say where it stopped")) from error
    # A level that converged took fewer steps than planned, and the count here is too low.
    last = left if 0 <= left <= planned[reached] else planned[reached]
    rest = (0,) * (len(planned) - reached - 1)
    return replace(settings, steps=(*planned[:reached], last, *rest))


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def missing_files(settings: Settings) -> str:
    """Say which images of these settings must be given again, or return an empty text."""
    masks = settings.masks
    names = [str(mask) for mask in masks] if isinstance(masks, list | tuple) else []
    if settings.init not in INIT_NAMES:
        names.append(str(settings.init))
    return ", ".join(names)


def _default_steps(num_levels: int) -> list[int]:
    return [*DEFAULT_STEPS, *DEFAULT_STEPS[-1:] * num_levels][:num_levels]
