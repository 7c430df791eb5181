"""Cut the astronaut out of her photo: astronaut-mask.png, white where she is.

Run from anywhere: ``python examples/cut_masks.py`` (needs scikit-image).
A rough outline by hand says what is surely inside and surely outside; a random walk from there
(Grady 2006) finds the edge between, as soft as the photo leaves it open.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter
from skimage.draw import polygon2mask
from skimage.segmentation import random_walker

HERE = Path(__file__).parent
# (x, y) around hair, shoulders and the helmet that she holds, clockwise from the left.
OUTLINE = [(20, 520), (28, 440), (24, 395), (30, 330), (48, 280), (80, 235), (115, 205), (116, 180)]
OUTLINE += [(140, 155), (187, 148), (178, 127), (156, 103), (160, 65), (185, 35), (220, 15)]
OUTLINE += [(262, 18), (295, 50), (301, 85), (290, 125), (268, 145), (262, 172), (298, 205)]
OUTLINE += [(304, 235), (345, 275), (362, 330), (365, 352), (410, 345), (450, 358), (482, 395)]
OUTLINE += [(496, 440), (512, 480), (512, 520)]
BAND = 12  # pixels on each side of the outline that are left to the walk


def main() -> None:
    """Write astronaut-mask.png next to this file."""
    photo = np.asarray(Image.open(HERE / "astronaut.jpg"), np.float64) / 255
    inside = polygon2mask(photo.shape[:2], [(y, x) for x, y in OUTLINE])
    # What lies beyond the frame counts as inside: a figure that it cuts off has no edge there.
    surely_inside = binary_erosion(inside, iterations=BAND, border_value=1)
    seeds = np.where(surely_inside, 1, np.where(binary_dilation(inside, iterations=BAND), 0, 2))
    share = random_walker(
        photo, seeds, beta=400, mode="cg_j", tol=1e-5, return_full_prob=True, channel_axis=-1
    )[0]
    mask = gaussian_filter(np.clip(1.6 * share - 0.3, 0, 1), 1)
    Image.fromarray((mask * 255).round().astype(np.uint8)).save(
        HERE / "astronaut-mask.png", optimize=True
    )
    print("astronaut-mask.png", mask.shape)


if __name__ == "__main__":
    main()
