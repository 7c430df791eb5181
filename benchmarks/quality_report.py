"""How `quality.py` writes down what it found: a section and a contact sheet for each pair."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from results import number, table

from nst_jax.images import io as images

INTRODUCTION: Final = """\
# Pictures at equal time

Written by `python benchmarks/quality.py`, one section a pair of pictures; a run replaces its pairs'
sections.

nst_jax with its default settings and two other recipes paint the same photo in the same style with
the same network in the same precision, one after another, each in a process of its own. The recipes
are neural-style-pt's and crowsonkb's, written anew in PyTorch for this comparison from what those
projects say of them, with what that could not keep: see `benchmarks/recipes.py`. Each tool gets the
same seconds, which run from the call to the picture: reading and scaling the pictures, compilation,
the targets and all steps are within; imports and reading the weights come before. A tool whose
steps must be known beforehand gets as many as a calibration says will fit. What is unfinished when
the time is over is cut off there. On a slow machine no recipe comes to as many steps as it was made
for, so that this is about what a given time buys, and says nothing of what patience would.

A tool's picture is judged after each quarter of its time, in float32 by `nst_jax.loss` with default
weights: relative style and content losses, and their total. The total is what nst_jax minimises, so
that a lower one shows that *this* balance was met better, not that a picture is better; style and
content apart show where each recipe puts its balance, and the pictures show the rest. "Other" is
the style loss at layers that no tool looks at, "half" the judgement of all pictures at half the
size. On the way pictures may be smaller than the last one; they are scaled up. The last row is the
photo itself, unpainted.
"""

TILE: Final = 400
MARGIN: Final = 8
LABEL: Final = 26
HEAD: Final = ["", "of the time", "seconds", "steps", "total", "style", "content"]
HALVES: Final = ["other", "half, total", "half, style", "half, content"]


@dataclass
class Section:
    """One pair: what is known of every tool's run."""

    pair: str
    photo: np.ndarray
    style: np.ndarray
    facts: dict[str, str]
    unpainted: dict[str, float]
    """The judgement of the photo."""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By tool: ``marks`` (seconds, steps, verdict), ``schedule`` and ``picture``; or ``error``."""


def write(section: Section, path: Path, sheets: Path) -> None:
    """Put a section in place of its pair's former one; others stay."""
    former = (
        re.split(r"^(?=## )", path.read_text(), flags=re.MULTILINE)[1:] if path.exists() else []
    )
    parts = {part.splitlines()[0]: part.strip() for part in former}
    sheet = sheets / f"{section.pair}.jpg"
    save_sheet(section, sheet)
    parts[f"## {section.pair}"] = markdown(section, os.path.relpath(sheet, path.parent))
    path.write_text("\n\n".join([INTRODUCTION.strip(), *parts.values()]) + "\n")


def markdown(section: Section, sheet: str) -> str:
    """One section."""
    parts = [f"## {section.pair}", f"![{section.pair}]({sheet})"]
    parts.append("\n".join(f"- {name}: {value}" for name, value in section.facts.items()))
    rows, notes = [], []
    for tool, run in section.runs.items():
        if "error" in run:
            notes.append(f"- {tool}: no picture: {run['error']}")
            continue
        notes.append(f"- {tool}: {run['schedule']}")
        for quarter, mark in enumerate(run["marks"], start=1):
            progress = [f"{quarter / len(run['marks']):.0%}", f"{mark['seconds']:.1f}"]
            rows.append([tool, *progress, str(mark["steps"]), *_figures(mark["verdict"])])
    rows.append(["the photo", "–", "–", "–", *_figures(section.unpainted)])
    return "\n\n".join([*parts, table([*HEAD, *HALVES], rows), "\n".join(notes)])


def _figures(verdict: dict[str, float]) -> list[str]:
    return [number(value) for value in verdict.values()]


def save_sheet(section: Section, path: Path) -> None:
    """The photo and the style, small, and beside them each tool's picture with its name."""
    pictures = {tool: run["picture"] for tool, run in section.runs.items() if "picture" in run}
    width, height = TILE, round(TILE * section.photo.shape[0] / section.photo.shape[1])
    small = (TILE // 2, (height - LABEL - MARGIN) // 2)
    columns = [[("photo", section.photo, small), ("style", section.style, small)]]
    columns += [[(tool, picture, (width, height))] for tool, picture in pictures.items()]
    left = MARGIN
    total = MARGIN + sum(column[0][2][0] + MARGIN for column in columns)
    sheet = Image.new("RGB", (total, height + LABEL + 2 * MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column in columns:
        top = MARGIN
        for label, pixels, box in column:
            draw.text((left, top), label, "black", font)
            sheet.paste(_fitted(pixels, box), (left, top + LABEL))
            top += LABEL + box[1] + MARGIN
        left += column[0][2][0] + MARGIN
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=85)


def _fitted(pixels: np.ndarray, box: tuple[int, int]) -> Image.Image:
    """As large as the box allows."""
    scale = min(box[0] / pixels.shape[1], box[1] / pixels.shape[0])
    shape = round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)
    return Image.fromarray(np.uint8(255 * images.resize(pixels, shape) + 0.5))
