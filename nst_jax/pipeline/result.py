"""A finished picture."""

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from nst_jax.images import io as images
from nst_jax.optimize.loop import History

__all__ = ["Result"]


@dataclass(frozen=True, eq=False)
class Result:
    """A finished picture and how it came about.

    Attributes:
        image: float32 RGB (h, w, 3) in [0, 1], sRGB.
        alpha: the content's alpha (h, w) at the picture's size, or None.
        history: the losses, one entry a step (`nst_jax.optimize.loop.History`).
        settings: everything that decides the picture, as plain JSON values: the settings, the
            model and its weights' SHA-256, versions, and the device; and the times that it took.
    """

    image: Float32[np.ndarray, "h w 3"]
    alpha: Float32[np.ndarray, "h w"] | None
    history: History
    settings: dict[str, Any]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write PNG, JPEG, WebP or TIFF, with alpha where the format has it and the settings as
        metadata (key ``nst_jax``, JSON).

        Raises:
            InputError: the file cannot be written; one that was there before is untouched.
        """
        metadata = {
            "Software": f"nst_jax {self.settings['version']}",
            "nst_jax": json.dumps(self.settings),
        }
        images.write(path, self.image, alpha=self.alpha, metadata=metadata)
