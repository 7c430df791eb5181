"""Save the example content photos, which scikit-image ships under free terms, as JPEG.

Run from anywhere: ``python examples/copy_photos.py`` (needs scikit-image).
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from skimage import data

HERE = Path(__file__).parent


def main() -> None:
    """Write cat.jpg, astronaut.jpg and coffee.jpg next to this file."""
    photos = {"cat": data.chelsea(), "astronaut": data.astronaut(), "coffee": data.coffee()}
    for name, pixels in photos.items():
        path = HERE / f"{name}.jpg"
        Image.fromarray(pixels).save(path, quality=94, subsampling=0, optimize=True)
        print(path.name, pixels.shape)


if __name__ == "__main__":
    main()
