"""What the benchmarks share: the job, the network's weights, the pictures, and the arithmetic.

Neither JAX nor PyTorch is imported here, so that a process which uses the one never carries the
other.
"""

import resource
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np

from nst_jax import Settings
from nst_jax.images import io as images
from nst_jax.models.architectures import conv_names, conv_shape
from nst_jax.models.weights import load as weights
from nst_jax.models.weights.validation import Params

MODEL: Final = "vgg19"
RANDOM_PART: Final = 0.25
SETTINGS: Final = Settings()
TAPS: Final = tuple({**SETTINGS.content_layers, **SETTINGS.style_layers})
ADAM_LR: Final = 0.01  # `nst_jax.stylize`'s own
LBFGS_LR: Final = 0.5  # without a line search 1 is too bold
LBFGS_MEMORY: Final = 10

EXAMPLES: Final = Path(__file__).parent.parent / "examples"
CONTENT: Final = "cat"
STYLES: Final = ("swirls", "mosaic", "ink", "astronaut", "coffee")
START_NOISE: Final = 0.1

Optimizer = Literal["adam", "lbfgs"]


@dataclass(frozen=True)
class Job:
    """One configuration: ``batch`` pictures of ``size`` × ``size``, one content, a style each."""

    size: int
    batch: int
    optimizer: Optimizer


class Turn(NamedTuple):
    """What a contender tells of some steps from the start."""

    seconds: float
    losses: list[float]
    """Sums over the batch, each before its step: the first one is the start's."""


class Contender(Protocol):
    """One side of the comparison, ready to run; every turn begins anew at the start pictures."""

    def turn(self, steps: int) -> Turn:
        """Take ``steps`` steps and time them, compilation apart where it can be told apart."""
        ...


# --- the network and the pictures ----------------------------------------------------------------


def network() -> Params:
    """Weights in VGG19's shape: the bundled VGG16's, and made-up ones where VGG19 has more layers.

    The additional kernels are He-random from a fixed seed, made small and put on top of the
    identity: the trained layers that follow then see features like those that they were trained
    on. (Behind purely random kernels the activations of relu5_1 are 50 times smaller.)
    """
    params = dict(weights.load(weights.bundled_path()).params)
    rng = np.random.default_rng(19)
    for name in conv_names(MODEL):
        if name not in params:
            shape = conv_shape(name)
            kernel = rng.normal(0, RANDOM_PART * np.sqrt(2 / np.prod(shape[:3])), shape)
            kernel[1, 1] += np.eye(shape[3])
            bias = np.zeros(shape[3], np.float32)
            params[name] = {"kernel": kernel.astype(np.float32), "bias": bias}
    return params


class Pictures(NamedTuple):
    """RGB in [0, 1], float32."""

    content: np.ndarray  # (h, w, 3)
    styles: np.ndarray  # (batch, h, w, 3)
    start: np.ndarray  # (batch, h, w, 3)


def pictures(job: Job) -> Pictures:
    """The example cat, one style for each picture of the batch (repeated after the fifth), and
    where to start: the cat under a little noise, so that no part of the loss is zero there."""

    def example(name: str) -> np.ndarray:
        pixels = images.read(EXAMPLES / f"{name}.jpg").pixels
        return images.resize(pixels, (job.size, job.size)).astype(np.float32)

    content = example(CONTENT)
    styles = {name: example(name) for name in STYLES[: job.batch]}
    noise = np.random.default_rng(0).normal(0, START_NOISE, (job.batch, *content.shape))
    return Pictures(
        content,
        np.stack([styles[name] for name in islice(cycle(styles), job.batch)]),
        np.clip(content + noise, 0, 1).astype(np.float32),
    )


# --- the arithmetic ------------------------------------------------------------------------------


def used_convs() -> tuple[str, ...]:
    """The convolutions up to the deepest tap."""
    names = conv_names(MODEL)
    return names[: 1 + max(names.index(tap.replace("relu", "conv")) for tap in TAPS)]


def side(layer: str, size: int) -> int:
    """Height and width of a layer's output, for a picture of ``size`` × ``size``."""
    return size // 2 ** (int(layer[4]) - 1)


def conv_flops(layer: str, size: int) -> int:
    """A convolution's multiplications and additions, forward; its input gradient has as many."""
    return 2 * int(np.prod(conv_shape(layer))) * side(layer, size) ** 2


def gram_flops(tap: str, size: int) -> int:
    """The same of a Gram matrix, both triangles; its gradient, (dG + dGᵀ) F, has as many."""
    filters = conv_shape(tap.replace("relu", "conv"))[3]
    return 2 * filters**2 * side(tap, size) ** 2


def step_flops(size: int, batch: int = 1) -> int:
    """Of one step: convolutions and Gram matrices, forward and back to the picture.

    The kernels' gradients are not needed and not counted, nor is what is done element by element.
    """
    convolutions = sum(conv_flops(layer, size) for layer in used_convs())
    grams = sum(gram_flops(tap, size) for tap in SETTINGS.style_layers)
    return 2 * batch * (convolutions + grams)


def step_bytes(size: int, batch: int = 1) -> int:
    """Memory that a step is known to need about: twice every convolution's float32 output."""
    outputs = sum(conv_shape(name)[3] * side(name, size) ** 2 for name in used_convs())
    return 2 * 4 * batch * outputs


# --- the machine ---------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Memory that this process holds in RAM now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_resident_bytes() -> int:
    """The most that it ever held (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def best_rate(flops: float, seconds: list[float]) -> float:
    """FLOP/s of the fastest of several runs."""
    return flops / min(seconds)


def one_line(error: BaseException, limit: int = 160) -> str:
    """An exception's kind and its first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


Message = dict[str, Any]
"""What processes say to each other: a line of JSON."""

Watch = Callable[[int, Callable[[], np.ndarray]], bool]
"""Told of some more steps and how to get the picture (h, w, 3) now; True ends the run."""
