"""The one convention for parameters, and the checks that a set of weights must pass.

Parameters are a plain pytree of float32 NumPy arrays,
``{"input": {"mean": (3,), "std": (3,)}, "conv1_1": {"kernel": (3, 3, 3, 64), "bias": (64,)}, …}``
with kernels as (height, width, in, out) and RGB input channels. The network's input is
``(rgb - mean) / std`` for RGB in [0, 1], so the parameters carry the preprocessing that they were
trained under, and nothing downstream asks where they came from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from nst_jax.errors import InputError
from nst_jax.models.architectures import conv_names, conv_shape

__all__ = [
    "INPUT_STATISTICS",
    "Layers",
    "Model",
    "Params",
    "canonical",
    "check_finite",
    "check_layers",
    "check_statistics",
    "preprocessing_of",
    "settle_preprocessing",
]

Params = dict[str, dict[str, npt.NDArray[np.float32]]]
Layers = Mapping[str, Mapping[str, npt.NDArray[Any]]]
Model = Literal["vgg16", "vgg19"]

INPUT_STATISTICS: Final[dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation, RGB, on the scale where white is 1."""


def check_layers(path: Path, layers: Layers) -> Model:
    """Return the model whose layers ``path`` holds; `InputError` for a missing or misshapen one."""
    found = set(layers) - {"input"}
    model: Model = "vgg19" if found - set(conv_names("vgg16")) else "vgg16"
    names = conv_names(model)
    for name in names:
        if name not in found:
            raise InputError(
                f"{path} lacks the layer {name}, so it is no {model.upper()}; "
                f"give a VGG16 or VGG19 with all convolutions"
            )
    if unknown := sorted(found - set(names)):
        raise InputError(f"{path} has a layer {unknown[0]}, which VGG16 and VGG19 have not")
    for name in names:
        shape = conv_shape(name)
        for part, expected in (("kernel", shape), ("bias", shape[-1:])):
            if part not in layers[name]:
                raise InputError(f"{path}: {name} has no {part}; give the file as it was published")
            array = layers[name][part]
            if array.shape != expected:
                raise InputError(
                    f"{path}: {name} {part} has shape {array.shape}, expected {expected} (height, "
                    f"width, in, out); give a standard {model.upper()}"
                )
            if array.dtype.kind != "f":
                raise InputError(
                    f"{path}: {name} {part} has dtype {array.dtype}, expected floating point; "
                    f"give weights that are not quantised"
                )
    return model


def check_statistics(path: Path, statistics: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise `InputError` unless mean and standard deviation are there and usable."""
    for name in ("mean", "std"):
        array = statistics.get(name)
        if array is None or array.shape != (3,) or not np.isfinite(array).all():
            raise InputError(f"{path}: input.{name} is not three finite numbers; convert anew")
    if not (statistics["std"] > 0).all():
        raise InputError(f"{path}: input.std is not positive; convert anew")


def check_finite(path: Path, params: Layers) -> None:
    """Raise `InputError` for the first array that holds a NaN or an infinity."""
    for name, parts in params.items():
        for part, array in parts.items():
            if not np.isfinite(array).all():
                raise InputError(
                    f"{path}: {name} {part} has values that are NaN or infinite as {array.dtype}; "
                    f"get the file again"
                )


def settle_preprocessing(path: Path, carried: str | None, given: str | None) -> str:
    """Return how the weights of ``path`` were trained, from what they say and the user says."""
    if given is not None and given not in INPUT_STATISTICS:
        raise InputError(f"preprocessing is {given!r}; choose caffe or torchvision")
    if carried and given and carried != given:
        raise InputError(
            f"{path} was trained with {carried} preprocessing, not {given}; "
            f"leave --preprocessing out"
        )
    if settled := carried or given:
        return settled
    raise InputError(
        f"{path} does not say how its weights were trained; pass --preprocessing caffe (BGR, "
        f"0..255 less the mean) or --preprocessing torchvision (RGB, 0..1 standardised)"
    )


def preprocessing_of(statistics: Mapping[str, npt.NDArray[Any]]) -> str:
    """Name the training that has this mean and deviation: a known one or ``"custom"``."""
    for name, (mean, std) in INPUT_STATISTICS.items():
        if np.allclose(statistics["mean"], mean) and np.allclose(statistics["std"], std):
            return name
    return "custom"


def canonical(layers: Layers, model: Model, trained: str) -> Params:
    """Return checked ``layers`` as float32 in RGB order, with the input's mean and deviation."""
    if "input" in layers:
        params = {"input": {part: _float32(layers["input"][part]) for part in ("mean", "std")}}
    else:
        mean, std = INPUT_STATISTICS[trained]
        params = {"input": {"mean": np.array(mean, np.float32), "std": np.array(std, np.float32)}}
    for name in conv_names(model):
        params[name] = {part: _float32(layers[name][part]) for part in ("kernel", "bias")}
    if "input" not in layers and trained == "caffe":
        bgr = params["conv1_1"]["kernel"]
        params["conv1_1"]["kernel"] = np.ascontiguousarray(bgr[:, :, ::-1])
    return params


def _float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # `check_finite` reports a float64 that is out of range
        return np.ascontiguousarray(array, np.float32)
