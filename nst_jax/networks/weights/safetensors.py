"""Reads and writes safetensors files: this project's own format, and PyTorch state dicts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from nst_jax.errors import InputError
from nst_jax.files import why_not_writable, write_atomically
from nst_jax.networks.architectures import Params
from nst_jax.networks.weights.torch import from_state_dict
from nst_jax.networks.weights.validation import WeightFile, check_size

__all__ = ["NATIVE_FORMAT", "read_safetensors", "write_arrays", "write_safetensors"]

NATIVE_FORMAT: Final = "nst_jax safetensors"
FORMAT_TAG: Final = "nst_jax"
FORMAT_VERSION: Final = "1"


def read_safetensors(path: Path) -> WeightFile:
    """Read the convolutions of the safetensors file ``path``."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:

        def get(key: str) -> npt.NDArray[Any]:
            entry = file.get_slice(key)
            check_size(path, key, entry.get_shape())
            dtype = entry.get_dtype()
            if dtype not in ("F16", "F32", "F64"):
                raise InputError(f"{path}: {key} has dtype {dtype}; save it as float32 or float16")
            return file.get_tensor(key)

        metadata = file.metadata() or {}
        keys = list(file.keys())
        if metadata.get("format") != FORMAT_TAG:
            return from_state_dict(path, "safetensors state dict", keys, get)
        if metadata.get("version") != FORMAT_VERSION:
            raise InputError(f"{path} has another version of the format; update nst-jax")
        layers: dict[str, dict[str, npt.NDArray[Any]]] = {}
        for key in keys:
            layer, _, part = key.partition(".")
            layers.setdefault(layer, {})[part] = get(key)
    return WeightFile(NATIVE_FORMAT, layers, metadata=metadata)


def write_safetensors(path: Path, layers: Params, metadata: Mapping[str, str]) -> None:
    """Write contiguous ``layers`` and ``metadata`` completely, or leave ``path`` unchanged."""
    arrays = {f"{layer}.{part}": a for layer, parts in layers.items() for part, a in parts.items()}
    write_arrays(path, arrays, {"format": FORMAT_TAG, "version": FORMAT_VERSION, **metadata})


def write_arrays(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write named arrays and ``metadata`` completely, or leave ``path`` unchanged."""
    from safetensors.numpy import save

    data = _with_sorted_metadata(save(dict(arrays), dict(metadata)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if reason := why_not_writable(path):
            raise InputError(f"{path}: {reason}")
        write_atomically(path, data)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a ValueError for a name with zeros
        why = getattr(error, "strerror", error)
        raise InputError(
            f"{path} cannot be written ({why}); choose a file in a folder that you own"
        ) from None


def _with_sorted_metadata(data: bytes) -> bytes:
    """Sort the metadata of a safetensors file, so that the same weights have the same hash.

    The library writes them in another order in each process.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # The arrays are aligned.
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
