"""Reads PyTorch state dicts, from ``.pth`` files with PyTorch or from any mapping of arrays."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, get_args

import numpy.typing as npt

from nst_jax._types import ModelName
from nst_jax.errors import InputError
from nst_jax.networks.architectures import conv_names
from nst_jax.networks.weights.validation import WeightFile, check_size, not_vgg_error

__all__ = ["from_state_dict", "read_torch"]

MAX_PICKLE: Final = 2**26
"""Bytes. A state dict's pickle has some kilobytes: the arrays are beside it. A compressed one could
fill the memory."""


def read_torch(path: Path) -> WeightFile:
    """Read a state dict that ``torch.save`` wrote. No code in the file is run."""
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            pickles = [
                entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")
            ]
            if any(entry.file_size > MAX_PICKLE for entry in pickles):
                raise InputError(
                    f"{path} is refused: its pickle is too large for names and shapes; get it again"
                )
            if not pickles:
                raise InputError(
                    f"{path} is a zip archive without a PyTorch state dict; from Keras, save with "
                    f"model.save_weights('NAME.weights.h5')"
                )
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path} is a PyTorch file, and reading it needs PyTorch: pip install torch. "
            f"Weights in safetensors or Keras HDF5 files need no other package"
        ) from None
    try:
        with warnings.catch_warnings(action="ignore"):  # the errors say enough
            # With mmap, PyTorch does not read the 500 MB of the classifier.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except (pickle.UnpicklingError, RuntimeError) as error:
        # PyTorch's message advises weights_only=False, which would run code of the file.
        if "weights_only" not in str(error):
            raise
        name = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"{path} is refused: it contains {name[1] if name else 'other objects than tensors'}, "
            f"and loading it could run code; save only model.state_dict(), or get the file again"
        ) from None
    if not isinstance(state, dict):
        raise InputError(f"{path} contains no state dict; save model.state_dict()")
    tensors = {str(k): v.detach() for k, v in state.items() if isinstance(v, torch.Tensor)}

    def get(key: str) -> npt.NDArray[Any]:
        tensor = tensors[key]
        check_size(path, key, tensor.shape)
        # NumPy has no bfloat16.
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    return from_state_dict(path, "PyTorch state dict", tensors, get)


def from_state_dict(
    path: Path, format_name: str, keys: Collection[str], get: Callable[[str], npt.NDArray[Any]]
) -> WeightFile:
    """Collect the convolutions of a state dict. ``get`` is called for no other array.

    The keys are torchvision's ``features.0.weight``, … or Gatys' ``conv1_1.weight``, ….
    """
    matches = (re.fullmatch(r"(features\.\d+|conv\d_\d)\.\w+", key) for key in keys)
    prefixes = {match[1] for match in matches if match}
    if not prefixes:
        raise not_vgg_error(path, keys)
    is_torchvision = any(prefix.startswith("features") for prefix in prefixes)
    layer_of_prefix = {prefix: prefix for prefix in prefixes}
    if is_torchvision:
        layouts = [_torchvision_layout(model) for model in get_args(ModelName)]
        layer_of_prefix = next((x for x in layouts if set(x) == prefixes), None)
    if layer_of_prefix is None:
        raise InputError(
            f"{path} has other layers in `features` than VGG16 and VGG19 (is it a smaller VGG, or "
            f"one with batch normalization?); give a plain VGG16 or VGG19"
        )
    layers: dict[str, dict[str, npt.NDArray[Any]]] = {name: {} for name in layer_of_prefix.values()}
    for prefix, name in layer_of_prefix.items():
        if f"{prefix}.weight" in keys:
            kernel = get(f"{prefix}.weight")
            layers[name]["kernel"] = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel
        if f"{prefix}.bias" in keys:
            layers[name]["bias"] = get(f"{prefix}.bias")
    # The names conv1_1, … come from Gatys' conversion of the Caffe model.
    return WeightFile(format_name, layers, None if is_torchvision else "caffe")


def _torchvision_layout(model: ModelName) -> dict[str, str]:
    """Return ``{"features.0": "conv1_1", "features.2": "conv1_2", …}``."""
    layout, index = {}, 0
    for name in conv_names(model):
        if name.endswith("_1") and name != "conv1_1":
            index += 1  # the pooling before this block
        layout[f"features.{index}"] = name
        index += 2  # the convolution and its ReLU
    return layout
