"""The losses of a run as a plot, from its history or from the log that it wrote."""

import io
import os
import stat
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np

from nst_jax.errors import InputError
from nst_jax.files import parse_json, why_not_writable, write_atomically
from nst_jax.optimize import History, concatenate_history

__all__ = ["check_output_path", "plot_losses", "read_log"]

FORMATS: Final = (".png", ".svg", ".pdf", ".jpg", ".jpeg")
LINE_STYLES: Final = {"total": "black", "content": "tab:blue", "style": "tab:red"}
COLORS_OF_OWN_TERMS: Final = ("tab:green", "tab:orange", "tab:purple", "tab:brown")
NOT_PLOTTED: Final = ("step", "size", "seconds", "tv")
MAX_LINES: Final = 100


def plot_losses(history: History, path: str | os.PathLike[str]) -> None:
    """Plot the total, the content loss, the style loss and your own terms against the steps, and
    each layer's loss as a thin line, on a logarithmic axis. A dotted line marks the beginning of
    each level.

    All but the total are those before their weights, so they do not add up to the total. Values
    that were not evaluated (NaN) are bridged.

    Args:
        history: `nst_jax.Result.history`, or what `read_log` returns.
        path: the file to write: PNG, SVG, PDF or JPEG, by its extension.

    Raises:
        InputError: as in `check_output_path`; the history is empty; the file cannot be written.
    """
    check_output_path(path)
    if not history:
        raise InputError("the history has no steps to plot; take at least one step")
    from matplotlib.figure import Figure

    if len(history) > MAX_LINES:
        raise InputError(f"{len(history)} losses are too many for a plot of at most {MAX_LINES}")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_prop_cycle(color=COLORS_OF_OWN_TERMS)
    steps = np.arange(1, len(history["step"]) + 1)
    for name, values in history.items():
        kind, _, layer = name.partition("/")
        evaluated = np.isfinite(values) & (values > 0)
        if kind in NOT_PLOTTED or not evaluated.any():
            continue
        axes.plot(
            steps[evaluated],
            values[evaluated],
            color=LINE_STYLES.get(kind),  # None takes the next color.
            linewidth=0.6 if layer else 2.0,
            alpha=0.4 if layer else 1.0,
            marker="." if evaluated.sum() == 1 else "",
            label=None if layer else name,
        )
    sizes = history.get("size", np.zeros(len(steps)))
    starts = np.flatnonzero(sizes[1:] != sizes[:-1]) + 1
    for start in (0, *starts) if len(starts) else ():
        axes.axvline(float(steps[start]) - 0.5, color="gray", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{sizes[start]:g} px",
            (float(steps[start]) - 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            color="gray",
            fontsize="small",
            verticalalignment="top",
        )
    axes.set(yscale="log", xlabel="step", ylabel="loss (terms before their weights)")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:  # All losses may be 0.
        axes.legend(frameon=False)
    encoded = io.BytesIO()
    with np.errstate(over="ignore"):  # Matplotlib leaves a margin around the largest float.
        figure.savefig(encoded, format=Path(path).suffix[1:].lower(), dpi=150)
    try:
        write_atomically(Path(path), encoded.getbuffer())
    except OSError as error:
        raise InputError(
            f"plot {os.fspath(path)!r} cannot be written: {error.strerror}; choose another place"
        ) from error


def check_output_path(path: str | os.PathLike[str]) -> None:
    """Check a plot's path before there are losses to plot.

    Raises:
        InputError: Matplotlib is not installed, the extension is unknown, or the file cannot be
            written.
    """
    path = Path(path)
    if find_spec("matplotlib") is None:
        raise InputError(
            'plots need Matplotlib: pip install "nst-jax[plot]", or pip install matplotlib'
        )
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"plot {str(path)!r}: unknown extension; use one of {', '.join(FORMATS)}")
    if reason := why_not_writable(path):
        raise InputError(f"plot {str(path)!r}: {reason}")


def read_log(path: str | os.PathLike[str]) -> History:
    """Read a history from a log that ``--log`` wrote: JSON lines, one a step.

    A last line that was cut short, as a killed run leaves it, is ignored.

    Raises:
        InputError: the file cannot be read, is no log, or has no steps.
    """
    label = f"log {os.fspath(path)!r}"
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # Reading a pipe would wait for a writer.
            raise InputError(f"{label} is a folder, pipe or device; give a file that --log wrote")
        lines = Path(path).read_bytes().split(b"\n")
    except InputError:
        raise
    except (OSError, ValueError) as error:  # A ValueError for a name with zeros.
        why = getattr(error, "strerror", error)
        raise InputError(f"{label} cannot be read: {why}; check the path") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_parse_row(line))
        except (ValueError, OverflowError) as error:
            if number == len(lines):  # Empty or cut short: a complete line ends with a newline.
                break
            raise InputError(
                f"{label}: line {number} has no losses; give a file that --log wrote"
            ) from error
    if not rows:
        raise InputError(f"{label} has no steps; give a file that --log wrote")
    return concatenate_history(rows)


def _parse_row(line: bytes) -> History:
    row = parse_json(line)  # A ValueError for bytes that are no text, too.
    if not isinstance(row, dict) or not {"step", "total"} <= set(row):
        raise ValueError("no losses")
    if not all(type(value) in (int, float) for value in row.values()):
        raise ValueError("not numbers")
    return History({name: np.array([value], np.float64) for name, value in row.items()})
