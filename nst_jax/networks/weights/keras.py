"""Reads Keras HDF5 files: legacy and Keras 3, only weights or whole models."""

import re
from pathlib import Path
from typing import Any, Final, get_args

from nst_jax._types import ModelName
from nst_jax.errors import InputError
from nst_jax.networks.architectures import conv_names
from nst_jax.networks.weights.validation import WeightFile, check_layers, check_size, not_vgg_error

__all__ = ["KERAS_LEGACY", "read_hdf5"]

KERAS_LEGACY: Final = "Keras legacy HDF5"


def read_hdf5(path: Path) -> WeightFile:
    """Read the convolutions of the Keras file ``path``; links to other files are not followed."""
    import h5py  # slow to import, and most runs read safetensors

    datasets: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:  # h5py visits hard links only
        if isinstance(node, h5py.Dataset):
            datasets[name] = node

    with h5py.File(path, "r") as file:
        file.visititems(visit)
        # A whole-model file contains the optimizer's state too, under the same layer names.
        if model_weights := {n: d for n, d in datasets.items() if n.startswith("model_weights/")}:
            datasets = model_weights
        arrays = _named_arrays(datasets) or _numbered_arrays(datasets)
        if not arrays:
            raise not_vgg_error(path, datasets)
        layers: dict[str, dict[str, Any]] = {}
        for (layer, part), dataset in arrays.items():
            # Any value that is read costs a whole chunk.
            for shape in (dataset.shape or (), dataset.chunks or ()):
                check_size(path, f"{layer} {part}", shape)
            if dataset.external or dataset.is_virtual:
                raise InputError(
                    f"{path}: {layer} {part} is stored in another file; give the file as Keras "
                    "saved it"
                )
            layers.setdefault(layer, {})[part] = dataset
        check_layers(path, layers)
        layers = {n: {k: x[()] for k, x in parts.items()} for n, parts in layers.items()}
    keras3 = any(name.startswith("layers/") for name in datasets)
    return WeightFile("Keras 3 HDF5" if keras3 else KERAS_LEGACY, layers, "caffe")


def _named_arrays(datasets: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Find the datasets whose path or attribute contains a layer name such as block1_conv2."""
    arrays = {}
    for name, dataset in datasets.items():
        # Keras 3 numbers its groups and stores the layer's name in an attribute.
        full_name = f"{name}/{dataset.parent.attrs.get('name', '')}"
        if match := re.search(r"(?:^|/)block(\d)_conv(\d)(?:/|$)", full_name):
            part = "bias" if dataset.ndim == 1 else "kernel"
            arrays[f"conv{match[1]}_{match[2]}", part] = dataset
    return arrays


def _numbered_arrays(datasets: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Find the datasets of a file by Keras 3.0 to 3.7, which numbers the convolutions in order."""
    matches = (re.fullmatch(r"layers/(conv2d(?:_\d+)?)/vars/0", name) for name in datasets)
    convs = sorted((m[1] for m in matches if m), key=lambda name: (len(name), name))
    model = next((m for m in get_args(ModelName) if len(conv_names(m)) == len(convs)), None)
    if model is None:
        return {}
    return {
        (layer, part): datasets[f"layers/{conv}/vars/{index}"]
        for layer, conv in zip(conv_names(model), convs, strict=True)
        for index, part in enumerate(("kernel", "bias"))
    }
