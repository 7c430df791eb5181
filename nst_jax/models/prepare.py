"""The network's weights as it computes with them: in which number format, and in which form."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp

from nst_jax.models.architectures import conv_names
from nst_jax.models.kernels import winograd
from nst_jax.models.vgg import Params, check_taps, model_of

__all__ = ["network_dtype", "prepare_params"]

WINOGRAD_CHANNELS: Final = 128
"""From so many input and output channels on, Winograd's convolution is the faster one on a CPU:
with 64 of either it brings nothing, with 512 it takes a third to a half of the other's time
(``benchmarks/NOTES.md``)."""


def prepare_params(
    params: Params, dtype: str = "auto", taps: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Put a network's weights on the device, in the format and form that it is fastest with.

    On CPUs the form is Winograd's (`nst_jax.models.kernels.winograd`), in which a step takes two thirds of the
    time; not so for bfloat16 on processors with AMX, which multiply so fast that moving the numbers
    into that form costs more. It rounds a little more, by some 1e-6 of a convolution's result in
    float32 and 1e-2 in bfloat16, and takes four times the kernels' memory. Everything takes
    parameters as they were loaded just as well.

    Args:
        params: converted weights (`nst_jax.models.weights.load`), of a whole network.
        dtype: ``float32``, ``bfloat16`` or ``auto``: see `network_dtype`.
        taps: what will be read of the network, all of it by default. Layers deeper than the deepest
            of these stay as they are.

    Raises:
        InputError: the layers are no network's, or one of the taps is none of its.
    """
    number = network_dtype(dtype)
    fast_products = number == jnp.bfloat16 and _processor_has("amx_bf16")
    by_winograd = jax.default_backend() == "cpu" and not fast_products
    model = model_of(params)
    names = conv_names(model)
    if taps is not None:
        check_taps(model, taps)
        used = [names.index(tap.replace("relu", "conv")) for tap in taps]
        names = names[: max(used, default=-1) + 1]
    prepared = {layer: dict(arrays) for layer, arrays in params.items()}
    prepared["input"] = {name: jnp.asarray(x, jnp.float32) for name, x in params["input"].items()}
    for name in names:
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        transformed = by_winograd and min(kernel.shape[2:]) >= WINOGRAD_CHANNELS
        prepared[name] = {
            "kernel": (winograd.transform if transformed else jnp.asarray)(kernel, number),
            "bias": jnp.asarray(bias, number),
        }
    return prepared


def network_dtype(choice: str) -> Any:
    """Turn ``float32``, ``bfloat16`` or ``auto`` into a dtype.

    ``auto`` is bfloat16 wherever the hardware multiplies it faster than float32: on GPUs, TPUs and
    processors with AMX or AVX-512's bfloat16. Losses and the picture itself stay in float32 either
    way.
    """
    if choice != "auto":
        return jnp.dtype(choice)
    fast = jax.default_backend() != "cpu" or _processor_has("amx_bf16", "avx512_bf16")
    return jnp.dtype(jnp.bfloat16 if fast else jnp.float32)


def _processor_has(*flags: str) -> bool:
    """Whether it has one of these, as Linux names them, which must have switched AMX on for it."""
    try:
        return not set(flags).isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # other systems do not have this file
        return False
