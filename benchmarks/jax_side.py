"""nst_jax's side of the comparison, through its public functions."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import optax
from common import (
    ADAM_LR,
    LBFGS_LR,
    LBFGS_MEMORY,
    SETTINGS,
    TAPS,
    Contender,
    Job,
    Message,
    Optimizer,
    Turn,
    best_rate,
    network,
    pictures,
)

from nst_jax import (
    LossWeights,
    Outcome,
    Targets,
    loss,
    make_targets,
    minimise,
    minimise_each,
    prepare_params,
)
from nst_jax.pipeline.memory import compile_to_fit
from nst_jax.pipeline.runner import ABREAST

DTYPES = {"float32": "float32", "tf32": "float32", "bfloat16": "bfloat16"}
WEIGHTS = LossWeights(
    SETTINGS.content_weight,
    SETTINGS.style_weight,
    SETTINGS.tv,
    SETTINGS.content_layers,
    SETTINGS.style_layers,
)


def probe() -> Message:
    """Say what there is."""
    (device, *_) = jax.devices()
    return {
        "gpu": device.device_kind if device.platform == "gpu" else None,
        "versions": {"jax": jax.__version__, "jaxlib": jaxlib.version.__version__},
    }


def matmul_rate(precision: str, device: str, size: int) -> float:
    """FLOP/s of a square product."""
    _set_precision(precision, device)
    a = jax.random.normal(jax.random.key(0), (size, size), DTYPES[precision])
    product = jax.jit(jnp.matmul)
    seconds = []
    for _ in range(7):
        begun = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    return best_rate(2 * size**3, seconds)


def device_peak_bytes() -> int:
    """The most that arrays and programs have held on the GPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


@jax.jit
def content_targets(params: Any, content: jax.Array) -> Targets:
    """What all pictures share."""
    return make_targets(params, content, content_layers=tuple(SETTINGS.content_layers))


@jax.jit
def style_targets(params: Any, style: jax.Array) -> dict[str, jax.Array]:
    """What one picture has alone: its style's Gram matrices."""
    return make_targets(params, styles=[style], style_layers=tuple(SETTINGS.style_layers)).style


def run(jitted: Any, *args: Any) -> Any:
    """Compile and run as nst_jax does, which gives back the memory that compiling took."""
    return jax.block_until_ready(compile_to_fit(jitted, *args)(*args))


def loss_of_style(
    image: jax.Array,
    style: dict[str, jax.Array],
    params: Any,
    shared: Targets,
    weights: LossWeights,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`nst_jax.loss`, its arguments in the order that `nst_jax.minimise_each` wants."""
    return loss(image, params, replace(shared, style=style), weights)


def optimizer(name: Optimizer) -> optax.GradientTransformation:
    """Adam, or L-BFGS with one evaluation a step: no line search."""
    if name == "adam":
        return optax.adam(ADAM_LR)
    return optax.lbfgs(LBFGS_LR, memory_size=LBFGS_MEMORY, linesearch=None)


class JaxContender:
    """Several pictures as `nst_jax.stylize_each` does them: two at a time on CPUs, elsewhere in one
    vmapped loop, as in the mode ``vmap`` on CPUs too."""

    def __init__(self, job: Job, mode: str, precision: str, device: str) -> None:
        _set_precision(precision, device)
        content, styles, self.start = (jnp.asarray(pixels) for pixels in pictures(job))
        self.params = prepare_params(network(), DTYPES[precision], TAPS)
        self.shared = run(content_targets, self.params, content)
        # One after another: side by side they would take the memory of all.
        self.own = [run(style_targets, self.params, style) for style in styles]
        self.optimizer = optimizer(job.optimizer)  # the same object again needs no new compilation
        self.vmapped = job.batch > 1 and (mode == "vmap" or device == "gpu")
        if self.vmapped:
            self.each = jax.tree.map(lambda *grams: jnp.stack(grams), *self.own)

    def descend(self, start: jax.Array, style: dict[str, jax.Array], steps: int) -> Outcome:
        """Minimise one picture's loss."""
        args = (self.params, replace(self.shared, style=style), WEIGHTS)
        return minimise(loss, start, args, optimizer=self.optimizer, steps=steps)

    def turn(self, steps: int) -> Turn:
        """Its seconds are without compilation; of two at a time, with finding what was compiled."""
        if self.vmapped:
            args = (self.params, self.shared, WEIGHTS)
            outcomes = minimise_each(
                loss_of_style, self.start, self.each, args, optimizer=self.optimizer, steps=steps
            )
            seconds = outcomes[0].seconds
        elif len(self.own) == 1:
            outcomes = [self.descend(self.start[0], self.own[0], steps)]
            seconds = outcomes[0].seconds
        else:
            begun = time.perf_counter()
            with ThreadPoolExecutor(ABREAST) as pool:
                outcomes = list(pool.map(self.descend, self.start, self.own, repeat(steps)))
            seconds = time.perf_counter() - begun
        histories = [[entry["total"] for entry in outcome.history] for outcome in outcomes]
        return Turn(seconds, [sum(totals) for totals in zip(*histories, strict=True)])


def contender(job: Job, mode: str, precision: str, device: str) -> Contender:
    """Make it ready."""
    return JaxContender(job, mode, precision, device)


def _set_precision(precision: str, device: str) -> None:
    """On a GPU, JAX's default for float32 is TF32."""
    highest = device == "gpu" and precision == "float32"
    jax.config.update("jax_default_matmul_precision", "highest" if highest else None)
