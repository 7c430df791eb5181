"""The networks: what a network is, VGG16 and VGG19, their kernels and their weight files.

`predict_style` and `apply_style` are a network of another kind, which stylizes a photo in one pass.

`Network` is what the losses and the pipeline know of a network. `VGG` is the one that comes with
the package: `prepare_params` makes its parameters fast on this device, and
`nst_jax.networks.weights` reads, verifies and downloads weight files without importing JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nst_jax.networks.architectures import Params, conv_names, layer_names, num_poolings

if TYPE_CHECKING:
    from nst_jax.networks.arbitrary import apply_style, predict_style
    from nst_jax.networks.device import resolve_dtype
    from nst_jax.networks.load import LoadedParams, default_network, load_params
    from nst_jax.networks.prepare import prepare_params
    from nst_jax.networks.protocol import Network, PatchWindow, zero_outside
    from nst_jax.networks.vgg import VGG

__all__ = [
    "VGG",
    "LoadedParams",
    "Network",
    "Params",
    "PatchWindow",
    "apply_style",
    "conv_names",
    "default_network",
    "layer_names",
    "load_params",
    "num_poolings",
    "predict_style",
    "prepare_params",
    "resolve_dtype",
    "zero_outside",
]

_EXPORTS = {
    "arbitrary": ("apply_style", "predict_style"),
    "device": ("resolve_dtype",),
    "load": ("LoadedParams", "default_network", "load_params"),
    "prepare": ("prepare_params",),
    "protocol": ("Network", "PatchWindow", "zero_outside"),
    "vgg": ("VGG",),
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
