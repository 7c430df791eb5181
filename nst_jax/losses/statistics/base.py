"""The protocol of style statistics: what is measured of features, and how two are compared."""

from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Array, Float

from nst_jax.errors import InputError, short_repr

__all__ = ["StyleStatistic", "check_statistic"]


@runtime_checkable
class StyleStatistic(Protocol):
    """A summary of features that the style loss compares with the style's.

    Implement it as a frozen dataclass: it is a static, hashable part of `nst_jax.Targets`.

    Attributes:
        additive: whether `measure` returns sums over positions. Then the sums of disjoint pieces of
            an image add up to those of the whole, so tiles and shards can be measured apart; and
            the objective divides the sums by the number of positions before it calls `distance`,
            so that images of different sizes can be compared, and mixes styles linearly. A position
            whose features are all zero must add nothing, because tiles are padded with zeros.

    A statistic that draws random numbers has the class attribute ``stochastic = True``. Its
    `distance` then takes a third argument, a key from `jax.random.key` that differs from step to
    step.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class ChannelMeans:
    ...     additive = True
    ...
    ...     def measure(self, features, mask=None):
    ...         return (features if mask is None else features * mask[..., None]).sum((0, 1))
    ...
    ...     def distance(self, measured, target):
    ...         return ((measured - target) ** 2).sum()
    >>> isinstance(ChannelMeans(), StyleStatistic)
    True
    """

    additive: ClassVar[bool]

    def measure(
        self, features: Float[Array, "h w n"], mask: Float[Array, "h w"] | None = None
    ) -> Any:
        """Measure one layer's features, each position weighted by ``mask`` in [0, 1] if given.

        Returns:
            A pytree of arrays in float32 or better.
        """
        ...

    def distance(self, measured: Any, target: Any) -> Float[Array, ""]:
        """Compare what `measure` returned for the image and for the style."""
        ...


def check_statistic(statistic: Any) -> None:
    """Refuse what is no `StyleStatistic`.

    Raises:
        InputError: it is a class, lacks a method or ``additive``, or cannot be hashed.

    >>> from nst_jax.losses import Gram
    >>> check_statistic(Gram)
    Traceback (most recent call last):
    nst_jax.errors.InputError: the style statistic is the class Gram; give an instance, Gram()
    """
    if isinstance(statistic, type):
        name = statistic.__name__
        raise InputError(f"the style statistic is the class {name}; give an instance, {name}()")
    text = short_repr(statistic)
    for method in ("measure", "distance"):
        if not callable(getattr(statistic, method, None)):
            raise InputError(f"the style statistic {text} has no method {method}; define it")
    if not isinstance(getattr(statistic, "additive", None), bool):
        raise InputError(
            f"the style statistic {text} does not say whether it is additive; set additive to True "
            "if measure returns sums over positions, otherwise to False"
        )
    try:
        hash(statistic)
    except TypeError:
        raise InputError(
            f"the style statistic {text} cannot be hashed; make its class a frozen dataclass with "
            "hashable fields"
        ) from None
