"""The network's one expensive operation: a 3×3 convolution of stride 1 with zero padding.

On GPUs and TPUs, and in float32 everywhere, it is ``lax.conv_general_dilated``. Two things are
ours, both found by measuring XLA's CPU compiler (jaxlib 0.10.2; ``benchmarks/choices.py``):

- **bfloat16 on CPU.** Processors with AMX multiply bfloat16 matrices several times as fast as
  float32 ones, but XLA gives a bfloat16 convolution to its float32 kernel. So on CPU it is written
  as a matrix product with float32 accumulation: the three taps of each kernel row side by side in
  the depth, the three kernel rows side by side in the output, whose rows are added up afterwards.
- **The input's gradient.** What JAX derives is a convolution with a *reversed, transposed view* of
  the kernel, for which XLA's CPU compiler has no fast kernel inside ``while`` and ``scan`` bodies.
  Here it is the same convolution as forward, with the kernel reversed as an array, behind a
  barrier so that XLA moves it out of the loop.

As everywhere with ``jax.custom_vjp``, reverse mode composes with itself, ``vmap`` and
``checkpoint``; forward mode (``jax.jvp``) is not available.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["convolve"]


Border = Literal["SAME", "VALID"]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"], border: Border = "SAME"
) -> Float[Array, "_ _ n"]:
    """Correlate one image with ``kernel`` in their common dtype.

    With ``SAME`` there are zeros beyond the border and the result is as large as the image; with
    ``VALID`` there is nothing, and it is smaller by two rows and two columns.
    """
    return _correlate(x, kernel, border)


def _correlate(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"], border: Border
) -> Float[Array, "_ _ n"]:
    as_convolution = partial(_as_convolution, border=border)
    if x.dtype == jnp.bfloat16 and border == "SAME" and x.shape[-1] % 2 == 0:
        return lax.platform_dependent(x, kernel, cpu=_as_product, default=as_convolution)
    return as_convolution(x, kernel)


def _as_convolution(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"], border: Border
) -> Float[Array, "_ _ n"]:
    return lax.conv_general_dilated(
        x[None], kernel, (1, 1), border, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


def _as_product(x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"]) -> Float[Array, "h w n"]:
    """The barriers keep XLA from fusing the rearrangements into loops that it runs slowly."""
    h, w, c = x.shape
    n = kernel.shape[-1]
    if 3 * n <= c:  # few outputs, the image's gradient: all nine taps beside each other there
        by_tap = kernel.transpose(2, 0, 1, 3).reshape(c, 9 * n)
        taps = _product(x.reshape(h * w, c), by_tap).reshape(h, w, 3, 3, n)
        taps = lax.optimization_barrier(jnp.pad(taps, ((1, 1), (1, 1), (0, 0), (0, 0), (0, 0))))
        total = sum(taps[i : i + h, j : j + w, i, j] for i in range(3) for j in range(3))
        return jnp.asarray(total).astype(x.dtype)
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
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"], border: Border
) -> tuple[Float[Array, "_ _ n"], tuple[Array, Array]]:
    return _correlate(x, kernel, border), (x, kernel)


def _backward(
    border: Border, residuals: tuple[Array, Array], cotangent: Float[Array, "_ _ n"]
) -> tuple[Float[Array, "h w c"], Float[Array, "3 3 c n"]]:
    x, kernel = residuals
    # The kernel's gradient is exact too; where nobody asks for it, XLA removes it and x with it.
    (to_kernel,) = jax.linear_transpose(lambda k: _as_convolution(x, k, border), kernel)(cotangent)
    if border == "VALID":
        cotangent = jnp.pad(cotangent, ((1, 1), (1, 1), (0, 0)))
    reversed_kernel = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    return _correlate(cotangent, reversed_kernel, "SAME"), to_kernel


convolve.defvjp(_forward, _backward)
