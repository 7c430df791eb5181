"""The layers of VGG16 and VGG19 (Simonyan & Zisserman 2014, configurations D and E).

``conv3_2`` is the output of the second convolution of block 3, ``relu3_2`` the same after bias and
ReLU. A 2×2 pooling separates two blocks. This module does not import JAX.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from nst_jax._types import ModelName
from nst_jax.errors import InputError

__all__ = [
    "BLOCK_WIDTHS",
    "CONVS_PER_BLOCK",
    "Params",
    "conv_names",
    "conv_shape",
    "detect_model",
    "layer_names",
    "num_poolings",
    "required_convs",
]

Params = Mapping[str, Mapping[str, Any]]
"""The parameters of VGG: ``{"input": {"mean", "std"}, "conv1_1": {"kernel", "bias"}, …}``."""

BLOCK_WIDTHS: Final = (64, 128, 256, 512, 512)
"""Number of filters of every convolution in blocks 1 to 5, the same in both models."""

CONVS_PER_BLOCK: Final[Mapping[ModelName, tuple[int, ...]]] = {
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Number of convolutions in blocks 1 to 5."""


def conv_names(model: ModelName) -> tuple[str, ...]:
    """Names of all convolutions of ``model``, shallowest first.

    Raises:
        InputError: there is no such model.

    >>> conv_names("vgg16")[:4], len(conv_names("vgg16")), len(conv_names("vgg19"))
    (('conv1_1', 'conv1_2', 'conv2_1', 'conv2_2'), 13, 16)
    """
    if model not in CONVS_PER_BLOCK:
        raise InputError(f"model is {model!r}; choose one of {', '.join(CONVS_PER_BLOCK)}")
    return tuple(
        f"conv{block}_{index}"
        for block, count in enumerate(CONVS_PER_BLOCK[model], start=1)
        for index in range(1, count + 1)
    )


def conv_shape(name: str) -> tuple[int, int, int, int]:
    """Shape of the kernel of the convolution ``name``: (height, width, channels in, channels out).

    >>> conv_shape("conv1_1"), conv_shape("conv3_1"), conv_shape("conv3_2")
    ((3, 3, 3, 64), (3, 3, 128, 256), (3, 3, 256, 256))
    """
    block, index = (int(part) for part in name.removeprefix("conv").split("_"))
    filters = BLOCK_WIDTHS[block - 1]
    if index > 1:
        return (3, 3, filters, filters)
    return (3, 3, 3 if block == 1 else BLOCK_WIDTHS[block - 2], filters)


def num_poolings(layer: str) -> int:
    """Number of poolings between the image and ``layer``; its stride is 2 to that power.

    Raises:
        InputError: the name is not that of a layer.

    >>> num_poolings("conv1_2"), num_poolings("relu5_1")
    (0, 4)
    """
    match = re.fullmatch(r"(?:conv|relu)([1-5])_[1-4]", layer)
    if match is None:
        raise InputError(f"unknown layer {layer!r}; give a name such as conv4_2 or relu4_2")
    return int(match[1]) - 1


def required_convs(model: ModelName, layers: Sequence[str]) -> tuple[str, ...]:
    """Names of the convolutions of ``model`` up to the deepest of ``layers``.

    >>> required_convs("vgg16", ["relu2_1", "conv1_1"])
    ('conv1_1', 'conv1_2', 'conv2_1')
    >>> required_convs("vgg16", ["relu4_4"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    nst_jax.errors.InputError: unknown layer 'relu4_4': vgg16 has convB_I and reluB_I with ...

    Raises:
        InputError: the model lacks one of the layers.
    """
    known = layer_names(model)
    if unknown := [layer for layer in layers if layer not in known]:
        raise InputError(
            f"unknown layer {unknown[0]!r}: {model} has convB_I and reluB_I with B from 1 to 5 and "
            f"I up to {', '.join(map(str, CONVS_PER_BLOCK[model]))} in blocks 1 to 5"
        )
    names = conv_names(model)
    depths = [names.index(layer.replace("relu", "conv")) + 1 for layer in layers]
    return names[: max(depths, default=0)]


def detect_model(params: Params) -> ModelName:
    """Return the model whose layers ``params`` holds.

    Raises:
        InputError: the layers are of neither model.

    >>> from nst_jax import weights
    >>> detect_model(weights.load_pretrained("vgg16").params)
    'vgg16'
    """
    layers = set(params) - {"input"}
    for model in CONVS_PER_BLOCK:
        if layers == set(conv_names(model)):
            return model
    raise InputError(f"the parameters hold {len(layers)} layers, neither VGG16's 13 nor VGG19's 16")


def layer_names(model: ModelName) -> tuple[str, ...]:
    """Names of all layers whose features `VGG` can return, shallowest first.

    >>> layer_names("vgg16")[:4]
    ('conv1_1', 'relu1_1', 'conv1_2', 'relu1_2')
    """
    return tuple(
        name for conv in conv_names(model) for name in (conv, conv.replace("conv", "relu"))
    )
