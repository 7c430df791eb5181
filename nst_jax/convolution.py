"""The network's one expensive operation: a 3×3 convolution of stride 1 with zero padding.

It is ``lax.conv_general_dilated`` with a gradient of its own. What JAX derives for the input's
gradient is a convolution with a *reversed, transposed view* of the kernel. XLA's CPU compiler
resolves that view outside of loops, but inside ``while`` and ``scan`` bodies it keeps it and then
finds no fast kernel for it: a 128→128 convolution at 128×128 takes 122 ms there against 17 ms
outside (jaxlib 0.10.2, 2-core Xeon; ``benchmarks/choices.py`` measures it). Reversing the kernel
as an array costs next to nothing and is fast in both places, so that line searches and rolled loops
run at full speed.

As everywhere with ``jax.custom_vjp``, reverse mode composes with itself, ``vmap`` and
``checkpoint``; forward mode (``jax.jvp``) is not available.
"""

import jax
from jax import lax
from jaxtyping import Array, Float

__all__ = ["convolve"]


@jax.custom_vjp
def convolve(x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"]) -> Float[Array, "h w n"]:
    """Correlate one image with ``kernel``, zeros beyond the border, in their common dtype."""
    return _correlate(x, kernel)


def _correlate(x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"]) -> Float[Array, "h w n"]:
    return lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


def _forward(
    x: Float[Array, "h w c"], kernel: Float[Array, "3 3 c n"]
) -> tuple[Float[Array, "h w n"], tuple[Array, Array]]:
    return _correlate(x, kernel), (x, kernel)


def _backward(
    residuals: tuple[Array, Array], cotangent: Float[Array, "h w n"]
) -> tuple[Float[Array, "h w c"], Float[Array, "3 3 c n"]]:
    x, kernel = residuals
    to_input = _correlate(cotangent, kernel[::-1, ::-1].swapaxes(2, 3))
    # The kernel's gradient is exact too; where nobody asks for it, XLA removes it and x with it.
    (to_kernel,) = jax.linear_transpose(lambda k: _correlate(x, k), kernel)(cotangent)
    return to_input, to_kernel


convolve.defvjp(_forward, _backward)
