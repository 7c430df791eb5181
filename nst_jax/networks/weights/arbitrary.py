"""The bundled weights of the arbitrary stylization network: int8 with a scale for each filter."""

import hashlib
from typing import Any, Final

import numpy as np

from nst_jax.errors import InputError
from nst_jax.networks.weights.registry import find_bundled

__all__ = ["MAGENTA_LICENSE", "load_arbitrary"]

FILE_NAME: Final = "arbitrary.safetensors"
ARBITRARY_SHA256: Final = "aad3d365d3b51bb2d8f9788aec7a268d64de4f869592694ea50668437f311285"
"""SHA-256 of the bundled file. ``weights/README.md`` says where it comes from."""
MAGENTA_LICENSE: Final = "Apache-2.0, the Magenta authors"


def load_arbitrary() -> dict[str, Any]:
    """Read the weights of `nst_jax.networks.arbitrary`.

    Returns:
        A pytree of float32 NumPy arrays: the parts ``predict`` and ``transform``, each by layer.
        Kernels are (height, width, in, out), or (in, out) for a single pixel.

    Raises:
        InputError: the file is missing or was changed.

    >>> params = load_arbitrary()
    >>> params["transform"]["residual_1"]["conv_2"]["gamma"]["kernel"].shape
    (100, 32)
    """
    from safetensors.numpy import load

    path = find_bundled(FILE_NAME)
    if path is None:
        raise InputError(f"the bundled weights/{FILE_NAME} is missing; reinstall nst-jax")
    data = path.read_bytes()
    if (actual := hashlib.sha256(data).hexdigest()) != ARBITRARY_SHA256:
        raise InputError(
            f"{path}: SHA-256 expected {ARBITRARY_SHA256}, got {actual}; reinstall nst-jax or "
            "check the file out again"
        )
    arrays = load(data)
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        layer, _, part = name.rpartition(".")
        if part == "scale":
            continue
        parts = params
        for key in layer.split("."):
            parts = parts.setdefault(key, {})
        scale = arrays[f"{layer}.scale"] if part == "kernel" else np.float32(1)
        parts[part] = array.astype(np.float32) * scale
    return params
