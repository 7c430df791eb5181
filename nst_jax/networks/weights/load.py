"""Load, check and save weight files."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from nst_jax._types import ModelName, Preprocessing
from nst_jax.errors import InputError, short_repr
from nst_jax.files import file_hash
from nst_jax.networks.architectures import Params
from nst_jax.networks.weights.read import read
from nst_jax.networks.weights.registry import BUNDLED_SHA256, find_bundled, lookup
from nst_jax.networks.weights.safetensors import NATIVE_FORMAT, write_safetensors
from nst_jax.networks.weights.validation import (
    check_layers,
    detect_preprocessing,
    resolve_preprocessing,
    to_canonical,
)

__all__ = ["VerifyReport", "Weights", "load", "save", "verify"]


@dataclass(frozen=True, eq=False)
class Weights:
    """Checked network parameters and their provenance.

    Attributes:
        params: float32 NumPy arrays by layer: ``kernel`` (3, 3, in, out) and ``bias`` (out,); and
            the ``mean`` and ``std`` (3,) of the RGB input in ``params["input"]``.
        model: ``"vgg16"`` or ``"vgg19"``.
        path: the file that was read.
        sha256: hash of that file.
        source: where the weights come from, in words.
        license: license of the weights, in words.
    """

    params: Params = field(repr=False)
    model: ModelName
    path: Path
    sha256: str
    source: str
    license: str


@dataclass(frozen=True)
class VerifyReport:
    """Result of `verify` for a valid file.

    Attributes:
        weights: the checked weights.
        format: the file's format.
        dtype: dtype of the kernels in the file.
        preprocessing: ``"caffe"``, ``"torchvision"`` or ``"custom"``.
        hash_verified: whether the file has the pinned hash of the bundled file.
    """

    weights: Weights
    format: str
    dtype: str
    preprocessing: str
    hash_verified: bool


def load(path: Path | str, *, preprocessing: Preprocessing | None = None) -> Weights:
    """Read VGG16 or VGG19 from a weight file.

    The formats are this project's safetensors, Keras HDF5 (legacy and Keras 3, with or without the
    classifier, only weights or a whole model), and PyTorch state dicts (``.pth`` or safetensors)
    with torchvision's names (``features.0.weight``) or Gatys' names (``conv1_1.weight``). Reading a
    ``.pth`` file needs PyTorch. The fully connected layers are not read.

    Args:
        path: the file. Its content decides the format.
        preprocessing: the preprocessing that the weights were trained with, if the file does not
            say it: ``"caffe"`` (BGR in 0..255 minus the mean) or ``"torchvision"`` (standardized
            RGB in 0..1).

    Returns:
        The weights in float32. Layers, shapes and values are checked.

    Raises:
        InputError: the file is missing, damaged, or not VGG16 or VGG19; its preprocessing is not
            known or contradicts ``preprocessing``; or it is the bundled file and has been changed.

    >>> from nst_jax import weights
    >>> loaded = load(weights.bundled_path())
    >>> loaded.model, loaded.params["conv1_1"]["kernel"].shape
    ('vgg16', (3, 3, 3, 64))
    """
    return verify(path, preprocessing=preprocessing).weights


def verify(path: Path | str, *, preprocessing: Preprocessing | None = None) -> VerifyReport:
    """Check a weight file in the same way as `load`, and report what it contains.

    Raises:
        InputError: as in `load`.

    >>> from nst_jax import weights
    >>> report = verify(weights.bundled_path())
    >>> report.dtype, report.preprocessing, report.hash_verified
    ('float16', 'torchvision', True)
    """
    path = Path(path)
    weight_file = read(path)
    sha256 = file_hash(path)
    provenance = lookup(path, weight_file, sha256)
    model = check_layers(path, weight_file.layers)
    from_file: str | None = provenance.preprocessing
    if weight_file.format == NATIVE_FORMAT:
        from_file = detect_preprocessing(path, weight_file.layers.get("input", {}))
    resolved = resolve_preprocessing(path, from_file, preprocessing)
    params = to_canonical(path, weight_file.layers, model, resolved)
    hash_verified = sha256 == BUNDLED_SHA256
    if not hash_verified and (bundled := find_bundled()) and path.samefile(bundled):
        raise InputError(
            f"{path}: SHA-256 expected {BUNDLED_SHA256}, got {sha256}; reinstall nst-jax or check "
            f"the file out again"
        )
    return VerifyReport(
        weights=Weights(params, model, path, sha256, provenance.source, provenance.license),
        format=weight_file.format,
        dtype=str(weight_file.layers["conv1_1"]["kernel"].dtype),
        preprocessing=resolved,
        hash_verified=hash_verified,
    )


def from_params(params: Params) -> Weights:
    """Return parameters in memory as `Weights`.

    Args:
        params: as `Weights` holds them: kernels (height, width, in, out), RGB input, and the mean
            and standard deviation of the input in ``params["input"]``.

    Raises:
        InputError: as `load`.

    >>> from nst_jax import weights
    >>> loaded = weights.load_pretrained("vgg16")
    >>> changed = dict(loaded.params, conv1_1={**loaded.params["conv1_1"], "bias": [0.0] * 64})
    >>> from_params(changed).model
    'vgg16'
    """
    path = Path("<params>")
    for name, parts in params.items():
        if not isinstance(parts, Mapping):
            raise InputError(
                f"{path}: {name} is {short_repr(parts)}; give its kernel and bias by name"
            )
    layers = {n: {k: np.asarray(x) for k, x in parts.items()} for n, parts in params.items()}
    model = check_layers(path, layers)
    preprocessing = detect_preprocessing(path, layers.get("input", {}))
    arrays = to_canonical(path, layers, model, preprocessing)
    digest = hashlib.sha256()
    for parts in arrays.values():
        for array in parts.values():
            digest.update(array.tobytes())
    return Weights(arrays, model, path, digest.hexdigest(), "parameters in memory", "unknown")


def save(
    path: Path | str,
    weights: Weights | Params,
    *,
    source: str | None = None,
    license: str | None = None,
    source_sha256: str | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> None:
    """Write parameters as safetensors. An existing file stays until the new one is complete.

    Keys are ``conv1_1.kernel``, ``conv1_1.bias``, … and ``input.mean``, ``input.std``, which are
    always float32. The metadata contains model, preprocessing, source, license and the hash of the
    source.

    Args:
        path: the file to write. A missing folder is created.
        weights: `Weights` or bare parameters.
        source: where the weights come from, in words. By default that of `Weights`, or "unknown".
        license: license in words; same default.
        source_sha256: hash of the file that the weights come from; same default.
        dtype: dtype of the kernels and biases. float16 halves the size of the file.

    Raises:
        InputError: the parameters are not VGG16 or VGG19, exceed the range of float16, or the file
            cannot be written; or another dtype.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from nst_jax import weights
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mine.safetensors"
    ...     save(path, weights.load_pretrained("vgg16"), source="my own", dtype="float16")
    ...     weights.load(path).source
    'my own'
    """
    path = Path(path)
    if dtype not in ("float32", "float16"):
        raise InputError(f"dtype is {dtype!r}; choose float32 or float16")
    if isinstance(weights, Weights):
        params: Params = weights.params
        source, license = source or weights.source, license or weights.license
        source_sha256 = source_sha256 or weights.sha256
    else:
        params = weights
    model = check_layers(path, params)
    preprocessing = detect_preprocessing(path, params.get("input", {}))
    stored = to_canonical(path, params, model, preprocessing, dtype)
    metadata = {
        "model": model,
        "preprocessing": preprocessing,
        "source": source or "unknown",
        "license": license or "unknown",
        "source_sha256": source_sha256 or "unknown",
    }
    write_safetensors(path, stored, metadata)
