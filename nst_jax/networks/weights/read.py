"""Reads a weight file of any supported format; its first bytes decide the format, not its name."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nst_jax.errors import InputError
from nst_jax.networks.weights.keras import read_hdf5
from nst_jax.networks.weights.safetensors import read_safetensors
from nst_jax.networks.weights.torch import read_torch
from nst_jax.networks.weights.validation import WeightFile

__all__ = ["WeightFile", "read"]

HDF5_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC: Final = b"PK\x03\x04"
PICKLE_MAGIC: Final = b"\x80"
TORCH_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # inside a pickle
LFS_MAGIC: Final = b"version https://git-lfs"


def read(path: Path) -> WeightFile:
    """Read the weight file ``path`` without checking shapes and values.

    Raises:
        InputError: the file is missing, is not a regular file, has an unknown format, is damaged,
            or contains no convolutions of a VGG.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path} is a folder; give a weight file")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer
            raise InputError(f"{path} is a pipe or a device; give a regular weight file")
        with path.open("rb") as file:
            magic = file.read(64)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a ValueError for a name with zeros
        why = getattr(error, "strerror", error)
        raise InputError(f"{path} cannot be read ({why}); check the file") from None
    try:
        return _select_reader(path, magic)(path)
    except InputError:
        raise
    except Exception as error:  # damaged bytes make h5py, safetensors and PyTorch raise anything
        why = " ".join(str(error).split())
        raise InputError(
            f"{path} cannot be read as weights ({type(error).__name__}: {why}); the file may be "
            f"damaged or truncated, get it again"
        ) from error


def _select_reader(path: Path, magic: bytes) -> Callable[[Path], WeightFile]:
    if magic.startswith(HDF5_MAGIC):
        return read_hdf5
    if magic.startswith(ZIP_MAGIC) or (
        magic.startswith(PICKLE_MAGIC) and TORCH_LEGACY_MAGIC in magic
    ):
        return read_torch
    if magic[8:9] == b"{":
        return read_safetensors
    if magic.startswith(LFS_MAGIC):
        raise InputError(f"{path} is a git-LFS pointer, not the weights; run `git lfs pull`")
    if not magic:
        raise InputError(f"{path} is empty; get the file again")
    if magic.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise InputError(f"{path} is a web page, not weights; check what the download returned")
    raise InputError(
        f"{path} has an unknown format; give safetensors, Keras HDF5 or a PyTorch state dict (.pth)"
    )
