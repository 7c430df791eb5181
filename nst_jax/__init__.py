"""nst_jax: neural style transfer (Gatys, Ecker & Bethge 2015), compiled with JAX and Flax.

Pictures are float32 RGB in [0, 1], (h, w, 3). The whole job is `stylize`; below it stand pure
functions for use in one's own ``jit``, ``grad`` and ``vmap``: `VGG`, `make_targets`, `loss`,
`nst_jax.losses.terms`, and the compiled loop `minimise`.

Names are imported when they are first used, so that ``import nst_jax`` costs nothing and
``nst-jax --help`` answers without JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nst_jax.errors import DivergedError, InputError, TooLargeError
    from nst_jax.losses.objective import LossWeights, Targets, loss, make_targets
    from nst_jax.models.prepare import prepare_params
    from nst_jax.models.vgg import VGG
    from nst_jax.optimize.loop import Outcome, Progress, minimise, minimise_each
    from nst_jax.pipeline.api import interpolate, reconstruct, stylize, stylize_each, texture
    from nst_jax.pipeline.result import Result
    from nst_jax.settings import PAPER, Settings

__all__ = [
    "PAPER",
    "VGG",
    "DivergedError",
    "InputError",
    "LossWeights",
    "Outcome",
    "Progress",
    "Result",
    "Settings",
    "Targets",
    "TooLargeError",
    "interpolate",
    "loss",
    "make_targets",
    "minimise",
    "minimise_each",
    "prepare_params",
    "reconstruct",
    "stylize",
    "stylize_each",
    "texture",
]

_HOMES = {
    "errors": ("DivergedError", "InputError", "TooLargeError"),
    "losses.objective": ("LossWeights", "Targets", "loss", "make_targets"),
    "optimize.loop": ("Outcome", "Progress", "minimise", "minimise_each"),
    "models.prepare": ("prepare_params",),
    "settings": ("PAPER", "Settings"),
    "pipeline.result": ("Result",),
    "pipeline.api": ("interpolate", "reconstruct", "stylize", "stylize_each", "texture"),
    "models.vgg": ("VGG",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = ("colors", "images", "losses", "weights")


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"nst_jax.{_HOME_OF[name]}"), name)
    if name in _MODULES:
        return import_module(f"nst_jax.{name}")
    raise AttributeError(f"module 'nst_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_MODULES]
