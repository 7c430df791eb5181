"""VGG's parameters as this device computes fastest with them: their dtype and kernel form."""

from collections.abc import Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp

from nst_jax.errors import InputError
from nst_jax.networks.architectures import Params, conv_names, detect_model, required_convs
from nst_jax.networks.device import cpu_has, resolve_dtype
from nst_jax.networks.kernels.conv3x3 import DirectKernel, PreparedKernel
from nst_jax.networks.kernels.plain import plain_kernels
from nst_jax.networks.kernels.winograd import transform_kernel
from nst_jax.networks.protocol import check_layer_list

__all__ = ["prepare_params"]

WINOGRAD_MIN_CHANNELS: Final = 128
"""Winograd's convolution is faster on CPU with at least so many input and output channels. With 64
it gains nothing; with 512 it takes a third to half of the time (``docs/performance.md``)."""


def prepare_params(
    params: Params, dtype: str = "auto", layers: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Put VGG's parameters on the device, in the dtype and form that it is fastest with.

    On CPU the kernels of the deep layers become a
    `nst_jax.networks.kernels.winograd.WinogradKernel`, which takes a third off the time of a step.
    They stay as they are in bfloat16 on processors with AMX, because those multiply so fast that
    the transforms cost more than they save. Winograd's form adds a rounding error of about 1e-6 of
    a convolution's output in float32, and of 1e-2 in bfloat16, and takes four times the memory of
    the kernels. With ``NST_JAX_PLAIN_KERNELS=1`` in the environment they stay arrays.

    Every function of this package takes loaded and prepared parameters alike. Loaded ones support
    every transformation of JAX. Prepared ones support reverse mode (``jax.grad``, ``jax.vjp``, also
    repeated), ``vmap``, ``checkpoint`` and ``jax.shard_map``, but not forward mode (``jax.jvp``,
    ``jax.hessian``) and not meshes with explicit axes.

    Args:
        params: the parameters of a whole network, as `nst_jax.networks.weights.load` returns them.
        dtype: ``float32``, ``bfloat16``, or ``auto``, which is bfloat16 where the hardware
            multiplies it faster; see `resolve_dtype`. For float64 use loaded parameters.
        layers: the layers that will be requested; all by default. Parameters of deeper layers are
            returned as they are.

    Returns:
        The parameters, layer by layer. ``input`` is float32.

    Raises:
        InputError: the parameters are of neither model or prepared already, the model lacks one
            of ``layers``, or ``dtype`` is unknown.

    >>> from nst_jax import weights
    >>> params = prepare_params(weights.load_pretrained("vgg16").params, "bfloat16", ["relu2_1"])
    >>> params["conv2_1"]["bias"].dtype, params["input"]["mean"].dtype
    (dtype(bfloat16), dtype('float32'))
    """
    check_layer_list("layers", layers)
    network_dtype = resolve_dtype(dtype)
    fast_bf16_matmul = network_dtype == jnp.bfloat16 and cpu_has("amx_bf16")
    use_winograd = jax.default_backend() == "cpu" and not fast_bf16_matmul
    model = detect_model(params)
    prepared = {layer: dict(arrays) for layer, arrays in params.items()}
    prepared["input"] = {name: jnp.asarray(x, jnp.float32) for name, x in params["input"].items()}
    for name in conv_names(model) if layers is None else required_convs(model, layers):
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        if isinstance(kernel, PreparedKernel):
            raise InputError("these parameters are prepared already; give the loaded ones")
        if plain_kernels():
            kernel = jnp.asarray(kernel, network_dtype)
        elif use_winograd and min(kernel.shape[2:]) >= WINOGRAD_MIN_CHANNELS:
            kernel = transform_kernel(kernel, network_dtype)
        else:
            kernel = DirectKernel(jnp.asarray(kernel, network_dtype))
        prepared[name] = {
            "kernel": kernel,
            "bias": jnp.asarray(bias, network_dtype),
        }
    return prepared
