"""The kinds of values that settings take: what is allowed, and how a command line writes them."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from nst_jax._types import OptimizerName, StyleLossName
from nst_jax.errors import InputError, short_repr
from nst_jax.term import check_terms

__all__ = ["MAX_SIZE", "MIN_SIZE", "Kind", "choice", "parse_bytes", "to_text"]

MIN_SIZE: Final = 16  # VGG's four poolings need this many pixels; other networks may need more.
MAX_SIZE: Final = 2**17
MAX_STEPS: Final = 1_000_000
MAX_WEIGHT: Final = 1e30  # float32 ends at 3.4e38.
MAX_STYLE_SCALE: Final = 10


@dataclass(frozen=True)
class Kind:
    """A kind of values.

    Attributes:
        expected: says what is allowed: "give ..." in a message.
        convert: returns the plain value of what was given; what it cannot convert is not allowed.
        is_valid: tells whether a converted value is allowed.
        parse: reads what a command line has; None for values that only Python can give.
        form: what a command line has, in the words of ``--help``.
        choices: the only values, if they are few.
    """

    expected: str
    convert: Callable[[Any], Any] = lambda value: value
    is_valid: Callable[[Any], bool] = lambda value: True
    parse: Callable[[str], Any] | None = None
    form: str = ""
    choices: tuple[str, ...] = ()


def to_text(value: Any) -> str:
    """Write a value as the command line takes it.

    >>> to_text((200, 100)), to_text({"gram": 1.0, "sliced": 0.25})
    ('200,100', 'gram:1,sliced:0.25')
    """
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{to_text(weight)}" for key, weight in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(to_text, value))
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


def choice(literal: Any) -> Kind:
    """Return the kind of the members of a Literal."""
    choices = get_args(literal)
    return Kind(f"one of {', '.join(choices)}", str, choices.__contains__, str, choices=choices)


def parse_bytes(limit: str | int) -> int:
    """Convert an amount of memory such as ``8GB``, ``750 MB``, ``6GiB`` or ``0.5g`` to bytes.

    Units without an ``i`` are powers of 1000, units with it powers of 1024.

    >>> parse_bytes("750MB"), parse_bytes("0.5g"), parse_bytes("6GiB") == 6 * 2**30
    (750000000, 500000000, True)

    Raises:
        InputError: the text is not an amount of memory, or the amount is not above 0.
    """
    text = limit if isinstance(limit, str) else ""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt])(i?)b?\s*", text, re.IGNORECASE)
    num_bytes = limit if isinstance(limit, int) else 0
    if match:
        number, unit, binary = match.groups()
        amount = float(number) * (1024 if binary else 1000) ** ("kmgt".index(unit.lower()) + 1)
        num_bytes = round(amount) if math.isfinite(amount) else 0
    if num_bytes <= 0:
        raise InputError(f"memory_limit is {short_repr(limit)}; give {MEMORY.expected}")
    return num_bytes


def _is_weight(value: float) -> bool:
    return 0 <= value <= MAX_WEIGHT


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _strings(values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError
    return tuple(str(value) for value in values)


def _steps(value: int | Iterable[int]) -> int | tuple[int, ...]:
    if isinstance(value, Iterable):
        return tuple(map(operator.index, value))
    return operator.index(value)


def _are_steps(steps: int | tuple[int, ...]) -> bool:
    several = steps if isinstance(steps, tuple) else (steps,)
    return bool(several) and all(0 <= number <= MAX_STEPS for number in several)


def _weights(by_name: Mapping[str, float]) -> dict[str, float]:
    return {str(name): float(weight) for name, weight in by_name.items()}


def _are_weights(by_name: Mapping[str, float]) -> bool:
    return all(map(_is_weight, by_name.values()))


def _style_loss(style_loss: Any) -> Any:
    def is_part(part: Any) -> bool:
        return part in get_args(StyleLossName) or _looks_like_statistic(part)

    # `make_statistic` checks a statistic further, which imports JAX.
    if isinstance(style_loss, str) or _looks_like_statistic(style_loss):
        parts, weights = [style_loss], {}
    else:
        parts = weights = {part: float(weight) for part, weight in style_loss.items()}
        if not (_are_weights(weights) and any(weights.values())):
            raise ValueError
    if not all(map(is_part, parts)):
        raise ValueError
    return weights or style_loss


def _looks_like_statistic(value: Any) -> bool:
    return hasattr(value, "measure") or hasattr(value, "distance")


def _optimizer(optimizer: Any) -> Any:
    if isinstance(optimizer, str):
        valid = optimizer in get_args(OptimizerName)
    else:
        valid = callable(getattr(optimizer, "init", None)) and hasattr(optimizer, "update")
    if not valid:
        raise ValueError
    return optimizer


def _network(network: Any) -> Any:
    parts = ("features", "grid", "stride", "receptive_radius", "min_size", "prepare")
    if isinstance(network, type) or not all(hasattr(network, part) for part in parts):
        raise InputError(
            f"network is {short_repr(network)}; give an object with {', '.join(parts)} "
            "(nst_jax.networks.Network)"
        )
    try:
        hash(network)
    except TypeError as error:
        raise InputError(
            f"network is {short_repr(network)}, which has no hash; make it a frozen dataclass of "
            "numbers, texts and tuples"
        ) from error
    return network


def _devices(value: Any) -> Any:
    is_mesh = hasattr(value, "axis_names")  # JAX is slow to import.
    return value if value == "all" or is_mesh else operator.index(value)


def _memory_limit(limit: str | int) -> str | int:
    parse_bytes(limit)
    return limit


def _parse_items(parse: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(parse(item.strip()) for item in text.split(","))


def _parse_steps(text: str) -> int | tuple[int, ...]:
    return tuple(map(int, text.split(","))) if "," in text else int(text)


def _parse_weights(text: str) -> dict[str, float]:
    """Read names with their weights; a weight that is left out is 1."""
    weights = {}
    for item in text.split(","):
        name, colon, weight = item.strip().partition(":")
        if name in weights:
            raise InputError(f"{short_repr(text)} names {short_repr(name)} twice; name it once")
        weights[name] = float(weight) if colon else 1.0
    return weights


def _parse_style_loss(text: str) -> str | dict[str, float]:
    return _parse_weights(text) if "," in text or ":" in text else text.strip()


def _integer(expected: str, is_valid: Callable[[int], bool], form: str) -> Kind:
    return Kind(expected, operator.index, is_valid, int, form)


def _number(expected: str, is_valid: Callable[[float], bool]) -> Kind:
    return Kind(expected, float, is_valid, float, "number")


def _numbers(expected: str, are_valid: Callable[[tuple[float, ...]], bool]) -> Kind:
    return Kind(expected, _floats, are_valid, _parse_items(float), "x1,x2,…")


_FROM_0 = f"from 0 to {MAX_WEIGHT:g}"

PIXELS: Final = _integer(
    f"a whole number of pixels from {MIN_SIZE} to {MAX_SIZE}",
    lambda value: MIN_SIZE <= value <= MAX_SIZE,
    "pixels",
)
STEPS: Final = Kind(
    f"a whole number from 0 to {MAX_STEPS}, or several", _steps, _are_steps, _parse_steps, "n1,n2,…"
)
SEED: Final = _integer(
    "a whole number from 0 to 2^32 - 1", lambda seed: 0 <= seed < 2**32, "integer"
)
WEIGHT: Final = _number(f"a number {_FROM_0}", _is_weight)
LEARNING_RATE: Final = _number(
    f"a finite number above 0, up to {MAX_WEIGHT:g}", lambda rate: 0 < rate <= MAX_WEIGHT
)
DECAY: Final = _number("a number from 0 to below 1", lambda decay: 0 <= decay < 1)
WEIGHTS: Final = _numbers(
    f"numbers {_FROM_0}, at least one of them above 0",
    lambda weights: all(map(_is_weight, weights)) and any(weights),
)
SCALES: Final = _numbers(
    f"numbers above 0 and up to {MAX_STYLE_SCALE}",
    lambda scales: all(0 < scale <= MAX_STYLE_SCALE for scale in scales),
)
COLORS: Final = Kind("names of colors", _strings, bool, _parse_items(str), "c1,c2,…")
LAYERS: Final = Kind(
    f"layers with their weights, each {_FROM_0}",
    *(_weights, _are_weights, _parse_weights, "layer[:weight],…"),
)
STYLE_LOSS: Final = Kind(
    f"{', '.join(get_args(StyleLossName))}, a nst_jax.losses.StyleStatistic, or several of them "
    "with weights",
    convert=_style_loss,
    parse=_parse_style_loss,
    form="name[:weight],…",
)
TERMS: Final = Kind("a list of nst_jax.Term", check_terms)
TERM_WEIGHTS: Final = Kind(
    f"names of terms with their weights, each {_FROM_0}", _weights, _are_weights
)
OPTIMIZER: Final = Kind(
    f"{', '.join(get_args(OptimizerName))}, or an Optax transformation",
    convert=_optimizer,
    parse=str,
    choices=get_args(OptimizerName),
)
IMAGE: Final = Kind("an image", parse=str, form="text")
FILE: Final = Kind("a file", parse=Path, form="path")
NETWORK: Final = Kind("a nst_jax.networks.Network", _network)
DEVICES: Final = Kind(
    "a number from 1 up, all, or a jax.sharding.Mesh",
    _devices,
    lambda value: not isinstance(value, int) or value >= 1,
    lambda text: text if text == "all" else int(text),
    "n|all",
)
MEMORY: Final = Kind(
    "an amount such as 8GB, 750MB or 6GiB", _memory_limit, parse=str, form="amount"
)
