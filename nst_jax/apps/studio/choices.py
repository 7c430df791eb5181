"""What the page lets the user choose, as settings and back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import click

from nst_jax.apps.cli.options import IntListType, StyleLossType
from nst_jax.apps.studio.reproduce import option_text
from nst_jax.errors import InputError
from nst_jax.images import fit_longest_side
from nst_jax.pipeline.levels import plan_levels
from nst_jax.settings import PAPER, Settings

__all__ = ["MAX_STYLES", "PRESETS", "Choices", "continued", "hidden_settings", "style_choices"]

MAX_STYLES: Final = 4

PRESETS: Final[dict[str, Settings]] = {
    "Default": Settings(),
    "Quick look": Settings(size=256, steps=(100, 50, 40)),
    "Bold strokes": Settings(content_weight=0.02, style_scales=(2.0,)),
    "Faithful to the photo": Settings(content_weight=0.2, color_mode="luminance"),
    "The paper of 2015": PAPER,
}
"""Settings to start from. A style scale stands for all styles."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The values of the page's controls.

    Attributes:
        size: the longest side of the output in pixels; 0 keeps the photo's own size.
        content_weight: as in `Settings`.
        color_mode: as in `Settings`.
        style_loss: as the option ``--style-loss`` takes it.
        steps: as the option ``--steps`` takes it; empty for the default.
        seed: as in `Settings`.
        model: as in `Settings`.
        mixes: the weight of each style.
        strokes: the scale of each style.
    """

    size: int
    content_weight: float
    color_mode: str
    style_loss: str
    steps: str
    seed: int
    model: str
    mixes: tuple[float, ...]
    strokes: tuple[float, ...]

    @classmethod
    def of(cls, settings: Settings, num_styles: int) -> "Choices":
        """Return the choices that show these settings on the page."""
        return cls(
            size=settings.size or 0,
            content_weight=settings.content_weight,
            color_mode=settings.color_mode,
            style_loss=option_text("style_loss", settings.style_loss),
            steps="" if settings.steps is None else option_text("steps", settings.steps),
            seed=settings.seed,
            model=settings.model,
            mixes=style_choices(settings.style_weights, num_styles),
            strokes=style_choices(settings.style_scales, num_styles),
        )

    def settings(self, base: Settings, **files: Any) -> Settings:
        """Return the settings that these choices stand for.

        Args:
            base: the settings that the page does not show.
            **files: ``init``, ``masks`` and ``mask_colors``, which come from the page's images.

        Raises:
            InputError: a choice is out of range.
        """
        return replace(
            base,
            size=self.size or None,
            content_weight=self.content_weight,
            color_mode=self.color_mode,
            style_loss=_parse(StyleLossType(), "style_loss", self.style_loss),
            steps=_parse(IntListType(), "steps", self.steps) if self.steps.strip() else None,
            seed=self.seed,
            model=self.model,
            style_weights=None if len(set(self.mixes)) <= 1 and any(self.mixes) else self.mixes,
            style_scales=None if set(self.strokes) <= {1.0} else self.strokes,
            **{"init": base.init, "masks": None, "mask_colors": None, **files},
        )


def style_choices(values: Sequence[float] | None, num_styles: int) -> tuple[float, ...]:
    """Return one value a style: 1 where there is none, and a single one for all styles."""
    values = tuple(values or ())
    if len(values) == 1:
        values *= num_styles
    return (*values, *(1.0,) * num_styles)[:num_styles]


def hidden_settings(base: Settings) -> str:
    """Name the settings that no control shows and that are not the default, as options."""
    shown = {field.name for field in fields(Choices)} | {"style_weights", "style_scales"}
    shown |= {"init"} if base.init == "content" else set()
    defaults = Settings()
    return ", ".join(
        f"{field.name} {option_text(field.name, getattr(base, field.name))}"
        for field in fields(Settings)
        if field.name not in shown and getattr(base, field.name) != getattr(defaults, field.name)
    )


def continued(
    settings: Settings, photo_shape: tuple[int, int], init: Any, init_size: int
) -> Settings:
    """Return settings that resume from an image; its size becomes the coarsest level.

    Each level takes the steps that it takes in a whole run, and coarser levels take none.

    Args:
        settings: the settings of a whole run.
        photo_shape: (h, w) of the photo.
        init: the image to continue from.
        init_size: its longest side.

    Raises:
        InputError: there are more numbers of steps than levels.
    """
    size = settings.size or max(photo_shape)
    shape = fit_longest_side(photo_shape, size)
    whole = plan_levels(settings, shape)
    shortened = replace(settings, init=init, min_size=min(init_size, size), steps=None)
    count = len(plan_levels(replace(shortened, steps=1), shape))
    return replace(shortened, steps=tuple(level.steps for level in whole[-count:]))


def _parse(kind: click.ParamType, name: str, text: str) -> Any:
    convert: Callable[..., Any] = kind.convert
    try:
        return convert(text.strip(), None, None)
    except click.BadParameter as error:
        raise InputError(f"{name} is {text!r}; give {kind.name} ({error.message})") from None
