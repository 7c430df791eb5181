"""Which number format the network computes in."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["network_dtype"]


def network_dtype(choice: str) -> Any:
    """Turn ``float32``, ``bfloat16`` or ``auto`` into a dtype.

    ``auto`` is bfloat16 wherever the hardware multiplies it several times as fast as float32: on
    GPUs, TPUs and processors with AMX. Losses and the picture itself stay in float32 either way.
    """
    if choice != "auto":
        return jnp.dtype(choice)
    fast = jax.default_backend() != "cpu" or _processor_has("amx_bf16")
    return jnp.dtype(jnp.bfloat16 if fast else jnp.float32)


def _processor_has(flag: str) -> bool:
    try:
        return flag in Path("/proc/cpuinfo").read_text().split()
    except OSError:  # AMX needs Linux to have switched it on; other systems do not have this file
        return False
