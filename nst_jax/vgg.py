"""The feature extractor: VGG16 and VGG19 as one Flax module, read at named taps.

Images are float RGB in [0, 1], shape (h, w, 3); features are (h_l, w_l, n_l). One image a call:
batch with ``jax.vmap``, which XLA turns into one batched convolution.

The module is written with Flax NNX, the API that Flax' documentation puts first for new code. An
NNX module is an ordinary object that holds its variables, so it can be *built inside* a traced
function around the arrays that the function was given: ``VGG(params)(image, taps)``. Nothing is
split, merged or closed over, the parameters stay a plain pytree that is an argument of whatever is
jitted, and they are `Frozen` variables, not ``nnx.Param``, so no optimiser that filters on
trainable parameters will touch them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from nst_jax.architectures import CONVS_PER_BLOCK, Padding, Pooling, conv_names, poolings
from nst_jax.convolution import convolve
from nst_jax.errors import InputError

__all__ = ["VGG", "Params", "Window", "check_taps", "model_of", "reach", "tap_names"]

Params = Mapping[str, Mapping[str, Any]]
"""``{"input": {"mean", "std"}, "conv1_1": {"kernel", "bias"}, …}``: see `nst_jax.weights`."""

POOLING_GAIN: Final = {"max": 1.0, "average": 1.6, "l2": 0.70}
"""Factors that give average and L2 pooling the size of activations that the filters above were
trained on. Fitted end to end with the bundled VGG16 on five photos that scikit-image and
scikit-learn ship: the geometric mean of the RMS at relu2_1 … relu5_1 is then within a few per cent
of max pooling's (``benchmarks/choices.py``)."""


class Window(NamedTuple):
    """Where in a picture a patch of it lies; it may stick out on every side.

    Attributes:
        top: the row of the picture at which the patch begins, a multiple of 2^b for b poolings.
        left: the column likewise.
        height: the picture's.
        width: the picture's.
    """

    top: Int[Array, ""] | int
    left: Int[Array, ""] | int
    height: int
    width: int

    def pooled(self) -> "Window":
        """The same place after a pooling, which drops an odd last row or column."""
        return Window(self.top // 2, self.left // 2, self.height // 2, self.width // 2)

    def clear(self, x: Float[Array, "h w n"]) -> Float[Array, "h w n"]:
        """Put zeros wherever ``x``, which fills the patch, is outside of the picture."""
        rows, columns = self.top + jnp.arange(x.shape[0]), self.left + jnp.arange(x.shape[1])
        inside = (rows >= 0) & (rows < self.height), (columns >= 0) & (columns < self.width)
        # A product, because XLA would keep the zeros of a choice, as large as x, for the whole loop
        # over the tiles.
        return x * (inside[0][:, None] & inside[1])[..., None].astype(x.dtype)


class Frozen(nnx.Variable[Any]):
    """A weight that is never trained."""


class Conv(nnx.Module):
    """A 3×3 convolution of stride 1 over an (h, w, c) array, with its weights given."""

    def __init__(self, weights: Mapping[str, Any], *, padding: Padding = "same") -> None:
        self.kernel = Frozen(jnp.asarray(weights["kernel"]))
        self.bias = Frozen(jnp.asarray(weights["bias"]))
        self.padding = padding

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w n"]:
        """Convolve in the kernel's dtype; the output has the input's height and width."""
        kernel = self.kernel[...]
        x = x.astype(kernel.dtype)
        border = "SAME"
        if self.padding == "replicate":
            x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
            border = "VALID"
        return jnp.asarray(convolve(x, kernel, border)) + self.bias[...].astype(kernel.dtype)


class VGG(nnx.Module):
    """The convolutional part of VGG16 or VGG19 (Simonyan & Zisserman 2014).

    Which of the two it is follows from the layers that ``params`` holds. The network computes in
    the dtype of the kernels: cast the parameters to bfloat16 and it runs in bfloat16.

    Args:
        params: converted weights (`nst_jax.weights`), kernels HWIO, as they are or as
            `nst_jax.prepare_params` gives them, with the preprocessing that they were trained under
            in ``params["input"]``.
        pooling: how blocks are joined. ``average`` and ``l2`` are scaled so that activations keep
            the size that max pooling gives them.
        padding: border of the first convolution. ``replicate`` repeats the picture's edge, which
            avoids the dark frame that VGG's own zero padding (``same``) leaves in an optimised
            picture. All other convolutions pad with zeros, as trained.
    """

    def __init__(
        self, params: Params, *, pooling: Pooling = "max", padding: Padding = "replicate"
    ) -> None:
        if pooling not in get_args(Pooling):
            raise InputError(f"pooling is {pooling!r}; choose one of {', '.join(POOLING_GAIN)}")
        if padding not in get_args(Padding):
            raise InputError(f"padding is {padding!r}; choose replicate or same")
        self.model = model_of(params)
        self.pooling: Pooling = pooling
        self.padding: Padding = padding
        self.mean = Frozen(jnp.asarray(params["input"]["mean"]))
        self.std = Frozen(jnp.asarray(params["input"]["std"]))
        self.convs = nnx.Dict(
            {
                name: Conv(params[name], padding=padding if name == "conv1_1" else "same")
                for name in conv_names(self.model)
            }
        )

    def __call__(
        self, image: Float[Array, "h w 3"], taps: Sequence[str], window: Window | None = None
    ) -> dict[str, Float[Array, "h_l w_l n_l"]]:
        """Return the features of ``image`` at ``taps``, computed no deeper than the deepest.

        Args:
            image: RGB in [0, 1].
            taps: names such as ``conv4_2`` (before the rectification) or ``relu4_2`` (after it).
            window: given, ``image`` is a patch of a picture and the features are the picture's
                there, zero outside of it; except within `reach` of the patch's own sides, where
                they lack their neighbours. One pixel around the picture must repeat its edge.

        Returns:
            The features by tap, (h / 2^b, w / 2^b, filters) in block b + 1, in the kernels' dtype.

        Raises:
            InputError: a tap that the model has not, or an image too small for the deepest one.
        """
        check_taps(self.model, taps)
        wanted, features = set(taps), {}
        height, width = image.shape[:2] if window is None else window[2:]
        smallest = min(height, width)
        x = (image - self.mean[...]) / self.std[...]
        if window is not None and self.padding == "same":
            x = window.clear(x)
        before_pooling = {
            f"conv{b}_{n}" for b, n in enumerate(CONVS_PER_BLOCK[self.model], start=1)
        }
        rectified = True
        for name, conv in self.convs.items():
            if name.endswith("_1") and name != "conv1_1":
                smallest //= 2
                if smallest < 1:
                    raise InputError(
                        f"an image of {width}x{height} pixels is too small for {name}; use a "
                        f"larger one or shallower layers"
                    )
                x = pool(x, self.pooling)
                if not rectified:
                    x = jax.nn.relu(x)
                if window is not None:
                    window = window.pooled()
                    x = window.clear(x)
            x = conv(x)
            if window is not None:
                x = window.clear(x)
            relu_name = name.replace("conv", "relu")
            if name in wanted:
                features[name] = x
            # It may as well follow max pooling, where it is of a quarter of the numbers.
            later = self.pooling == "max" and name in before_pooling and relu_name not in wanted
            rectified = not later
            if rectified:
                x = jax.nn.relu(x)
            if relu_name in wanted:
                features[relu_name] = x
            if len(features) == len(wanted):
                break
        return features


def pool(x: Float[Array, "h w n"], kind: Pooling) -> Float[Array, "h//2 w//2 n"]:
    """Halve height and width with 2×2 windows of stride 2; an odd last row or column is dropped."""
    h, w, n = x.shape
    x = x[: h // 2 * 2, : w // 2 * 2]
    if kind == "max":
        return _max(x)
    windows = x.reshape(h // 2, 2, w // 2, 2, n)
    if kind == "average":
        return POOLING_GAIN[kind] * windows.mean((1, 3))
    # Half precision cannot hold the squares; at zero the root's gradient would be infinite.
    squares = jnp.square(windows.astype(jnp.float32)).sum((1, 3))
    root = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return (POOLING_GAIN[kind] * root).astype(x.dtype)


@jax.custom_vjp
def _max(x: Float[Array, "h w n"]) -> Float[Array, "h//2 w//2 n"]:
    """The maximum of each window; its gradient goes to the first place that holds it.

    What JAX derives shares it among equal places and costs three more passes over the windows. A
    TPU lays out anew what is reshaped into windows and is fast at strides; a CPU is the opposite.
    """
    return _max_forward(x)[0]


def _max_forward(
    x: Float[Array, "h w n"],
) -> tuple[Float[Array, "h//2 w//2 n"], UInt8[Array, "h//2 w//2 n"]]:
    places = lax.platform_dependent(x, tpu=_places_by_strides, default=_places_by_windows)
    first, second, third, fourth = places
    top, bottom = jnp.maximum(first, second), jnp.maximum(third, fourth)
    place = jnp.where(
        top >= bottom, jnp.where(first >= second, 0, 1), jnp.where(third >= fourth, 2, 3)
    )
    return jnp.maximum(top, bottom), place.astype(jnp.uint8)


def _max_backward(
    place: UInt8[Array, "h w n"], cotangent: Float[Array, "h w n"]
) -> tuple[Float[Array, "2*h 2*w n"]]:
    spread = {"tpu": _spread_by_strides, "default": _spread_by_windows}
    return (lax.platform_dependent(place, cotangent, **spread),)


_max.defvjp(_max_forward, _max_backward)


def _places_by_windows(x: Float[Array, "h w n"]) -> list[Float[Array, "h//2 w//2 n"]]:
    h, w, n = x.shape
    windows = x.reshape(h // 2, 2, w // 2, 2, n)
    return [windows[:, i, :, j] for i in (0, 1) for j in (0, 1)]


def _places_by_strides(x: Float[Array, "h w n"]) -> list[Float[Array, "h//2 w//2 n"]]:
    return [x[i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _spread_by_windows(
    place: UInt8[Array, "h w n"], values: Float[Array, "h w n"]
) -> Float[Array, "2*h 2*w n"]:
    h, w, n = values.shape
    places = jnp.arange(4, dtype=jnp.uint8).reshape(1, 2, 1, 2, 1)
    windows = jnp.where(place[:, None, :, None] == places, values[:, None, :, None], 0)
    return windows.reshape(2 * h, 2 * w, n)


def _spread_by_strides(
    place: UInt8[Array, "h w n"], values: Float[Array, "h w n"]
) -> Float[Array, "2*h 2*w n"]:
    zero = jnp.zeros((), values.dtype)
    parts = [
        lax.pad(
            jnp.where(place == 2 * i + j, values, zero),
            zero,
            ((i, 1 - i, 1), (j, 1 - j, 1), (0, 0, 0)),
        )
        for i in (0, 1)
        for j in (0, 1)
    ]
    return parts[0] + parts[1] + parts[2] + parts[3]


def reach(model: str, taps: Sequence[str]) -> int:
    """How many pixels beyond its own a position of the deepest of ``taps`` sees on either side.

    >>> reach("vgg16", ["relu1_1"]), reach("vgg19", ["relu4_2", "conv2_1"])
    (1, 38)
    """
    pixels, far = 0, 0
    for name in conv_names(model):
        pixels += 2 ** poolings(name)
        if name in taps or name.replace("conv", "relu") in taps:
            far = pixels
    return far


def model_of(params: Params) -> str:
    """Name the model (``vgg16`` or ``vgg19``) whose layers ``params`` holds.

    Raises:
        InputError: the layers are neither's.
    """
    layers = set(params) - {"input"}
    for model in CONVS_PER_BLOCK:
        if layers == set(conv_names(model)):
            return model
    raise InputError(f"the parameters hold {len(layers)} layers, neither VGG16's 13 nor VGG19's 16")


def tap_names(model: str) -> tuple[str, ...]:
    """Every name that can be tapped, from the image up.

    >>> tap_names("vgg16")[:4]
    ('conv1_1', 'relu1_1', 'conv1_2', 'relu1_2')
    """
    return tuple(tap for conv in conv_names(model) for tap in (conv, conv.replace("conv", "relu")))


def check_taps(model: str, taps: Sequence[str]) -> None:
    """Raise `InputError` for the first of ``taps`` that ``model`` has not."""
    for tap in taps:
        if tap not in tap_names(model):
            raise InputError(
                f"unknown layer {tap!r}: {model} has convB_I and reluB_I with B from 1 to 5 and I "
                f"up to {', '.join(map(str, CONVS_PER_BLOCK[model]))} in blocks 1 to 5"
            )
