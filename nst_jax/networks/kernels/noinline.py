"""Prevent XLA's CPU compiler from fusing operations across a function boundary.

XLA fuses a cheap operation into each of its consumers. When a consumer runs much later, as in the
backward pass, the large input of the operation stays in memory until then. XLA also schedules
operations as early as their inputs allow. ``lax.optimization_barrier`` does not help, because XLA
removes barriers before it fuses. A function that is not inlined stays separate (jaxlib 0.10.2):
XLA fuses nothing into it, and it runs only when all of its arguments are ready.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

__all__ = ["noinline"]


def noinline(fn: Callable[..., Any], *args: Any) -> Any:
    """Return ``fn(*args)``; on CPU, XLA compiles ``fn`` as a function of its own."""
    # Here, so that a JAX without this experimental module still has plain kernels.
    from jax.experimental.xla_metadata import set_xla_metadata

    def noinline_fn(*args: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(fn)(*args)

    return lax.platform_dependent(*args, cpu=noinline_fn, default=fn)
