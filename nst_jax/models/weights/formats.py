"""Weight files in and out: Keras HDF5, PyTorch state dicts and safetensors.

A reader returns what the file holds under this project's layer names, kernels as (height, width,
in, out) with the input channels in the file's own order; `nst_jax.models.weights.validation` checks it and brings it
to the one convention that the project uses.
"""

import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nst_jax.errors import InputError
from nst_jax.models.architectures import CONVS_PER_BLOCK, conv_names
from nst_jax.models.weights import torch_files
from nst_jax.models.weights.torch_files import LazyArrays

__all__ = ["OURS", "Contents", "read", "write"]

OURS: Final = "nst_jax safetensors"
OUR_FORMAT: Final = "nst_jax"
OUR_VERSION: Final = "1"

HDF5_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC: Final = b"PK\x03\x04"
LFS_MAGIC: Final = b"version https://git-lfs"


@dataclass(frozen=True)
class Contents:
    """A weight file as it was found, unchecked.

    Attributes:
        format: name of the format, for people.
        layers: ``{"conv1_1": {"kernel": HWIO, "bias": (n,)}, …}`` in the file's dtype; this
            project's own files have ``"input"`` too.
        preprocessing: what the format says about it; None where it says nothing.
        metadata: the text fields of this project's own files.
    """

    format: str
    layers: dict[str, dict[str, npt.NDArray[Any]]]
    preprocessing: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> Contents:
    """Read the weight file ``path``; its first bytes decide the format, not its name.

    Raises:
        InputError: no such file, no known format, damaged, or no convolutions of a VGG inside.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory; name a weight file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from None
    try:
        return _reader(path, head)(path)
    except InputError:
        raise
    except Exception as error:  # damaged bytes make h5py, zipfile and pickle raise anything
        why = " ".join(str(error).split())
        raise InputError(
            f"{path} is damaged or truncated ({type(error).__name__}: {why}); get the file again"
        ) from error


def _reader(path: Path, head: bytes) -> Callable[[Path], Contents]:
    if head.startswith(HDF5_MAGIC):
        return _read_hdf5
    if head.startswith(ZIP_MAGIC):
        return _read_torch_zip
    if head.startswith(torch_files.LEGACY_MAGIC):
        return _read_torch_legacy
    if head[8:10] == b'{"':
        return _read_safetensors
    if head.startswith(LFS_MAGIC):
        raise InputError(f"{path} is a git-LFS pointer, not the weights; run `git lfs pull`")
    if not head:
        raise InputError(f"{path} is empty; get the file again")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise InputError(f"{path} is a web page, not weights; check what the download answered")
    raise InputError(
        f"{path} has an unknown format; give Keras HDF5, a PyTorch state dict (.pth) or safetensors"
    )


# --- Keras ---------------------------------------------------------------------------------------


def _read_hdf5(path: Path) -> Contents:
    import h5py  # slow to import, and most runs read safetensors

    layers: dict[str, dict[str, npt.NDArray[Any]]] = {}

    def visit(name: str, node: Any) -> None:
        if not isinstance(node, h5py.Dataset):
            return
        # Keras 3 numbers its groups and keeps a layer's own name in an attribute.
        name = f"{name}/{node.parent.attrs.get('name', '')}"
        if match := re.search(r"(?:^|/)block(\d)_conv(\d)(?:/|$)", name):
            part = "bias" if node.ndim == 1 else "kernel"
            layers.setdefault(f"conv{match[1]}_{match[2]}", {})[part] = node[()]

    with h5py.File(path, "r") as file:
        # A whole-model file has the optimiser's state beside the weights, under the same names.
        root: Any = file.get("model_weights", file)
        root.visititems(visit)
        keras3 = "layers" in root
        if keras3 and not layers:
            layers.update(_numbered_layers(root["layers"]))
        if not layers:
            raise _no_vgg(path, root["layers"] if keras3 else root)
    return Contents("Keras 3 HDF5" if keras3 else "Keras legacy HDF5", layers, "caffe")


def _numbered_layers(groups: Any) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Read a file of Keras before 3.8, which names no layers but numbers them in their order."""
    convs = sorted(
        (g for g in groups if re.fullmatch(r"conv2d(_\d+)?", g)), key=lambda g: (len(g), g)
    )
    models = [m for m in CONVS_PER_BLOCK if len(conv_names(m)) == len(convs)]
    return {
        name: {"kernel": groups[f"{conv}/vars/0"][()], "bias": groups[f"{conv}/vars/1"][()]}
        for model in models
        for name, conv in zip(conv_names(model), convs, strict=True)
    }


# --- PyTorch -------------------------------------------------------------------------------------


def _read_torch_zip(path: Path) -> Contents:
    with torch_files.open_zip(path) as arrays:
        return _from_state_dict(path, "PyTorch state dict (zip)", arrays)


def _read_torch_legacy(path: Path) -> Contents:
    with torch_files.open_legacy(path) as arrays:
        return _from_state_dict(path, "PyTorch state dict (legacy)", arrays)


def _from_state_dict(path: Path, kind: str, arrays: LazyArrays) -> Contents:
    """Pick the convolutions (OIHW) out of ``arrays``; no others are read."""
    numbers = {int(m[1]) for key in arrays if (m := re.fullmatch(r"features\.(\d+)\.\w+", key))}
    if numbers:
        names = _names_of_features(path, sorted(numbers))
        owners = {f"features.{number}": name for number, name in names.items()}
    else:
        owners = {m[1]: m[1] for key in arrays if (m := re.fullmatch(r"(conv\d_\d)\.\w+", key))}
    if not owners:
        raise _no_vgg(path, arrays)
    layers: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for owner, name in owners.items():
        layers[name] = {}
        for part, suffix in (("kernel", "weight"), ("bias", "bias")):
            if (array := arrays.get(f"{owner}.{suffix}")) is not None:
                values = array()
                layers[name][part] = values.transpose(2, 3, 1, 0) if values.ndim == 4 else values
    # Bare convB_I names come from Gatys' conversion of the Caffe model.
    return Contents(kind, layers, None if numbers else "caffe")


def _names_of_features(path: Path, numbers: list[int]) -> dict[int, str]:
    """Name convolutions by their place in torchvision's ``features`` list.

    A convolution and its ReLU take two places, a pooling between two blocks a third.
    """
    block, index = 1, 1
    names = {numbers[0]: "conv1_1"}
    for before, number in pairwise(numbers):
        if number - before == 2:
            index += 1
        elif number - before == 3:
            block, index = block + 1, 1
        else:
            raise InputError(
                f"{path}: features.{number} after features.{before} is not VGG's order of layers "
                f"(with batch normalisation?); give a plain VGG16 or VGG19"
            )
        names[number] = f"conv{block}_{index}"
    return names


# --- safetensors ---------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> Contents:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        arrays: LazyArrays = {key: partial(file.get_tensor, key) for key in file.keys()}  # noqa: SIM118
        if metadata.get("format") != OUR_FORMAT:
            return _from_state_dict(path, "safetensors state dict", arrays)
        if metadata.get("version") != OUR_VERSION:
            raise InputError(f"{path} is of another version of the format; update nst-jax")
        layers: dict[str, dict[str, npt.NDArray[Any]]] = {}
        for key, array in arrays.items():
            layer, _, part = key.partition(".")
            layers.setdefault(layer, {})[part] = array()
    return Contents(OURS, layers, metadata=metadata)


def write(
    path: Path,
    layers: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    metadata: Mapping[str, str],
) -> None:
    """Write float32 or float16 ``layers`` as safetensors: all or nothing, the same bytes each time.

    Raises:
        InputError: the file cannot be written.
    """
    header: dict[str, Any] = {
        "__metadata__": {"format": OUR_FORMAT, "version": OUR_VERSION, **metadata}
    }
    blobs, end = [], 0
    for layer, parts in layers.items():
        for part, array in parts.items():
            blobs.append(array.tobytes())
            start, end = end, end + array.nbytes
            header[f"{layer}.{part}"] = {
                "dtype": "F16" if array.dtype == np.float16 else "F32",
                "shape": array.shape,
                "data_offsets": (start, end),
            }
    # Not the library's own writer, which orders the metadata at random.
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    _write_atomically(path, b"".join([len(text).to_bytes(8, "little"), text, *blobs]))


def _write_atomically(path: Path, data: bytes) -> None:
    # Beside the target, since replacing is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); choose a file in a folder of yours"
        ) from None


def _no_vgg(path: Path, keys: Iterable[object]) -> InputError:
    some = ", ".join(str(key) for key in list(keys)[:4]) or "nothing"
    return InputError(f"{path} has no VGG convolutions (it has {some}, …); give VGG16 or VGG19")
