"""Terms of the loss that users define: what each reads, measures and returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from nst_jax.errors import InputError, short_repr

if TYPE_CHECKING:  # JAX is slow to import, and `nst_jax.Settings` needs none.
    from jaxtyping import Array, Float

__all__ = ["RESERVED_NAMES", "Term", "check_named", "check_terms"]

RESERVED_NAMES: Final = (
    *("total", "content", "style", "tv", "optimizer"),
    *("step", "steps", "size", "seconds", "level", "image"),
)
"""The names of other columns of the history and of the log, and of other parts of a step."""


class Term:
    """A term of the loss of your own, beside content, style and total variation.

    Make each subclass a frozen dataclass of numbers, texts and tuples, because the compiled program
    depends on it. What differs from image to image belongs into its arrays: they are arguments of
    the compiled program, so new values need no compilation.

    A term that reads the pixels alone is measured of the whole image, also where the network runs
    tile by tile. A term that reads layers is measured tile by tile if it is ``additive``, and its
    spatial arrays are cut as the image is. A tile may reach beyond the image. There the image, the
    features and the arrays are zero, and such a position must add nothing.

    Attributes:
        name: names the term in weights, history, metadata and messages; a Python identifier.
        layers: the layers of the network that it reads; empty for the pixels alone.
        additive: whether `measure` returns sums over positions, so that the sums of disjoint pieces
            add up to those of the whole image. A term of layers that is not additive refuses tiles.
        spatial: the names of the arrays that have the image's height and width as their first two
            axes; None for all arrays whose first two axes are as large. Name them where another
            array may be as large by chance, and to have their size checked. An array under the name
            of a layer may have that layer's positions, and is then cut as its features are.

    >>> from dataclasses import dataclass
    >>> import jax
    >>> import nst_jax
    >>> @dataclass(frozen=True)
    ... class Temporal(nst_jax.Term):
    ...     name = "temporal"
    ...     additive = True
    ...
    ...     def measure(self, image, features, target):
    ...         return (target["mask"] * (image - target["previous"]) ** 2).sum()
    ...
    ...     def value(self, measured, num_positions, target):
    ...         return measured / num_positions
    >>> image, previous = jax.numpy.ones((8, 8, 3)), jax.numpy.zeros((8, 8, 3))
    >>> arrays = {"temporal": {"previous": previous, "mask": jax.numpy.ones((8, 8, 1))}}
    >>> targets = nst_jax.make_targets({}, terms=[Temporal()], arrays=arrays)
    >>> weights = nst_jax.LossWeights(terms={"temporal": 2.0})
    >>> total, terms = nst_jax.loss(image, {}, targets, weights)
    >>> float(total), float(terms["temporal"])
    (6.0, 3.0)
    """

    name: str
    layers: tuple[str, ...] = ()
    additive: bool = False
    spatial: tuple[str, ...] | None = None

    def measure(
        self,
        image: Float[Array, "h w 3"],
        features: Mapping[str, Float[Array, "h_l w_l n_l"]],
        target: Any,
    ) -> Any:
        """Measure an image, or a piece of it.

        Args:
            image: RGB, nominally in [0, 1].
            features: the features at ``layers``, in the network's dtype.
            target: the term's arrays; an empty dict if it has none.

        Returns:
            A pytree of arrays in float32 or better.
        """
        raise NotImplementedError

    def value(self, measured: Any, num_positions: Any, target: Any) -> Float[Array, ""]:
        """Return the value of the term before its weight, a scalar.

        Args:
            measured: what `measure` returned for the whole image.
            num_positions: the number of pixels of the whole image, h·w. For a term that reads
                layers, the number of positions of each of them, by layer.
            target: the term's arrays, whole.
        """
        raise NotImplementedError


def check_terms(terms: Any) -> tuple[Term, ...]:
    """Return terms as a tuple.

    Raises:
        InputError: one is a class or no `Term`, is not frozen, cannot be hashed, lacks a method, or
            has a name that is reserved or not its own.

    >>> check_terms([Term])
    Traceback (most recent call last):
    nst_jax.errors.InputError: the term is the class Term; give an instance, Term()
    """
    try:
        terms = tuple(terms)
    except TypeError:
        raise InputError(f"terms is {short_repr(terms)}; give a list of nst_jax.Term") from None
    names = [_checked_name(term) for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two terms have the name {name!r}; give each a name of its own")
    return terms


def check_named(kind: str, by_name: Any, terms: Iterable[Term]) -> None:
    """Raise `InputError` unless a mapping has keys that are names of terms.

    >>> check_named("term_weights", {"temporal": 2.0}, [])
    Traceback (most recent call last):
    nst_jax.errors.InputError: term_weights has 'temporal' and the terms are none; name a term
    """
    names = [term.name for term in terms]
    if not isinstance(by_name, Mapping):
        raise InputError(f"{kind} is {short_repr(by_name)}; give a dict by the names of terms")
    for name in by_name:
        if name not in names:
            raise InputError(
                f"{kind} has {short_repr(name)} and the terms are {', '.join(names) or 'none'}; "
                "name a term"
            )


def _checked_name(term: Any) -> str:
    if isinstance(term, type):
        name = term.__name__
        raise InputError(f"the term is the class {name}; give an instance, {name}()")
    text = short_repr(term)
    if not isinstance(term, Term):
        raise InputError(f"the term is {text}; give an instance of a subclass of nst_jax.Term")
    kind = type(term)
    params = vars(kind).get("__dataclass_params__")
    if not (dataclasses.is_dataclass(term) and params is not None and params.frozen):
        raise InputError(
            f"the term {text} can change; write @dataclass(frozen=True) above its class, and give "
            "what changes as its arrays"
        )
    try:
        hash(term)
    except TypeError:
        raise InputError(
            f"the term {text} cannot be hashed; give its fields numbers, texts and tuples, and "
            "arrays as its arrays"
        ) from None
    for method in ("measure", "value"):
        if getattr(kind, method) is getattr(Term, method):
            raise InputError(f"the term {text} has no method {method}; define it")
    name = getattr(term, "name", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise InputError(
            f"the term {text} has the name {short_repr(name)}; give a name such as mean_color"
        )
    if name in RESERVED_NAMES:
        raise InputError(f"the name {name!r} of the term {text} is reserved; choose another")
    for attribute in ("layers", "spatial"):
        value = getattr(term, attribute)
        if value is not None and not (
            isinstance(value, tuple) and all(isinstance(item, str) for item in value)
        ):
            raise InputError(
                f"{attribute} of the term {name} is {short_repr(value)}; give a tuple of names"
            )
    if term.layers is None or not isinstance(term.additive, bool):
        raise InputError(
            f"the term {name} has layers {term.layers!r} and additive {short_repr(term.additive)}; "
            "give a tuple of names, and True or False"
        )
    return name
