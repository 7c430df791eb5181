"""What the page lets the user choose, as settings and back."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from nst_jax.errors import InputError
from nst_jax.images import fit_longest_side
from nst_jax.pipeline.levels import plan_levels
from nst_jax.settings import PAPER, SETTINGS, Settings, parse_setting, setting_text

__all__ = [
    "MAX_STYLES",
    "PER_STYLE",
    "PRESETS",
    "SINGLE",
    "chosen_settings",
    "continued",
    "control_values",
    "hidden_settings",
]

MAX_STYLES: Final = 4
SINGLE: Final = (*("size", "content_weight", "color_mode", "style_loss", "steps", "seed", "model"),)
"""The settings that have one control."""
TEXTS: Final = ("style_loss", "steps")
PER_STYLE: Final = ("style_weights", "style_scales")
"""The settings that have a control for each style."""

PRESETS: Final[dict[str, Settings]] = {
    "Default": Settings(),
    "Quick look": Settings(size=256, steps=(100, 50, 40)),
    "Bold strokes": Settings(content_weight=0.02, style_scales=(2.0,)),
    "Faithful to the photo": Settings(content_weight=0.2, color_mode="luminance"),
    "The paper of 2015": PAPER,
}
"""Settings to start from. A style scale stands for all styles."""


def control_values(settings: Settings, num_styles: int) -> dict[str, Any]:
    """Return what the controls show of settings, by the name of the setting.

    `TEXTS` are written as their options take them, and empty for the default. A size of 0 keeps the
    photo's own. `PER_STYLE` have a number for each style.

    >>> control_values(Settings(size=None, style_scales=(2.0,)), 2)["style_scales"]
    (2.0, 2.0)
    """
    values = {name: getattr(settings, name) for name in (*SINGLE, *PER_STYLE)}
    values["size"] = settings.size or 0
    for name in TEXTS:
        values[name] = "" if values[name] is None else setting_text(name, values[name])
    for name in PER_STYLE:
        each = tuple(values[name] or ())
        each *= num_styles if len(each) == 1 else 1
        values[name] = (*each, *(1.0,) * num_styles)[:num_styles]
    return values


def chosen_settings(base: Settings, values: Mapping[str, Any], **files: Any) -> Settings:
    """Return the settings that the controls stand for.

    Args:
        base: the settings that the page does not show.
        values: what the controls hold, as in `control_values`.
        **files: ``init``, ``masks`` and ``mask_colors``, which come from the page's images.

    Raises:
        InputError: a control is empty or out of range.
    """
    chosen = dict(values)
    for name in TEXTS:
        text = str(chosen[name] or "").strip()
        chosen[name] = parse_setting(name, text) if text else getattr(Settings(), name)
    for name in set(SINGLE).difference(TEXTS):
        if chosen[name] is None:
            raise InputError(f"{name} is empty; give it a value")
    chosen["size"] = chosen["size"] or None
    shares, scales = (tuple(chosen[name]) for name in PER_STYLE)
    equal = any(shares) and all(share == shares[0] for share in shares)
    chosen["style_weights"] = None if equal else shares
    chosen["style_scales"] = None if all(scale == 1 for scale in scales) else scales
    return replace(
        base, **chosen, **{"init": base.init, "masks": None, "mask_colors": None, **files}
    )


def hidden_settings(base: Settings) -> str:
    """Name the settings that no control shows and that are not the default, as options."""
    shown = {*SINGLE, *PER_STYLE, *(["init"] if base.init == "content" else [])}
    defaults = Settings()
    return ", ".join(
        f"{name} {setting_text(name, getattr(base, name))}"
        for name in SETTINGS
        if name not in shown and getattr(base, name) != getattr(defaults, name)
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
