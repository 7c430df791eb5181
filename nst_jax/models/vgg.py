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

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from nst_jax.errors import InputError
from nst_jax.models.architectures import CONVS_PER_BLOCK, Padding, Pooling, conv_names, poolings
from nst_jax.models.kernels.conv3x3 import convolve
from nst_jax.models.layers import POOLING_GAIN, pool, rectify

__all__ = ["VGG", "Params", "Window", "check_taps", "model_of", "reach", "tap_names"]

Params = Mapping[str, Mapping[str, Any]]
"""``{"input": {"mean", "std"}, "conv1_1": {"kernel", "bias"}, …}``: see `nst_jax.models.weights.load`."""


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
        """Convolve in the kernel's dtype, without the bias; the output is as large as the input."""
        kernel = self.kernel[...]
        x = x.astype(kernel.dtype)
        border = "SAME"
        if self.padding == "replicate":
            x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
            border = "VALID"
        return jnp.asarray(convolve(x, kernel, border))


class VGG(nnx.Module):
    """The convolutional part of VGG16 or VGG19 (Simonyan & Zisserman 2014).

    Which of the two it is follows from the layers that ``params`` holds. The network computes in
    the dtype of the kernels: cast the parameters to bfloat16 and it runs in bfloat16.

    Args:
        params: converted weights (`nst_jax.models.weights.load`), kernels HWIO, as they are or as
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
        self,
        image: Float[Array, "h w 3"],
        taps: Sequence[str],
        window: Window | None = None,
        *,
        beside: Mapping[str, Callable[[Array], tuple[Array, Any]]] | None = None,
    ) -> dict[str, Any]:
        """Return the features of ``image`` at ``taps``, computed no deeper than the deepest.

        Args:
            image: RGB in [0, 1].
            taps: names such as ``conv4_2`` (before the rectification) or ``relu4_2`` (after it).
            window: given, ``image`` is a patch of a picture and the features are the picture's
                there, zero outside of it; except within `reach` of the patch's own sides, where
                they lack their neighbours. One pixel around the picture must repeat its edge.
            beside: what to return instead of the features at some of the taps named relu…, by
                tap. Called with the features, each returns them, for the layers above, and that.

        Returns:
            The features by tap, (h / 2^b, w / 2^b, filters) in block b + 1, in the kernels' dtype;
            or what was asked for ``beside`` them.

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
        ends = {f"conv{b}_{n}" for b, n in enumerate(CONVS_PER_BLOCK[self.model], start=1)}
        pending_bias = None
        for name, conv in self.convs.items():
            if name.endswith("_1") and name != "conv1_1":
                smallest //= 2
                if smallest < 1:
                    raise InputError(
                        f"an image of {width}x{height} pixels is too small for {name}; use a "
                        f"larger one or shallower layers"
                    )
                x = pool(x, self.pooling)
                if pending_bias is not None:
                    x = rectify(x, pending_bias)
                if window is not None:
                    window = window.pooled()
                    x = window.clear(x)
            x = conv(x)
            bias = conv.bias[...].astype(x.dtype)
            clear = window.clear if window is not None else lambda x: x
            relu_name = name.replace("conv", "relu")
            if name in wanted:
                features[name] = clear(x + bias)
            # Max pooling may as well come first: then a quarter of the numbers are left.
            pool_first = self.pooling == "max" and name in ends and relu_name not in wanted
            pending_bias = bias if pool_first else None
            if not pool_first:
                x = clear(rectify(x, bias))
            if beside and relu_name in beside:
                x, features[relu_name] = beside[relu_name](x)
            elif relu_name in wanted:
                features[relu_name] = x
            if len(features) == len(wanted):
                break
        return features


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
