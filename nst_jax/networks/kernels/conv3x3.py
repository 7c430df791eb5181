"""The network's one expensive operation: a 3×3 convolution with stride 1 and zero padding.

On GPU it is ``lax.conv_general_dilated``, and its gradient is the one that JAX derives, so that XLA
gives both to cuDNN. The other forms come from measurements of XLA's CPU
compiler (jaxlib 0.10.2) and from the output of its TPU compiler (libtpu 0.0.42.1); the figures are
in ``docs/performance.md``:

- **CPU, prepared parameters.** `nst_jax.networks.prepare.prepare_params` transforms the kernels of
  the deep layers to Winograd's form (`nst_jax.networks.kernels.winograd`), which needs a quarter of
  the multiplications.
- **CPU, bfloat16.** For a bfloat16 convolution XLA calls its float32 kernel, although processors
  multiply bfloat16 matrices twice (AVX-512) or several times (AMX) as fast as float32 ones. So the
  convolution is written as one matrix product with float32 accumulation. Its left factor holds the
  three horizontal neighbors of each position side by side. Its right factor holds the three rows of
  the kernel side by side, and the three partial results are added afterwards.
- **TPU, one image.** TPU convolutions want a batch of eight images or more. XLA cuts a single
  image into strips and batches those, and undoes this at every pooling and Gram matrix, which takes
  most of the step. So the rows of the image become the spatial axis of a one-dimensional
  convolution, its columns become the batch, which leaves the data layout as it is, and the three
  columns of the kernel are concatenated along the input channels. This form has never run: its
  gain is an estimate of the TPU compiler.
- **The gradient with respect to the input.** JAX derives a convolution with a *reversed, transposed
  view* of the kernel, for which XLA's CPU compiler has no fast kernel inside the bodies of
  ``while`` and ``scan``. Here it is the forward convolution with a kernel that is reversed as an
  array, behind a barrier, so that XLA moves the reversal out of the loop.

Kernels as they were loaded go to ``lax.conv_general_dilated`` with JAX's own derivatives, so every
transformation works. The forms above are for the kernels that `prepare_params` returns,
`DirectKernel` and `WinogradKernel`. Their derivative is a ``jax.custom_vjp``: reverse mode composes
with itself, ``vmap``, ``checkpoint`` and ``shard_map``. Forward mode is not available.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import export, lax
from jax.custom_derivatives import CustomVJPPrimal, custom_vjp_primal_tree_values
from jaxtyping import Array, Float

from nst_jax.networks.kernels.dtypes import vary_like
from nst_jax.networks.kernels.winograd import WinogradKernel, conv_winograd

__all__ = ["DirectKernel", "Kernel", "PreparedKernel", "conv3x3"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DirectKernel:
    """A 3×3 kernel for the direct forms of this module; a pytree with one leaf.

    Attributes:
        values: the kernel, as it was loaded.
    """

    values: Float[Array, "3 3 c n"]

    @property
    def dtype(self) -> Any:
        """The dtype of ``values``."""
        return self.values.dtype


for kernel_class in (DirectKernel, WinogradKernel):
    export.register_pytree_node_serialization(
        kernel_class,
        serialized_name=f"nst_jax.{kernel_class.__name__}",
        serialize_auxdata=lambda _: b"",
        deserialize_auxdata=lambda _: (),
    )

PreparedKernel = DirectKernel | WinogradKernel
"""What `nst_jax.networks.prepare.prepare_params` makes of a kernel."""

Kernel = Float[Array, "3 3 c n"] | PreparedKernel
"""A kernel of (height, width, channels in, channels out), or a prepared one."""


def conv3x3(
    x: Float[Array, "h w c"], kernel: Kernel, padding: Literal["SAME", "VALID"] = "SAME"
) -> Float[Array, "_ _ n"]:
    """Convolve one image, as deep-learning libraries do: without reversing the kernel.

    Args:
        x: the image, in the dtype of the kernel; batch with ``jax.vmap``.
        kernel: the kernel, or what `nst_jax.networks.kernels.winograd.transform_kernel` returns.
        padding: ``SAME`` pads with zeros, and the result is as large as the image. ``VALID`` does
            not pad, and the result has two rows and two columns less.

    Returns:
        The result in the dtype of the kernel.
    """
    if isinstance(kernel, DirectKernel | WinogradKernel):
        return _conv_prepared(x, vary_like(kernel, x), padding)
    return _conv_lax(x, kernel, _pad_width(padding))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_prepared(
    x: Float[Array, "h w c"], kernel: PreparedKernel, padding: Literal["SAME", "VALID"]
) -> Float[Array, "_ _ n"]:
    return _conv(x, kernel, _pad_width(padding))


def _pad_width(padding: Literal["SAME", "VALID"]) -> int:
    return 1 if padding == "SAME" else 0


def _conv(
    x: Float[Array, "h w c"], kernel: PreparedKernel, pad_width: int
) -> Float[Array, "_ _ n"]:
    """Convolve with ``pad_width`` rows and columns of zeros on every side, the fastest way."""
    if isinstance(kernel, WinogradKernel):
        return conv_winograd(x, kernel, pad_width)
    implementations = {"tpu": partial(_conv_columns, pad_width=pad_width)}
    if x.dtype == jnp.bfloat16 and pad_width > 0 and x.shape[-1] % 2 == 0:
        implementations["cpu"] = partial(_conv_matmul, pad_width=pad_width)
    default = partial(_conv_lax, pad_width=pad_width)
    return lax.platform_dependent(x, kernel.values, **implementations, default=default)


def _conv_lax(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"], pad_width: int
) -> Float[Array, "_ _ n"]:
    return lax.conv_general_dilated(
        x[None],
        kernel,
        (1, 1),
        [(pad_width, pad_width)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]


def _conv_columns(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"], pad_width: int
) -> Float[Array, "_ _ n"]:
    """For TPU: a one-dimensional convolution along the rows, with the columns as the batch."""
    c, n = kernel.shape[2:]
    width = x.shape[1] + 2 * pad_width - 2
    pad_columns = ((0, 0), (pad_width, pad_width), (0, 0))
    if 3 * n <= c:  # few outputs, as in the gradient of the image: concatenate and add those
        wide_kernel = kernel.transpose(0, 2, 1, 3).reshape(3, c, 3 * n)
        partial_sums = jnp.pad(_conv_1d(x, wide_kernel, pad_width, jnp.float32), pad_columns)
        total = sum(partial_sums[:, j : j + width, j * n : (j + 1) * n] for j in range(3))
        return jnp.asarray(total).astype(x.dtype)
    x = jnp.pad(x, pad_columns)
    neighbors = jnp.concatenate([x[:, j : j + width] for j in range(3)], axis=-1)
    return _conv_1d(neighbors, kernel.reshape(3, 3 * c, n), pad_width, x.dtype)


def _conv_1d(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 c n"], pad_width: int, dtype: Any
) -> Float[Array, "_ w n"]:
    """Convolve each column of ``x`` along the rows; return ``dtype``."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1,),
        [(pad_width, pad_width)],
        dimension_numbers=("HNC", "HIO", "HNC"),
        preferred_element_type=dtype,
    )


def _conv_matmul(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"], pad_width: int
) -> Float[Array, "_ _ n"]:
    """For CPU in bfloat16: a matrix product.

    The barriers keep XLA from fusing the rearrangements into loops that run slowly.
    """
    h, w, c = x.shape
    n = kernel.shape[-1]
    x = lax.optimization_barrier(x)
    if 3 * n <= c:  # few outputs, as in the gradient of the image: concatenate all nine there
        wide_kernel = kernel.transpose(2, 0, 1, 3).reshape(c, 9 * n)
        products = _matmul(x.reshape(h * w, c), wide_kernel).reshape(h, w, 3, 3, n)
        pad_positions = [(pad_width, pad_width)] * 2 + [(0, 0)] * 3
        products = lax.optimization_barrier(jnp.pad(products, pad_positions))
        height, width = h + 2 * pad_width - 2, w + 2 * pad_width - 2
        total = sum(
            products[i : i + height, j : j + width, i, j] for i in range(3) for j in range(3)
        )
        return jnp.asarray(total).astype(x.dtype)
    x = jnp.pad(x, ((pad_width - 1, pad_width - 1), (pad_width - 1, pad_width - 1), (0, 0)))
    h, w = x.shape[:2]
    # Pairs of bfloat16 move as one integer: XLA slices and concatenates those ten times as fast.
    pairs = lax.bitcast_convert_type(x.reshape(h, w, c // 2, 2), jnp.uint32)
    pairs = lax.optimization_barrier(jnp.pad(pairs, ((0, 0), (1, 1), (0, 0))))
    neighbors = jnp.concatenate([pairs[:, j : j + w] for j in range(3)], axis=-1)
    patches = lax.optimization_barrier(lax.bitcast_convert_type(neighbors, x.dtype))
    wide_kernel = kernel.transpose(1, 2, 0, 3).reshape(3 * c, 3 * n)
    partial_rows = _matmul(patches.reshape(h * w, 3 * c), wide_kernel).reshape(h, w, 3, n)
    above = jnp.pad(partial_rows[:-1, :, 0], ((1, 0), (0, 0), (0, 0)))
    below = jnp.pad(partial_rows[1:, :, 2], ((0, 1), (0, 0), (0, 0)))
    return (above + partial_rows[:, :, 1] + below).astype(x.dtype)


def _matmul(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    return lax.optimization_barrier(jnp.dot(a, b, preferred_element_type=jnp.float32))


def _conv_prepared_fwd(
    x: CustomVJPPrimal,
    kernel: PreparedKernel,  # with a CustomVJPPrimal in the place of its values
    padding: Literal["SAME", "VALID"],
) -> tuple[Float[Array, "_ _ n"], tuple[Array | None, PreparedKernel]]:
    # Only the gradient of the kernel needs the image. Style transfer does not ask for it, and
    # tracing it would take a fifth of the time that the whole step takes to trace.
    kernel_perturbed = any(leaf.perturbed for leaf in jax.tree.leaves(kernel))
    saved_x = x.value if kernel_perturbed else None
    kernel_value = custom_vjp_primal_tree_values(kernel)
    return _conv_prepared(x.value, kernel_value, padding), (saved_x, kernel_value)


def _conv_prepared_bwd(
    padding: Literal["SAME", "VALID"],
    residuals: tuple[Array | None, PreparedKernel],
    cotangent: Float[Array, "_ _ n"],
) -> tuple[Float[Array, "h w c"], PreparedKernel | None]:
    x, kernel = residuals
    pad_width = _pad_width(padding)
    if isinstance(kernel, WinogradKernel):
        grad_x = conv_winograd(cotangent, kernel, 2 - pad_width, reverse=True)
    else:
        grad_x = lax.platform_dependent(
            cotangent,
            kernel.values,
            cuda=partial(_conv_lax_transpose, pad_width=pad_width),
            default=partial(_conv_reversed, pad_width=pad_width),
        )
    if x is None:
        return grad_x, None

    def conv(kernel: PreparedKernel) -> Array:
        if isinstance(kernel, WinogradKernel):
            return conv_winograd(x, kernel, pad_width)
        return _conv_lax(x, kernel.values, pad_width)

    (grad_kernel,) = jax.linear_transpose(conv, kernel)(cotangent)
    return grad_x, grad_kernel


def _conv_reversed(
    cotangent: Float[Array, "_ _ n"], kernel: Float[Array, "3 3 c n"], pad_width: int
) -> Float[Array, "h w c"]:
    """Compute the gradient of the input as a forward convolution."""
    reversed_kernel = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    return _conv(cotangent, DirectKernel(reversed_kernel), 2 - pad_width)


def _conv_lax_transpose(
    cotangent: Float[Array, "_ _ n"], kernel: Float[Array, "3 3 c n"], pad_width: int
) -> Float[Array, "h w c"]:
    """Compute the gradient of the input as JAX derives it, which XLA gives to cuDNN."""
    height, width, _ = cotangent.shape
    grow = 2 - 2 * pad_width
    x = jnp.zeros((height + grow, width + grow, kernel.shape[2]), cotangent.dtype)  # not computed
    _, vjp = jax.vjp(lambda x: _conv_lax(x, kernel, pad_width), vary_like(x, cotangent))
    return vjp(cotangent)[0]


_conv_prepared.defvjp(_conv_prepared_fwd, _conv_prepared_bwd, symbolic_zeros=True)
