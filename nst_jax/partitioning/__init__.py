"""One image in pieces: the same objective in bounded memory, or on many devices.

`nst_jax.partitioning.tiling` computes the loss tile by tile. Tiles rely on additive style
statistics (`nst_jax.losses.StyleStatistic`): the sums of the pieces add up to those of the image.
`nst_jax.partitioning.sharding` divides the rows of an image over a mesh of devices.
"""

from nst_jax.partitioning.sharding import (
    check_mesh,
    make_mesh,
    replicate,
    shard_batch,
    shard_image,
    shard_state,
    sharded_features,
    sharded_loss,
    sharded_loss_fn,
    state_shardings,
)
from nst_jax.partitioning.tiling import (
    tile_unit,
    tiled_features,
    tiled_loss,
    tiled_loss_fn,
    tiled_style_targets,
)

__all__ = [
    "check_mesh",
    "make_mesh",
    "replicate",
    "shard_batch",
    "shard_image",
    "shard_state",
    "sharded_features",
    "sharded_loss",
    "sharded_loss_fn",
    "state_shardings",
    "tile_unit",
    "tiled_features",
    "tiled_loss",
    "tiled_loss_fn",
    "tiled_style_targets",
]
