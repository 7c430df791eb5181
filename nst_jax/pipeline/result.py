"""A finished image, and how it came about."""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float32

from nst_jax import images
from nst_jax.images import color
from nst_jax.optimize import History
from nst_jax.pipeline.job import Job
from nst_jax.pipeline.targets import LevelInputs

__all__ = ["Result", "postprocess", "style_metadata"]


@dataclass(frozen=True, eq=False)
class Result:
    """A finished image and how it came about.

    Attributes:
        image: float32 RGB ``(h, w, 3)`` in [0, 1], sRGB.
        alpha: the content's alpha ``(h, w)`` at the image's size, or None.
        history: the losses by name, one value a step (`nst_jax.optimize.History`), and ``size``,
            the longest side of the image at that step.
        metadata: everything that decides the image, as JSON values: the settings, the network and
            the SHA-256 of its weights, versions and the device; and how long it took.
    """

    image: Float32[np.ndarray, "h w 3"]
    alpha: Float32[np.ndarray, "h w"] | None
    history: History
    metadata: dict[str, Any]

    def __repr__(self) -> str:
        """Return a short text without arrays."""
        height, width = self.image.shape[:2]
        return f"Result({width}x{height}, {self.metadata['steps_done']} steps)"

    def _repr_png_(self) -> bytes:
        """Show the image in a notebook."""
        encoded = io.BytesIO()
        PIL.Image.fromarray((self.image * 255 + 0.5).astype(np.uint8)).save(encoded, "PNG")
        return encoded.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write PNG, JPEG, WebP or TIFF, with alpha where the format has it and the metadata inside
        (key ``nst_jax``, JSON).

        Raises:
            InputError: the file cannot be written; a file that was there before stays.
        """
        metadata = {
            "Software": f"nst_jax {self.metadata['version']}",
            "nst_jax": json.dumps(self.metadata),
        }
        images.write(path, self.image, alpha=self.alpha, metadata=metadata)


def style_metadata(job: Job, mix: Sequence[float]) -> dict[str, Any]:
    """Return the names of the styles in a mix, and their weights if there are several."""
    used = [i for i, weight in enumerate(mix) if weight]
    names = [job.style_names[i] for i in used]
    if len(used) < 2:
        return {"styles": names}
    return {"styles": names, "style_weights": [mix[i] for i in used]}


def postprocess(
    job: Job, inputs: LevelInputs, image: Float32[np.ndarray, "*k h w 3"]
) -> Float32[np.ndarray, "*k h w 3"]:
    """Restore the content's chroma for the color mode luminance, and the content outside masks."""
    if inputs.content is not None and job.settings.color_mode == "luminance":
        image = color.replace_luma(inputs.content, color.rgb_to_luma(image))
    if inputs.content is not None and inputs.masks is not None:
        coverage = np.clip(inputs.masks.sum(0), 0, 1)[..., None]
        image = coverage * image + (1 - coverage) * inputs.content
    return image
