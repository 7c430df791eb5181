"""The checks that a weight file must pass, and the one form in which the project uses parameters.

Parameters are a plain pytree of float32 NumPy arrays,
``{"input": {"mean": (3,), "std": (3,)}, "conv1_1": {"kernel": (3, 3, 3, 64), "bias": (64,)}, …}``.
Kernels are (height, width, in, out) with RGB input channels. The network's input is
``(rgb - mean) / std`` for RGB in [0, 1], so the parameters contain their own preprocessing and no
other code needs to know where they came from.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import numpy.typing as npt

from nst_jax._types import ModelName, Preprocessing
from nst_jax.errors import InputError
from nst_jax.networks.architectures import Params, conv_names, conv_shape

__all__ = [
    "INPUT_NORMALIZATION",
    "WeightFile",
    "check_layers",
    "check_size",
    "detect_preprocessing",
    "not_vgg_error",
    "resolve_preprocessing",
    "to_canonical",
]

MAX_VALUES: Final = max(math.prod(conv_shape(name)) for name in conv_names("vgg19"))

INPUT_NORMALIZATION: Final[dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation of each preprocessing, in RGB order, for pixels in [0, 1]."""


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file before any check.

    Attributes:
        format: name of the format, for people.
        layers: arrays by layer, kernels as (height, width, in, out). Files that
            `nst_jax.networks.weights.save` wrote have the layer ``"input"`` too.
        preprocessing: the preprocessing that the format implies, or None.
        metadata: text fields of a file that `nst_jax.networks.weights.save` wrote.
    """

    format: str
    layers: Params
    preprocessing: Preprocessing | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def not_vgg_error(path: Path, keys: Iterable[str]) -> InputError:
    """Return the error for a file whose ``keys`` name no convolution of a VGG."""
    found = ", ".join(key[:40] for key in list(keys)[:4]) or "nothing"
    return InputError(f"{path} has no VGG convolutions (it has {found}, …); give VGG16 or VGG19")


def check_size(path: Path, name: str, shape: Sequence[int]) -> None:
    """Raise `InputError` for an array that VGG cannot have, before its values are read.

    A small file can claim a huge array.
    """
    if math.prod(shape) > MAX_VALUES:
        raise InputError(
            f"{path}: {name} has shape {tuple(shape)}, which is too large for VGG; give VGG16 or "
            "VGG19"
        )


def check_layers(path: Path, layers: Params) -> ModelName:
    """Return the model. Raise `InputError` for a wrong layer, shape or dtype."""
    names_found = set(layers) - {"input"}
    model: ModelName = "vgg19" if names_found - set(conv_names("vgg16")) else "vgg16"
    names = conv_names(model)
    if missing := [name for name in names if name not in names_found]:
        raise InputError(
            f"{path} has no layer {missing[0]}, so it is not {model.upper()}; "
            f"give a VGG16 or VGG19 with all convolutions"
        )
    if unknown := sorted(names_found - set(names)):
        raise InputError(
            f"{path} has a layer {unknown[0]}, which VGG16 and VGG19 do not have; give one of them"
        )
    for name in names:
        for part, shape in (("kernel", conv_shape(name)), ("bias", conv_shape(name)[-1:])):
            array = layers[name].get(part)
            if array is None:
                raise InputError(f"{path}: {name} has no {part}; give the file as it was published")
            if array.shape != shape or array.dtype.kind != "f":
                raise InputError(
                    f"{path}: {name} {part} has shape {array.shape} and dtype {array.dtype}, "
                    f"expected {shape} (height, width, in, out) in floating point; "
                    f"give a standard {model.upper()}"
                )
    return model


def resolve_preprocessing(path: Path, from_file: str | None, from_user: str | None) -> str:
    """Return the preprocessing that ``path`` implies or the user gives; they must not differ."""
    if from_user not in (None, *get_args(Preprocessing)):
        raise InputError(f"preprocessing is {from_user!r}; choose caffe or torchvision")
    if from_file and from_user and from_file != from_user:
        raise InputError(
            f"{path} was trained with {from_file} preprocessing, not {from_user}; "
            f"leave preprocessing out"
        )
    if preprocessing := from_file or from_user:
        return preprocessing
    raise InputError(
        f"{path} does not say which preprocessing it was trained with; convert it first: nst-jax "
        f"weights convert {path} OUT.safetensors --preprocessing caffe (BGR in 0..255 minus the "
        f"mean) or torchvision (standardized RGB), or in Python pass preprocessing= to "
        f"nst_jax.weights.load"
    )


def detect_preprocessing(path: Path, normalization: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the preprocessing that has this mean and deviation, or ``"custom"``; check them."""
    for name, least in (("mean", -np.inf), ("std", 0)):
        array = np.asarray(normalization.get(name), np.float32)
        if array.shape != (3,) or not (np.isfinite(array) & (array > least)).all():
            kind = "positive" if name == "std" else "finite"
            raise InputError(f"{path}: input.{name} is not three {kind} numbers; convert it again")
    for name, (mean, std) in INPUT_NORMALIZATION.items():
        if np.allclose(normalization["mean"], mean) and np.allclose(normalization["std"], std):
            return name
    return "custom"


def to_canonical(
    path: Path, layers: Params, model: ModelName, preprocessing: str, dtype: str = "float32"
) -> Params:
    """Return checked ``layers`` with RGB channels, kernels and biases in ``dtype``, and the input.

    Raises:
        InputError: an array contains a value that is not finite in ``dtype``.
    """
    mean, std = INPUT_NORMALIZATION.get(preprocessing, ((), ()))
    normalization = layers.get("input", {"mean": mean, "std": std})
    params: dict[str, dict[str, npt.NDArray[Any]]] = {
        "input": {name: np.array(normalization[name], np.float32) for name in ("mean", "std")}
    }
    is_bgr = preprocessing == "caffe" and "input" not in layers
    for name in conv_names(model):
        params[name] = {}
        for part in ("kernel", "bias"):
            array = layers[name][part]
            if is_bgr and (name, part) == ("conv1_1", "kernel"):
                array = array[:, :, ::-1]
            # A copy, because some readers return views of a memory-mapped file.
            with np.errstate(over="ignore"):  # the check below reports an overflow
                params[name][part] = np.array(array, dtype, order="C")
            if not np.isfinite(params[name][part]).all():
                raise InputError(
                    f"{path}: {name} {part} has values that are NaN or infinite as {dtype}; "
                    f"get the file again"
                )
    return params
