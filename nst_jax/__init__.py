"""nst_jax: neural style transfer (Gatys, Ecker & Bethge 2015), compiled with JAX and Flax.

Images are float32 RGB in [0, 1], ``(h, w, 3)``. Names are imported on first use, so that
``import nst_jax`` is fast and ``nst-jax --help`` answers without JAX.

Whole jobs: files or arrays in, images out

- `Stylizer`: network, optimizer and programs, made once for many images
- `stylize`: a photo in one style, or in a mix of several
- `stylize_many`: a photo in each of several styles
- `stylize_folder`: each photo in each style, into a folder
- `interpolate_styles`: a photo in mixes that go from style to style
- `synthesize_texture`: a texture of a style alone
- `reconstruct_content`: what a layer preserves of a photo
- `run`: a job, chunk by chunk; you own the loop
- `collect`: the results of a run, each when it is finished
- `list_images`: the images of folders
- `Result`: a finished image, its losses and its metadata
- `Progress`: a job between two chunks
- `Job`: what `run` computes
- `FolderItem`: what became of one photo in one style
- `pipeline`: the module of all these

Settings

- `Settings`: all options of a job, with their defaults
- `PAPER`: the settings of the paper

The loss and its parts, pure functions for your own ``jit``, ``grad`` and ``vmap``

- `loss`: the total loss of an image, and its terms
- `make_targets`: what the loss compares an image with
- `Targets`: what `make_targets` returns
- `LossWeights`: the weights of the terms and layers
- `Term`: a term of your own
- `losses`: the module: each term, each style statistic

The compiled loop, for any loss of an image and any Optax transformation

- `minimize`: one image
- `minimize_batch`: several images in one vmapped loop
- `MinimizeResult`: the image, its history, the last state
- `State`: what the loop needs to continue
- `optimize`: the module: single steps, chunks, coarse to fine

Networks and weights

- `VGG`: the features of VGG16 or VGG19 at named layers
- `prepare_params`: parameters as this device computes fastest with them
- `weights`: the module: weight files are loaded, checked, converted
- `networks`: the module: what a network is, VGG, its kernels

Images and devices

- `images`: the module: files are read and written; sizes, colors, masks
- `partitioning`: the module: one image in tiles, or over several devices

Errors

- `InputError`: a file, an option or an array that cannot be used
- `MemoryLimitError`: more memory is needed than there is
- `OutOfMemoryError`: the memory ran out while steps ran; it holds the images so far
- `DivergedError`: the loss is not finite any more
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nst_jax import errors as errors
    from nst_jax import images, losses, networks, optimize, partitioning, pipeline
    from nst_jax.errors import DivergedError, InputError, MemoryLimitError, OutOfMemoryError
    from nst_jax.losses import LossWeights, Targets, loss, make_targets
    from nst_jax.networks import VGG, prepare_params, weights
    from nst_jax.optimize import MinimizeResult, State, minimize, minimize_batch
    from nst_jax.pipeline import (
        FolderItem,
        Job,
        Progress,
        Result,
        Stylizer,
        collect,
        interpolate_styles,
        list_images,
        reconstruct_content,
        run,
        stylize,
        stylize_folder,
        stylize_many,
        synthesize_texture,
    )
    from nst_jax.settings import PAPER, Settings
    from nst_jax.term import Term

__version__ = version("nst-jax")

__all__ = [
    "PAPER",
    "VGG",
    "DivergedError",
    "FolderItem",
    "InputError",
    "Job",
    "LossWeights",
    "MemoryLimitError",
    "MinimizeResult",
    "OutOfMemoryError",
    "Progress",
    "Result",
    "Settings",
    "State",
    "Stylizer",
    "Targets",
    "Term",
    "collect",
    "images",
    "interpolate_styles",
    "list_images",
    "loss",
    "losses",
    "make_targets",
    "minimize",
    "minimize_batch",
    "networks",
    "optimize",
    "partitioning",
    "pipeline",
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
    "errors": ("DivergedError", "InputError", "MemoryLimitError", "OutOfMemoryError"),
    "losses": ("LossWeights", "Targets", "loss", "make_targets"),
    "networks": ("VGG", "prepare_params"),
    "optimize": ("MinimizeResult", "State", "minimize", "minimize_batch"),
    "pipeline": (
        "FolderItem",
        "Job",
        "Progress",
        "Result",
        "Stylizer",
        "collect",
        "interpolate_styles",
        "list_images",
        "reconstruct_content",
        "run",
        "stylize",
        "stylize_folder",
        "stylize_many",
        "synthesize_texture",
    ),
    "settings": ("PAPER", "Settings"),
    "term": ("Term",),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}
_SUBMODULES = {
    name: f"nst_jax.{name}"
    for name in ("errors", "images", "losses", "networks", "optimize", "partitioning", "pipeline")
} | {"weights": "nst_jax.networks.weights"}


if not TYPE_CHECKING:  # A type checker would take every name for one of these.

    def __getattr__(name: str) -> Any:
        """Import a public name or submodule on first use."""
        if name in _MODULE_OF:
            return getattr(import_module(f"nst_jax.{_MODULE_OF[name]}"), name)
        if name in _SUBMODULES:
            return import_module(_SUBMODULES[name])
        raise AttributeError(f"module 'nst_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__", "errors"]
