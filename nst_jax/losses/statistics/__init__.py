"""Style statistics: summaries of features that the style loss compares.

`StyleStatistic` is the protocol, `Gram` the statistic of the paper. An additive statistic can be
measured piece by piece, which tiling relies on.
"""

from nst_jax.losses.statistics.base import StyleStatistic
from nst_jax.losses.statistics.gram import (
    Gram,
    gram,
    masked_gram,
    relative_style_loss,
    style_loss,
)

__all__ = ["Gram", "StyleStatistic", "gram", "masked_gram", "relative_style_loss", "style_loss"]
