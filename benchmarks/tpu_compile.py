"""Compile the optimization for TPUs on a machine without a TPU.

    python benchmarks/tpu_compile.py

``libtpu`` contains XLA's TPU compiler and compiles for described chips. This script compiles the
loops of Adam and of L-BFGS, exactly as `nst_jax.optimize.optimize_chunks` compiles them, for one
chip, and prints what XLA reports: memory, whether the state is updated in place, FLOPs and bytes
with each loop counted once, and the number of operations that talk to the host or to other chips.
It needs the shapes of the network only, no weights. **Nothing runs on a TPU.**

It needs ``pip install libtpu``, in a virtual environment of its own, because JAX looks for a TPU
wherever libtpu is installed.
"""

import argparse
import math
import os
import re
import time
from typing import Any, Final

import jax
import jax.numpy as jnp
import optax
from common import LOSS_WEIGHTS, default_targets
from jax import ShapeDtypeStruct
from jax.experimental import topologies
from reporting import facts, log, number, table

from nst_jax import loss
from nst_jax.models.architectures import conv_names, conv_shape
from nst_jax.optimize import chunk_call, init_state

MODEL: Final = "vgg19"
DTYPE: Final = jnp.bfloat16
GIB: Final = 2**30
CHIPS: Final = {"v5e": 16 * GIB, "v6e": 32 * GIB}  # memory in bytes
OPTIMIZERS: Final = {"adam": optax.adam(0.01), "lbfgs": optax.lbfgs(memory_size=10)}
HOST_TRANSFER: Final = re.compile(
    r" (infeed|outfeed|send|recv)(-done)?\(|custom_call_target=\"[^\"]*callback"
)
COLLECTIVE: Final = re.compile(r" (all-\w+|reduce-scatter|collective-\w+)(-start)?\(")


def loss_args(image: ShapeDtypeStruct) -> tuple[Any, ...]:
    """Return the arguments of `nst_jax.loss` after the image, as shapes."""
    pixel = ShapeDtypeStruct((3,), jnp.float32)
    params: dict[str, Any] = {"input": {"mean": pixel, "std": pixel}}
    for name in conv_names(MODEL):
        shape = conv_shape(name)
        arrays = {"kernel": ShapeDtypeStruct(shape, DTYPE)}
        params[name] = arrays | {"bias": ShapeDtypeStruct(shape[3:], DTYPE)}
    targets = jax.eval_shape(default_targets, params, image, image)
    return params, targets, LOSS_WEIGHTS


def lower(chip: str, size: int, optimizer: optax.GradientTransformation) -> Any:
    """Lower the loop for a described chip."""
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{chip}:1x1", chips_per_host_bounds=(1, 1, 1)
    )
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    image = ShapeDtypeStruct((size, size, 3), jnp.float32)
    state = jax.eval_shape(lambda image: init_state(image, optimizer), image)
    jitted, arrays, static = chunk_call(loss, state, loss_args(image), optimizer=optimizer)

    def on_chip(leaf: Any) -> Any:
        if not hasattr(leaf, "shape"):
            return leaf
        return ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jitted.lower(*jax.tree.map(on_chip, arrays), **static)


def compile_loop(chip: str, size: int, optimizer: str) -> list[str]:
    """Compile a loop; return its row of the table."""
    lowered = lower(chip, size, OPTIMIZERS[optimizer])
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    plan, costs, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    needed = plan.temp_size_in_bytes + plan.argument_size_in_bytes
    needed += plan.output_size_in_bytes - plan.alias_size_in_bytes
    donated = [leaf for leaf in jax.tree.leaves(lowered.args_info) if leaf.donated]
    donated_bytes = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in donated)
    in_place = plan.alias_size_in_bytes >= donated_bytes > 0
    return [
        *(chip, f"{size}", optimizer, f"{seconds:.0f}", f"{needed / GIB:.2f}"),
        *("yes" if good else "NO" for good in (needed <= CHIPS[chip], in_place)),
        *(number(costs[name] / 1e9) for name in ("flops", "bytes accessed")),
        *(f"{len(pattern.findall(text))}" for pattern in (HOST_TRANSFER, COLLECTIVE)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the optimization for TPUs.")
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=list(CHIPS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024, 2048])
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # the compiler alone, no chip
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    rows = []
    for chip in options.chips:
        for size in options.sizes:
            for optimizer in options.optimizers:
                rows.append(compile_loop(chip, size, optimizer))
                log(" ".join(rows[-1]))
    head = ["chip", "size", "optimizer", "compile, s", "memory, GiB", "fits", "in place"]
    head += ["GFLOP", "GB", "host transfers", "collectives"]
    print(f"{facts()}\n\n{table(head, rows)}")


if __name__ == "__main__":
    main()
