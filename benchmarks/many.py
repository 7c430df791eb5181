"""What eight styles of a photo cost together and one by one: ``python benchmarks/many.py``.

Whole commands, as a person starts them: ``nst-jax batch`` with all styles, and ``nst-jax stylize``
once for each, with what an earlier run has left in the cache. Besides the steps, two at a time on a
CPU, what is shared is the start, the photo's features and the compiled programs.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from nst_jax.images import io as images

EXAMPLES = Path(__file__).parents[1] / "examples"
CONTENT = EXAMPLES / "cat.jpg"
STYLES = ("swirls", "mosaic", "ink")


def write_styles(folder: Path, count: int) -> list[Path]:
    """Quarters of the example styles, all of one size: the first of each, the second, …"""
    pictures = [images.read(EXAMPLES / f"{name}.jpg").pixels for name in STYLES]
    side = min(min(picture.shape[:2]) for picture in pictures) // 2
    files = []
    for i in range(count):
        quarter, style = divmod(i, len(STYLES))
        top, left = side * (quarter % 4 // 2), side * (quarter % 2)
        files.append(folder / f"style{i}.png")
        pixels = np.asarray(pictures[style])[top : top + side, left : left + side]
        images.write(files[-1], pixels)
    return files


def seconds(*words: str | Path, cache: Path) -> float:
    """How long a command of nst-jax takes."""
    command = [sys.executable, "-m", "nst_jax.cli", *words, "--model", "vgg16"]
    environment = os.environ | {"NST_JAX_CACHE": str(cache), "NST_JAX_OFFLINE": "1"}
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - begun


@click.command()
@click.option("--styles", "count", default=8, help="at most 12")
@click.option("--size", default="256")
@click.option("--optimizer", default="lbfgs")
@click.option("--steps", help="nst-jax's own by default")
def main(count: int, size: str, optimizer: str, steps: str | None) -> None:
    """Print both, and their ratio."""
    options = ["--size", size, "--optimizer", optimizer, *(["--steps", steps] if steps else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "styles").mkdir()
        files = write_styles(folder / "styles", count)

        def alone(style: Path, *more: str) -> float:
            words = ("stylize", CONTENT, style, "-o", folder / "alone.png", *options, *more)
            return seconds(*words, cache=folder)

        def together(styles: Path, out: str, *more: str) -> float:
            words = ("batch", CONTENT, "--styles", styles, "-o", folder / out, *options, *more)
            return seconds(*words, cache=folder)

        alone(files[0], "--steps", "1")
        together(files[0], "first", "--steps", "1")  # both have compiled all by now
        each = [alone(style) for style in files]
        of_all = together(folder / "styles", "all")
    click.echo(f"{count} single runs: {sum(each):.1f} s ({', '.join(f'{s:.1f}' for s in each)})")
    click.echo(f"together: {of_all:.1f} s, {of_all / sum(each):.2f} of that")


if __name__ == "__main__":
    main()
