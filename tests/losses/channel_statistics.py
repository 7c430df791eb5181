"""Style statistics other than the Gram matrix: an additive one, and one that is not."""

from dataclasses import dataclass

import jax
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
class NoisyChannelMean(ChannelMean):
    """Draws which channels count, so it is additive and stochastic."""

    stochastic = True

    def distance(self, measured, target, key):
        difference = measured["sums"] - target["sums"]
        return jnp.square(difference * jax.random.bernoulli(key, 0.5, difference.shape)).sum()


@dataclass(frozen=True)
class ChannelMax:
    additive = False

    def measure(self, features, mask=None):
        return (features if mask is None else features * mask[..., None]).max((0, 1))

    def distance(self, measured, target):
        return jnp.square(measured - target).sum()
