"""The layer tables of VGG16 and VGG19 (Simonyan & Zisserman 2014, configurations D and E).

Layers carry the field's names: ``conv3_2`` is the second convolution of block 3 before its
rectification, ``relu3_2`` the same after it. A pooling stands between two blocks.
"""

from typing import Final, Literal

__all__ = [
    "BLOCK_WIDTHS",
    "CONVS_PER_BLOCK",
    "Padding",
    "Pooling",
    "conv_names",
    "conv_shape",
    "poolings",
]

Pooling = Literal["max", "average", "l2"]
"""How blocks are joined: VGG was trained with max pooling; the paper prefers average."""

Padding = Literal["replicate", "same"]
"""The border of the first convolution: the picture's edge repeated, or zeros as in training."""

BLOCK_WIDTHS: Final = (64, 128, 256, 512, 512)
"""Filters of every convolution in blocks 1 to 5; both networks share them."""

CONVS_PER_BLOCK: Final = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions in blocks 1 to 5, by model."""


def conv_names(model: str) -> tuple[str, ...]:
    """Names of all convolutions of ``model``, from the image up.

    >>> conv_names("vgg16")[:4], len(conv_names("vgg16")), len(conv_names("vgg19"))
    (('conv1_1', 'conv1_2', 'conv2_1', 'conv2_2'), 13, 16)
    """
    return tuple(
        f"conv{block}_{index}"
        for block, count in enumerate(CONVS_PER_BLOCK[model], start=1)
        for index in range(1, count + 1)
    )


def conv_shape(name: str) -> tuple[int, int, int, int]:
    """Kernel shape of the convolution ``name`` as (height, width, in, out).

    >>> conv_shape("conv1_1"), conv_shape("conv3_1"), conv_shape("conv3_2")
    ((3, 3, 3, 64), (3, 3, 128, 256), (3, 3, 256, 256))
    """
    block, index = (int(part) for part in name.removeprefix("conv").split("_"))
    filters = BLOCK_WIDTHS[block - 1]
    if index > 1:
        return (3, 3, filters, filters)
    return (3, 3, 3 if block == 1 else BLOCK_WIDTHS[block - 2], filters)


def poolings(layer: str) -> int:
    """How many poolings stand before a layer: its block's number less one.

    >>> poolings("conv1_2"), poolings("relu5_1")
    (0, 4)
    """
    return int(layer.removeprefix("conv").removeprefix("relu").split("_")[0]) - 1
