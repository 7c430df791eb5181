"""nst_jax: neural style transfer (Gatys, Ecker & Bethge 2015), compiled with JAX and Flax.

Images are float32 RGB in [0, 1], ``(h, w, 3)``.

Whole jobs: `stylize`, `stylize_many`, `interpolate_styles`, `synthesize_texture`,
`reconstruct_content`, `stylize_folder`; `prepare_job` and `run` to own the loop. Pure functions for
your own ``jit``, ``grad`` and ``vmap``: `VGG`, `make_targets`, `loss`. The compiled loop for any
loss: `minimize`, `minimize_batch` and `nst_jax.optimize`.

Names are imported on first use, so that ``import nst_jax`` is fast and ``nst-jax --help`` answers
without JAX.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nst_jax import images, losses, models, optimize, partitioning, pipeline
    from nst_jax.errors import DivergedError, InputError, MemoryLimitError
    from nst_jax.losses import LossWeights, Targets, loss, make_targets
    from nst_jax.models import VGG, prepare_params, weights
    from nst_jax.optimize import MinimizeResult, State, minimize, minimize_batch
    from nst_jax.pipeline import (
        BatchItem,
        Job,
        Progress,
        Result,
        interpolate_styles,
        list_images,
        prepare_job,
        reconstruct_content,
        run,
        stylize,
        stylize_folder,
        stylize_many,
        synthesize_texture,
    )
    from nst_jax.settings import PAPER, Settings

__version__ = version("nst-jax")

__all__ = [
    "PAPER",
    "VGG",
    "BatchItem",
    "DivergedError",
    "InputError",
    "Job",
    "LossWeights",
    "MemoryLimitError",
    "MinimizeResult",
    "Progress",
    "Result",
    "Settings",
    "State",
    "Targets",
    "images",
    "interpolate_styles",
    "list_images",
    "loss",
    "losses",
    "make_targets",
    "minimize",
    "minimize_batch",
    "models",
    "optimize",
    "partitioning",
    "pipeline",
    "prepare_job",
    "prepare_params",
    "reconstruct_content",
    "run",
    "stylize",
    "stylize_folder",
    "stylize_many",
    "synthesize_texture",
    "weights",
]

_EXPORTS = {
    "errors": ("DivergedError", "InputError", "MemoryLimitError"),
    "losses": ("LossWeights", "Targets", "loss", "make_targets"),
    "models": ("VGG", "prepare_params"),
    "optimize": ("MinimizeResult", "State", "minimize", "minimize_batch"),
    "pipeline": (
        "BatchItem",
        "Job",
        "Progress",
        "Result",
        "interpolate_styles",
        "list_images",
        "prepare_job",
        "reconstruct_content",
        "run",
        "stylize",
        "stylize_folder",
        "stylize_many",
        "synthesize_texture",
    ),
    "settings": ("PAPER", "Settings"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}
_SUBMODULES = {
    name: f"nst_jax.{name}"
    for name in ("images", "losses", "models", "optimize", "partitioning", "pipeline")
} | {"weights": "nst_jax.models.weights"}


def __getattr__(name: str) -> Any:
    """Import a public name or submodule on first use."""
    if name in _MODULE_OF:
        return getattr(import_module(f"nst_jax.{_MODULE_OF[name]}"), name)
    if name in _SUBMODULES:
        return import_module(_SUBMODULES[name])
    raise AttributeError(f"module 'nst_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
