"""The command ``nst-jax doctor``: what this machine computes with, and whether it works."""

import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click

__all__ = ["doctor"]

PACKAGES: Final = ("nst-jax", "jax", "jaxlib", "flax", "optax", "numpy", "pillow")
SIZE: Final = 128
STEPS: Final = 10
GIB: Final = 2**30


@click.command()
def doctor() -> None:
    """Show devices, versions, precision, memory, caches and weights; run ten steps as a test.

    It ends with exit code 2 if the test fails.
    """
    import jax

    from nst_jax.errors import InputError
    from nst_jax.networks import resolve_dtype, weights
    from nst_jax.networks.weights import cache_dir
    from nst_jax.pipeline.memory import available_bytes

    device, free = jax.devices()[0], available_bytes()
    vgg19 = weights.vgg19_cache_path()
    compiled = cache_dir() / "compiled"
    facts = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "devices": f"{jax.device_count()} × {device.device_kind} ({device.platform})",
        "precision": describe_dtype(device, resolve_dtype("auto").name),
        "memory": "not reported" if free is None else f"{free / GIB:.1f} GiB free on the device",
        "VGG16": f"bundled, {weights.bundled_path()}",
        "VGG19": f"cached, {vgg19}"
        if vgg19.is_file()
        else "not cached; nst-jax weights fetch vgg19 downloads it",
        "compiled": f"{folder_size(compiled) / 2**20:.0f} MiB of programs in {compiled}",
    }
    for name, value in facts.items():
        click.echo(f"{name + ':':12}{value}")
    if advice := accelerator_advice(device.platform):
        click.echo(f"{'advice:':12}{advice}")
    rate, first, last = smoke_test()
    click.echo(
        f"{'test:':12}{STEPS} steps of {SIZE}x{SIZE} pixels at {rate:.1f} steps/s, loss "
        f"{first:.3g} to {last:.3g}"
    )
    if not last < first:
        raise InputError("the loss did not fall; please report this output")


def describe_dtype(device: Any, dtype: str) -> str:
    """Say which dtype ``auto`` is on a device, and why."""
    if dtype == "bfloat16":
        return f"bfloat16, because this {device.platform.upper()} multiplies it faster than float32"
    return f"float32, because this {device.platform.upper()} does not multiply bfloat16 faster"


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in a folder; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def accelerator_advice(jax_platform: str) -> str | None:
    """Say what to install if the machine has an accelerator that JAX does not use."""
    if jax_platform != "cpu":
        return None
    if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists():
        return 'this machine has an NVIDIA GPU; pip install "jax[cuda12]" lets JAX use it'
    if Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists():
        return 'this machine may have a TPU; pip install "jax[tpu]" lets JAX use it'
    return None


def smoke_test() -> tuple[float, float, float]:
    """Take a few steps from noise; return steps a second, the first loss and the last."""
    import numpy as np

    from nst_jax import stylize

    content, style = np.random.default_rng(0).uniform(0, 1, (2, SIZE, SIZE, 3)).astype(np.float32)
    options: dict[str, Any] = {"model": "vgg16", "optimizer": "adam", "init": "gray"}
    result = stylize(content, style, size=SIZE, min_size=None, steps=STEPS, **options)
    losses = result.history["total"]
    return STEPS / result.metadata["steps_seconds"], float(losses[0]), float(losses[-1])
