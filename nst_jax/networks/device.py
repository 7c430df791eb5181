"""What the device multiplies fast, on which the dtype of a network depends."""

from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from nst_jax.errors import InputError

__all__ = ["cpu_has", "resolve_dtype"]

DtypeName = Literal["auto", "float32", "bfloat16"]


def resolve_dtype(dtype: str) -> Any:
    """Turn ``float32``, ``bfloat16`` or ``auto`` into a NumPy dtype.

    ``auto`` is bfloat16 where the hardware multiplies it faster than float32: on TPU, on GPUs
    (NVIDIA's from compute capability 8.0), and on processors with AMX or the bfloat16 instructions
    of AVX-512. The losses and the image are float32 in either case.

    Raises:
        InputError: another name.

    >>> resolve_dtype("float32"), str(resolve_dtype("auto")) in ("float32", "bfloat16")
    (dtype('float32'), True)
    """
    if dtype not in get_args(DtypeName):
        raise InputError(f"dtype is {dtype!r}; choose one of {', '.join(get_args(DtypeName))}")
    if dtype == "auto":
        dtype = "bfloat16" if _has_fast_bfloat16(jax.devices()[0]) else "float32"
    return jnp.dtype(dtype)


def _has_fast_bfloat16(device: Any) -> bool:
    """Whether a JAX device multiplies bfloat16 faster than float32."""
    if device.platform == "cpu":
        return cpu_has("amx_bf16", "avx512_bf16")
    # XLA computes bfloat16 in float32 on older GPUs of NVIDIA. AMD's have names, not numbers.
    try:
        return float(getattr(device, "compute_capability", "")) >= 8.0
    except ValueError:
        return True


def cpu_has(*flags: str) -> bool:
    """Whether the processor has one of ``flags``, in the spelling of Linux's /proc/cpuinfo.

    Linux lists AMX only if it has enabled it.
    """
    try:
        return not set(flags).isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # other systems do not have this file
        return False
