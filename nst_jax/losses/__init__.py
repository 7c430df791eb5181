"""The losses: the paper's equations, their relative counterparts, and the objective of both.

`nst_jax.losses.terms` holds the content loss and total variation, `nst_jax.losses.statistics` what
the style loss compares, `nst_jax.losses.objective` the total loss that is compiled.
"""

from nst_jax.losses import statistics
from nst_jax.losses.objective import LossWeights, Targets, loss, make_targets
from nst_jax.losses.statistics import (
    Gram,
    StyleStatistic,
    gram,
    masked_gram,
    relative_style_loss,
    style_loss,
)
from nst_jax.losses.terms import content_loss, relative_content_loss, total_variation
from nst_jax.term import Term

__all__ = [
    "Gram",
    "LossWeights",
    "StyleStatistic",
    "Targets",
    "Term",
    "content_loss",
    "gram",
    "loss",
    "make_targets",
    "masked_gram",
    "relative_content_loss",
    "relative_style_loss",
    "statistics",
    "style_loss",
    "total_variation",
]
