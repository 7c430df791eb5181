"""Compile the optimization for TPUs and GPUs on a machine without them.

    python benchmarks/aot_compile.py --chips v5e v6e
    python benchmarks/aot_compile.py --chips h100 a100 --num-devices 1 8

XLA compiles for described devices. This script compiles the loops of Adam and of L-BFGS, exactly as
`nst_jax.optimize.optimize_chunks` compiles them, for one device and for the rows of an image over
several. It prints what XLA reports for each device: memory, whether the state is updated in place,
FLOPs and bytes with each loop counted once (TPUs only), and the number of operations that talk to
the host or to other devices. It needs the shapes of the network only, no weights. **Nothing runs on
a TPU or GPU**, and for a GPU the memory lacks the workspace of cuDNN's convolutions.

TPUs need ``pip install libtpu`` and GPUs ``pip install jax-cuda12-plugin``, in a virtual
environment of its own, because JAX looks for a device wherever these are installed.
"""

import argparse
import math
import os
import re
import time
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import jax
import jax.numpy as jnp
import optax
from common import LOSS_WEIGHTS, default_targets
from jax import ShapeDtypeStruct
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from reporting import facts, log, number, table

from nst_jax import loss
from nst_jax.networks.architectures import conv_names, conv_shape
from nst_jax.networks.kernels.conv3x3 import DirectKernel
from nst_jax.optimize import chunk_lowering_args, init_state, pyramid_lbfgs
from nst_jax.partitioning import make_mesh, sharded_loss_fn, state_shardings

MODEL: Final = "vgg19"
GIB: Final = 2**30
OPTIMIZERS: Final = {"adam": optax.adam(0.01), "lbfgs": pyramid_lbfgs()}
TPU_TOPOLOGIES: Final = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 64: "8x8", 256: "16x16"}
HOST_TRANSFER: Final = re.compile(
    r" (infeed|outfeed|send|recv)(-done)?\(|custom_call_target=\"[^\"]*callback"
)
COLLECTIVE: Final = re.compile(r" (all-\w+|reduce-scatter|collective-\w+)(-start)?\(")


@dataclass(frozen=True)
class Gpu:
    """What XLA must know of an NVIDIA GPU, from its data sheet and CUDA's programming guide."""

    name: str
    capability: str
    cores: int
    fpus_per_core: int
    clock_ghz: float
    memory: int
    bandwidth: int
    l2_cache: int
    shared_memory_per_core: int
    shared_memory_per_block: int

    def text(self) -> str:
        """Return it as XLA's GpuTargetConfigProto, in text form."""
        version = "{ major: 9 minor: 10 patch: 0 }"  # cuDNN's
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {self.shared_memory_per_block}
  shared_memory_per_core: {self.shared_memory_per_core}
  core_count: {self.cores}
  fpus_per_core: {self.fpus_per_core}
  clock_rate_ghz: {self.clock_ghz}
  memory_bandwidth: {self.bandwidth}
  l2_cache_size: {self.l2_cache}
  device_memory_size: {self.memory}
  cuda_compute_capability {{ {self.capability} }}
  dnn_version: "9.10.0"
  driver_version: "13.0.0"
  runtime_version: "12.9.0"
  compile_time_toolkit_version: "12.9.0"
}}
platform_name: "CUDA"
dnn_version_info {version}
device_description_str: "{self.name}"
"""


H100: Final = Gpu(
    *("NVIDIA H100 80GB HBM3", "major: 9 feature_extension: ACCELERATED_FEATURES"),
    *(132, 128, 1.98, 84_942_979_072, 3_352_320_000_000, 52_428_800, 233_472, 232_448),
)
A100: Final = Gpu(
    *("NVIDIA A100-SXM4-80GB", "major: 8 feature_extension: NONE"),
    *(108, 64, 1.41, 85_100_068_864, 2_039_040_000_000, 41_943_040, 167_936, 166_912),
)
CHIPS: Final[dict[str, Gpu | int]] = {"v5e": 16 * GIB, "v6e": 32 * GIB, "h100": H100, "a100": A100}
"""GPUs, and the memory of TPUs."""


def described_devices(chip: str, count: int) -> list[Any]:
    """Return devices that XLA compiles for and that need not exist."""
    gpu = CHIPS[chip]
    if isinstance(gpu, Gpu):
        options = {"target_config": gpu.text(), "topology": f"1x1x{count}"}
        return list(topologies.get_topology_desc(platform="cuda", **options).devices)
    bounds = {"chips_per_host_bounds": (1, 1, 1)} if count == 1 else {}
    name = f"{chip}:{TPU_TOPOLOGIES[count]}"
    return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **bounds).devices)


def loss_args(image: ShapeDtypeStruct, dtype: Any) -> tuple[Any, ...]:
    """Return the arguments of `nst_jax.loss` after the image, as shapes."""
    pixel = ShapeDtypeStruct((3,), jnp.float32)
    params: dict[str, Any] = {"input": {"mean": pixel, "std": pixel}}
    for name in conv_names(MODEL):
        kernel: Any = ShapeDtypeStruct(conv_shape(name), dtype)
        bias = ShapeDtypeStruct(kernel.shape[3:], dtype)
        params[name] = {"kernel": DirectKernel(kernel), "bias": bias}
    targets = jax.eval_shape(default_targets, params, image, image)
    return params, targets, LOSS_WEIGHTS


def lower(devices: list[Any], shape: tuple[int, int], optimizer: Any, dtype: Any) -> Any:
    """Lower the loop for described devices."""
    image = ShapeDtypeStruct((*shape, 3), jnp.float32)
    state = jax.eval_shape(lambda image: init_state(image, optimizer=optimizer), image)
    args = loss_args(image, dtype)

    def put(tree: Any, shardings: Any) -> Any:
        return jax.tree.map(
            lambda x, sharding: (
                ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) if hasattr(x, "shape") else x
            ),
            tree,
            shardings,
        )

    def put_all(tree: Any, sharding: Any) -> Any:
        return put(tree, jax.tree.map(lambda _: sharding, tree))

    if len(devices) == 1:
        sharding = SingleDeviceSharding(devices[0])
        state, args, loss_fn = put_all(state, sharding), put_all(args, sharding), loss
    else:
        mesh = make_mesh(devices, shape[0])
        state = put(state, state_shardings(state, mesh))
        args, loss_fn = put_all(args, NamedSharding(mesh, PartitionSpec())), sharded_loss_fn(mesh)
    jitted, arrays, static = chunk_lowering_args(loss_fn, state, args, optimizer=optimizer)
    return jitted.lower(*arrays, **static)


def compile_loop(
    chip: str, num_devices: int, shape: tuple[int, int], optimizer: str, dtype: str
) -> list[str]:
    """Compile a loop; return its row of the table."""
    devices = described_devices(chip, num_devices)
    lowered = lower(devices, shape, OPTIMIZERS[optimizer], jnp.dtype(dtype))
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    plan, costs, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    needed = plan.temp_size_in_bytes + plan.argument_size_in_bytes
    needed += plan.output_size_in_bytes - plan.alias_size_in_bytes
    donated = [leaf for leaf in jax.tree.leaves(lowered.args_info) if leaf.donated]
    donated_bytes = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in donated)
    in_place = plan.alias_size_in_bytes * num_devices >= donated_bytes > 0
    gpu = CHIPS[chip]
    memory = gpu.memory if isinstance(gpu, Gpu) else gpu
    size = "×".join(map(str, shape))
    return [
        *(chip, f"{num_devices}", size, optimizer, dtype, f"{seconds:.0f}"),
        f"{needed / GIB:.2f}",
        *("yes" if good else "NO" for good in (needed <= memory, in_place)),
        *(number(costs[name] / 1e9) if costs else "–" for name in ("flops", "bytes accessed")),
        *(f"{len(pattern.findall(text))}" for pattern in (HOST_TRANSFER, COLLECTIVE)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the optimization for TPUs and GPUs.")
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=["v5e", "v6e"])
    parser.add_argument("--num-devices", nargs="+", type=int, default=[1])
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024, 2048], help="Squares.")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"])
    options = parser.parse_args()
    compile_only()
    rows = []
    for chip, count, size, optimizer, dtype in product(
        options.chips, options.num_devices, options.sizes, options.optimizers, options.dtypes
    ):
        rows.append(compile_loop(chip, count, (size, size), optimizer, dtype))
        log(" ".join(rows[-1]))
    head = ["chip", "devices", "size", "optimizer", "dtype", "compile, s", "memory, GiB", "fits"]
    head += ["in place", "GFLOP", "GB", "host transfers", "collectives"]
    print(f"{facts()}\n\n{table(head, rows)}")


def compile_only() -> None:
    """Let the compilers work without a device; call it before JAX looks for one."""
    jax.config.update("jax_platforms", "cpu")
    os.environ["JAX_PLATFORMS"] = "cpu"  # CUDA's plug-in reads it
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


if __name__ == "__main__":
    main()
