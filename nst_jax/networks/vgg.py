"""VGG16 and VGG19 as one `nst_jax.networks.Network`, computed by a Flax module.

The module is written with Flax NNX. An NNX module is an ordinary object that holds its variables,
so `VGG.features` can *build it inside* a traced function around the parameters that it was given.
They stay a plain pytree, an argument of whatever is jitted, and nothing is closed over. They are
`FrozenParam` variables, not ``nnx.Param``, so that no optimizer that filters on trainable
parameters changes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nst_jax._types import Padding, Pooling
from nst_jax.errors import InputError
from nst_jax.networks.architectures import (
    Params,
    conv_names,
    detect_model,
    num_poolings,
    required_convs,
)
from nst_jax.networks.kernels.conv3x3 import PreparedKernel, conv3x3
from nst_jax.networks.layers import bias_relu, pool
from nst_jax.networks.prepare import prepare_params
from nst_jax.networks.protocol import (
    PatchWindow,
    check_image,
    check_layer_list,
    check_size,
    zero_outside,
)

__all__ = ["VGG"]


class FrozenParam(nnx.Variable[Any]):
    """A parameter that is never trained."""


class Conv(nnx.Module):
    """A 3×3 convolution that holds its bias and does not add it."""

    def __init__(self, params: Mapping[str, Any], *, padding: Padding = "same") -> None:
        kernel = params["kernel"]
        self.prepared_as = type(kernel) if isinstance(kernel, PreparedKernel) else None
        self.kernel = FrozenParam(jnp.asarray(kernel.values if self.prepared_as else kernel))
        self.bias = FrozenParam(jnp.asarray(params["bias"]))
        self.padding = padding

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w n"]:
        """Convolve in the dtype of the kernel; the output is as large as the input."""
        kernel = self.kernel[...]
        x = x.astype(kernel.dtype)
        kernel = self.prepared_as(kernel) if self.prepared_as else kernel
        if self.padding == "replicate":
            x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
            return conv3x3(x, kernel, "VALID")
        return conv3x3(x, kernel, "SAME")


class VGGModule(nnx.Module):
    """The convolutional part of VGG16 or VGG19, with its parameters."""

    def __init__(self, params: Params, pooling: Pooling, padding: Padding) -> None:
        self.pooling: Pooling = pooling
        self.padding: Padding = padding
        self.mean = FrozenParam(jnp.asarray(params["input"]["mean"]))
        self.std = FrozenParam(jnp.asarray(params["input"]["std"]))
        self.convs = nnx.Dict(
            {
                name: Conv(params[name], padding=padding if name == "conv1_1" else "same")
                for name in conv_names(detect_model(params))
            }
        )

    def __call__(
        self,
        image: Float[Array, "h w 3"],
        convs: Sequence[str],
        layers: Sequence[str],
        window: PatchWindow | None,
    ) -> dict[str, Array]:
        """Run the first ``convs``; return the features at ``layers``. See `VGG.features`."""
        features = {}
        x = (image - self.mean[...]) / self.std[...]
        if self.padding == "same":
            x = zero_outside(x, window)
        for name in convs:
            with jax.named_scope(name):  # Profiles show the layers by name.
                if name.endswith("_1") and name != "conv1_1":
                    x = pool(x, self.pooling)
                    window = None if window is None else window.downsample(2)
                    x = zero_outside(x, window)
                x = self.convs[name](x)
                bias = self.convs[name].bias[...].astype(x.dtype)
                if name in layers:
                    features[name] = zero_outside(x + bias, window)
                x = zero_outside(bias_relu(x, bias), window)
            relu_name = name.replace("conv", "relu")
            if relu_name in layers:
                features[relu_name] = x
        return features


@dataclass(frozen=True)
class VGG:
    """The convolutional part of VGG16 or VGG19 (Simonyan & Zisserman 2014), a `Network`.

    The parameters decide which of the two it is. The network computes in the dtype of the kernels:
    parameters in bfloat16 make it run in bfloat16.

    Loaded parameters go through plain JAX operations: forward and reverse mode of any order,
    float64, ``jax.shard_map`` and meshes with explicit axes. Prepared parameters
    (`nst_jax.prepare_params`) go through faster kernels, which support reverse mode of any order
    but no forward mode and no meshes with explicit axes.

    Args:
        pooling: how blocks are joined: ``max``, ``average``, ``scaled_average`` or ``l2``. The last
            two are scaled such that activations have the size that max pooling gives them.
        padding: the border of the first convolution. ``replicate`` repeats the edge of the image,
            which avoids the dark frame that zeros (``same``) leave in an optimized image. All
            other convolutions pad with zeros, as in training.

    Raises:
        InputError: ``pooling`` or ``padding`` is unknown.

    >>> import jax
    >>> from nst_jax import prepare_params, weights
    >>> params = prepare_params(weights.load_pretrained("vgg16").params, "float32", ["relu2_1"])
    >>> image = jax.random.uniform(jax.random.key(0), (16, 24, 3))
    >>> features = VGG().features(params, image, ["conv1_1", "relu2_1"])
    >>> features["conv1_1"].shape, features["relu2_1"].shape
    ((16, 24, 64), (8, 12, 128))
    """

    pooling: Pooling = "max"
    padding: Padding = "replicate"

    def __post_init__(self) -> None:
        """Check the options."""
        for name, value, choices in (
            ("pooling", self.pooling, get_args(Pooling)),
            ("padding", self.padding, get_args(Padding)),
        ):
            if value not in choices:
                raise InputError(f"{name} is {value!r}; choose one of {', '.join(choices)}")

    def features(
        self,
        params: Params,
        image: Float[Array, "h w 3"],
        layers: Sequence[str],
        window: PatchWindow | None = None,
    ) -> dict[str, Array]:
        """Compute the features of ``image`` at ``layers``, and no layer deeper than those.

        Args:
            params: parameters with kernels (3, 3, in, out), as `nst_jax.networks.weights.load` or
                `nst_jax.prepare_params` returns them. ``params["input"]`` holds the mean and the
                standard deviation of the pixels that the network was trained with.
            image: RGB in [0, 1].
            layers: names such as ``conv4_2`` (before bias and ReLU) or ``relu4_2`` (after them).
            window: see `Network.features`. With ``replicate`` the first pixel beyond the larger
                image must repeat its edge.

        Returns:
            The features by layer, (h // 2^b, w // 2^b, filters) after b poolings, in the dtype of
            the kernels.

        Raises:
            InputError: the image is no float RGB image (h, w, 3), or too small for one of the
                layers; or the parameters are of neither model, or their model lacks a layer.
        """
        check_image(image)
        check_layer_list("layers", layers)
        convs = required_convs(detect_model(params), layers)
        check_size(self, image.shape[:2] if window is None else window[2:], layers)
        return VGGModule(params, self.pooling, self.padding)(image, convs, layers, window)

    def grid(self, layer: str, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the (h_l, w_l) of a layer; every pooling drops an odd last row or column.

        >>> VGG().grid("relu3_1", (101, 64))
        (25, 16)
        """
        return shape[0] // self.stride(layer), shape[1] // self.stride(layer)

    def stride(self, layer: str) -> int:
        """Return the number of pixels between two positions of a layer: 2^b after b poolings.

        >>> VGG().stride("relu1_1"), VGG().stride("conv5_1")
        (1, 16)
        """
        return 2 ** num_poolings(layer)

    def receptive_radius(self, params: Params, layers: Sequence[str]) -> int:
        """Return the number of pixels beyond its own, per side, that the deepest of ``layers``
        depends on.

        >>> from nst_jax import weights
        >>> params = weights.load_pretrained("vgg16").params
        >>> VGG().receptive_radius(params, ["relu1_1"]), VGG().receptive_radius(params, ["relu4_2"])
        (1, 34)
        """
        return sum(map(self.stride, required_convs(detect_model(params), layers)))

    def min_size(self, layers: Sequence[str]) -> int:
        """Return the stride of the deepest of ``layers``."""
        return max(map(self.stride, layers), default=1)

    prepare = staticmethod(prepare_params)
