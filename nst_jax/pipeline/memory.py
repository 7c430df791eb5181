"""How much memory a computation needs, and how it fits into the memory there is."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import jax
import psutil

from nst_jax.errors import MemoryLimitError, is_out_of_memory

__all__ = [
    "available_bytes",
    "check_pixels_fit",
    "compile_within_limit",
    "host_available_bytes",
    "planned_bytes",
    "required_bytes",
    "trim_malloc",
]

CPU_SCRATCH_FRACTION: Final = 0.15
"""What a CPU's kernels allocate in addition to XLA's plan, as a fraction of its temporaries. For
Adam's loop at 512 and 1024 pixels, whole and in tiles, in both dtypes, it was 3 to 25 %."""

CGROUPS: Final = Path("/sys/fs/cgroup")
OWN_CGROUPS: Final = Path("/proc/self/cgroup")
CGROUP_FILES: Final = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    2: ("memory.max", "memory.current", ""),
}
"""By the version of Linux' cgroups: the files of the limit and of the use, and the prefix of the
numbers in memory.stat that count a group's children too."""


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
    """Return the free memory of the device in bytes (on a CPU: `host_available_bytes`), or None if
    the device does not report it. Of several devices, the smallest."""
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return host_available_bytes()
    stats = [device.memory_stats() or {} for device in devices]
    if not all("bytes_limit" in each for each in stats):
        return None
    return min(each["bytes_limit"] - each.get("bytes_in_use", 0) for each in stats)


def host_available_bytes() -> int:
    """Return what the system can give without swapping, in bytes: of its free memory, no more than
    the limits of the process' cgroup and of that group's parents leave (a container, a job of Slurm
    or Kubernetes).

    >>> host_available_bytes() > 0
    True
    """
    return max(0, min([psutil.virtual_memory().available, *_left_in_cgroups()]))


def _left_in_cgroups() -> Iterator[int]:
    """Yield what is left of the limit of each cgroup that holds this process."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            version, root = 2, CGROUPS
        elif "memory" in controllers.split(","):
            version, root = 1, CGROUPS / "memory"
        else:
            continue
        # Inside a container the path may be the host's. Its groups are not there, but the root is.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            # A group without a limit has no such file, or a word in it.
            with suppress(OSError, ValueError):
                yield _left_in_cgroup(root.joinpath(*parts[:depth]), *CGROUP_FILES[version])


def _left_in_cgroup(group: Path, limit: str, use: str, prefix: str) -> int:
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    # The kernel gives up cached files before it refuses memory.
    reclaimable = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    return int((group / limit).read_text()) - int((group / use).read_text()) + reclaimable


def check_pixels_fit(shape: tuple[int, int]) -> None:
    """Refuse an image of this (h, w) that the host cannot hold, before it is made.

    Raises:
        MemoryLimitError: the image, its resampled bands and one copy need more memory than is free.
    """
    needed, free = 3 * 3 * 4 * shape[0] * shape[1], host_available_bytes()
    if needed > free:
        raise MemoryLimitError(
            f"{shape[1]}x{shape[0]} pixels need {needed / 2**30:.2g} GiB of memory as an image "
            f"alone and {free / 2**30:.2g} GiB are free; choose a smaller size"
        )


def trim_malloc() -> None:
    """Return freed memory to the system; glibc keeps some 200 MiB after a compilation."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
