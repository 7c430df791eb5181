"""One image in pieces: the same objective in bounded memory.

`nst_jax.partitioning.tiling` computes the loss tile by tile. Pieces rely on additive style
statistics (`nst_jax.losses.StyleStatistic`): the sums of the pieces add up to those of the image.
"""

from nst_jax.partitioning.tiling import (
    tiled_features,
    tiled_loss,
    tiled_loss_fn,
    tiled_style_targets,
)

__all__ = ["tiled_features", "tiled_loss", "tiled_loss_fn", "tiled_style_targets"]
