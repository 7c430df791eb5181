"""What a `nst_jax.Stylizer` keeps between images: compiled programs, and the targets of styles."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax.errors import MemoryLimitError
from nst_jax.pipeline.memory import compile_within_limit, required_bytes

__all__ = ["ArrayCache", "Executables"]

MAX_PROGRAMS: Final = 128
MAX_ARRAY_BYTES: Final = 256 * 2**20


class Executables:
    """Compiled programs by what they were compiled for; those not used for longest are dropped.

    A program that is here is neither traced nor lowered again, which JAX's own caches do.

    >>> executables = Executables()
    >>> double = jax.jit(lambda x: 2 * x)
    >>> executables.compile(double, jnp.ones(3)) is executables.compile(double, jnp.zeros(3))
    True
    """

    def __init__(self) -> None:
        self._programs: OrderedDict[Hashable, tuple[jax.stages.Compiled, int | None]]
        self._programs = OrderedDict()

    def compile(
        self, jitted: Any, *args: Any, limit: int | None = None, **static: Any
    ) -> jax.stages.Compiled:
        """Return the program for arguments of these shapes, types and devices.

        Args:
            jitted: what ``jax.jit`` returned.
            *args: its arguments: arrays, or shapes and dtypes.
            limit: as in `compile_within_limit`.
            **static: its static arguments.

        Raises:
            MemoryLimitError: as in `compile_within_limit`.
        """
        leaves, structure = jax.tree.flatten(args)
        key = (jitted, structure, tuple(map(_kind, leaves)), tuple(sorted(static.items(), key=str)))
        if key in self._programs:
            executable, needed = self._programs[key]
            self._programs.move_to_end(key)
            if limit is not None and needed is not None and needed > limit:
                raise MemoryLimitError(
                    f"this needs about {needed / 2**30:.2g} GiB of memory and may use "
                    f"{limit / 2**30:.2g} GiB; choose a smaller size"
                )
            return executable
        executable = compile_within_limit(jitted, *args, limit=limit, **static)
        self._programs[key] = executable, required_bytes(executable)
        if len(self._programs) > MAX_PROGRAMS:
            self._programs.popitem(last=False)
        return executable


def _kind(leaf: Any) -> Hashable:
    """Return what a program is compiled for: an argument's shape, dtype and place."""
    sharding = getattr(leaf, "sharding", None)
    is_spread = sharding is not None and len(sharding.device_set) > 1
    is_weak = isinstance(leaf, int | float | complex) or getattr(leaf, "weak_type", False)
    dtype = str(getattr(leaf, "dtype", None) or jnp.result_type(leaf))
    return np.shape(leaf), dtype, is_weak, sharding if is_spread else None


class ArrayCache:
    """Pytrees of arrays by key, up to a number of bytes; those not used for longest are dropped.

    >>> cache = ArrayCache(max_bytes=100)
    >>> cache.get("a", lambda: jnp.ones(10)).shape, cache.get("b", lambda: jnp.ones(20)).shape
    ((10,), (20,))
    >>> "a" in cache, "b" in cache  # 40 and 80 bytes do not fit together
    (False, True)
    """

    def __init__(self, max_bytes: int = MAX_ARRAY_BYTES) -> None:
        self.max_bytes = max_bytes
        self._trees: OrderedDict[Hashable, Any] = OrderedDict()
        self._bytes: dict[Hashable, int] = {}

    def __contains__(self, key: Hashable) -> bool:
        """Return whether the pytree of a key is here."""
        return key in self._trees

    def get(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return the pytree of a key; compute it if it is not here."""
        if key in self._trees:
            self._trees.move_to_end(key)
            return self._trees[key]
        tree = compute()
        self._trees[key] = tree
        self._bytes[key] = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        while sum(self._bytes.values()) > self.max_bytes:
            oldest, _ = self._trees.popitem(last=False)
            del self._bytes[oldest]
        return tree
