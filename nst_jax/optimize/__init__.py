"""The optimization: any Optax transformation on any loss of an image, compiled by XLA.

`optimize_chunks` iterates at one size, `optimize_multiscale` from coarse to fine, and `minimize`
runs to the end. This folder knows JAX and Optax only: no files, no networks, no settings.
"""

from nst_jax.optimize.history import concatenate_history, select_image
from nst_jax.optimize.loop import (
    aot_compile,
    chunk_call,
    current_image,
    has_line_search,
    init_state,
    optimize_chunks,
    reflect,
    run_steps,
    step,
)
from nst_jax.optimize.minimize import minimize, minimize_batch
from nst_jax.optimize.multiscale import Level, optimize_multiscale, resample_state
from nst_jax.optimize.processes import agree, spans_processes, to_host
from nst_jax.optimize.pyramid import pyramid_lbfgs
from nst_jax.optimize.types import (
    Chunk,
    CompileFn,
    History,
    LossFn,
    MinimizeResult,
    Optimizer,
    PlaceFn,
    State,
)

__all__ = [
    "Chunk",
    "CompileFn",
    "History",
    "Level",
    "LossFn",
    "MinimizeResult",
    "Optimizer",
    "PlaceFn",
    "State",
    "agree",
    "aot_compile",
    "chunk_call",
    "concatenate_history",
    "current_image",
    "has_line_search",
    "init_state",
    "minimize",
    "minimize_batch",
    "optimize_chunks",
    "optimize_multiscale",
    "pyramid_lbfgs",
    "reflect",
    "resample_state",
    "run_steps",
    "select_image",
    "spans_processes",
    "step",
    "to_host",
]
