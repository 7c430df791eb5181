"""The arrays of the caller's terms (`nst_jax.Term`) at the size of a level."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from PIL import Image

from nst_jax.losses import Term
from nst_jax.losses.own_terms import as_arrays, check_spatial, is_spatial

__all__ = ["term_arrays"]


def term_arrays(
    terms: Sequence[Term],
    given: Mapping[str, Any],
    shape: tuple[int, int],
    output_shape: tuple[int, int],
) -> dict[str, Any]:
    """Return the arrays of the terms for a level of this (h, w), by the name of the term.

    Args:
        terms: the terms.
        given: for each a pytree of arrays, of which those with the output's height and width are
            resampled; or a function of ``shape`` that returns the pytree as the level needs it.
        shape: (h, w) of the level.
        output_shape: (h, w) of the output.

    Raises:
        InputError: a leaf is no array, or an array that a term names as spatial has another size.

    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> @dataclass(frozen=True)
    ... class Mask(Term):
    ...     name = "mask"
    >>> given = {"mask": {"mask": np.ones((64, 48)), "color": np.ones(3)}}
    >>> arrays = term_arrays([Mask()], given, (32, 24), (64, 48))
    >>> arrays["mask"]["mask"].shape, arrays["mask"]["color"].shape
    ((32, 24), (3,))
    """
    resampled = {}
    for term in terms:
        if term.name not in given:
            check_spatial(term, {}, output_shape)
            continue
        own = given[term.name]
        is_function = callable(own)
        own = as_arrays(term.name, own(shape) if is_function else own)
        check_spatial(term, {term.name: own}, shape if is_function else output_shape)
        if not is_function:
            resample = partial(_resample, term, shape, output_shape)
            own = jax.tree_util.tree_map_with_path(resample, own)
        resampled[term.name] = own
    return resampled


def _resample(
    term: Term, shape: tuple[int, int], output_shape: tuple[int, int], path: Any, x: Array
) -> Array:
    """Resample an array of the output's size to float32: linearly, which keeps its range."""
    if not is_spatial(term, path, x, output_shape):
        return x
    array = np.asarray(x, np.float32)
    if shape == output_shape:
        return jnp.asarray(array)
    channels = np.moveaxis(array.reshape(*output_shape, -1), -1, 0)
    height, width = shape
    resized = [
        np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BILINEAR))
        for each in channels
    ]
    return jnp.asarray(np.stack(resized, -1).reshape(*shape, *array.shape[2:]))
