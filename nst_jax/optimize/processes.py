"""Values that several processes share, when one computation runs in all of them.

Each process of ``jax.distributed`` runs the same program. What it decides from its own clock or its
own signals must be agreed upon, or one process would wait for the others without end.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

__all__ = ["allgather", "spans_processes", "to_host"]


def spans_processes(x: Any) -> bool:
    """Return whether an array lies on devices of several processes.

    >>> import jax.numpy as jnp
    >>> spans_processes(jnp.ones(2))
    False
    """
    return isinstance(x, jax.Array) and not x.is_fully_addressable


def allgather(values: Any, x: Any) -> np.ndarray:
    """Return the values of all processes, one row each, or of this one if ``x`` is its own.

    If ``x`` spans several processes, all of them must call it.

    >>> import jax.numpy as jnp
    >>> allgather(True, jnp.ones(2))  # of one process
    array([ True])
    """
    values = np.asarray(values)
    if not spans_processes(x):
        return values[None]
    return np.asarray(multihost_utils.process_allgather(values))


def to_host(x: Any) -> np.ndarray:
    """Return an array as NumPy's, gathered from the other processes if it lies there too.

    If the array spans several processes, all of them must call it.

    >>> import jax.numpy as jnp
    >>> to_host(jnp.ones(2))
    array([1., 1.], dtype=float32)
    """
    if spans_processes(x) and not x.is_fully_replicated:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)
