"""One judge for the pictures of all tools: nst_jax's loss, in float32, at two sizes.

It is nobody's own objective. nst_jax minimises the same sums, but in the precision of its run and
at the whole size alone, or also at smaller ones; "other" layers are none that any tool looks at.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax import LossWeights, Settings, Targets, loss, make_targets
from nst_jax.images import io as images
from nst_jax.models.weights import load as weight_files

SETTINGS: Final = Settings()
OTHER_LAYERS: Final = ("relu1_2", "relu2_2", "relu3_2", "relu4_3", "relu5_2")
WEIGHTS: Final = LossWeights(
    SETTINGS.content_weight,
    SETTINGS.style_weight,
    0.0,
    SETTINGS.content_layers,
    {**SETTINGS.style_layers, **dict.fromkeys(OTHER_LAYERS, 0.0)},
)


class Verdict(NamedTuple):
    """Relative losses; the total weighs content and style with nst_jax's defaults."""

    total: float
    style: float
    content: float
    other: float
    """Style at `OTHER_LAYERS`, their mean."""
    half_total: float
    half_style: float
    half_content: float
    """The same of all pictures at half the size, where larger shapes count."""


class Judge:
    """Judges pictures of one photo in one style; of any size, they are scaled to the photo's."""

    def __init__(self, weights: Path, content: np.ndarray, style: np.ndarray, size: int) -> None:
        self.params: Any = jax.tree.map(jnp.asarray, weight_files.load(weights).params)
        self.shapes = [images.fit(content.shape, side) for side in (size, size // 2)]
        self.targets = [self._targets(content, style, shape) for shape in self.shapes]

    def _targets(self, content: np.ndarray, style: np.ndarray, shape: tuple[int, int]) -> Targets:
        if max(style.shape) > max(shape):
            style = images.resize(style, images.fit(style.shape, max(shape)))
        pictures = images.resize(content, shape), np.asarray(style, np.float32)
        return _make_targets(self.params, *map(jnp.asarray, pictures))

    def __call__(self, picture: np.ndarray) -> Verdict:
        """Judge RGB in [0, 1], (h, w, 3)."""
        (total, parts), (half_total, half) = (
            _loss(jnp.asarray(images.resize(picture, shape)), self.params, targets)
            for shape, targets in zip(self.shapes, self.targets, strict=True)
        )
        other = np.mean([parts[f"style/{tap}"] for tap in OTHER_LAYERS])
        figures = (total, parts["style"], parts["content"], other)
        return Verdict(*map(float, (*figures, half_total, half["style"], half["content"])))


@jax.jit
def _make_targets(params: Any, content: jax.Array, style: jax.Array) -> Targets:
    with jax.default_matmul_precision("highest"):
        return make_targets(
            params,
            content,
            [style],
            content_layers=tuple(WEIGHTS.content_layers),
            style_layers=tuple(WEIGHTS.style_layers),
        )


@jax.jit
def _loss(image: jax.Array, params: Any, targets: Targets) -> tuple[jax.Array, Any]:
    with jax.default_matmul_precision("highest"):
        return loss(image, params, targets, WEIGHTS)
