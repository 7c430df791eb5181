"""How long does a job take, and how much memory does it need? One row for each size and loss.

    python benchmarks/job_sizes.py

Each row is one whole ``nst-jax stylize`` command with the default settings, in a child process.
A first command with one step at each level fills the compilation cache. Peak memory is the largest
resident memory of the process; it does not include the memory of a GPU.
"""

import tempfile
from itertools import product
from pathlib import Path
from typing import TextIO

import click
from commands import CONTENT, STYLE, metadata, run
from reporting import facts, log, number, table


@click.command()
@click.option("--sizes", default="256,512,1024,2048", show_default=True, help="Longest sides.")
@click.option(
    "--style-losses", default="gram", show_default=True, help="As `nst-jax --style-loss`."
)
@click.option("--steps", help="Steps at each level, as `nst-jax --steps`; default: its own.")
@click.option("--model", default="auto", show_default=True, help="As `nst-jax --model`.")
@click.option("--out", type=click.File("w"), default="-", help="Where to write the table.")
def main(sizes: str, style_losses: str, steps: str | None, model: str, out: TextIO) -> None:
    """Print how long a job takes and how much memory it needs, as a Markdown table."""
    rows, about = [], {}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "out.png"
        for size, style_loss in product(sizes.split(","), style_losses.split(",")):
            command = ["stylize", CONTENT, STYLE, "-o", image, "--size", size, "--model", model]
            command += ["--style-loss", style_loss]
            run(*command, "-q", "--steps", "1")
            usage = run(*command, "-q", *(["--steps", steps] if steps else []))
            about = metadata(image)
            row = [size, style_loss, f"{about['steps_done']}", number(usage.seconds)]
            rows.append([*row, f"{usage.peak_bytes / 2**30:.2f}"])
            log(f"{size} pixels, {style_loss}: {usage.seconds:.0f} s")
    head = ["longest side", "style loss", "steps", "seconds", "peak memory, GiB"]
    settings = ", ".join(str(about[name]) for name in ("model", "optimizer", "dtype", "device"))
    out.write(f"{facts(settings=settings)}\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
