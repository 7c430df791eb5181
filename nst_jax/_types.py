"""Literal types that several folders share. This module imports nothing of the package."""

from typing import Literal

__all__ = [
    "ColorMode",
    "DtypeChoice",
    "ModelChoice",
    "ModelName",
    "Normalization",
    "OptimizerName",
    "Padding",
    "Pooling",
    "Preprocessing",
    "StyleLossName",
]

ColorMode = Literal["style", "luminance", "match", "histogram"]
"""Where the colors of the result come from: see `nst_jax.images.color.apply_color_mode`."""

DtypeChoice = Literal["auto", "float32", "bfloat16"]
"""The dtype of the network, or the one that is fast on the device."""

ModelChoice = Literal["auto", "vgg19", "vgg16"]
"""A network, or VGG19 if it is available and VGG16 otherwise."""

ModelName = Literal["vgg16", "vgg19"]

Normalization = Literal["target_energy", "none"]
"""Each loss term relative to the energy of its target, or exactly as in the paper."""

OptimizerName = Literal["auto", "lbfgs", "lbfgs-pixels", "adam"]
"""L-BFGS over a Laplacian pyramid or over pixels, Adam, or what suits the style loss."""

Padding = Literal["replicate", "same"]
"""The border of the network's first convolution: the edge pixels repeated, or zeros."""

Pooling = Literal["max", "average", "scaled_average", "l2"]

Preprocessing = Literal["caffe", "torchvision"]
"""The mean and the scale of the pixels that the network was trained with."""

StyleLossName = Literal["gram", "moments", "sliced", "nearest"]
"""The style statistics that have a name: see `nst_jax.losses.statistics`."""
