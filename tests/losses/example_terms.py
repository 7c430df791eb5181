"""Terms of the loss as a user writes them."""

from dataclasses import dataclass

import jax.numpy as jnp

from nst_jax import Term


@dataclass(frozen=True)
class Temporal(Term):
    """Keep to the warped previous frame where it is valid."""

    name = "temporal"
    additive = True

    def measure(self, image, features, target):
        return (target["mask"] * (image - target["previous"]) ** 2).sum()

    def value(self, measured, num_positions, target):
        return measured / num_positions


@dataclass(frozen=True)
class Declared(Temporal):
    """Says which arrays are as large as the image."""

    spatial = ("previous", "mask")


@dataclass(frozen=True)
class Contrast(Term):
    """Reads the pixels alone, and not as sums."""

    wanted: float = 0.2
    name: str = "contrast"

    def measure(self, image, features, target):
        return image.std()

    def value(self, measured, num_positions, target):
        return (measured - self.wanted) ** 2


@dataclass(frozen=True)
class Guide(Term):
    """Reads pixels, two layers, and arrays of every kind."""

    name = "guide"
    layers = ("relu1_1", "relu2_1")
    additive = True

    def measure(self, image, features, target):
        shallow, deep = features["relu1_1"], features["relu2_1"]
        return {
            "shallow": (target["mask"][..., None] * shallow * image[..., :1]).sum((0, 1)),
            "deep": ((deep - target["relu2_1"]) ** 2).sum(),
        }

    def value(self, measured, num_positions, target):
        mean = measured["shallow"] / num_positions["relu1_1"]
        return ((target["color"] - mean) ** 2).sum() + measured["deep"] / num_positions["relu2_1"]


@dataclass(frozen=True)
class Peak(Term):
    """Reads a layer, and not as sums."""

    name = "peak"
    layers = ("relu1_1",)

    def measure(self, image, features, target):
        return features["relu1_1"].max((0, 1))

    def value(self, measured, num_positions, target):
        return jnp.square(measured).mean()
