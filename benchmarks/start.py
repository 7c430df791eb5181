"""How long a person waits for the first step: ``python benchmarks/start.py``.

It starts the command line with an empty cache folder and again with what that run has left there,
and takes the time from the command to the bar's first line, when one step is done.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click

EXAMPLES = Path(__file__).parents[1] / "examples"


def first_step(cache: Path, options: list[str]) -> float:
    """Seconds from the command to the end of its first step."""
    command = [sys.executable, "-m", "nst_jax.cli", "stylize", EXAMPLES / "cat.jpg"]
    command += [EXAMPLES / "swirls.jpg", "-o", cache / "out.png", "--model", "vgg16", *options]
    begun = time.perf_counter()
    environment = os.environ | {"NST_JAX_CACHE": str(cache), "NST_JAX_OFFLINE": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as running:
        told = b""
        while b"loss=" not in told:
            piece = os.read(running.stderr.fileno(), 4096) if running.stderr else b""
            if not piece:
                raise SystemExit(told.decode())
            told += piece
        seconds = time.perf_counter() - begun
        running.kill()
    return seconds


def importing(module: str) -> float:
    """Seconds that an interpreter takes to start and import a module."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - begun


@click.command()
@click.option("--size", default="256")
@click.option("--min-scale", default="none")
@click.option("--times", default=3)
def main(size: str, min_scale: str, times: int) -> None:
    """Print medians."""
    options = ["--size", size, "--min-scale", min_scale]
    cold, warm = [], []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(first_step(Path(folder), options))
            warm.append(first_step(Path(folder), options))
    for module in ("nst_jax.cli", "nst_jax.stylization"):
        seconds = median(importing(module) for _ in range(times))
        click.echo(f"import {module}: {seconds:.1f} s, with the interpreter's start")
    for name, seconds in (("empty", cold), ("filled", warm)):
        text = ", ".join(f"{s:.1f}" for s in seconds)
        click.echo(f"first step done, cache {name}: {median(seconds):.1f} s ({text})")


if __name__ == "__main__":
    main()
