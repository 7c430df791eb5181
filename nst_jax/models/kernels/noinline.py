"""A border around operations, for XLA's CPU compiler, which else keeps too much in memory.

It merges what is cheap to compute into whatever uses it, much later in the program, and holds the
large array that it is computed from until then; and it computes early whatever can be. A
``lax.optimization_barrier`` does not prevent that, because barriers are gone by the time that
operations are merged. A function that is not inlined stays one (jaxlib 0.10.2): nothing in it is
merged with others, and it begins when all its arguments are there.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

__all__ = ["apart"]


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """Return ``function(*args)``, on CPUs from a function that is not inlined."""

    def called(*args: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*args)

    return lax.platform_dependent(*args, cpu=called, default=function)
