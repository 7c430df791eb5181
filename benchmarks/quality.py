"""Images of nst_jax and of two other recipes after equal wall-clock time.

    python benchmarks/quality.py --out quality.md --images images

nst_jax with its default settings and the recipes of neural-style-pt and crowsonkb (`recipes`)
stylize each pair (`PAIRS`) in the same number of seconds, one after another, each in a process of
its own. After each quarter of the time their images are judged (`Judge`). Each pair gets a table in
the report and a row of images in the folder of ``--images``.

The time includes reading the images, compilation, targets and all steps, but not imports and
reading the weights. Tools whose number of steps must be known beforehand are calibrated first. A
run ends when the time is over. Nothing else should run on the machine meanwhile.

The judge is nst_jax's own loss, in float32, at the full and at half size. A lower total shows that
this balance of content and style is met better, not that an image is better. "Other" is the style
loss at layers that no tool optimizes.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from common import EXAMPLES, LOSS_WEIGHTS, default_targets, load_params, resize
from processes import CPU_ONLY, ENVIRONMENT, ChildError, call_in_child
from reporting import facts, log, number, table
from skimage import data

from nst_jax import Progress, Settings, Targets, images, loss, prepare_job, stylize, weights
from nst_jax.models import resolve_dtype
from nst_jax.settings import DEFAULT_STEPS

PAIRS: Final = {
    "astronaut-swirls": ("astronaut", "swirls"),
    "cat-mosaic": ("cat", "mosaic"),
    "coffee-tissue": ("coffee", "tissue"),
}
"""Example images, and ``tissue`` from scikit-image, a texture that is no painting."""

SCHEDULES: Final = {
    "nst_jax": "{} steps at the last level, more at coarser ones in the default ratio",
    "neural-style-pt": "as many steps as fit the time",
    "crowsonkb": "{} steps at each level but the first, which has twice as many",
}
"""How each tool uses the time; the ones with {} need calibration."""

QUARTERS: Final = 4
FEW_STEPS: Final = 3
OTHER_LAYERS: Final = ("relu1_2", "relu2_2", "relu3_2", "relu4_3", "relu5_2")
JUDGE_WEIGHTS: Final = replace(
    LOSS_WEIGHTS, style_layers={**LOSS_WEIGHTS.style_layers, **dict.fromkeys(OTHER_LAYERS, 0.0)}
)
SCORES: Final = ["total", "style", "content", "other", "half total", "half style", "half content"]


class Judge:
    """Scores images of one content in one style at a size (longest side) and at half of it.

    Images are RGB in [0, 1]; the style is not enlarged. ``file`` is a weight file.
    """

    def __init__(self, file: Path, content: np.ndarray, style: np.ndarray, size: int) -> None:
        self.params = load_params(file)
        self.shapes, self.targets = [], []
        for side in (size, size // 2):
            scaled = resize(content, side)
            scaled_style = resize(style, min(side, max(style.shape)))
            self.targets.append(_targets(self.params, scaled, scaled_style))
            self.shapes.append(scaled.shape[:2])

    def __call__(self, image: np.ndarray) -> list[float]:
        """Return the `SCORES` of RGB in [0, 1], (h, w, 3)."""
        (total, full), (half_total, half) = (
            _loss(images.resize(image, shape), self.params, targets)
            for shape, targets in zip(self.shapes, self.targets, strict=True)
        )
        other = np.mean([full[f"style/{layer}"] for layer in OTHER_LAYERS])
        scores = (total, full["style"], full["content"], other)
        return [float(score) for score in (*scores, half_total, half["style"], half["content"])]


@jax.jit
@jax.default_matmul_precision("highest")
def _targets(params: Any, content: jax.Array, style: jax.Array) -> Targets:
    return default_targets(params, content, style, JUDGE_WEIGHTS)


@jax.jit
@jax.default_matmul_precision("highest")
def _loss(image: jax.Array, params: Any, targets: Targets) -> tuple[jax.Array, Any]:
    return loss(image, params, targets, JUDGE_WEIGHTS)


class Task(NamedTuple):
    """What a tool has to do."""

    tool: str
    pair: tuple[Path, Path]
    size: int
    weights: Path
    dtype: Any
    device: str


Mark = tuple[float, int, np.ndarray]
"""Seconds, steps and image after a quarter of the time."""
Tool = Callable[[int | None, Callable[..., bool]], np.ndarray]
"""Takes a number of steps (at the last level) and a callback (`recipes.Callback`)."""


class Recorder:
    """A callback that stores the first image after each quarter and ends the run in time."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps = seconds, 0
        self.marks: list[Mark] = []
        self.start = time.perf_counter()

    def __call__(self, steps: int, image: Callable[[], np.ndarray]) -> bool:
        self.steps += steps
        elapsed = time.perf_counter() - self.start
        due = min(int(QUARTERS * elapsed / self.seconds), QUARTERS - 1)
        if len(self.marks) < due:
            self.marks += [(elapsed, self.steps, image())] * (due - len(self.marks))
        return elapsed >= self.seconds

    def finish(self, image: np.ndarray) -> list[Mark]:
        """Return all marks; those that are missing have the final image."""
        last = (time.perf_counter() - self.start, self.steps, image)
        return self.marks + [last] * (QUARTERS - len(self.marks))


def run_tool(task: Task, seconds: float, steps: int | None) -> list[Mark]:
    """Run a tool for so many seconds; ``steps`` is None for a tool without calibration."""
    tool = make_tool(task)
    recorder = Recorder(seconds)
    return recorder.finish(tool(steps, recorder))


def calibrate(task: Task, seconds: float) -> int:
    """Return how many steps fit: the first run compiles, two later ones give the time of a step."""
    tool = make_tool(task)

    def run(steps: int) -> float:
        start = time.perf_counter()
        tool(steps, lambda steps, image: False)
        return time.perf_counter() - start

    cold, few = run(FEW_STEPS), run(FEW_STEPS)
    # The longest run takes about 15 % of the time, and the result should take 95 %.
    more = FEW_STEPS + max(FEW_STEPS, int(FEW_STEPS * 0.15 * seconds / few))
    step = max(run(more) - few, 1e-9) / (more - FEW_STEPS)
    return max(1, int((0.95 * seconds - (cold - FEW_STEPS * step)) / step))


def make_tool(task: Task) -> Tool:
    """Prepare a tool and read its weights."""
    if task.tool != "nst_jax":
        return recipe_tool(task)
    loaded = weights.load(task.weights)
    settings = Settings(size=task.size, weights=loaded, dtype=task.dtype)
    num_levels = len(prepare_job(task.pair[0], task.pair[1:], settings).levels)

    def tool(steps: int | None, callback: Callable[..., bool]) -> np.ndarray:
        assert steps is not None
        scaled = tuple(step * steps // DEFAULT_STEPS[-1] for step in DEFAULT_STEPS[:num_levels])

        def on_progress(now: Progress) -> bool:
            return callback(len(now.metrics.get("step", ())), lambda: now.image)

        return stylize(*task.pair, settings, steps=scaled, on_progress=on_progress).image

    return tool


def recipe_tool(task: Task) -> Tool:
    import torch
    from recipes import RECIPES, Extractor

    torch.backends.cudnn.benchmark = True  # choose the fastest kernels for these shapes
    device, dtype = "cuda" if task.device == "gpu" else "cpu", getattr(torch, task.dtype)
    extract = Extractor(task.tool, task.weights, dtype, device)

    def tool(steps: int | None, callback: Callable[..., bool]) -> np.ndarray:
        content, style = (images.read(path).pixels for path in task.pair)
        return RECIPES[task.tool](extract, (content, style), task.size, steps, callback)

    return tool


def compare_pair(pair: str, options: argparse.Namespace) -> str:
    """Run all tools on a pair; return its Markdown section and write its row of images."""
    paths = example(PAIRS[pair][0], options.images), example(PAIRS[pair][1], options.images)
    content, style = (images.read(path).pixels for path in paths)
    judge = Judge(options.weights, content, style, options.size)
    shown = {"content": content, "style": style}
    rows, notes = [], []
    for tool in options.tools:
        log(f"{pair}: {tool}")
        task = Task(tool, paths, options.size, options.weights, options.dtype, options.device)
        try:
            calibrated = "{}" in SCHEDULES[tool]
            steps = call_in_child(calibrate, task, options.seconds) if calibrated else None
            marks = call_in_child(run_tool, task, options.seconds, steps)
        except ChildError as error:
            notes.append(f"- {tool} failed: {error}")
            continue
        notes.append(f"- {tool}: {SCHEDULES[tool].format(steps)}")
        shown[tool] = marks[-1][2]
        for quarter, (seconds, done, image) in enumerate(marks, start=1):
            cells = [tool, f"{quarter / QUARTERS:.0%}", f"{seconds:.1f}", f"{done}"]
            rows.append([*cells, *map(number, judge(image))])
    rows.append(["the content itself", "–", "–", "–", *map(number, judge(content))])
    grid = images.image_grid([resize(image, 400) for image in shown.values()], list(shown))
    images.write(options.images / f"{pair}.jpg", grid)
    head = ["", "of the time", "seconds", "steps", *SCORES]
    return "\n\n".join([f"## {pair}", table(head, rows), "\n".join(notes)])


def example(name: str, folder: Path) -> Path:
    """Return the path of an image; the one of scikit-image is written into ``folder`` first."""
    if name != "tissue":
        return EXAMPLES / f"{name}.jpg"
    path = folder / "tissue.png"
    images.write(path, np.asarray(data.immunohistochemistry() / 255, np.float32))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare images after equal time.")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--tools", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    parser.add_argument("--seconds", type=float, default=300, help="for each image")
    parser.add_argument("--size", type=int, default=512, help="longest side in pixels")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--weights", type=Path, default=weights.bundled_path(), help="of all tools")
    parser.add_argument("--out", type=argparse.FileType("w"), default="-", help="Markdown file")
    parser.add_argument("--images", type=Path, default="build/quality", help="folder for images")
    options = parser.parse_args()
    options.device = jax.default_backend()
    os.environ.update(ENVIRONMENT | (CPU_ONLY if options.device == "cpu" else {}))
    options.dtype = resolve_dtype(options.dtype).name
    options.images.mkdir(parents=True, exist_ok=True)
    loaded = weights.load(options.weights)
    network = f"{loaded.model} in {options.dtype} on {options.device}, {loaded.source}"
    about = facts(network=network, images=f"{options.size} pixels, {options.seconds:g} s for each")
    options.out.write(f"# Images after equal time\n\n{about}\n")
    for pair in options.pairs:
        options.out.write(f"\n{compare_pair(pair, options)}\n")
        options.out.flush()


if __name__ == "__main__":
    main()
