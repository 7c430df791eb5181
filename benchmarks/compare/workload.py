"""The job that all contenders do: network, images, steps; and its arithmetic.

This module imports neither JAX nor PyTorch, so that a process measures the memory of one of them.
"""

from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from nst_jax import Settings, images, weights
from nst_jax.networks.architectures import conv_names, conv_shape

MODEL: Final = "vgg19"
SETTINGS: Final = Settings()
LAYERS: Final = tuple({**SETTINGS.content_layers, **SETTINGS.style_layers})
LEARNING_RATES: Final = {"adam": 0.01, "lbfgs": 0.5}  # without a line search 1 diverges
LBFGS_MEMORY: Final = 10
EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
STYLES: Final = ("swirls", "mosaic", "ink", "astronaut", "coffee")
OptimizerName = Literal["adam", "lbfgs"]


@dataclass(frozen=True)
class Job:
    """``batch`` images of ``size`` × ``size`` pixels: one content, one style for each image."""

    size: int
    batch: int
    optimizer: OptimizerName

    def __str__(self) -> str:
        return f"{self.optimizer}, {self.size} × {self.size}, batch {self.batch}"


class Timing(NamedTuple):
    """The result of some steps from the initial images."""

    seconds: float
    losses: list[float]
    """Before each step, summed over the batch."""


def network() -> dict[str, Any]:
    """Return parameters in the shape of VGG19: those of the bundled VGG16, and generated layers.

    The kernels that VGG16 lacks are the identity plus small He-random values, so the trained layers
    behind them see features like those of their training. (Behind purely random kernels the
    activations of relu5_1 are 50 times smaller.)
    """
    params: dict[str, Any] = dict(weights.load(weights.bundled_path()).params)
    rng = np.random.default_rng(19)
    for name in conv_names(MODEL):
        if name not in params:
            shape = conv_shape(name)
            kernel = rng.normal(0, 0.25 * np.sqrt(2 / np.prod(shape[:3])), shape)
            kernel[1, 1] += np.eye(shape[3])
            bias = np.zeros(shape[3], np.float32)
            params[name] = {"kernel": kernel.astype(np.float32), "bias": bias}
    return params


def read_images(job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a content (h, w, 3), styles and initial images (batch, h, w, 3): RGB in [0, 1].

    The content is the example cat; the styles repeat after the fifth. The initial images are the
    content with a little noise, so that no loss term is zero at the start.
    """

    def example(name: str) -> np.ndarray:
        pixels = images.read(EXAMPLES / f"{name}.jpg").pixels
        return images.resize(pixels, (job.size, job.size)).astype(np.float32)

    content = example("cat")
    styles = [example(name) for name in STYLES[: job.batch]]
    noise = np.random.default_rng(0).normal(0, 0.1, (job.batch, *content.shape))
    init = np.clip(content + noise, 0, 1).astype(np.float32)
    return content, np.stack(list(islice(cycle(styles), job.batch))), init


def used_convs() -> tuple[str, ...]:
    """Return the convolutions up to the deepest layer of the loss."""
    names = conv_names(MODEL)
    return names[: 1 + max(names.index(layer.replace("relu", "conv")) for layer in LAYERS)]


def side(layer: str, size: int) -> int:
    """Return the height and width of a layer's features for an image of ``size`` × ``size``."""
    return size // 2 ** (int(layer[4]) - 1)


def conv_flops(conv: str, size: int) -> int:
    """Return the FLOPs of a convolution; the gradient of its input needs as many."""
    return 2 * int(np.prod(conv_shape(conv))) * side(conv, size) ** 2


def gram_flops(layer: str, size: int) -> int:
    """Return the FLOPs of a whole Gram matrix; its gradient (dG + dGᵀ) F needs as many."""
    return 2 * conv_shape(layer.replace("relu", "conv"))[3] ** 2 * side(layer, size) ** 2


def step_flops(job: Job) -> int:
    """Return the FLOPs of one step: convolutions and Gram matrices, forward and backward.

    Gradients of kernels are not needed and not counted, nor are elementwise operations.
    """
    convs = sum(conv_flops(conv, job.size) for conv in used_convs())
    grams = sum(gram_flops(layer, job.size) for layer in SETTINGS.style_layers)
    return 2 * job.batch * (convs + grams)


def step_bytes(job: Job) -> int:
    """Return about the memory of one step: twice the float32 outputs of all convolutions."""
    outputs = sum(conv_shape(conv)[3] * side(conv, job.size) ** 2 for conv in used_convs())
    return 2 * 4 * job.batch * outputs
