"""The network's one expensive operation: a 3×3 convolution of stride 1 with zero padding.

On GPUs it is ``lax.conv_general_dilated``. Four things are ours, found by measuring XLA's CPU
compiler (jaxlib 0.10.2) and by reading its TPU compiler's plans (libtpu 0.0.42.1);
``benchmarks/NOTES.md`` has the figures:

- **Winograd's form on CPU.** Kernels that `nst_jax.models.prepare.prepare_params` has brought into it
  are applied in it (`nst_jax.models.kernels.winograd`), with a quarter of the multiplications.
- **bfloat16 on CPU.** Kernels that come as they were trained go to XLA's convolution, but XLA gives
  a bfloat16 one to its float32 kernel, where processors multiply bfloat16 matrices twice (AVX-512)
  or several times (AMX) as fast. So on CPU it is written as a matrix product with float32
  accumulation: the three taps of each kernel row side by side in the depth, the three kernel rows
  side by side in the output, whose rows are added up afterwards.
- **One image on a TPU.** Its convolutions want eight images or more side by side. Of one image XLA
  cuts strips and lays them side by side, and undoes it at every pooling and Gram matrix; most of
  the step goes into that. So on TPUs the image's columns are the batch of a convolution in one
  dimension, which leaves the data as they lie, and the kernel's columns are in the depth.
- **The input's gradient.** What JAX derives is a convolution with a *reversed, transposed view* of
  the kernel, for which XLA's CPU compiler has no fast kernel inside ``while`` and ``scan`` bodies.
  Here it is the same convolution as forward, with the kernel reversed as an array, behind a
  barrier so that XLA moves it out of the loop.

As everywhere with ``jax.custom_vjp``, reverse mode composes with itself, ``vmap`` and
``checkpoint``; forward mode (``jax.jvp``) is not available.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import CustomVJPPrimal
from jaxtyping import Array, Float

from nst_jax.models.kernels import winograd

__all__ = ["convolve"]


Border = Literal["SAME", "VALID"]
Kernel = Float[Array, "3 3 c n"] | Float[Array, "36 c n"]
"""As trained, or as `nst_jax.models.kernels.winograd.transform` gives them."""


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    x: Float[Array, "h w c"], kernel: Kernel, border: Border = "SAME"
) -> Float[Array, "_ _ n"]:
    """Correlate one image with ``kernel`` in their common dtype.

    With ``SAME`` there are zeros beyond the border and the result is as large as the image; with
    ``VALID`` there is nothing, and it is smaller by two rows and two columns.
    """
    return _correlate(x, kernel, _margin(border))


def _margin(border: Border) -> int:
    return 1 if border == "SAME" else 0


def _correlate(x: Float[Array, "h w c"], kernel: Kernel, margin: int) -> Float[Array, "_ _ n"]:
    """Correlate with ``margin`` rows and columns of zeros on every side."""
    if kernel.ndim == 3:
        return winograd.correlate(x, kernel, margin)
    ways = {"tpu": partial(_as_columns, margin=margin)}
    if x.dtype == jnp.bfloat16 and margin > 0 and x.shape[-1] % 2 == 0:
        ways["cpu"] = partial(_as_product, margin=margin)
    return lax.platform_dependent(
        x, kernel, **ways, default=partial(_as_convolution, margin=margin)
    )


def _as_convolution(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"], margin: int
) -> Float[Array, "_ _ n"]:
    return lax.conv_general_dilated(
        x[None],
        kernel,
        (1, 1),
        [(margin, margin)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]


def _as_columns(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"], margin: int
) -> Float[Array, "_ _ n"]:
    """Convolve columns: the kernel's columns side by side in the depth, the image's as a batch."""
    c, n = kernel.shape[2:]
    width = x.shape[1] + 2 * margin - 2
    sideways = ((0, 0), (margin, margin), (0, 0))
    if 3 * n <= c:  # few outputs, the image's gradient: side by side there, and added up
        rows = _columns(x, kernel.transpose(0, 2, 1, 3).reshape(3, c, 3 * n), margin, jnp.float32)
        rows = jnp.pad(rows, sideways)
        total = sum(rows[:, j : j + width, j * n : (j + 1) * n] for j in range(3))
        return jnp.asarray(total).astype(x.dtype)
    x = jnp.pad(x, sideways)
    depth = jnp.concatenate([x[:, j : j + width] for j in range(3)], axis=-1)
    return _columns(depth, kernel.reshape(3, 3 * c, n), margin, x.dtype)


def _columns(x: Array, kernel: Array, margin: int, dtype: Any) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (1,),
        [(margin, margin)],
        dimension_numbers=("HNC", "HIO", "HNC"),
        preferred_element_type=dtype,
    )


def _as_product(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"], margin: int
) -> Float[Array, "_ _ n"]:
    """The barriers keep XLA from fusing the rearrangements into loops that it runs slowly."""
    h, w, c = x.shape
    n = kernel.shape[-1]
    x = lax.optimization_barrier(x)
    if 3 * n <= c:  # few outputs, the image's gradient: all nine taps beside each other there
        by_tap = kernel.transpose(2, 0, 1, 3).reshape(c, 9 * n)
        taps = _product(x.reshape(h * w, c), by_tap).reshape(h, w, 3, 3, n)
        around = [(margin, margin)] * 2 + [(0, 0)] * 3
        taps = lax.optimization_barrier(jnp.pad(taps, around))
        height, width = h + 2 * margin - 2, w + 2 * margin - 2
        total = sum(taps[i : i + height, j : j + width, i, j] for i in range(3) for j in range(3))
        return jnp.asarray(total).astype(x.dtype)
    x = jnp.pad(x, ((margin - 1, margin - 1), (margin - 1, margin - 1), (0, 0)))
    h, w = x.shape[:2]
    # Pairs of bfloat16 move as one integer: XLA shifts and joins those ten times as fast.
    pairs = lax.bitcast_convert_type(x.reshape(h, w, c // 2, 2), jnp.uint32)
    pairs = lax.optimization_barrier(jnp.pad(pairs, ((0, 0), (1, 1), (0, 0))))
    columns = jnp.concatenate([pairs[:, j : j + w] for j in range(3)], axis=-1)
    depth = lax.optimization_barrier(lax.bitcast_convert_type(columns, x.dtype))
    by_row = kernel.transpose(1, 2, 0, 3).reshape(3 * c, 3 * n)
    rows = _product(depth.reshape(h * w, 3 * c), by_row).reshape(h, w, 3, n)
    above = jnp.pad(rows[:-1, :, 0], ((1, 0), (0, 0), (0, 0)))
    below = jnp.pad(rows[1:, :, 2], ((0, 1), (0, 0), (0, 0)))
    return (above + rows[:, :, 1] + below).astype(x.dtype)


def _product(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    return lax.optimization_barrier(jnp.dot(a, b, preferred_element_type=jnp.float32))


def _forward(
    x: CustomVJPPrimal, kernel: CustomVJPPrimal, border: Border
) -> tuple[Float[Array, "_ _ n"], tuple[Array | None, Kernel]]:
    # The image is kept for the kernel's gradient alone, which style transfer does not ask for and
    # would spend a fifth of the time on in which a step is traced.
    kept = x.value if kernel.perturbed else None
    return convolve(x.value, kernel.value, border), (kept, kernel.value)


def _backward(
    border: Border, residuals: tuple[Array | None, Kernel], cotangent: Float[Array, "_ _ n"]
) -> tuple[Float[Array, "h w c"], Kernel | None]:
    x, kernel = residuals
    margin = _margin(border)
    if kernel.ndim == 3:
        to_x = winograd.correlate(cotangent, kernel, 2 - margin, reverse=True)
    else:
        reversed_kernel = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
        to_x = _correlate(cotangent, reversed_kernel, 2 - margin)
    if x is None:
        return to_x, None
    of_kernel = partial(winograd.correlate if kernel.ndim == 3 else _as_convolution, x)
    (to_kernel,) = jax.linear_transpose(partial(of_kernel, margin=margin), kernel)(cotangent)
    return to_x, to_kernel


convolve.defvjp(_forward, _backward, symbolic_zeros=True)
