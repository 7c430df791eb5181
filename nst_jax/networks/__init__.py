"""The networks: VGG16 and VGG19, their kernels, and the files that hold their parameters.

`VGG` computes features, `prepare_params` makes its parameters fast on this device, and
`nst_jax.networks.weights` reads, verifies and downloads weight files without importing JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nst_jax.networks.architectures import Params, conv_names, num_poolings

if TYPE_CHECKING:
    from nst_jax.networks.prepare import prepare_params, resolve_dtype
    from nst_jax.networks.vgg import (
        VGG,
        PatchWindow,
        check_layers,
        detect_model,
        layer_names,
        receptive_radius,
    )

__all__ = [
    "VGG",
    "Params",
    "PatchWindow",
    "check_layers",
    "conv_names",
    "detect_model",
    "layer_names",
    "num_poolings",
    "prepare_params",
    "receptive_radius",
    "resolve_dtype",
]

_EXPORTS = {
    "prepare": ("prepare_params", "resolve_dtype"),
    "vgg": (
        "VGG",
        "PatchWindow",
        "check_layers",
        "detect_model",
        "layer_names",
        "receptive_radius",
    ),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import on first use what takes time to import."""
    if name in _MODULE_OF:
        return getattr(import_module(f"nst_jax.networks.{_MODULE_OF[name]}"), name)
    if name == "weights":
        return import_module("nst_jax.networks.weights")
    raise AttributeError(f"module 'nst_jax.networks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
