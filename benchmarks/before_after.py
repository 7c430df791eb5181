"""Compare two checkouts of this project on one machine, in alternating rounds.

    python benchmarks/before_after.py ../old .

Both run through their own command line, with options that both have, in child processes. The one
that runs first changes from round to round. The table has medians over the rounds:

- seconds a step: the time of many steps less that of few steps, at the full size alone;
- setup: all time of a job outside of its steps, which is mostly compilation, with an empty and a
  warm cache (``compile_seconds`` does not cover the same compilations in all versions);
- peak memory: the largest resident memory of the process, with an empty and a warm cache;
- first step: from the start of the command to the first loss in its progress bar, with a pyramid;
- programs: how many XLA compiles for a job with a pyramid and an empty cache, and the seconds that
  its optimization loops take to trace, to lower and to compile.

Nothing else should run on the machine meanwhile.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final, TextIO

import click
from commands import CONTENT, STYLE, compilations, first_step, metadata, run
from reporting import facts, log, number, table

FEW_STEPS: Final = 2
MIN_SIZE: Final = 128
"""The smallest level of the pyramid in the default settings of both checkouts."""


def num_levels(size: int) -> int:
    """Return the number of pyramid levels for a size: `MIN_SIZE` or more, in ratios of √2.

    >>> num_levels(128), num_levels(256), num_levels(512)
    (1, 3, 5)
    """
    return max(1, sum(round(size / 2 ** (level / 2)) >= MIN_SIZE for level in range(64)))


def measure_steps(checkout: Path, size: int, optimizer: str, many_steps: int) -> dict[str, float]:
    """Measure the steps at one size: few steps with an empty cache, then few and many."""
    with tempfile.TemporaryDirectory() as name:
        cache, image = Path(name), Path(name) / "out.png"
        words = ["stylize", CONTENT, STYLE, "-o", image, "--size", f"{size}", "--model", "vgg16"]
        words += ["--optimizer", optimizer, "-q", "--steps"]
        coarse = "0," * (num_levels(size) - 1)
        runs = []
        for steps in (FEW_STEPS, FEW_STEPS, many_steps):
            usage = run(*words, f"{coarse}{steps}", checkout=checkout, cache=cache)
            runs.append((usage.peak_bytes / 2**20, metadata(image)))
    (cold_peak, cold), (_, few), (warm_peak, many) = runs
    seconds = many["steps_seconds"] - few["steps_seconds"]
    return {
        "seconds a step": seconds / (many["steps_done"] - few["steps_done"]),
        "setup seconds, empty cache": cold["seconds"] - cold["steps_seconds"],
        "setup seconds, warm cache": few["seconds"] - few["steps_seconds"],
        "peak MiB, empty cache": cold_peak,
        "peak MiB, warm cache": warm_peak,
    }


def measure_first_step(checkout: Path, size: int) -> dict[str, float]:
    """Measure the wait for the first step, with an empty cache and with a warm one."""
    with tempfile.TemporaryDirectory() as name:
        words = ["stylize", CONTENT, STYLE, "-o", Path(name) / "out.png", "--size", f"{size}"]
        words += ["--model", "vgg16", "--steps", "1"]
        cold = first_step(*words, checkout=checkout, cache=Path(name))
        run(*words, checkout=checkout, cache=Path(name))  # fills the cache for all levels
        warm = first_step(*words, checkout=checkout, cache=Path(name))
    return {"first step, seconds, empty cache": cold, "first step, seconds, warm cache": warm}


def measure_programs(checkout: Path, size: int) -> dict[str, float]:
    """Measure what the programs of the default job cost, with an empty cache."""
    with tempfile.TemporaryDirectory() as name:
        words = ["stylize", CONTENT, STYLE, "-o", Path(name) / "out.png", "--size", f"{size}"]
        words += ["--model", "vgg16", "--steps", "1", "-q"]
        found = compilations(*words, checkout=checkout, cache=Path(name))
    programs = {"programs, all levels": found.pop("programs")}
    return programs | {f"loops: {stage}, seconds": value for stage, value in found.items()}


def compare(
    job: str, checkouts: list[Path], rounds: int, measure: Callable[[Path], dict[str, float]]
) -> list[list[str]]:
    """Measure both checkouts in alternating order; return the rows of the table."""
    values: dict[Path, dict[str, list[float]]] = {path: defaultdict(list) for path in checkouts}
    for index in range(rounds):
        for checkout in checkouts if index % 2 == 0 else checkouts[::-1]:
            for name, value in measure(checkout).items():
                values[checkout][name].append(value)
                log(f"{job}, round {index + 1}, {checkout.name}: {name} {number(value)}")
    old, new = (values[path] for path in checkouts)
    medians = {name: (median(old[name]), median(new[name])) for name in old}
    return [
        [f"{name}, {job}", number(before), number(after), f"{after / before:.2f}"]
        for name, (before, after) in medians.items()
    ]


@click.command()
@click.argument("old", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("new", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--sizes", default="256,512", show_default=True, help="Longest sides in pixels.")
@click.option("--optimizers", default="lbfgs,adam", show_default=True)
@click.option("--steps", default=20, show_default=True, help="Steps of the longer run.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--out", type=click.File("w"), default="-", help="Where to write the table.")
def main(
    old: Path, new: Path, sizes: str, optimizers: str, steps: int, rounds: int, out: TextIO
) -> None:
    """Compare the checkouts OLD and NEW: time, compilation, first step, memory."""
    checkouts = [old.resolve(), new.resolve()]
    rows = []
    for optimizer in optimizers.split(","):
        for size in map(int, sizes.split(",")):
            measure = partial(measure_steps, size=size, optimizer=optimizer, many_steps=steps)
            rows += compare(f"{optimizer}, {size} pixels", checkouts, rounds, measure)
    smallest = min(map(int, sizes.split(",")))
    measure = partial(measure_first_step, size=smallest)
    rows += compare(f"{smallest} pixels", checkouts, rounds, measure)
    measure = partial(measure_programs, size=smallest)
    rows += compare(f"{smallest} pixels", checkouts, rounds, measure)
    report = table(["median", "old", "new", "new / old"], sorted(rows))
    out.write(f"{facts(rounds=str(rounds))}\n\n{report}\n")


if __name__ == "__main__":
    main()
