"""How the loss computes a term of your own (`nst_jax.Term`): its pieces, its value, its arrays.

``arrays`` are those of all terms, by the name of the term.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.errors import InputError, short_repr
from nst_jax.networks.kernels.dtypes import at_least_float32
from nst_jax.networks.protocol import Network
from nst_jax.term import Term

__all__ = ["as_arrays", "check_spatial", "is_spatial", "measure_term", "term_value"]


def measure_term(
    term: Term,
    image: Float[Array, "h w 3"],
    features: Mapping[str, Float[Array, "h_l w_l n_l"]],
    arrays: Mapping[str, Any],
) -> Any:
    """Return what a term measures of an image or of a piece of it.

    Raises:
        InputError: the term raises KeyError, TypeError or ValueError, as for arrays of another
            size.
    """
    own = arrays.get(term.name, {})
    own_features = {layer: features[layer] for layer in term.layers}
    return _call(term, own, lambda: term.measure(image, own_features, own))


def term_value(
    term: Term, measured: Any, shape: tuple[int, ...], network: Network, arrays: Mapping[str, Any]
) -> Float[Array, ""]:
    """Return the value of a term for an image of this (h, w), in float32 or better.

    Raises:
        InputError: as in `measure_term`; or the value is no scalar.
    """
    own = arrays.get(term.name, {})
    positions: Any = math.prod(shape)
    if term.layers:
        positions = {layer: math.prod(network.grid(layer, shape)) for layer in term.layers}
    value = _call(term, own, lambda: term.value(measured, positions, own))
    if not hasattr(value, "dtype") or value.shape != ():
        kind = f"of shape {value.shape}" if hasattr(value, "dtype") else f"a {type(value).__name__}"
        raise InputError(
            f"the value of the term {term.name} is {kind}; return a scalar array, such as its sum"
        )
    return at_least_float32(value)


def as_arrays(name: str, tree: Any) -> Any:
    """Return the pytree of a term's arrays with each leaf as an array of JAX.

    Raises:
        InputError: a leaf is no array of numbers.
    """
    try:
        return jax.tree.map(jnp.asarray, tree)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the arrays of the term {name} are {short_repr(tree)}; give a pytree of arrays"
        ) from error


def check_spatial(term: Term, arrays: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless the arrays that a term names as spatial have this (h, w)."""
    own = arrays.get(term.name, {})
    for name in term.spatial or ():
        found = jnp.shape(own[name]) if isinstance(own, Mapping) and name in own else None
        if found is None or found[:2] != tuple(shape):
            has = "is missing" if found is None else f"has the shape {found}"
            raise InputError(
                f"the array {name} of the term {term.name} {has}; give one of the image's height "
                f"and width, {tuple(shape)}"
            )


def is_spatial(term: Term, path: tuple[Any, ...], array: Any, shape: tuple[int, ...]) -> bool:
    """Return whether an array of a term has the height and the width of the image.

    Args:
        term: the term.
        path: the path of the array in the term's arrays (``jax.tree_util.tree_map_with_path``).
        array: the array, or its shape.
        shape: (h, w) of the image.
    """
    if term.spatial is None:
        return jnp.shape(array)[:2] == tuple(shape)
    return bool(path) and getattr(path[0], "key", None) in term.spatial


def _call(term: Term, arrays: Any, function: Callable[[], Any]) -> Any:
    """Compute a part of a term, under its name in profiles."""
    try:
        with jax.named_scope(term.name):
            return function()
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        leaves = jax.tree_util.tree_leaves_with_path(arrays)
        shapes = {jax.tree_util.keystr(path): jnp.shape(x) for path, x in leaves}
        raise InputError(
            f"the term {term.name} cannot be computed ({type(error).__name__}: {reason}); its "
            f"arrays have the shapes {shapes or 'of none'}"
        ) from error
