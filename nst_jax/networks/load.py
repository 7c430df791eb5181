"""The network of a job and its parameters: VGG's files, or those of a network of the caller."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from nst_jax._types import Padding, Pooling
from nst_jax.errors import InputError, short_repr
from nst_jax.networks import weights as weight_files
from nst_jax.networks.protocol import Network
from nst_jax.networks.vgg import VGG

__all__ = [
    "LoadedParams",
    "default_network",
    "deserialize_network",
    "load_params",
    "serialize_network",
]


class LoadedParams(NamedTuple):
    """A network's parameters and where they come from.

    Attributes:
        params: the parameters, for `Network.prepare`.
        metadata: what names the network and its parameters in the metadata of an image, as JSON
            values.
    """

    params: PyTree
    metadata: dict[str, Any]


def default_network(pooling: Pooling = "max", padding: Padding = "replicate") -> Network:
    """Return the network of a job that names none: VGG.

    Raises:
        InputError: ``pooling`` or ``padding`` is unknown.

    >>> default_network()
    VGG(pooling='max', padding='replicate')
    """
    return VGG(pooling, padding)


def load_params(
    network: Network, weights: Any, model: Literal["auto", "vgg19", "vgg16"] = "auto"
) -> LoadedParams:
    """Load the parameters of a network.

    Args:
        network: the network.
        weights: for VGG a weight file, `nst_jax.networks.weights.Weights`, parameters, or None for
            the file of ``model``; for another network its parameters, a pytree of arrays.
        model: the model if the network is VGG.

    Raises:
        InputError: a file cannot be used or downloaded, or the parameters are no such pytree.

    >>> from nst_jax import VGG
    >>> loaded = load_params(VGG(), None, "vgg16")
    >>> loaded.metadata["model"], loaded.metadata["weights"]
    ('vgg16', 'vgg16.safetensors')
    """
    if isinstance(network, VGG):
        found = _load_vgg(weights, model)
        return LoadedParams(
            found.params,
            {
                "network": None,
                **asdict(network),
                "model": found.model,
                "weights": found.path.name,
                "weights_sha256": found.sha256,
                "weights_source": found.source,
            },
        )
    if weights is None:
        raise InputError(f"the network is {network} and weights is None; give its parameters")
    if model != "auto":
        raise InputError(f"model is {model!r} and the network is {network}; leave one of them out")
    return LoadedParams(
        weights,
        {
            "network": repr(network),
            "pooling": None,
            "padding": None,
            "model": None,
            "weights": "<params>",
            "weights_sha256": _hash_arrays(network, weights),
            "weights_source": "parameters in memory",
        },
    )


def _load_vgg(weights: Any, model: Literal["auto", "vgg19", "vgg16"]) -> weight_files.Weights:
    if weights is None or isinstance(weights, str | Path):
        return weight_files.load_pretrained(model, weights)
    if isinstance(weights, Mapping):
        weights = weight_files.from_params(weights)
    if not isinstance(weights, weight_files.Weights):
        raise InputError(f"weights is {short_repr(weights)}; give a file, Weights or parameters")
    if model not in ("auto", weights.model):
        raise InputError(
            f"model is {model!r} and the weights are of {weights.model}; leave one out"
        )
    return weights


def _hash_arrays(network: Network, params: PyTree) -> str:
    """Return the SHA-256 of a pytree of arrays: of their places, shapes, dtypes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int):
            raise InputError(
                f"weights is {short_repr(params)}; give the parameters of {network}, a pytree of "
                "arrays"
            )
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def serialize_network(network: Network) -> list[str]:
    """Return VGG as JSON values, for ``jax.export``.

    Raises:
        NotImplementedError: the network is not VGG.
    """
    if not isinstance(network, VGG):
        raise NotImplementedError(f"jax.export can serialize VGG only, not {network}")
    return [network.pooling, network.padding]


def deserialize_network(options: list[Any]) -> Network:
    """Return the network of `serialize_network`."""
    return VGG(*options)
