"""What a stylization can be told, its defaults, and the paper's own values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from nst_jax.errors import InputError
from nst_jax.models.architectures import Padding, Pooling

if TYPE_CHECKING:  # JAX and Pillow are slow to import, and the command line's help needs neither
    from pathlib import Path

    import optax

    from nst_jax.images.io import ImageSource
    from nst_jax.models.weights.load import Weights

__all__ = ["PAPER", "STEPS", "Color", "Form", "Settings", "changed"]

Form = Literal["relative", "paper"]
"""How a layer's difference becomes a number: as a share of the target's energy, or as the paper's
raw sums (`nst_jax.losses.terms`)."""

Color = Literal["style", "luminance", "match", "histogram"]
"""Whose colours the picture gets, and how (`nst_jax.images.color`)."""

LARGEST_WEIGHT: Final = 1e30  # float32 ends at 3.4e38
LARGEST_STYLE_SCALE: Final = 10
STEPS: Final = (200, 100, 80, 60, 40)
"""Updates by scale, from the coarsest on; the last for all further ones. Coarse steps lay the
picture out and are cheap; fine ones are dear, and move it away from what the coarse ones found."""
STYLE_LAYERS: Final = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to make a picture. The defaults suit every size, both models and most pairs.

    Attributes:
        size: longest side of the output in pixels; None keeps the content's own size.
        steps: updates of the picture at each scale: one number for all of them, or several from
            the coarsest on, of which the last holds for all further ones. None for `STEPS`, as
            many of them as there are scales.
        min_scale: how far down the pyramid of sizes goes, in pixels of the longest side: the
            picture is made from coarse to fine in steps of √2. None makes it at its own size
            alone, as does a number above it over √2.
        content_weight: α. Higher keeps more of the photo; 0 makes a texture of the style alone.
        style_weight: β. 0 reconstructs the content alone.
        style_weights: how much each style image counts; None for equal parts.
        style_scales: how large each style image is taken, its longest side against the picture's;
            None for 1. Larger gives larger strokes. None is enlarged beyond its own size.
        masks: the region of the photo that each style paints, as large as the photo: a gray picture
            a style (white is in; of a transparent one, what is opaque); or one alone, for two
            styles the second of which has what is left; or one with ``mask_colors``. Where no
            region is, the photo stays.
        mask_colors: the styles' colours in a single mask of flat colours, as ``red`` or ``#f00``.
        content_layers: the taps that compare content, with their weights.
        style_layers: the taps that compare style, with their weights. Shallow layers carry colour
            and grain, deep ones larger shapes.
        color: ``style`` takes the style's colours; the others keep the content's. ``luminance``
            paints in gray and puts the content's chroma back, pixel by pixel; ``match`` and
            ``histogram`` give the style the content's colours first, by their mean and covariance
            or their histograms.
        tv: weight of the total variation, which smooths.
        form: ``relative`` losses, whose weights mean the same at every size and for every model, or
            the ``paper``'s raw sums.
        pooling: ``max``, ``average`` or ``l2``.
        padding: ``replicate`` or ``same``, of the first convolution.
        optimizer: ``lbfgs`` (with a line search) or ``adam``, or any Optax transformation.
        average: the decay d of the average of iterates, (1 − d) Σ dⁱ xₜ₋ᵢ, that is the picture. It
            takes out the grain of single steps and restarts at each scale. None for 0.9, and for
            0, the last iterate itself, where there is a line search, which leaves no grain.
        lr: Adam's learning rate, in units of the [0, 1] range a step; None for 0.01. L-BFGS finds
            its own.
        init: where to start: ``content``, ``noise`` (uniform, from the seed), ``gray``, or a
            picture (a path, PIL image or array).
        seed: of the noise.
        model: ``auto`` (VGG19 if it can be had, else the bundled VGG16), ``vgg19`` or ``vgg16``.
        weights: a weight file to use instead, or `nst_jax.models.weights.load.Weights` already loaded.
        dtype: what the network computes in: ``float32``, ``bfloat16``, or ``auto`` for bfloat16
            where that is fast: on GPUs, TPUs and processors with AMX or AVX-512's bfloat16. Losses
            and the picture are float32 always.
        memory: how much the computation may take, as ``8GB``; None for what is free when it starts.
            A picture that needs more at once is computed tile by tile (`nst_jax.partitioning.tiling`), which
            gives the same picture, more slowly.
    """

    size: int | None = 512
    steps: int | tuple[int, ...] | None = None
    min_scale: int | None = 128
    content_weight: float = 0.05
    style_weight: float = 1.0
    style_weights: tuple[float, ...] | None = None
    style_scales: tuple[float, ...] | None = None
    masks: ImageSource | Sequence[ImageSource] | None = None
    mask_colors: tuple[str, ...] | None = None
    content_layers: Mapping[str, float] = field(default_factory=lambda: {"relu4_2": 1.0})
    style_layers: Mapping[str, float] = field(
        default_factory=lambda: dict(zip(STYLE_LAYERS, (0.4, 0.25, 0.15, 0.1, 0.1), strict=True))
    )
    color: Color = "style"
    tv: float = 0.0
    form: Form = "relative"
    pooling: Pooling = "max"
    padding: Padding = "replicate"
    optimizer: Literal["lbfgs", "adam"] | optax.GradientTransformation = "lbfgs"
    average: float | None = None
    lr: float | None = None
    init: ImageSource = "content"
    seed: int = 0
    model: Literal["auto", "vgg19", "vgg16"] = "auto"
    weights: Path | str | Weights | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    memory: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without files.

        Raises:
            InputError: naming the first setting that is out of range.
        """
        for name in ("seed", "size", "min_scale"):
            if name == "seed" or getattr(self, name) is not None:
                self._convert(name, operator.index, "a whole number")
        if self.steps is not None:
            self._convert("steps", _one_or_several, "a whole number, or several")
        for name in ("content_weight", "style_weight", "tv"):
            self._convert(name, float, "a number")
            value = getattr(self, name)
            if not 0 <= value <= LARGEST_WEIGHT:
                raise InputError(f"{name} is {value}; give a number from 0 to {LARGEST_WEIGHT:g}")
        for name in ("style_weights", "style_scales"):
            if getattr(self, name) is not None:
                self._convert(name, _floats, "numbers")
        if self.mask_colors is not None:
            if self.masks is None:
                raise InputError("mask_colors name the colours of a mask; give one")
            self._convert("mask_colors", _strings, "names of colours")
        for scale in self.style_scales or ():
            if not 0 < scale <= LARGEST_STYLE_SCALE:
                raise InputError(
                    f"style_scales: {scale:g}; give numbers above 0, to {LARGEST_STYLE_SCALE}"
                )
        if self.average is not None:
            self._convert("average", float, "a number")
            if not 0 <= self.average < 1:
                raise InputError(f"average is {self.average}; give a decay from 0 to below 1")
        for name, weight in (("content", self.content_weight), ("style", self.style_weight)):
            self._convert(f"{name}_layers", _weights_by_name, "layers with their weights")
            layers = getattr(self, f"{name}_layers")
            for tap, value in layers.items():
                if not 0 <= value <= LARGEST_WEIGHT:
                    raise InputError(
                        f"{name}_layers: {tap} has weight {value}; give a number from 0 to "
                        f"{LARGEST_WEIGHT:g}"
                    )
            if weight > 0 and not any(layers.values()):
                raise InputError(f"{name}_layers has no layer that counts; give at least one")
        if self.content_weight == self.style_weight == 0:
            raise InputError("content_weight and style_weight are both 0; one must count")
        if self.size is not None and self.size < 16:
            raise InputError(f"size is {self.size}; the network needs at least 16 pixels")
        steps = (self.steps,) if isinstance(self.steps, int) else self.steps or STEPS
        if min(steps) < 0:
            raise InputError(f"steps is {self.steps}; it cannot be negative")
        if self.min_scale is not None and self.min_scale < 16:
            raise InputError(f"min_scale is {self.min_scale}; the network needs at least 16 pixels")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise InputError(f"lr is {self.lr}; give a number above 0")
        if self.lr is not None and self.optimizer != "adam":
            raise InputError("lr is Adam's; L-BFGS searches for its own, others bring theirs")
        if isinstance(self.optimizer, str) and self.optimizer not in ("lbfgs", "adam"):
            raise InputError(f"optimizer is {self.optimizer!r}; choose lbfgs or adam")
        literals = {"color": Color, "form": Form, "pooling": Pooling, "padding": Padding}
        for name, kind in literals.items():
            if getattr(self, name) not in get_args(kind):
                choices = ", ".join(get_args(kind))
                raise InputError(f"{name} is {getattr(self, name)!r}; choose one of {choices}")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise InputError(f"dtype is {self.dtype!r}; choose auto, float32 or bfloat16")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}; give a whole number from 0 to 2^32 - 1")

    def _convert(self, name: str, kind: Callable[[Any], object], wanted: str) -> None:
        """Take NumPy's numbers and the like as plain ones; `InputError` for anything else."""
        value = getattr(self, name)
        try:
            object.__setattr__(self, name, kind(value))
        except (AttributeError, TypeError, ValueError):
            raise InputError(f"{name} is {value!r}; give {wanted}") from None


def changed(settings: Settings | None, changes: Mapping[str, Any]) -> Settings:
    """Give the settings, or the defaults, with single ones changed by name.

    Raises:
        InputError: there is no such setting, or its value is out of range.
    """
    unknown = sorted(set(changes) - {field.name for field in fields(Settings)})
    if unknown:
        raise InputError(f"there is no setting {unknown[0]!r}; see nst_jax.Settings")
    return replace(settings or Settings(), **changes)


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _one_or_several(value: int | Iterable[int]) -> int | tuple[int, ...]:
    if isinstance(value, Iterable):
        several = tuple(operator.index(item) for item in value)
        if not several or isinstance(value, str):
            raise ValueError
        return several
    return operator.index(value)


def _strings(values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError
    return tuple(str(value) for value in values)


def _weights_by_name(layers: Mapping[str, float]) -> dict[str, float]:
    return {str(tap): float(weight) for tap, weight in layers.items()}


PAPER: Final = Settings(
    content_weight=1.0,
    style_weight=1e6,
    content_layers={"relu4_2": 1.0},
    style_layers=dict.fromkeys(STYLE_LAYERS, 0.2),
    form="paper",
    pooling="average",
    padding="same",
    init="noise",
    steps=500,
    min_scale=None,
    average=0.0,
)
"""Gatys, Ecker & Bethge (2015), section Methods: raw sums, average pooling, white noise, content at
layer 4_2, style at layers 1_1 … 5_1 in equal parts.

α/β is the one value that is not the paper's. Its 1/1000 belongs to a network that was rescaled to a
mean activation of 1; raw sums grow with the activations (content as their square, style as their
fourth power), and 1/1 000 000 gives the same balance with the bundled VGG16.
"""
