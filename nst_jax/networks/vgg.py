"""The feature extractor: VGG16 and VGG19 as one Flax module that returns the requested layers.

Images are float RGB in [0, 1], shape (h, w, 3); features are (h_l, w_l, n_l). One call takes one
image; batch with ``jax.vmap``, which XLA turns into one batched convolution.

The module is written with Flax NNX. An NNX module is an ordinary object that holds its variables,
so it can be *built inside* a traced function around the arrays that the function was given:
``VGG(params)(image, layers)``. The parameters stay a plain pytree, an argument of whatever is
jitted, and nothing is closed over. They are `FrozenParam` variables, not ``nnx.Param``, so that no
optimizer that filters on trainable parameters changes them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nst_jax._types import ModelName, Padding, Pooling
from nst_jax.errors import InputError
from nst_jax.networks.architectures import CONVS_PER_BLOCK, Params, conv_names, num_poolings
from nst_jax.networks.kernels.conv3x3 import PreparedKernel, conv3x3
from nst_jax.networks.layers import bias_relu, pool

__all__ = [
    "VGG",
    "Params",
    "PatchWindow",
    "check_image",
    "check_layers",
    "detect_model",
    "layer_names",
    "receptive_radius",
    "required_convs",
]


class PatchWindow(NamedTuple):
    """Position of a patch in an image. The patch may extend beyond the image on every side.

    Attributes:
        top: image row of the first row of the patch, a multiple of 2^b for b poolings.
        left: image column of its first column, a multiple of 2^b as well.
        height: height of the image.
        width: width of the image.

    >>> PatchWindow(top=16, left=32, height=101, width=64).downsample()
    PatchWindow(top=8, left=16, height=50, width=32)
    """

    top: Int[Array, ""] | int
    left: Int[Array, ""] | int
    height: int
    width: int

    def downsample(self) -> "PatchWindow":
        """The same position after a pooling, which drops an odd last row or column."""
        return PatchWindow(self.top // 2, self.left // 2, self.height // 2, self.width // 2)

    def zero_outside(self, x: Float[Array, "h w n"]) -> Float[Array, "h w n"]:
        """Zero the positions of the patch ``x`` that are outside of the image."""
        rows, columns = self.top + jnp.arange(x.shape[0]), self.left + jnp.arange(x.shape[1])
        row_inside = (rows >= 0) & (rows < self.height)
        column_inside = (columns >= 0) & (columns < self.width)
        # A product, because for jnp.where XLA keeps an array of zeros as large as x in memory
        # during the whole loop over the tiles.
        return x * (row_inside[:, None] & column_inside)[..., None].astype(x.dtype)


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


class VGG(nnx.Module):
    """The convolutional part of VGG16 or VGG19 (Simonyan & Zisserman 2014).

    The layers in ``params`` decide which of the two it is. The network computes in the dtype of the
    kernels: parameters in bfloat16 make it run in bfloat16.

    Loaded parameters go through plain JAX operations: forward and reverse mode of any order,
    float64, ``jax.shard_map`` and meshes with explicit axes. Prepared parameters
    (`nst_jax.prepare_params`) go through faster kernels, which support reverse mode of any order
    but no forward mode and no meshes with explicit axes.

    Args:
        params: network parameters with kernels (3, 3, in, out), as `nst_jax.networks.weights.load`
            or `nst_jax.prepare_params` returns them. ``params["input"]`` holds the mean and the
            standard deviation of the pixels that the network was trained with.
        pooling: how blocks are joined: ``max``, ``average`` or ``l2``. The last two are scaled such
            that activations have the size that max pooling gives them.
        padding: the border of the first convolution. ``replicate`` repeats the edge of the image,
            which avoids the dark frame that zeros (``same``) leave in an optimized image. All
            other convolutions pad with zeros, as in training.

    Raises:
        InputError: the parameters are of neither model, or ``pooling`` or ``padding`` is unknown.

    >>> import jax
    >>> from nst_jax import prepare_params, weights
    >>> params = prepare_params(weights.load_pretrained("vgg16").params, "float32", ["relu2_1"])
    >>> image = jax.random.uniform(jax.random.key(0), (16, 24, 3))
    >>> features = VGG(params)(image, ["conv1_1", "relu2_1"])
    >>> features["conv1_1"].shape, features["relu2_1"].shape
    ((16, 24, 64), (8, 12, 128))
    """

    def __init__(
        self, params: Params, *, pooling: Pooling = "max", padding: Padding = "replicate"
    ) -> None:
        for name, value, choices in (
            ("pooling", pooling, get_args(Pooling)),
            ("padding", padding, get_args(Padding)),
        ):
            if value not in choices:
                raise InputError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
        self.model: ModelName = detect_model(params)
        self.pooling: Pooling = pooling
        self.padding: Padding = padding
        self.mean = FrozenParam(jnp.asarray(params["input"]["mean"]))
        self.std = FrozenParam(jnp.asarray(params["input"]["std"]))
        self.convs = nnx.Dict(
            {
                name: Conv(params[name], padding=padding if name == "conv1_1" else "same")
                for name in conv_names(self.model)
            }
        )

    def __call__(
        self,
        image: Float[Array, "h w 3"],
        layers: Sequence[str],
        window: PatchWindow | None = None,
    ) -> dict[str, Array]:
        """Compute the features of ``image`` at ``layers``, and no layer deeper than those.

        Args:
            image: RGB in [0, 1].
            layers: names such as ``conv4_2`` (before bias and ReLU) or ``relu4_2`` (after them).
            window: if given, ``image`` is a patch of a larger image, and the features are those of
                the larger image at the patch, and zero outside of the larger image. They are
                wrong within `receptive_radius` of a side of the patch that is inside of the larger
                image. With ``replicate`` the first pixel beyond the larger image must repeat its
                edge.

        Returns:
            The features by layer, (h // 2^b, w // 2^b, filters) after b poolings, in the dtype of
            the kernels.

        Raises:
            InputError: the image is no float RGB image (h, w, 3), or too small for one of the
                layers, or the model lacks one.
        """
        check_image(image)
        convs = required_convs(self.model, layers)
        _check_size(image.shape[:2] if window is None else (window.height, window.width), layers)
        features = {}
        x = (image - self.mean[...]) / self.std[...]
        if self.padding == "same":
            x = _zero_outside(x, window)
        for name in convs:
            if name.endswith("_1") and name != "conv1_1":
                x = pool(x, self.pooling)
                window = None if window is None else window.downsample()
                x = _zero_outside(x, window)
            x = self.convs[name](x)
            bias = self.convs[name].bias[...].astype(x.dtype)
            if name in layers:
                features[name] = _zero_outside(x + bias, window)
            x = _zero_outside(bias_relu(x, bias), window)
            relu_name = name.replace("conv", "relu")
            if relu_name in layers:
                features[relu_name] = x
        return features


def _zero_outside(x: Float[Array, "h w n"], window: PatchWindow | None) -> Float[Array, "h w n"]:
    return x if window is None else window.zero_outside(x)


def check_image(image: Any) -> None:
    """Raise `InputError` unless an array has the shape and dtype of a float RGB image.

    It looks at shape and dtype only, so it costs nothing inside ``jit``.
    """
    shape, dtype = jnp.shape(image), jnp.result_type(image)
    if len(shape) == 4:
        raise InputError(f"the image has shape {shape}; give one (h, w, 3), and jax.vmap a batch")
    if len(shape) != 3 or shape[2] != 3:
        raise InputError(
            f"the image has shape {shape}; give RGB (h, w, 3), as nst_jax.images.read returns it"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"the image has dtype {dtype}; give floats in [0, 1], such as image / 255")


def _check_size(shape: tuple[int, ...], layers: Sequence[str]) -> None:
    height, width = shape
    for layer in layers:
        stride = 2 ** num_poolings(layer)
        if min(shape) < stride:
            raise InputError(
                f"an image of {width}x{height} pixels is too small for {layer}, which needs "
                f"{stride}x{stride}; use a larger image or shallower layers"
            )


def required_convs(model: ModelName, layers: Sequence[str]) -> tuple[str, ...]:
    """Names of the convolutions of ``model`` up to the deepest of ``layers``.

    >>> required_convs("vgg16", ["relu2_1", "conv1_1"])
    ('conv1_1', 'conv1_2', 'conv2_1')

    Raises:
        InputError: the model lacks one of the layers.
    """
    check_layers(model, layers)
    names = conv_names(model)
    depths = [names.index(layer.replace("relu", "conv")) + 1 for layer in layers]
    return names[: max(depths, default=0)]


def receptive_radius(model: ModelName, layers: Sequence[str]) -> int:
    """Number of pixels beyond its own, per side, that the deepest of ``layers`` depends on.

    Raises:
        InputError: the model lacks one of the layers.

    >>> receptive_radius("vgg16", ["relu1_1"]), receptive_radius("vgg19", ["relu4_2", "conv2_1"])
    (1, 38)
    """
    return sum(2 ** num_poolings(name) for name in required_convs(model, layers))


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


def check_layers(model: ModelName, layers: Sequence[str]) -> None:
    """Raise `InputError` for the first of ``layers`` that ``model`` lacks.

    >>> check_layers("vgg19", ["relu4_4"])
    >>> check_layers("vgg16", ["relu4_4"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    nst_jax.errors.InputError: unknown layer 'relu4_4': vgg16 has convB_I and reluB_I with ...
    """
    for layer in layers:
        if layer not in layer_names(model):
            raise InputError(
                f"unknown layer {layer!r}: {model} has convB_I and reluB_I with B from 1 to 5 and "
                f"I up to {', '.join(map(str, CONVS_PER_BLOCK[model]))} in blocks 1 to 5"
            )
