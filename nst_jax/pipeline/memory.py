"""How much memory a computation needs, and how it fits into the memory there is."""

import ctypes
import sys
from typing import Any, Final

import jax
import psutil

from nst_jax.errors import MemoryLimitError, is_out_of_memory

__all__ = [
    "available_bytes",
    "check_pixels_fit",
    "compile_within_limit",
    "planned_bytes",
    "required_bytes",
    "trim_malloc",
]

CPU_SCRATCH_FRACTION: Final = 0.15
"""What a CPU's kernels allocate in addition to XLA's plan, as a fraction of its temporaries. For
Adam's loop at 512 and 1024 pixels, whole and in tiles, in both dtypes, it was 3 to 25 %."""


def compile_within_limit(
    jitted: Any, *args: Any, limit: int | None = None, **static: Any
) -> jax.stages.Compiled:
    """Compile a jitted function for these arguments, and refuse an executable that does not fit.

    Without this check the operating system would kill the process and everything in it. JAX keeps
    the executable, so that a later call with arguments of the same shapes costs nothing.

    Args:
        jitted: what ``jax.jit`` returned.
        *args: its arguments: arrays, or shapes and dtypes.
        limit: bytes that the executable may use, its arguments included (`required_bytes`). By
            default the free memory of the device, plus the arguments, which are there already.
        **static: its static arguments.

    Raises:
        MemoryLimitError: XLA plans more memory than that, or its compiler ran out of memory.
    """
    try:
        executable = jitted.lower(*args, **static).compile()
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(
            "this needs more memory than the device has; choose a smaller size"
        ) from error
    trim_malloc()
    plan = executable.memory_analysis()  # Not free, so once.
    if plan is None:
        return executable
    needed = planned_bytes(plan)
    if limit is None and (free := available_bytes()) is not None:
        limit = free + plan.argument_size_in_bytes
    if limit is not None and needed > limit:
        raise MemoryLimitError(
            f"this needs about {needed / 2**30:.2g} GiB of memory and may use "
            f"{limit / 2**30:.2g} GiB; choose a smaller size"
        )
    return executable


def required_bytes(executable: jax.stages.Compiled) -> int | None:
    """Return the bytes that an executable uses while it runs, arguments and results included.

    The memory of Python and XLA themselves is not included. None if XLA does not report it.
    """
    plan = executable.memory_analysis()
    return None if plan is None else planned_bytes(plan)


def planned_bytes(plan: Any) -> int:
    """Return the bytes of a plan that ``memory_analysis`` returned."""
    scratch = CPU_SCRATCH_FRACTION if jax.default_backend() == "cpu" else 0.0
    return (
        round(plan.temp_size_in_bytes * (1 + scratch))
        + plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
    )


def available_bytes() -> int | None:
    """Return the free memory of the device in bytes (on a CPU: what the system can give without
    swapping), or None if the device does not report it. Of several devices, the smallest."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return psutil.virtual_memory().available
    stats = [device.memory_stats() or {} for device in devices]
    if not all("bytes_limit" in each for each in stats):
        return None
    return min(each["bytes_limit"] - each.get("bytes_in_use", 0) for each in stats)


def check_pixels_fit(shape: tuple[int, int]) -> None:
    """Refuse an image of this (h, w) that the host cannot hold, before it is made.

    Raises:
        MemoryLimitError: the image, its resampled bands and one copy need more memory than is free.
    """
    needed, free = 3 * 3 * 4 * shape[0] * shape[1], psutil.virtual_memory().available
    if needed > free:
        raise MemoryLimitError(
            f"{shape[1]}x{shape[0]} pixels need {needed / 2**30:.2g} GiB of memory as an image "
            f"alone and {free / 2**30:.2g} GiB are free; choose a smaller size"
        )


def trim_malloc() -> None:
    """Return freed memory to the system; glibc keeps some 200 MiB after a compilation."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
