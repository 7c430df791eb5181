"""Operations written for a compiler: the 3×3 convolution and its fast forms on CPU and TPU.

`conv3x3` chooses among the forms, `winograd` holds the fastest one for CPU, and `noinline` keeps
XLA's CPU compiler from holding large arrays. `plain` turns them off.
"""

from nst_jax.networks.kernels import conv3x3, noinline, plain, winograd

__all__ = ["conv3x3", "noinline", "plain", "winograd"]
