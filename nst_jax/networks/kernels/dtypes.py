"""What arrays must agree on before a kernel sees them: dtypes, and axes of a device mesh."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

__all__ = ["at_least_float32", "vary_like"]

T = TypeVar("T")


def at_least_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Convert half precision to float32; float32 and float64 stay."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def vary_like(tree: T, x: Array) -> T:
    """Inside ``jax.shard_map``, mark the arrays of a pytree as varying over the axes of ``x``.

    JAX marks the arguments of its own operations. A ``custom_vjp`` function must do so itself, or
    the cotangents of replicated parameters have another type than the parameters.
    """
    axes = _varying_axes(x)

    def mark(leaf: Array) -> Array:
        missing = tuple(axes - _varying_axes(leaf))
        if not missing:
            return leaf
        if hasattr(lax, "pcast"):
            return lax.pcast(leaf, missing, to="varying")
        return lax.pvary(leaf, missing)  # pyright: ignore[reportAttributeAccessIssue] JAX < 0.9

    return jax.tree.map(mark, tree)


def _varying_axes(x: Array) -> frozenset[Any]:
    aval = jax.typeof(x)
    if hasattr(aval, "vma"):
        return aval.vma
    return aval.manual_axis_type.varying
