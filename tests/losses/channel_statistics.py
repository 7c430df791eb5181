"""Style statistics other than the Gram matrix: an additive one, and one that is not."""

from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True)
class ChannelMean:
    additive = True

    def measure(self, features, mask=None):
        mask = jnp.ones(features.shape[:2]) if mask is None else mask
        return {"sums": jnp.einsum("hwn,hw->n", features, mask)}

    def distance(self, measured, target):
        return jnp.square(measured["sums"] - target["sums"]).sum()


@dataclass(frozen=True)
class ChannelMax:
    additive = False

    def measure(self, features, mask=None):
        return (features if mask is None else features * mask[..., None]).max((0, 1))

    def distance(self, measured, target):
        return jnp.square(measured - target).sum()
