"""One tool's own process in `quality.py`: paints one picture in the time that it is given.

Takes its request, a line of JSON, as an argument and answers with another on standard output. The
time runs from the call until the picture is there. Before it lie imports and the weights' way into
memory; within it reading and scaling the pictures, compilation, the targets and every step.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from common import Message, Watch, one_line

from nst_jax.images import io as images

QUARTERS: Final = 4
FEW_STEPS: Final = 3
CALIBRATION: Final = 0.15
"""The share of the time that `calibrate` may take for its last and longest run, about."""

Paint = Callable[[int | None, Watch], np.ndarray]
"""Of how many steps (a scale) to take and whom to tell of them."""


class Mark(NamedTuple):
    """A picture on the way."""

    seconds: float
    steps: int
    picture: np.ndarray


class Recorder:
    """Keeps the first picture after each quarter of the time, and says when the time is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps = seconds, 0
        self.marks: list[Mark] = []
        self.begun = time.perf_counter()

    def __call__(self, steps: int, picture: Callable[[], np.ndarray]) -> bool:
        """Hear of ``steps`` more; the last quarter's picture is the one that is delivered."""
        self.steps += steps
        elapsed = time.perf_counter() - self.begun
        due = min(int(QUARTERS * elapsed / self.seconds), QUARTERS - 1)
        if len(self.marks) < due:
            mark = Mark(elapsed, self.steps, picture())
            self.marks += [mark] * (due - len(self.marks))
        return elapsed >= self.seconds

    def finish(self, picture: np.ndarray) -> list[Mark]:
        """All marks; a tool that is done early has nothing better to show later."""
        last = Mark(time.perf_counter() - self.begun, self.steps, picture)
        return self.marks + [last] * (QUARTERS - len(self.marks))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    try:
        answer = respond(json.loads(sys.argv[1]))
    except Exception as error:
        answer = {"error": one_line(error)}
    print(json.dumps(answer), file=answers, flush=True)


def respond(request: Message) -> Message:
    """Calibrate, where ``folder`` is missing; else paint, and leave the pictures there."""
    paint, versions = tool(**request["job"])
    if "folder" not in request:
        return {"steps": calibrate(paint, request["seconds"])}
    recorder = Recorder(request["seconds"])
    marks = recorder.finish(paint(request["steps"], recorder))
    for quarter, mark in enumerate(marks, start=1):
        images.write(Path(request["folder"]) / f"{quarter}.png", mark.picture)
    told = [{"seconds": mark.seconds, "steps": mark.steps} for mark in marks]
    whole = max(marks[-1].picture.shape[:2]) == request["job"]["size"]
    return {"marks": told, "whole": whole, "versions": versions}


def calibrate(paint: Paint, seconds: float) -> int:
    """How many steps (a scale) fit: the first run compiles, two later ones tell a step's time."""

    def run(steps: int) -> float:
        begun = time.perf_counter()
        paint(steps, lambda steps, picture: False)
        return time.perf_counter() - begun

    cold, few = run(FEW_STEPS), run(FEW_STEPS)
    more = FEW_STEPS + max(FEW_STEPS, int(FEW_STEPS * CALIBRATION * seconds / few))
    step = max(run(more) - few, 1e-9) / (more - FEW_STEPS)
    return max(1, int((seconds - (cold - FEW_STEPS * step)) / step))


# --- the tools -----------------------------------------------------------------------------------


def tool(
    name: str, content: str, style: str, size: int, weights: str, precision: str, device: str
) -> tuple[Paint, dict[str, str]]:
    """Make a tool ready for a photo and a style picture; also which versions it consists of."""
    if name == "nst_jax":
        return nst_jax(content, style, size, weights, precision)
    return recipe(name, content, style, size, weights, precision, device)


def nst_jax(
    content: str, style: str, size: int, weights: str, precision: Any
) -> tuple[Paint, dict[str, str]]:
    import jax
    import jaxlib.version

    from nst_jax import Settings, stylize
    from nst_jax.models.weights import load as weight_files
    from nst_jax.optimize.multiscale import shapes
    from nst_jax.settings import STEPS

    loaded = weight_files.load(weights)
    jax.devices()
    scales = len(shapes(images.fit(images.read(content).pixels.shape, size), Settings().min_scale))

    def paint(steps: int | None, watch: Watch) -> np.ndarray:
        assert steps is not None
        fewer = tuple(step * steps // STEPS[-1] for step in STEPS[:scales])
        settings = Settings(size=size, steps=fewer, weights=loaded, dtype=precision)
        return stylize(
            content,
            style,
            settings,
            on_progress=lambda now: watch(len(now.losses), lambda: np.asarray(now.image)),
        ).image

    return paint, {"jax": jax.__version__, "jaxlib": jaxlib.version.__version__}


def recipe(
    name: str, content: str, style: str, size: int, weights: str, precision: str, device: str
) -> tuple[Paint, dict[str, str]]:
    import torch
    from recipes import RECIPES, extractor

    torch.backends.cudnn.benchmark = True  # choose the fastest kernels for these shapes
    cuda = "cuda" if device == "gpu" else "cpu"
    extract = extractor(name, Path(weights), dtype=getattr(torch, precision), device=cuda)

    def paint(steps: int | None, watch: Watch) -> np.ndarray:
        photo, painting = (images.read(path).pixels for path in (content, style))
        return RECIPES[name](extract, photo, painting, size, steps, watch)

    return paint, {"torch": torch.__version__}


if __name__ == "__main__":
    main()
