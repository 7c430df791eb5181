"""The switch that turns the kernels of this package off."""

import os

__all__ = ["plain_kernels"]


def plain_kernels() -> bool:
    """Return whether ``NST_JAX_PLAIN_KERNELS`` asks for JAX's own operations and derivatives alone.

    The kernels rely on how XLA compiles today (`nst_jax.networks.kernels.noinline`), and a later
    release may break them. Set the variable before the process starts: JAX keeps what it has
    traced.

    >>> import os
    >>> plain_kernels() == (os.environ.get("NST_JAX_PLAIN_KERNELS", "0") not in ("", "0"))
    True
    """
    return os.environ.get("NST_JAX_PLAIN_KERNELS", "0") not in ("", "0")
