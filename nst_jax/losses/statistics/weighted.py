"""Style statistics by name, and several at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax._types import Normalization, StyleLossName
from nst_jax.errors import InputError, short_repr
from nst_jax.losses.statistics.base import StyleStatistic, check_statistic
from nst_jax.losses.statistics.gram import Gram
from nst_jax.losses.statistics.moments import Moments
from nst_jax.losses.statistics.nearest import NearestNeighbor
from nst_jax.losses.statistics.sliced import SlicedWasserstein
from nst_jax.losses.terms import EPSILON

__all__ = ["WeightedSum", "is_stochastic", "make_statistic"]


@dataclass(frozen=True)
class WeightedSum:
    """A weighted sum of the distances of several statistics, as a `nst_jax.losses.StyleStatistic`.

    It is additive if all of them are.

    Attributes:
        parts: pairs of a statistic and its weight.

    Raises:
        InputError: they are no such pairs.

    >>> from nst_jax.losses.statistics import Gram, SlicedWasserstein
    >>> both = WeightedSum(((Gram(), 1.0), (SlicedWasserstein(), 0.5)))
    >>> both.additive, both.stochastic
    (False, True)
    """

    parts: tuple[tuple[StyleStatistic, float], ...]

    def __post_init__(self) -> None:
        """Check the pairs."""
        try:
            statistics = [statistic for statistic, weight in self.parts if float(weight) >= 0]
            if len(statistics) < len(self.parts) or not statistics:
                raise ValueError
        except (TypeError, ValueError):
            raise InputError(
                f"parts is {short_repr(self.parts)}; give pairs of a statistic and its weight, a "
                "number from 0 up"
            ) from None
        for statistic in statistics:
            check_statistic(statistic)

    @property
    def additive(self) -> bool:
        """Whether every part is additive."""
        return all(statistic.additive for statistic, _ in self.parts)

    @property
    def stochastic(self) -> bool:
        """Whether a part draws random numbers."""
        return any(is_stochastic(statistic) for statistic, _ in self.parts)

    def measure(
        self, features: Float[Array, "h w n"], mask: Float[Array, "h w"] | None = None
    ) -> tuple[Any, ...]:
        """Measure each part."""
        measured = [statistic.measure(features, mask) for statistic, _ in self.parts]
        if self.additive:
            return tuple(measured)
        # The objective does not divide these sums by the positions, so this does.
        height, width, _ = features.shape
        positions = height * width if mask is None else mask.sum() + EPSILON
        return tuple(
            jax.tree.map(lambda x: x / positions, sums) if statistic.additive else sums
            for sums, (statistic, _) in zip(measured, self.parts, strict=True)
        )

    def distance(
        self, measured: tuple[Any, ...], target: tuple[Any, ...], key: Array | None = None
    ) -> Float[Array, ""]:
        """Add the weighted distances; ``key`` is needed if the sum is stochastic."""
        total = jnp.zeros(())
        for index, (statistic, weight) in enumerate(self.parts):
            keys = ()
            if is_stochastic(statistic):
                assert key is not None
                keys = (jax.random.fold_in(key, index),)
            total += weight * statistic.distance(measured[index], target[index], *keys)
        return total


def is_stochastic(statistic: StyleStatistic) -> bool:
    """Return whether the distance of a statistic takes a random key.

    >>> from nst_jax.losses.statistics import Gram, SlicedWasserstein
    >>> is_stochastic(Gram()), is_stochastic(SlicedWasserstein())
    (False, True)
    """
    return getattr(statistic, "stochastic", False)


def make_statistic(
    style_loss: StyleLossName | StyleStatistic | Mapping[StyleLossName | StyleStatistic, float],
    normalization: Normalization = "target_energy",
) -> StyleStatistic:
    """Return a statistic by its name, or a weighted sum of some; a statistic stays as it is.

    ``normalization`` is that of Gram matrices; the others are always relative.

    Raises:
        InputError: there is no statistic of that name, or no name at all; or as in
            `check_statistic`.

    >>> make_statistic("gram")
    Gram(normalization='target_energy')
    >>> make_statistic({"gram": 1.0, "moments": 0.5}).additive
    True
    """
    if isinstance(style_loss, Mapping):
        if not style_loss:
            raise InputError("style_loss is empty; name at least one, with its weight")
        parts = ((make_statistic(part, normalization), style_loss[part]) for part in style_loss)
        return cast(StyleStatistic, WeightedSum(tuple(parts)))  # Its additivity is a property.
    if style_loss == "gram":
        return Gram(normalization)
    by_name = {"moments": Moments, "sliced": SlicedWasserstein, "nearest": NearestNeighbor}
    if not isinstance(style_loss, str):
        check_statistic(style_loss)
        return style_loss
    if style_loss not in by_name:
        choices = ", ".join(get_args(StyleLossName))
        raise InputError(f"style_loss is {style_loss!r}; choose one of {choices}")
    return by_name[style_loss]()
