"""The nst_jax side of the comparison, through its public functions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import LOSS_WEIGHTS

from compare import workload
from compare.workload import SETTINGS, Job, Timing
from nst_jax import LossWeights, Targets, loss, make_targets, minimize, minimize_batch
from nst_jax.networks import prepare_params
from nst_jax.pipeline.memory import compile_within_limit

DTYPES: Final = {"float32": "float32", "tf32": "float32", "bfloat16": "bfloat16"}


def gpu_name() -> str | None:
    """Return the name of the GPU that JAX uses, or None."""
    device = jax.devices()[0]
    return device.device_kind if device.platform == "gpu" else None


def device_peak_bytes() -> int:
    """Return the most memory that arrays and executables have had on the GPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


@jax.jit
def content_targets(params: Any, content: jax.Array) -> Targets:
    """Return the targets that all images of a batch share."""
    return make_targets(params, content, content_layers=tuple(SETTINGS.content_layers))


@jax.jit
def style_targets(params: Any, style: jax.Array) -> Any:
    """Return the style statistics of one image, by layer."""
    return make_targets(params, styles=[style], style_layers=tuple(SETTINGS.style_layers)).style


def style_loss(
    image: jax.Array, style: Any, params: Any, shared: Targets, loss_weights: LossWeights
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute `nst_jax.loss`, with the style first, as `nst_jax.minimize_batch` calls it."""
    return loss(image, params, replace(shared, style=style), loss_weights)


def make_optimizer(name: workload.OptimizerName) -> optax.GradientTransformation:
    """Return Adam, or L-BFGS with one evaluation a step: without a line search."""
    rate = workload.LEARNING_RATES[name]
    if name == "adam":
        return optax.adam(rate)
    return optax.lbfgs(rate, memory_size=workload.LBFGS_MEMORY, linesearch=None)


class Contender:
    """A batch as `nst_jax.stylize_many` runs it: on a CPU one image after another, on a GPU in one
    vmapped loop. The mode ``vmap`` uses the vmapped loop on a CPU too."""

    def __init__(self, job: Job, mode: str, precision: str, device: str) -> None:
        # On a GPU, the default of JAX for float32 is TF32.
        highest = device == "gpu" and precision == "float32"
        jax.config.update("jax_default_matmul_precision", "highest" if highest else None)
        self.dtype = DTYPES[precision]
        content, styles, self.init = map(jnp.asarray, workload.read_images(job))
        self.params = prepare_params(workload.network(), self.dtype, workload.LAYERS)
        self.shared = _evaluate(content_targets, self.params, content)
        # One after another: a vmap over them needs the memory of all.
        self.styles = [_evaluate(style_targets, self.params, style) for style in styles]
        self.optimizer = make_optimizer(job.optimizer)
        self.vmapped = job.batch > 1 and (mode == "vmap" or device == "gpu")
        if self.vmapped:
            self.stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *self.styles)

    def run(self, steps: int) -> Timing:
        """Take ``steps`` steps from the initial images; the time is without compilation."""
        args = (self.params, self.shared, LOSS_WEIGHTS)
        options: Any = {"optimizer": self.optimizer, "steps": steps}
        options["compile_fn"] = compile_within_limit
        if self.vmapped:
            results = minimize_batch(style_loss, self.init, self.stacked, args, **options)
            seconds = results[0].seconds
        else:
            pairs = zip(self.init, self.styles, strict=True)
            results = [minimize(style_loss, x, (style, *args), **options) for x, style in pairs]
            seconds = sum(result.seconds for result in results)
        totals = np.sum([result.history["total"] for result in results], axis=0)
        return Timing(seconds, totals.tolist())

    def matmul(self, size: int) -> Callable[[], Any]:
        """Return a function that multiplies two square matrices and waits for the product."""
        a = jax.random.normal(jax.random.key(0), (size, size), self.dtype)
        product = jax.jit(jnp.matmul)
        return lambda: product(a, a).block_until_ready()


def _evaluate(jitted: Any, *args: Any) -> Any:
    """Compile and call a function as `nst_jax.stylize` does, which limits the memory."""
    return jax.block_until_ready(compile_within_limit(jitted, *args)(*args))
