"""The losses of a run as a diagram, from its history or from the trace that it wrote."""

from __future__ import annotations

import io
import json
import math
import os
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from nst_jax.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nst_jax.optimize.loop import History

__all__ = ["check_output", "plot_losses", "read_trace"]

FORMATS: Final = (".png", ".svg", ".pdf", ".jpg", ".jpeg")

Point: TypeAlias = tuple[float, dict[str, float]]  # a step, counted from the start, and its entry

LOOKS: Final = {  # a line's colour and its layers' shades, darker with depth
    "total": ("black", "Greys"),
    "content": ("tab:blue", "Blues"),
    "style": ("tab:red", "Reds"),
}


def plot_losses(history: History, path: str | os.PathLike[str]) -> None:
    """Draw the total, the content's and the style's loss and every layer's against the steps.

    The losses' axis is logarithmic; zeros have no place on it. The parts are as the history has
    them, before their weights α and β, so they do not add up to the total. Entries may lack parts:
    lines then go straight from one that has them to the next, with a dot at each. Where entries
    have a ``size``, that of the picture they were taken at, every change of it begins new lines.

    Args:
        history: `nst_jax.Result.history`, or what `read_trace` returns. Steps that begin anew are
            counted on.
        path: the file to write: PNG, SVG, PDF or JPEG, by its extension.

    Raises:
        InputError: what `check_output` raises; the history is empty; the file cannot be written.
    """
    check_output(path)
    if not history:
        raise InputError("there are no steps to plot; take at least one")
    from matplotlib.figure import Figure

    path = Path(path)
    figure = Figure(figsize=(8, 5), layout="constrained")
    _draw(figure.add_subplot(), history)
    encoded = io.BytesIO()
    figure.savefig(encoded, format=path.suffix[1:].lower(), dpi=150)
    try:
        path.write_bytes(encoded.getbuffer())
    except OSError as error:
        raise InputError(f"plot {str(path)!r} cannot be written: {error.strerror}") from error


def check_output(path: str | os.PathLike[str]) -> None:
    """Check what can be known about a plot before there are losses to draw.

    Raises:
        InputError: Matplotlib is not installed, the extension is unknown, or the folder is missing
            or read-only.
    """
    path = Path(path)
    if find_spec("matplotlib") is None:
        raise InputError(
            'plots need Matplotlib: pip install "nst-jax[plot]", or pip install matplotlib'
        )
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"plot {str(path)!r}: unknown extension; use one of {', '.join(FORMATS)}")
    if os.path.isdir(path) or not os.access(path.parent, os.W_OK):  # noqa: PTH112
        raise InputError(f"plot {str(path)!r}: not a file in a folder that can be written")


def read_trace(path: str | os.PathLike[str]) -> History:
    """Read the history from a trace: JSON lines, an entry a step.

    A last line that was cut short, as a killed run leaves it, is left out.

    Raises:
        InputError: the file cannot be read, is no trace, or holds no step.
    """
    label = f"trace {os.fspath(path)!r}"
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{label} cannot be read: {error.strerror}") from error
    history = []
    for number, line in enumerate(lines, start=1):
        try:
            history.append(_entry(line))
        except ValueError as error:
            if number == len(lines):  # nothing, or cut short: a whole one ends in a newline
                break
            raise InputError(
                f"{label}: line {number} is no entry of losses; give a file that --trace wrote"
            ) from error
    if not history:
        raise InputError(f"{label} holds no step; give a file that --trace wrote")
    return history


def _entry(line: bytes) -> dict[str, float]:
    entry = json.loads(line)  # of bytes that are no text it raises a ValueError, too
    if not isinstance(entry, dict) or not {"step", "total"} <= set(entry):
        raise ValueError("no entry")
    if not all(type(value) in (int, float) for value in entry.values()):
        raise ValueError("no numbers")
    return entry


def _draw(axes: Axes, history: History) -> None:
    from matplotlib import colormaps

    points = list(zip(_steps(history), history, strict=True))
    scales = [list(run) for _, run in groupby(points, key=lambda point: point[1].get("size"))]
    names = list(dict.fromkeys(name for entry in history for name in entry))
    for kind, (color, shades) in LOOKS.items():
        _lines(axes, scales, kind, color=color, linewidth=2.0, zorder=3)
        layers = [name for name in names if name.startswith(f"{kind}/")]
        for layer, depth in zip(layers, np.linspace(0.4, 0.9, len(layers)), strict=True):
            _lines(axes, scales, layer, color=colormaps[shades](depth), linewidth=0.8)
    if len(scales) > 1:
        for scale in scales:
            _mark(axes, *scale[0])
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (the parts before α and β)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")


def _lines(axes: Axes, scales: list[list[Point]], name: str, **look: Any) -> None:
    """Draw a line for each scale, through the points that a logarithmic axis can show."""
    label = name  # once in the legend
    for scale in scales:
        shown = [(step, e[name]) for step, e in scale if 0 < e.get(name, 0) < math.inf]
        if shown:
            marker = "." if len(shown) <= max(1, len(scale) // 2) else ""
            axes.plot(*zip(*shown, strict=True), label=label, marker=marker, **look)
            label = None


def _mark(axes: Axes, step: float, entry: dict[str, float]) -> None:
    """Draw a vertical line where a scale begins, with its size."""
    axes.axvline(step - 0.5, color="gray", linewidth=0.8, linestyle=":")
    axes.annotate(
        f"{entry['size']:g} px" if "size" in entry else "",
        (step - 0.5, 1),
        xycoords=("data", "axes fraction"),
        xytext=(3, -3),
        textcoords="offset points",
        color="gray",
        fontsize="small",
        verticalalignment="top",
    )


def _steps(history: History) -> list[float]:
    """The steps, counted on where they begin anew."""
    steps, before, offset = [], 0.0, 0.0
    for entry in history:
        offset += before if entry["step"] <= before else 0
        before = entry["step"]
        steps.append(offset + before)
    return steps
