"""The settings of a job: what each does, its type, default and values, and what it belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, TypeVar

from nst_jax import kinds
from nst_jax._types import (
    ColorMode,
    DtypeChoice,
    ModelChoice,
    Normalization,
    OptimizerName,
    Padding,
    Pooling,
    StyleLossName,
)
from nst_jax.errors import InputError, short_repr
from nst_jax.kinds import Kind, to_text
from nst_jax.term import Term, check_named

if TYPE_CHECKING:  # JAX and Pillow are slow to import, and `nst-jax --help` needs neither.
    import optax
    from jax.sharding import Mesh
    from jaxtyping import PyTree

    from nst_jax.images import ImageSource
    from nst_jax.losses import StyleStatistic
    from nst_jax.networks.protocol import Network
    from nst_jax.networks.weights import Weights

__all__ = [
    "DEFAULT_EMA_DECAY",
    "DEFAULT_LEARNING_RATE",
    "DEFAULT_STEPS",
    "ENGINE_SETTINGS",
    "INITS",
    "MACHINE_SETTINGS",
    "PAPER",
    "SETTINGS",
    "Setting",
    "Settings",
    "SettingsOverrides",
    "option_name",
    "override",
    "parse_setting",
    "setting_files",
    "setting_text",
]

DEFAULT_STEPS: Final = (200, 100, 80, 60, 40)
"""Steps at each level of the pyramid, coarsest first; the last value repeats. Coarse steps lay out
the image and are cheap. Fine steps cost more and move the image away from the coarse layout."""
DEFAULT_LEARNING_RATE: Final = 0.01
"""Adam's learning rate."""
DEFAULT_EMA_DECAY: Final = {"adam": 0.9}
"""The decay of the moving average, by the name of the optimizer; 0 for one that is not here."""
LEARNING_RATE_REFUSED: Final = (
    "learning_rate is for adam; L-BFGS finds its own step sizes, and an Optax transformation has "
    "its own"
)
INITS: Final = ("content", "network", "noise", "gray")
"""What ``init`` may be beside an image."""
STYLE_LAYERS: Final = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What there is to know of a setting beside its type, its default and its description.

    Attributes:
        kind: the values that it takes.
        belongs_to: ``image``; or ``engine``, what a `nst_jax.Stylizer` fixes when it is made; or
            ``machine``, what it fixes too and what changes no image.
        none_word: what stands for None at the command line.
        option: its option, if the name differs from the setting's.
    """

    kind: Kind
    belongs_to: Literal["image", "engine", "machine"] = "image"
    none_word: str = ""
    option: str = ""


def setting(default: T, kind: Kind, **others: Any) -> T:  # Type checkers see the default.
    """Return a field of `Settings`; ``others`` are attributes of `Setting`."""
    metadata = {"setting": Setting(kind=kind, **others)}
    if isinstance(default, Mapping):
        copy: Any = field(default_factory=lambda: dict(default), metadata=metadata)
        return copy
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to make an image. The defaults suit every size, both networks and most pairs of images.

    The command line shows the first sentence of each attribute, and what None means.

    Attributes:
        size: longest side of the output in pixels; None keeps the content's own size.
        steps: optimization steps at each level, coarsest first; the last number repeats. None
            means 200,100,80,60,40.
        min_size: longest side of the coarsest level in pixels, from which levels grow by √2 up to
            the size; None optimizes at the final size alone.
        content_weight: a higher weight preserves more of the content. It is the paper's α. 0
            ignores the content.
        style_weight: a higher weight takes more of the style. It is the paper's β. 0 ignores the
            style.
        init: start from ``content``, ``network`` (the image of ``nst-jax apply``), ``noise``
            (uniform), ``gray`` or an image file. In Python the image may also be a PIL image or an
            array.
        style_weights: mixing weight of each style. None means equal weights.
        style_scales: longest side of each style relative to the output's; a larger scale gives
            larger strokes. Style images are never enlarged. None means 1.
        masks: where each style applies, as large as the content (white is inside): one mask a
            style, or one for two styles, or one of flat colors. Masks are grayscale; of one with
            transparency, what is opaque is inside. A single one for two styles gives the second
            style the rest. One of flat colors needs ``mask_colors``. Outside all masks the content
            stays as it is. None means everywhere.
        mask_colors: color of each style in a single mask of flat colors, such as ``red,#00f``. None
            means grayscale masks.
        color_mode: ``style`` takes the style's colors; the others preserve the content's:
            ``luminance`` optimizes in gray, ``match`` and ``histogram`` recolor the style first.
            ``luminance`` restores the content's chroma pixel by pixel. ``match`` gives the style
            image the mean and covariance of the content's colors, ``histogram`` their histograms.
        tv_weight: weight of the total variation, which smooths the image.
        seed: seed of the noise, and of a style loss that draws at random.
        term_weights: weight of each of the ``terms``, by its name; 1 for those without.
        content_layers: layers that compare content, with their weights.
        style_layers: layers that compare style, with their weights: shallow layers carry color and
            grain, deep layers carry larger shapes. The weights are the paper's w_l.
        style_loss: what the style loss compares: ``gram``, ``moments``, ``sliced`` or ``nearest``,
            or several with their weights. They are in `nst_jax.losses.statistics`. In Python also a
            statistic of your own (`nst_jax.losses.StyleStatistic`).
        terms: your own terms of the loss (`nst_jax.Term`), beside content, style and total
            variation. Their arrays are an argument of `nst_jax.stylize`, because they belong to an
            image.
        normalization: ``target_energy`` divides each layer's loss by the energy of its target;
            ``none`` takes the paper's raw sums. With ``target_energy``, weights mean the same at
            every size and for every network.
        optimizer: ``lbfgs`` optimizes a pyramid of the image, ``lbfgs-pixels`` its pixels; ``auto``
            is ``adam`` for a style loss that draws at random (sliced, nearest), else ``lbfgs``. In
            Python also any Optax transformation. The pyramid is Laplacian
            (`nst_jax.optimize.pyramid_lbfgs`). L-BFGS compares the losses of different steps, so
            random features do not suit it.
        learning_rate: Adam's learning rate, in units of the range [0, 1]. L-BFGS finds its own step
            sizes. None means 0.01.
        ema_decay: decay of the moving average of the iterates, which is the output. The average
            (1 − d) Σ dⁱ xₜ₋ᵢ of decay d removes the grain of single steps. It restarts at each
            level. None means 0.9 with adam, 0 (no average) with any other optimizer.
        model: the network; ``auto`` is VGG19 if available, otherwise the bundled VGG16.
            `nst_jax.Result.metadata` has what ``auto`` was, here and for the dtype, because another
            choice makes another image.
        weights: weight file to use instead (see ``nst-jax weights``). In Python also loaded
            `nst_jax.weights.Weights`, or parameters. None means the model's own.
        network: a network of your own (`nst_jax.networks.Network`), with its parameters in
            ``weights`` and its layers in ``content_layers`` and ``style_layers``. None means VGG,
            to which ``model``, ``pooling`` and ``padding`` belong.
        pooling: pooling of VGG, which was trained with ``max``; the paper has ``average``.
            ``scaled_average`` and ``l2`` are scaled so that activations have the size that max
            pooling gives them.
        padding: border of VGG's first convolution: ``replicate`` repeats the edge, ``same`` has
            zeros.
        dtype: dtype of the network; ``auto`` is bfloat16 on hardware that multiplies it fast,
            float32 elsewhere. Fast are GPUs, TPUs, and CPUs with AMX or AVX-512 BF16. Losses and
            the image are always float32.
        devices: how many devices share each image, or the images of a batch: a number or ``all``.
            In Python also a ``jax.sharding.Mesh`` with the axes ``images`` and ``rows``, which
            divides every level as it is. With several devices, no level runs tile by tile.
        memory_limit: memory to use on each device, such as ``8GB``; a level that needs more runs
            tile by tile. A number counts bytes. Tiles (`nst_jax.partitioning`) give the same image
            more slowly. None means the free memory.

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

    size: int | None = setting(512, kinds.PIXELS, none_word="original")
    steps: int | tuple[int, ...] | None = setting(None, kinds.STEPS)
    min_size: int | None = setting(128, kinds.PIXELS, none_word="none")
    content_weight: float = setting(0.05, kinds.WEIGHT)
    style_weight: float = setting(1.0, kinds.WEIGHT)
    init: ImageSource = setting("content", kinds.IMAGE)
    style_weights: tuple[float, ...] | None = setting(None, kinds.WEIGHTS)
    style_scales: tuple[float, ...] | None = setting(None, kinds.SCALES)
    masks: ImageSource | Sequence[ImageSource] | None = setting(None, kinds.FILE, option="--mask")
    mask_colors: tuple[str, ...] | None = setting(None, kinds.COLORS)
    color_mode: ColorMode = setting("style", kinds.choice(ColorMode))
    tv_weight: float = setting(0.0, kinds.WEIGHT)
    seed: int = setting(0, kinds.SEED)
    term_weights: Mapping[str, float] = setting({}, kinds.TERM_WEIGHTS)
    content_layers: Mapping[str, float] = setting(
        {"relu4_2": 1.0}, kinds.LAYERS, belongs_to="engine"
    )
    style_layers: Mapping[str, float] = setting(
        dict.fromkeys(STYLE_LAYERS, 0.2), kinds.LAYERS, belongs_to="engine"
    )
    style_loss: StyleLossName | StyleStatistic | Mapping[StyleLossName | StyleStatistic, float] = (
        setting("gram", kinds.STYLE_LOSS, belongs_to="engine")
    )
    terms: Sequence[Term] = setting((), kinds.TERMS, belongs_to="engine")
    normalization: Normalization = setting(
        "target_energy", kinds.choice(Normalization), belongs_to="engine"
    )
    optimizer: OptimizerName | optax.GradientTransformation = setting(
        "auto", kinds.OPTIMIZER, belongs_to="engine"
    )
    learning_rate: float | None = setting(None, kinds.LEARNING_RATE, belongs_to="engine")
    ema_decay: float | None = setting(None, kinds.DECAY, belongs_to="engine")
    model: ModelChoice = setting("auto", kinds.choice(ModelChoice), belongs_to="engine")
    weights: Path | str | Weights | PyTree | None = setting(None, kinds.FILE, belongs_to="engine")
    network: Network | None = setting(None, kinds.NETWORK, belongs_to="engine")
    pooling: Pooling = setting("max", kinds.choice(Pooling), belongs_to="engine")
    padding: Padding = setting("replicate", kinds.choice(Padding), belongs_to="engine")
    dtype: DtypeChoice = setting("auto", kinds.choice(DtypeChoice), belongs_to="engine")
    devices: int | Literal["all"] | Mesh = setting(1, kinds.DEVICES, belongs_to="machine")
    memory_limit: str | int | None = setting(None, kinds.MEMORY, belongs_to="machine")

    def __post_init__(self) -> None:
        """Convert and check what can be checked without files."""
        for part in fields(self):
            value = getattr(self, part.name)
            if value is not None or "None" not in str(part.type):
                object.__setattr__(self, part.name, _checked(part.name, value))
        check_named("term_weights", self.term_weights, self.terms)
        if self.network is not None and (self.pooling, self.padding) != ("max", "replicate"):
            raise InputError("pooling and padding are VGG's and a network is given; leave them out")
        if self.learning_rate is not None and self.optimizer not in ("auto", "adam"):
            raise InputError(LEARNING_RATE_REFUSED)
        if self.mask_colors is not None and self.masks is None:
            raise InputError("mask_colors name the colors of a mask; give masks too")
        for kind, weight in (("content", self.content_weight), ("style", self.style_weight)):
            if weight > 0 and not any(getattr(self, f"{kind}_layers").values()):
                raise InputError(f"{kind}_layers has no layer with a weight above 0; give one")
        if self.content_weight == self.style_weight == 0 and not self.terms:
            raise InputError("content_weight and style_weight are both 0; raise one of them")


SETTINGS: Final[Mapping[str, Setting]] = {f.name: f.metadata["setting"] for f in fields(Settings)}
"""What there is to know of each setting, by its name, in the order of `Settings`."""
ENGINE_SETTINGS: Final = frozenset(n for n, x in SETTINGS.items() if x.belongs_to != "image")
"""What a `nst_jax.Stylizer` fixes when it is made; the other settings belong to an image."""
MACHINE_SETTINGS: Final = frozenset(n for n, x in SETTINGS.items() if x.belongs_to == "machine")
"""What decides how an image is computed, and not which image."""


def _checked(name: str, value: Any) -> Any:
    """Return the value of a setting, converted to plain types."""
    kind = SETTINGS[name].kind
    try:
        converted = kind.convert(value)
        if kind.is_valid(converted):
            return converted
    except InputError:
        raise
    except (AttributeError, OverflowError, TypeError, ValueError):
        pass
    raise InputError(f"{name} is {short_repr(value)}; give {kind.expected}")


class SettingsOverrides(TypedDict, total=False):
    """Single settings as keyword arguments; see `Settings`.

    Type checkers cannot derive it from the fields. A test compares the names and types.
    """

    size: int | None
    steps: int | tuple[int, ...] | None
    min_size: int | None
    content_weight: float
    style_weight: float
    init: ImageSource
    style_weights: tuple[float, ...] | None
    style_scales: tuple[float, ...] | None
    masks: ImageSource | Sequence[ImageSource] | None
    mask_colors: tuple[str, ...] | None
    color_mode: ColorMode
    tv_weight: float
    seed: int
    term_weights: Mapping[str, float]
    content_layers: Mapping[str, float]
    style_layers: Mapping[str, float]
    style_loss: StyleLossName | StyleStatistic | Mapping[StyleLossName | StyleStatistic, float]
    terms: Sequence[Term]
    normalization: Normalization
    optimizer: OptimizerName | optax.GradientTransformation
    learning_rate: float | None
    ema_decay: float | None
    model: ModelChoice
    weights: Path | str | Weights | PyTree | None
    network: Network | None
    pooling: Pooling
    padding: Padding
    dtype: DtypeChoice
    devices: int | Literal["all"] | Mesh
    memory_limit: str | int | None


def override(settings: Settings | None, overrides: Mapping[str, Any]) -> Settings:
    """Return ``settings``, or the defaults, with single settings replaced by name.

    Raises:
        InputError: there is no such setting, or its value is out of range.
    """
    unknown = sorted(set(overrides) - set(SETTINGS))
    if unknown:
        raise InputError(f"there is no setting {unknown[0]!r}; see help(nst_jax.Settings)")
    return replace(settings or Settings(), **overrides)


def parse_setting(name: str, text: str) -> Any:
    """Return the value of a setting that a text of the command line stands for.

    Raises:
        InputError: the text has another form.

    >>> parse_setting("size", "original"), parse_setting("steps", "200,100")
    (None, (200, 100))
    """
    none_word, kind = SETTINGS[name].none_word, SETTINGS[name].kind
    assert kind.parse is not None
    if none_word and text == none_word:
        return None
    try:
        return kind.parse(text)
    except InputError:
        raise
    except ValueError:
        form = f", as {kind.form}" if "," in kind.form else ""
        raise InputError(f"{name} is {short_repr(text)}; give {kind.expected}{form}") from None


def setting_files(settings: Settings) -> list[str | Path]:
    """Return the files that settings name: masks, the image to start from, weights.

    >>> setting_files(Settings(masks=["sky.png"], init="noise", weights="vgg19.safetensors"))
    ['sky.png', 'vgg19.safetensors']
    """
    masks = settings.masks if isinstance(settings.masks, list | tuple) else [settings.masks]
    init = None if isinstance(settings.init, str) and settings.init in INITS else settings.init
    named = [*masks, init, settings.weights]
    return [value for value in named if isinstance(value, str | Path)]


def option_name(name: str) -> str:
    """Return the option of a setting.

    >>> option_name("content_weight"), option_name("masks")
    ('--content-weight', '--mask')
    """
    return SETTINGS[name].option or f"--{name.replace('_', '-')}"


def setting_text(name: str, value: Any) -> str:
    """Write a setting as its option takes it.

    >>> setting_text("size", None), setting_text("style_layers", {"relu1_1": 0.4})
    ('original', 'relu1_1:0.4')
    """
    return SETTINGS[name].none_word if value is None else to_text(value)


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
