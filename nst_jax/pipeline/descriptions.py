"""Descriptions of functions, which tell whether a checkpoint was made with the same ones."""

import hashlib
import inspect
from collections.abc import Mapping
from functools import partial
from types import CellType, CodeType, FunctionType
from typing import Any

import jax
import numpy as np

__all__ = ["fingerprint"]


def fingerprint(value: Any) -> str:
    """Return a text that names a function, its code and all values that it closes over.

    Equal texts do not prove that two functions are equal: objects of other types than functions,
    numbers, texts, arrays and containers of these are described by their type alone.

    >>> fingerprint(lambda x: 2 * x) == fingerprint(lambda x: 3 * x)
    False
    """
    return _describe(value, depth=0)


def _describe(value: Any, depth: int) -> str:
    if depth > 20:  # A function that closes over itself.
        return "…"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        return f"array({array.shape}, {array.dtype}, {digest})"
    if isinstance(value, Mapping):
        items = (f"{key!r}: {_describe(item, depth + 1)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list | tuple):
        items = (_describe(item, depth + 1) for item in value)
        return f"{type(value).__name__}({', '.join(items)})"
    if isinstance(value, partial):
        return f"partial{_describe((value.func, value.args, value.keywords), depth + 1)}"
    function = inspect.unwrap(value) if callable(value) else value
    if isinstance(function, FunctionType):
        held = [_cell_contents(cell) for cell in function.__closure__ or ()]
        held += [function.__defaults__, function.__kwdefaults__]
        name = f"{function.__module__}.{function.__qualname__}"
        return f"{name}#{_code_digest(function.__code__)}{_describe(held, depth + 1)}"
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _cell_contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # The variable has no value yet.
        return None


def _code_digest(code: CodeType) -> str:
    constants = [_code_digest(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    content = (code.co_code, code.co_names, constants)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:8]
