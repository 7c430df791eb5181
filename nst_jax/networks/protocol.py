"""What a network is: features by layer, where a layer's positions lie, and how its parameters are
prepared.

The losses, `nst_jax.partitioning` and the pipeline know networks by `Network` alone. Images are
float RGB in [0, 1], shape (h, w, 3); features are (h_l, w_l, n_l). One call takes one image; batch
with ``jax.vmap``.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from nst_jax.errors import InputError, short_repr

__all__ = [
    "Network",
    "PatchWindow",
    "check_image",
    "check_layer_list",
    "check_size",
    "zero_outside",
]


class PatchWindow(NamedTuple):
    """Position of a patch in an image. The patch may extend beyond the image on every side.

    Attributes:
        top: image row of the first row of the patch, a multiple of the stride of every layer.
        left: image column of its first column, a multiple as well.
        height: height of the image.
        width: width of the image.

    >>> PatchWindow(top=16, left=32, height=101, width=64).downsample(2)
    PatchWindow(top=8, left=16, height=50, width=32)
    """

    top: Int[Array, ""] | int
    left: Int[Array, ""] | int
    height: int
    width: int

    def downsample(self, stride: int) -> "PatchWindow":
        """The same position after a layer of this stride, which drops an incomplete last row or
        column."""
        return PatchWindow(
            self.top // stride, self.left // stride, self.height // stride, self.width // stride
        )

    def zero_outside(self, x: Float[Array, "h w n"]) -> Float[Array, "h w n"]:
        """Zero the positions of the patch ``x`` that are outside of the image."""
        rows, columns = self.top + jnp.arange(x.shape[0]), self.left + jnp.arange(x.shape[1])
        row_inside = (rows >= 0) & (rows < self.height)
        column_inside = (columns >= 0) & (columns < self.width)
        # A product, because for jnp.where XLA keeps an array of zeros as large as x in memory
        # during the whole loop over the tiles.
        return x * (row_inside[:, None] & column_inside)[..., None].astype(x.dtype)


@runtime_checkable
class Network(Protocol):
    """A feature extractor; `nst_jax.VGG` is one.

    Implement it as a frozen dataclass that holds no arrays: it is a static, hashable part of
    `nst_jax.Targets`, equal networks share compiled programs, and its ``repr`` names it in the
    metadata of an image. The parameters are an argument, a pytree of arrays of any structure.

    A layer has a stride s: its position (i, j) describes the s × s pixels from (i·s, j·s) on, and
    what surrounds them. `docs/guide/own-parts.md` has a convolutional network.

    >>> from dataclasses import dataclass
    >>> from nst_jax.networks import zero_outside
    >>> @dataclass(frozen=True)
    ... class Colors:
    ...     def features(self, params, image, layers, window=None):
    ...         return {"colors": zero_outside(image, window)}
    ...
    ...     def grid(self, layer, shape):
    ...         return shape
    ...
    ...     def stride(self, layer):
    ...         return 1
    ...
    ...     def receptive_radius(self, params, layers):
    ...         return 0
    ...
    ...     def min_size(self, layers):
    ...         return 1
    ...
    ...     def prepare(self, params, dtype, layers):
    ...         return params
    >>> isinstance(Colors(), Network)
    True
    """

    def features(
        self,
        params: PyTree,
        image: Float[Array, "h w 3"],
        layers: Sequence[str],
        window: PatchWindow | None = None,
    ) -> dict[str, Array]:
        """Compute the features of ``image`` at ``layers``, a pure function of its arguments.

        Args:
            params: from `prepare`.
            image: RGB in [0, 1].
            layers: names of layers.
            window: if given, ``image`` is a patch of a larger image, and the features are those of
                the larger image at the patch, and zero outside of the larger image. They may be
                wrong within `receptive_radius` of a side of the patch that is inside of the larger
                image. A network without a radius is never given a window.

        Returns:
            The features by layer, (h_l, w_l, n_l), with the (h_l, w_l) of `grid`.

        Raises:
            InputError: the network lacks one of the layers.
        """
        ...

    def grid(self, layer: str, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the (h_l, w_l) of a layer for an image of this (h, w): h_l is h // s, or ⌈h / s⌉.

        Raises:
            InputError: the network lacks the layer.
        """
        ...

    def stride(self, layer: str) -> int:
        """Return the number of pixels between two positions of a layer.

        Raises:
            InputError: the network lacks the layer.
        """
        ...

    def receptive_radius(self, params: PyTree, layers: Sequence[str]) -> int | None:
        """Return the number of pixels beyond its own s × s, per side, that a position of ``layers``
        depends on at most.

        None means that it depends on the whole image, as with attention or with normalization over
        positions. Such a network runs neither tile by tile nor over the rows of several devices.
        """
        ...

    def min_size(self, layers: Sequence[str]) -> int:
        """Return the shortest side in pixels that an image needs to have features at ``layers``."""
        ...

    def prepare(self, params: PyTree, dtype: str, layers: Sequence[str]) -> PyTree:
        """Put loaded parameters on the device, for computation in ``dtype`` at ``layers``.

        Args:
            params: the parameters.
            dtype: ``float32`` or ``bfloat16``.
            layers: the layers that will be requested.

        Raises:
            InputError: the parameters are not of this network, or it lacks one of the layers.
        """
        ...


def zero_outside(x: Float[Array, "h w n"], window: PatchWindow | None) -> Float[Array, "h w n"]:
    """Zero the positions of a patch that are outside of the image; no window means a whole image.

    >>> import jax.numpy as jnp
    >>> from nst_jax.networks import PatchWindow
    >>> zero_outside(jnp.ones((2, 2, 1)), PatchWindow(-1, 0, 64, 64))[..., 0]
    Array([[0., 0.],
           [1., 1.]], dtype=float32)
    """
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


def check_size(network: Network, shape: tuple[int, ...], layers: Sequence[str]) -> None:
    """Raise `InputError` if an image of this (h, w) has no features at one of ``layers``.

    >>> from nst_jax import VGG
    >>> check_size(VGG(), (8, 64), ["relu1_1", "relu5_1"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    nst_jax.errors.InputError: an image of 64x8 pixels is too small for relu5_1, which needs ...
    """
    height, width = shape
    for layer in layers:
        least = network.min_size([layer])
        if any(side < least for side in (height, width)):
            raise InputError(
                f"an image of {width}x{height} pixels is too small for {layer}, which needs "
                f"{least}x{least}; use a larger image or shallower layers"
            )


def check_layer_list(name: str, layers: Any) -> None:
    """Raise `InputError` for a single name in the place of a list, which Python iterates over.

    >>> check_layer_list("content_layers", "relu3_2")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    nst_jax.errors.InputError: content_layers is 'relu3_2'; give a list of layers, such as ...
    """
    if isinstance(layers, str):
        raise InputError(
            f"{name} is {short_repr(layers)}; give a list of layers, such as [{short_repr(layers)}]"
        )
