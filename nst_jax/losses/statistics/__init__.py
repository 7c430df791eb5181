"""Style statistics: summaries of features that the style loss compares.

`StyleStatistic` is the protocol, `Gram` the statistic of the paper. An additive statistic can be
measured piece by piece, which tiling relies on.
"""

from nst_jax.losses.statistics.base import StyleStatistic, check_statistic
from nst_jax.losses.statistics.gram import (
    Gram,
    gram,
    masked_gram,
    relative_style_loss,
    style_loss,
)
from nst_jax.losses.statistics.moments import Moments, gaussian_wasserstein
from nst_jax.losses.statistics.nearest import NearestNeighbor, nearest_neighbor_loss
from nst_jax.losses.statistics.sliced import SlicedWasserstein, sliced_wasserstein
from nst_jax.losses.statistics.weighted import WeightedSum, is_stochastic, make_statistic

__all__ = [
    "Gram",
    "Moments",
    "NearestNeighbor",
    "SlicedWasserstein",
    "StyleStatistic",
    "WeightedSum",
    "check_statistic",
    "gaussian_wasserstein",
    "gram",
    "is_stochastic",
    "make_statistic",
    "masked_gram",
    "nearest_neighbor_loss",
    "relative_style_loss",
    "sliced_wasserstein",
    "style_loss",
]
