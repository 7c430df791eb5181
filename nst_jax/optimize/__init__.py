"""The optimization: any Optax transformation on any loss, compiled by XLA.

The variable is an image, or any pytree. `step` is one update, a pure function. `optimize_chunks`
iterates at one size, `optimize_multiscale` from coarse to fine, and `minimize`
runs to the end. This folder knows JAX and Optax only: no files, no networks, no settings.
"""

from nst_jax.optimize.history import concatenate_history, select_image
from nst_jax.optimize.lbfgs import LbfgsState, preconditioned_lbfgs
from nst_jax.optimize.loop import aot_compile, chunk_lowering_args, optimize_chunks
from nst_jax.optimize.minimize import minimize, minimize_batch
from nst_jax.optimize.multiscale import Level, optimize_multiscale, resample_state
from nst_jax.optimize.processes import allgather, spans_processes, to_host
from nst_jax.optimize.pyramid import pyramid_lbfgs
from nst_jax.optimize.step import (
    clip_to_unit,
    current_iterate,
    has_converged,
    init_state,
    run_steps,
    step,
)
from nst_jax.optimize.types import (
    Chunk,
    CompileFn,
    Ema,
    History,
    LossFn,
    MinimizeResult,
    Optimizer,
    Project,
    ShardFn,
    State,
)

__all__ = [
    "Chunk",
    "CompileFn",
    "Ema",
    "History",
    "LbfgsState",
    "Level",
    "LossFn",
    "MinimizeResult",
    "Optimizer",
    "Project",
    "ShardFn",
    "State",
    "allgather",
    "aot_compile",
    "chunk_lowering_args",
    "clip_to_unit",
    "concatenate_history",
    "current_iterate",
    "has_converged",
    "init_state",
    "minimize",
    "minimize_batch",
    "optimize_chunks",
    "optimize_multiscale",
    "preconditioned_lbfgs",
    "pyramid_lbfgs",
    "resample_state",
    "run_steps",
    "select_image",
    "spans_processes",
    "step",
    "to_host",
]
