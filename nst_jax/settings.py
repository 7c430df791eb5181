"""The settings of a job, their defaults, and the paper's own values."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, cast, get_args

from nst_jax._types import (
    ColorMode,
    Normalization,
    OptimizerName,
    Padding,
    Pooling,
    StyleLossName,
)
from nst_jax.errors import InputError, short_repr
from nst_jax.term import Term, check_named, check_terms

if TYPE_CHECKING:  # JAX and Pillow are slow to import, and `nst-jax --help` needs neither.
    from pathlib import Path

    import optax
    from jax.sharding import Mesh
    from jaxtyping import PyTree

    from nst_jax.images import ImageSource
    from nst_jax.losses import StyleStatistic
    from nst_jax.networks.protocol import Network
    from nst_jax.networks.weights import Weights

__all__ = [
    "DEFAULT_STEPS",
    "ENGINE_SETTINGS",
    "INIT_NAMES",
    "PAPER",
    "Settings",
    "SettingsOverrides",
    "override",
    "parse_bytes",
]

MIN_SIZE: Final = 16  # VGG's four poolings need this many pixels; other networks may need more.
MAX_SIZE: Final = 2**17
MAX_STEPS: Final = 1_000_000
MAX_WEIGHT: Final = 1e30  # float32 ends at 3.4e38.
MAX_STYLE_SCALE: Final = 10
INIT_NAMES: Final = ("content", "network", "noise", "gray")
"""What ``init`` can be without an image."""
DEFAULT_STEPS: Final = (200, 100, 80, 60, 40)
"""Steps at each level of the pyramid, coarsest first; the last value repeats. Coarse steps lay out
the image and are cheap. Fine steps cost more and move the image away from the coarse layout."""
LEARNING_RATE_REFUSED: Final = (
    "learning_rate is for adam; L-BFGS finds its own step sizes, and an Optax transformation has "
    "its own"
)
ENGINE_SETTINGS: Final = frozenset(
    {
        *("network", "model", "weights", "pooling", "padding", "dtype"),
        *("content_layers", "style_layers", "style_loss", "normalization", "terms"),
        *("optimizer", "learning_rate", "ema_decay", "devices", "memory_limit"),
    }
)
"""What a `nst_jax.Stylizer` fixes when it is made; the other settings belong to an image."""
STYLE_LAYERS: Final = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to make an image. The defaults suit every size, both networks and most pairs of images.

    Attributes:
        size: longest side of the output in pixels; None keeps the content's own size.
        steps: optimization steps at each level, coarsest first: one number for all levels, or
            several, of which the last repeats. None means `DEFAULT_STEPS`.
        min_size: longest side of the coarsest level in pixels. Levels grow by √2 up to ``size``.
            None optimizes at the final size alone.
        content_weight: α. A higher value preserves more of the content; 0 ignores the content.
        style_weight: β. 0 ignores the style.
        style_weights: mixing weights of the style images; None weighs all equally.
        style_scales: longest side of each style image relative to the output's; None means 1.
            A larger scale gives larger strokes. Style images are never enlarged.
        masks: where each style applies, as large as the content: one grayscale image a style
            (white is inside; of an image with transparency, what is opaque); or a single one for
            two styles, the second of which gets the rest; or a single one with ``mask_colors``.
            Outside all masks the content stays as it is.
        mask_colors: the color of each style in a single mask of flat colors: ``red``, ``#f00``.
        content_layers: layers that compare content, with their weights.
        style_layers: layers that compare style, with their weights w_l. Shallow layers carry color
            and grain, deep layers carry larger shapes.
        color_mode: ``style`` takes the style's colors. The others preserve the content's:
            ``luminance`` optimizes in gray and restores the content's chroma pixel by pixel;
            ``match`` and ``histogram`` first give the style image the content's colors, by mean
            and covariance or by histograms.
        tv_weight: weight of the total variation, which smooths the image.
        normalization: ``target_energy`` divides each layer's loss by the energy of its target, so
            that weights mean the same at every size and for every network. ``none`` uses the
            paper's raw sums.
        pooling: VGG's pooling: ``max``, ``average``, or ``scaled_average`` and ``l2``, which are
            scaled so that activations have the size that max pooling gives them.
        padding: border of VGG's first convolution: ``replicate`` or ``same`` (zeros).
        optimizer: ``lbfgs`` (over a Laplacian pyramid, `nst_jax.optimize.pyramid_lbfgs`),
            ``lbfgs-pixels`` (the same over the pixels), ``adam``, any Optax transformation, or
            ``auto``: Adam for a style loss that draws random features, because L-BFGS compares the
            losses of different steps, and ``lbfgs`` for the others.
        ema_decay: decay d of the exponential moving average of the iterates, (1 − d) Σ dⁱ xₜ₋ᵢ,
            which is the output. It removes the grain of single steps and restarts at each level.
            None means 0.9 with the optimizer ``adam``, and 0 (no average) with any other.
        learning_rate: Adam's learning rate, in units of the [0, 1] range; None means 0.01.
            L-BFGS finds its own step sizes.
        init: the image to start from: ``content``, ``network`` (the content as the arbitrary
            stylization network paints it in the style, `nst_jax.networks.arbitrary`), ``noise``
            (uniform), ``gray``, or an image (a path, PIL image or array).
        seed: seed of the noise.
        model: ``auto`` (VGG19 if available, otherwise the bundled VGG16), ``vgg19`` or ``vgg16``.
            `nst_jax.Result.metadata` has what ``auto`` was, here and for the dtype, because another
            choice makes another image.
        weights: a weight file to use instead, loaded `nst_jax.weights.Weights`, or parameters.
        network: a network of your own (`nst_jax.networks.Network`), with its parameters in
            ``weights`` and its layers in ``content_layers`` and ``style_layers``. None means VGG,
            to which ``model``, ``pooling`` and ``padding`` belong.
        style_loss: what the style loss compares: ``gram``, ``moments``, ``sliced`` or ``nearest``
            (`nst_jax.losses.statistics`), a statistic of your own
            (`nst_jax.losses.StyleStatistic`), or several of either with their weights.
        terms: your own terms of the loss (`nst_jax.Term`), beside content, style and total
            variation. Their arrays are an argument of `nst_jax.stylize`, because they belong to an
            image.
        term_weights: the weight of each of these terms, by its name; 1 for those without.
        dtype: dtype of the network: ``float32``, ``bfloat16``, or ``auto``, which means bfloat16
            on hardware that multiplies it fast (GPUs, TPUs, CPUs with AMX or AVX-512 BF16) and
            float32 elsewhere. Losses and the image are always float32.
        devices: how many devices share each image, or the images of a batch: a number, ``all``, or
            a ``jax.sharding.Mesh`` with the axes ``images`` and ``rows``, which then divides every
            level as it is. With several, no level runs tile by tile.
        memory_limit: memory that the computation may use on each device, such as ``8GB`` or a
            number of bytes; None means the free memory. A level that needs more runs tile by tile
            (`nst_jax.partitioning`), which gives the same image more slowly.

    Raises:
        InputError: names the first setting that is out of range.

    >>> from nst_jax import PAPER, Settings
    >>> Settings(size=256, style_loss="moments").content_weight
    0.05
    >>> from dataclasses import replace
    >>> replace(PAPER, size=256).optimizer
    'lbfgs-pixels'
    >>> Settings(size=4)
    Traceback (most recent call last):
    nst_jax.errors.InputError: size is 4; give a whole number of pixels from 16 to 131072
    """

    size: int | None = 512
    steps: int | tuple[int, ...] | None = None
    min_size: int | None = 128
    content_weight: float = 0.05
    style_weight: float = 1.0
    style_weights: tuple[float, ...] | None = None
    style_scales: tuple[float, ...] | None = None
    masks: ImageSource | Sequence[ImageSource] | None = None
    mask_colors: tuple[str, ...] | None = None
    content_layers: Mapping[str, float] = field(default_factory=lambda: {"relu4_2": 1.0})
    style_layers: Mapping[str, float] = field(
        default_factory=lambda: dict.fromkeys(STYLE_LAYERS, 0.2)
    )
    color_mode: ColorMode = "style"
    tv_weight: float = 0.0
    normalization: Normalization = "target_energy"
    pooling: Pooling = "max"
    padding: Padding = "replicate"
    optimizer: OptimizerName | optax.GradientTransformation = "auto"
    ema_decay: float | None = None
    learning_rate: float | None = None
    init: ImageSource = "content"
    seed: int = 0
    model: Literal["auto", "vgg19", "vgg16"] = "auto"
    weights: Path | str | Weights | PyTree | None = None
    network: Network | None = None
    style_loss: StyleLossName | StyleStatistic | Mapping[StyleLossName | StyleStatistic, float] = (
        "gram"
    )
    terms: Sequence[Term] = ()
    term_weights: Mapping[str, float] = field(default_factory=dict)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    devices: int | Literal["all"] | Mesh = 1
    memory_limit: str | int | None = None

    def __post_init__(self) -> None:
        """Convert and check what can be checked without files."""
        for name, (convert, is_valid, expected) in _CHECKS.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            try:
                converted = convert(value)
                if not is_valid(converted):
                    raise ValueError
            except (AttributeError, OverflowError, TypeError, ValueError):
                raise InputError(f"{name} is {short_repr(value)}; give {expected}") from None
            object.__setattr__(self, name, converted)
        if self.memory_limit is not None:
            parse_bytes(self.memory_limit)
        object.__setattr__(self, "style_loss", _style_loss(self.style_loss))
        _check_network(self)
        _check_optimizer(self.optimizer)
        object.__setattr__(self, "terms", check_terms(self.terms))
        check_named("term_weights", self.term_weights, self.terms)
        if self.learning_rate is not None and self.optimizer not in ("auto", "adam"):
            raise InputError(LEARNING_RATE_REFUSED)
        if self.mask_colors is not None and self.masks is None:
            raise InputError("mask_colors name the colors of a mask; give masks too")
        for kind, weight in (("content", self.content_weight), ("style", self.style_weight)):
            if weight > 0 and not any(getattr(self, f"{kind}_layers").values()):
                raise InputError(f"{kind}_layers has no layer with a weight above 0; give one")
        if self.content_weight == self.style_weight == 0 and not self.terms:
            raise InputError("content_weight and style_weight are both 0; raise one of them")


class SettingsOverrides(TypedDict, total=False):
    """Single settings as keyword arguments; see `Settings`."""

    size: int | None
    steps: int | tuple[int, ...] | None
    min_size: int | None
    content_weight: float
    style_weight: float
    style_weights: tuple[float, ...] | None
    style_scales: tuple[float, ...] | None
    masks: ImageSource | Sequence[ImageSource] | None
    mask_colors: tuple[str, ...] | None
    content_layers: Mapping[str, float]
    style_layers: Mapping[str, float]
    color_mode: ColorMode
    tv_weight: float
    normalization: Normalization
    pooling: Pooling
    padding: Padding
    optimizer: OptimizerName | optax.GradientTransformation
    ema_decay: float | None
    learning_rate: float | None
    init: ImageSource
    seed: int
    model: Literal["auto", "vgg19", "vgg16"]
    weights: Path | str | Weights | PyTree | None
    network: Network | None
    style_loss: StyleLossName | StyleStatistic | Mapping[StyleLossName | StyleStatistic, float]
    terms: Sequence[Term]
    term_weights: Mapping[str, float]
    dtype: Literal["auto", "float32", "bfloat16"]
    devices: int | Literal["all"] | Mesh
    memory_limit: str | int | None


def override(settings: Settings | None, overrides: Mapping[str, Any]) -> Settings:
    """Return ``settings``, or the defaults, with single settings replaced by name.

    Raises:
        InputError: there is no such setting, or its value is out of range.
    """
    unknown = sorted(set(overrides) - {field.name for field in fields(Settings)})
    if unknown:
        raise InputError(f"there is no setting {unknown[0]!r}; see help(nst_jax.Settings)")
    return replace(settings or Settings(), **overrides)


def parse_bytes(limit: str | int) -> int:
    """Convert an amount of memory such as ``8GB``, ``750 MB``, ``6GiB`` or ``0.5g`` to bytes.

    Units without an ``i`` are powers of 1000, units with it powers of 1024.

    >>> parse_bytes("750MB"), parse_bytes("0.5g"), parse_bytes("6GiB") == 6 * 2**30
    (750000000, 500000000, True)

    Raises:
        InputError: the text is not an amount of memory, or the amount is not above 0.
    """
    text = limit if isinstance(limit, str) else ""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt])(i?)b?\s*", text, re.IGNORECASE)
    num_bytes = limit if isinstance(limit, int) else 0
    if match:
        number, unit, binary = match.groups()
        amount = float(number) * (1024 if binary else 1000) ** _UNITS[unit.lower()]
        num_bytes = round(amount) if math.isfinite(amount) else 0
    if num_bytes <= 0:
        raise InputError(
            f"memory_limit is {short_repr(limit)}; give an amount such as 8GB, 750MB or 6GiB"
        )
    return num_bytes


_UNITS: Final = {"k": 1, "m": 2, "g": 3, "t": 4}


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _int_or_ints(value: int | Iterable[int]) -> int | tuple[int, ...]:
    if isinstance(value, Iterable):
        if isinstance(value, str):
            raise TypeError
        return tuple(operator.index(item) for item in value)
    return operator.index(value)


def _strings(values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError
    return tuple(str(value) for value in values)


def _layer_weights(layers: Mapping[str, float]) -> dict[str, float]:
    return {str(layer): float(weight) for layer, weight in layers.items()}


def _style_loss(style_loss: Any) -> Any:
    choices = get_args(StyleLossName)
    if isinstance(style_loss, str) and style_loss in choices:
        return style_loss
    if _looks_like_statistic(style_loss):
        return style_loss  # `make_statistic` checks it, which imports JAX.
    try:
        weights = {part: float(weight) for part, weight in cast("Any", style_loss).items()}
        valid = all(part in choices or _looks_like_statistic(part) for part in weights)
        valid = valid and all(map(_is_weight, weights.values()))
        if valid and any(weights.values()):
            return weights
    except (AttributeError, OverflowError, TypeError, ValueError):
        pass
    raise InputError(
        f"style_loss is {short_repr(style_loss)}; give {', '.join(choices)}, a "
        "nst_jax.losses.StyleStatistic, or several of them with weights"
    )


def _looks_like_statistic(value: Any) -> bool:
    return hasattr(value, "measure") or hasattr(value, "distance")


def _check_network(settings: Settings) -> None:
    network = settings.network
    if network is None:
        return
    parts = ("features", "grid", "stride", "receptive_radius", "min_size", "prepare")
    if isinstance(network, type) or not all(hasattr(network, part) for part in parts):
        raise InputError(
            f"network is {short_repr(network)}; give an object with {', '.join(parts)} "
            "(nst_jax.networks.Network)"
        )
    try:
        hash(network)
    except TypeError as error:
        raise InputError(
            f"network is {short_repr(network)}, which has no hash; make it a frozen dataclass of "
            "numbers, texts and tuples"
        ) from error
    if (settings.pooling, settings.padding) != ("max", "replicate"):
        raise InputError("pooling and padding are VGG's and a network is given; leave them out")


def _check_optimizer(optimizer: Any) -> None:
    if isinstance(optimizer, str):
        valid = optimizer in get_args(OptimizerName)
    else:
        valid = callable(getattr(optimizer, "init", None)) and hasattr(optimizer, "update")
    if not valid:
        raise InputError(
            f"optimizer is {short_repr(optimizer)}; choose {', '.join(get_args(OptimizerName))}, "
            "or give an Optax transformation"
        )


def _is_mesh(value: Any) -> bool:
    return hasattr(value, "axis_names")  # JAX is slow to import.


def _is_weight(value: float) -> bool:
    return 0 <= value <= MAX_WEIGHT


def _are_steps(steps: int | tuple[int, ...]) -> bool:
    several = steps if isinstance(steps, tuple) else (steps,)
    return bool(several) and all(0 <= number <= MAX_STEPS for number in several)


def _choice(literal: Any) -> tuple[Callable[[Any], Any], Callable[[Any], bool], str]:
    choices = get_args(literal)
    return str, choices.__contains__, f"one of {', '.join(choices)}"


_PIXELS: Final = (
    operator.index,
    lambda value: MIN_SIZE <= value <= MAX_SIZE,
    f"a whole number of pixels from {MIN_SIZE} to {MAX_SIZE}",
)
_WEIGHT: Final = (float, _is_weight, f"a number from 0 to {MAX_WEIGHT:g}")
_LAYERS: Final = (
    _layer_weights,
    lambda layers: all(map(_is_weight, layers.values())),
    f"layers with their weights, each from 0 to {MAX_WEIGHT:g}",
)
_OPTIONAL: Final = {
    *("size", "steps", "min_size", "style_weights", "style_scales", "mask_colors"),
    *("ema_decay", "learning_rate"),
}
_CHECKS: Final[dict[str, tuple[Callable[[Any], Any], Callable[[Any], bool], str]]] = {
    "size": _PIXELS,
    "min_size": _PIXELS,
    "steps": (_int_or_ints, _are_steps, f"a whole number from 0 to {MAX_STEPS}, or several"),
    "content_weight": _WEIGHT,
    "style_weight": _WEIGHT,
    "tv_weight": _WEIGHT,
    "style_weights": (
        _floats,
        lambda weights: all(map(_is_weight, weights)) and any(weights),
        f"numbers from 0 to {MAX_WEIGHT:g}, at least one of them above 0",
    ),
    "style_scales": (
        _floats,
        lambda scales: all(0 < scale <= MAX_STYLE_SCALE for scale in scales),
        f"numbers above 0 and up to {MAX_STYLE_SCALE}",
    ),
    "mask_colors": (_strings, bool, "names of colors"),
    "content_layers": _LAYERS,
    "style_layers": _LAYERS,
    "term_weights": (
        _layer_weights,
        lambda weights: all(map(_is_weight, weights.values())),
        f"names of terms with their weights, each from 0 to {MAX_WEIGHT:g}",
    ),
    "color_mode": _choice(ColorMode),
    "normalization": _choice(Normalization),
    "pooling": _choice(Pooling),
    "padding": _choice(Padding),
    "ema_decay": (float, lambda decay: 0 <= decay < 1, "a number from 0 to below 1"),
    "learning_rate": (
        float,
        lambda rate: 0 < rate <= MAX_WEIGHT,
        f"a finite number above 0, up to {MAX_WEIGHT:g}",
    ),
    "seed": (operator.index, lambda seed: 0 <= seed < 2**32, "a whole number from 0 to 2^32 - 1"),
    "devices": (
        lambda value: value if value == "all" or _is_mesh(value) else operator.index(value),
        lambda value: value == "all" or _is_mesh(value) or value >= 1,
        "a number from 1 up, all, or a jax.sharding.Mesh",
    ),
    "model": _choice(Literal["auto", "vgg19", "vgg16"]),
    "dtype": _choice(Literal["auto", "float32", "bfloat16"]),
}

PAPER: Final = Settings(
    content_weight=1.0,
    style_weight=1e6,
    content_layers={"relu4_2": 1.0},
    style_layers=dict.fromkeys(STYLE_LAYERS, 0.2),
    normalization="none",
    pooling="average",
    padding="same",
    optimizer="lbfgs-pixels",
    dtype="float32",
    init="noise",
    steps=500,
    min_size=None,
    ema_decay=0.0,
)
"""Gatys, Ecker & Bethge (2015), section Methods: raw sums, average pooling, white noise, content at
layer 4_2, style at layers 1_1 … 5_1 with equal weights, one level, the pixels as variables.

What differs from the paper:

- α/β is 1/1,000,000, not 1/1000. The paper's value belongs to a network whose activations were
  rescaled to a mean of 1. Raw content sums grow with the square of the activations and raw style
  sums with the fourth power, and 1/1,000,000 gives the same balance with the bundled VGG16.
- The network has the activations of its weight file, and is the bundled VGG16 where VGG19 cannot be
  downloaded. Give ``model="vgg19"`` for the paper's.
- Pixels stay in [0, 1]: the image is clipped after each step.
- The paper says "gradient descent". L-BFGS is the choice of the authors' later code (Gatys et al.
  2016); its step sizes, the 500 steps and the size of 512 pixels are ours.
"""
