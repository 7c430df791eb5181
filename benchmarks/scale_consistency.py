"""Does one pair look the same at every size? The same job at several sizes, with the defaults.

    python benchmarks/scale_consistency.py

Each result and the style are resized to one size, and the default losses are evaluated there in
float32: at 128 pixels, the first level of the pyramid, and at 64, which no level optimizes. A style
image is not enlarged; above its own size the finest strokes stay as many pixels wide.
"""

from pathlib import Path
from typing import Final, TextIO

import click
from common import EXAMPLES
from quality import SCORES, Judge
from reporting import facts, log, table

from nst_jax import images, stylize, weights

HEIGHT: Final = 320
COMPARED_AT: Final = {128: ("style", "content"), 64: ("half style", "half content")}


@click.command()
@click.option("--content", type=Path, default=EXAMPLES / "cat.jpg")
@click.option("--style", type=Path, default=EXAMPLES / "ink.jpg")
@click.option("--sizes", default="256,512,1024,2048", show_default=True)
@click.option("--steps", type=int, help="Steps at each level; default: those of nst_jax.")
@click.option("--out", type=click.File("w"), default="-", help="Markdown file.")
@click.option("--image", type=Path, help="Where to write the images in one row.")
def main(
    content: Path, style: Path, sizes: str, steps: int | None, out: TextIO, image: Path | None
) -> None:
    """Stylize at several sizes and compare the losses."""
    pixels = images.read(content).pixels, images.read(style).pixels
    judge = Judge(weights.bundled_path(), *pixels, max(COMPARED_AT))
    rows, shown, first = [], {}, {}
    for size in sizes.split(","):
        result = stylize(content, style, size=int(size), steps=steps, model="vgg16")
        scores = dict(zip(SCORES, judge(result.image), strict=True))
        first = first or scores
        row = [size, ", ".join(map(str, result.metadata["steps"]))]
        row.append(f"{result.metadata['seconds']:.0f}")
        for style_name, content_name in COMPARED_AT.values():
            ratio = scores[style_name] / first[style_name]
            row += [f"{scores[style_name]:.4f}", f"{ratio:.2f}", f"{scores[content_name]:.3f}"]
        rows.append(row)
        width = round(HEIGHT * result.image.shape[1] / result.image.shape[0])
        shown[f"{size} pixels"] = images.resize(result.image, (HEIGHT, width))
        log(" ".join(row))
    if image:
        images.write(image, images.image_grid(list(shown.values()), list(shown)))
    columns = [[f"style at {at}", "of the first", f"content at {at}"] for at in COMPARED_AT]
    report = table(["size", "steps", "seconds", *columns[0], *columns[1]], rows)
    out.write(f"{facts(pair=f'{content.name}, {style.name}')}\n\n{report}\n")


if __name__ == "__main__":
    main()
