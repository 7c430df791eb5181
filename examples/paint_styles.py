"""Paint the example style pictures from code: swirls.jpg, mosaic.jpg and ink.jpg.

Run from anywhere: ``python examples/paint_styles.py [name ...]`` (needs scikit-image).
Every picture starts from a fixed seed, so a run paints the same pictures again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ink
import mosaic
import numpy as np
import swirls
from PIL import Image

HERE = Path(__file__).parent
STUDIO = {"swirls": swirls.paint, "mosaic": mosaic.paint, "ink": ink.paint}


def main() -> None:
    """Paint the named pictures, or all of them."""
    names = sys.argv[1:] or list(STUDIO)
    if unknown := sorted(set(names) - set(STUDIO)):
        sys.exit(f"no such picture: {', '.join(unknown)} (there are {', '.join(STUDIO)})")
    for name in names:
        picture = Image.fromarray((STUDIO[name]() * 255).round().astype(np.uint8))
        picture.save(HERE / f"{name}.jpg", quality=92, optimize=True)
        print(name, picture.size)


if __name__ == "__main__":
    main()
