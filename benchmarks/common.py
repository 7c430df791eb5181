"""The default loss of nst_jax, images and parameters to evaluate it with, and a stopwatch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import LossWeights, Settings, Targets, images, make_targets, weights

EXAMPLES: Final = Path(__file__).resolve().parents[1] / "examples"
SETTINGS: Final = Settings()
LOSS_WEIGHTS: Final = LossWeights(
    SETTINGS.content_weight,
    SETTINGS.style_weight,
    SETTINGS.tv_weight,
    SETTINGS.content_layers,
    SETTINGS.style_layers,
)


def load_params(path: Path) -> Any:
    """Load parameters as they are in a weight file, in float32."""
    return jax.tree.map(jnp.asarray, weights.load(path).params)


@jax.jit
def default_targets(
    params: Any, content: Any, style: Any, loss_weights: LossWeights = LOSS_WEIGHTS
) -> Targets:
    """Make targets at all layers of ``loss_weights``."""
    layers: Any = {"content_layers": tuple(loss_weights.content_layers)}
    layers["style_layers"] = tuple(loss_weights.style_layers)
    return make_targets(params, content, [style], **layers)


def read_example(name: str, size: int) -> jax.Array:
    """Read an example image, resized to a longest side."""
    return jnp.asarray(resize(images.read(EXAMPLES / f"{name}.jpg").pixels, size))


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize an image to a longest side."""
    shape = images.fit_longest_side(pixels.shape, size)
    return images.resize(np.asarray(pixels, np.float32), shape)


def milliseconds(function: Callable[..., Any], *args: Any, repeats: int = 7) -> float:
    """Compile a function and return the time of its fastest run.

    The fastest, because differences of medians would show the noise of the machine.
    """
    jitted = jax.jit(function)
    jax.block_until_ready(jitted(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(jitted(*args))
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)
