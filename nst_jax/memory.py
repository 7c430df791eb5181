"""Refusing a program that would not fit the memory, before it runs."""

import os
from typing import Any

import jax

from nst_jax.errors import TooLargeError

__all__ = ["compile_to_fit"]


def compile_to_fit(jitted: Any, *args: Any, **kwargs: Any) -> jax.stages.Compiled:
    """Compile ``jitted`` for these arguments; the result takes the ones that are not static.

    Raises:
        TooLargeError: XLA plans more memory for the program than the device has in all. Without
            this check the operating system would kill the process with everything in it.
    """
    lowered = jitted.lower(*args, **kwargs)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:  # the TPU's compiler refuses by itself
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLargeError(
            "this needs more memory than the device has; choose a smaller size"
        ) from error
    plan = compiled.memory_analysis()
    capacity = _capacity(jax.devices()[0])
    if plan is None or capacity is None:  # not every backend tells
        return compiled
    needed = (
        plan.temp_size_in_bytes
        + plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
    )
    if needed > capacity:
        raise TooLargeError(
            f"this needs about {needed / 2**30:.1f} GiB of memory and the device has "
            f"{capacity / 2**30:.1f} GiB; choose a smaller size"
        )
    return compiled


def _capacity(device: Any) -> int | None:
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (device.memory_stats() or {}).get("bytes_limit")
