"""The same look at every size: one pair at several sizes with the defaults, side by side.

Run ``python benchmarks/sizes.py``. Each picture is scaled to one size and judged there by the
default losses in float32: at 64 pixels, half the smallest scale of the pyramid, which no scale was
optimised for, and at 128, the first scale. The
table and the pictures go to ``benchmarks/SIZES.md`` and ``docs/sizes.jpg``.
"""

import os
import platform
from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import LossWeights, Result, Settings, loss, make_targets, stylize
from nst_jax.apps.cli.run import keep_compiled_programs
from nst_jax.images import io as images
from nst_jax.models.weights import load as weights

ROOT = Path(__file__).parents[1]
HEIGHT = 320  # of the pictures in the strip
JUDGED_AT = (64, 128)


def judged(picture: np.ndarray, content: Path, style: Path, size: int) -> dict[str, float]:
    """The default losses of a picture, scaled to ``size``."""
    settings = Settings()
    params = jax.tree.map(jnp.asarray, weights.resolve("vgg16").params)
    goal = images.read(content).pixels
    shape = images.fit(goal.shape, size)
    pattern = images.read(style).pixels
    targets = make_targets(
        params,
        jnp.asarray(images.resize(goal, shape)),
        [jnp.asarray(images.resize(pattern, images.fit(pattern.shape, size)))],
        content_layers=list(settings.content_layers),
        style_layers=list(settings.style_layers),
    )
    counts = LossWeights(
        settings.content_weight,
        settings.style_weight,
        0.0,
        settings.content_layers,
        settings.style_layers,
    )
    _, parts = loss(jnp.asarray(images.resize(picture, shape)), params, targets, counts)
    return {name: float(value) for name, value in parts.items()}


@click.command()
@click.option("--content", type=Path, default=ROOT / "examples" / "cat.jpg")
@click.option("--style", type=Path, default=ROOT / "examples" / "ink.jpg")
@click.option("--sizes", default="256,512,1024,2048", show_default=True)
@click.option("--out", type=Path, default=ROOT)
def main(content: Path, style: Path, sizes: str, out: Path) -> None:
    """Make the pictures, judge them and write the table."""
    keep_compiled_programs()
    (out / "docs").mkdir(parents=True, exist_ok=True)
    (out / "benchmarks").mkdir(exist_ok=True)
    rows, strip = [], []
    for size in (int(size) for size in sizes.split(",")):
        made = stylize(content, style, size=size, model="vgg16")
        verdicts = [judged(made.image, content, style, at) for at in JUDGED_AT]
        rows.append((made, verdicts))
        shape = (HEIGHT, round(HEIGHT * made.image.shape[1] / made.image.shape[0]))
        strip.append(images.resize(made.image, shape))
        told = ", ".join(f"{parts['style']:.4f}" for parts in verdicts)
        click.echo(f"{size}: style {told}; {made.settings['seconds']:.0f} s")
    images.write(out / "docs" / "sizes.jpg", np.concatenate(strip, axis=1))
    text = table(rows, content, style)
    (out / "benchmarks" / "SIZES.md").write_text(text)


def table(rows: list[tuple[Result, list[dict[str, float]]]], content: Path, style: Path) -> str:
    """Write what was found."""
    made, first = rows[0]
    columns = [f"style at {at} | of the first | content at {at}" for at in JUDGED_AT]
    lines = [
        "# The same look at every size",
        "",
        f"`python benchmarks/sizes.py`: {content.name} in {style.name} with the defaults and VGG16",
        f"on {platform.machine()}, {os.cpu_count()} cores, {made.settings['device']}, in "
        f"{made.settings['dtype']}, jax {jax.__version__}.",
        "Each picture is scaled to one size and judged there by the default losses in float32, the",
        f"style scaled to that size too: {JUDGED_AT[0]} pixels, which no scale of the pyramid was",
        f"optimised for, and {JUDGED_AT[1]}, the pyramid's first scale. A style is not enlarged",
        "beyond its own size; above that the finest strokes stay as many pixels wide.",
        "",
        "![](../docs/sizes.jpg)",
        "",
        f"| size | steps a scale | seconds | {' | '.join(columns)} |",
        f"| ---: | --- | ---: |{' ---: | ---: | ---: |' * len(JUDGED_AT)}",
    ]
    for made, verdicts in rows:
        steps = ", ".join(str(step) for step in made.settings["steps"])
        cells = [
            f"{parts['style']:.4f} | {parts['style'] / base['style']:.2f} | {parts['content']:.3f}"
            for parts, base in zip(verdicts, first, strict=True)
        ]
        seconds = made.settings["seconds"]
        size = max(made.image.shape)
        lines.append(f"| {size} | {steps} | {seconds:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
