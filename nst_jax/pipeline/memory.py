"""How much memory a program needs, and refusing one that would not fit before it runs."""

import ctypes
import re
import sys
from typing import Any, Final

import jax
import psutil

from nst_jax.errors import InputError, TooLargeError
from nst_jax.pipeline.programs import compiled

__all__ = [
    "compile_to_fit",
    "free_bytes",
    "give_back",
    "parse_bytes",
    "planned_bytes",
    "used_bytes",
]

UNITS: Final = {"k": 1, "m": 2, "g": 3, "t": 4}

SCRATCH_ON_CPU: Final = 0.15
"""What a CPU's kernels take besides XLA's plan, as a share of its temporaries. Of Adam's loop at
512 and 1024 pixels, at once and in tiles, in both precisions, 3 to 25 % were measured."""


def compile_to_fit(
    jitted: Any, *args: Any, budget: int | None = None, **options: Any
) -> jax.stages.Compiled:
    """Compile ``jitted`` for these arguments; the result takes the ones that are not static.

    Args:
        jitted: what ``jax.jit`` returned.
        *args: its arguments, arrays on the device.
        budget: the bytes that the program may take with its arguments (`planned_bytes`). By default
            what is free on the device now, besides the arguments, which lie there already.
        **options: as of `nst_jax.pipeline.programs.compiled`.

    Raises:
        TooLargeError: XLA plans more memory for the program than that. Without this check the
            operating system would kill the process with everything in it.
    """
    try:
        program = compiled(jitted, *args, **options)
    except jax.errors.JaxRuntimeError as error:  # the TPU's compiler refuses by itself
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLargeError(
            "this needs more memory than the device has; choose a smaller size"
        ) from error
    give_back()
    plan = program.memory_analysis()
    if plan is None:
        return program
    needed = _bytes_of(plan)
    if budget is None and (free := free_bytes()) is not None:
        budget = free + plan.argument_size_in_bytes
    if budget is not None and needed > budget:
        raise TooLargeError(
            f"this needs about {needed / 2**30:.1f} GiB of memory and may take "
            f"{budget / 2**30:.1f} GiB; choose a smaller size"
        )
    return program


def planned_bytes(program: jax.stages.Compiled) -> int | None:
    """What a program takes while it runs, arguments and results included; None if XLA is silent.

    What Python and XLA themselves hold is not in it.
    """
    plan = program.memory_analysis()
    return None if plan is None else _bytes_of(plan)


def _bytes_of(plan: Any) -> int:
    scratch = SCRATCH_ON_CPU if jax.devices()[0].platform == "cpu" else 0.0
    return (
        round(plan.temp_size_in_bytes * (1 + scratch))
        + plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
    )


def give_back() -> None:
    """Hand freed memory back to the system, of which glibc keeps some 200 MiB after compiling."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def free_bytes() -> int | None:
    """What is free on the device now: of a CPU's memory, what the system can give without swapping;
    None if the device does not tell."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return psutil.virtual_memory().available
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0)


def used_bytes() -> int:
    """What this process holds on the device now: of a CPU's memory, all that it has."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return psutil.Process().memory_info().rss
    return (device.memory_stats() or {}).get("bytes_in_use", 0)


def parse_bytes(text: str) -> int:
    """Turn a size like ``8GB``, ``750 MB``, ``6GiB`` or ``0.5g`` into bytes.

    Without an ``i`` the units are powers of 1000, with it powers of 1024.

    >>> parse_bytes("750MB"), parse_bytes("0.5g"), parse_bytes("6GiB") == 6 * 2**30
    (750000000, 500000000, True)

    Raises:
        InputError: it is no such size, or is zero.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([kmgt])(i?)b?\s*", text, re.IGNORECASE)
    size = 0
    if match:
        number, unit, binary = match.groups()
        size = round(float(number) * (1024 if binary else 1000) ** UNITS[unit.lower()])
    if size == 0:
        raise InputError(f"{text!r} is no size of memory; give one like 8GB, 750MB or 6GiB")
    return size
