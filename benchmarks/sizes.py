"""The same look at every size: one pair at several sizes with the default weights, side by side.

Run ``python benchmarks/sizes.py``. Each picture is scaled down to half the smallest size, so that
none was optimised at last for the judge's own size, and judged there by the default losses in
float32. The table and the pictures go to ``benchmarks/SIZES.md`` and ``docs/sizes.jpg``. The steps
fall with the size: coarse scales have laid out the picture.
"""

import platform
from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import LossWeights, Settings, images, loss, make_targets, stylize, weights
from nst_jax.cli_job import keep_compiled_programs

ROOT = Path(__file__).parents[1]
HEIGHT = 320  # of the pictures in the strip


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
@click.option("--steps", default="100,100,100,100,100,60,40,30,20", show_default=True)
@click.option("--out", type=Path, default=ROOT)
def main(content: Path, style: Path, sizes: str, steps: str, out: Path) -> None:
    """Make the pictures, judge them and write the table."""
    keep_compiled_programs()
    longest = [int(size) for size in sizes.split(",")]
    at = min(longest) // 2
    (out / "docs").mkdir(parents=True, exist_ok=True)
    (out / "benchmarks").mkdir(exist_ok=True)
    several = [int(step) for step in steps.split(",")]
    rows, strip = [], []
    for size in longest:
        scales = round(2 * np.log2(size / 128)) + 1
        made = stylize(content, style, size=size, steps=tuple(several[:scales]), model="vgg16")
        parts = judged(made.image, content, style, at)
        rows.append((made, parts))
        shape = (HEIGHT, round(HEIGHT * made.image.shape[1] / made.image.shape[0]))
        strip.append(images.resize(made.image, shape))
        click.echo(f"{size}: style {parts['style']:.5f}, content {parts['content']:.4f}")
    images.write(out / "docs" / "sizes.jpg", np.concatenate(strip, axis=1))
    base = rows[0][1]["style"]
    lines = [
        "# The same look at every size",
        "",
        f"`python benchmarks/sizes.py`: {content.name} in {style.name} with the default weights;",
        f"each picture scaled to {at} pixels and judged there by the default losses in",
        f"float32, with the style scaled to {at} too. Made on {platform.machine()}, "
        f"{rows[0][0].settings['device']}, jax {jax.__version__}.",
        "",
        "![](../docs/sizes.jpg)",
        "",
        "| size | steps a scale | style loss | of the first | content loss |",
        "| ---: | --- | ---: | ---: | ---: |",
    ]
    for made, parts in rows:
        given = ", ".join(str(step) for step in made.settings["steps"])
        lines.append(
            f"| {max(made.image.shape)} | {given} | {parts['style']:.5f} | "
            f"{parts['style'] / base:.2f} | {parts['content']:.3f} |"
        )
    (out / "benchmarks" / "SIZES.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
