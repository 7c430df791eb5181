"""The measurements of a comparison, and their Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from reporting import number, table

from compare.workload import Job, step_flops

REFERENCE: Final = "torch eager float32"
"""Speeds and losses are relative to this contender, or to the first float32 one without it."""
EXPLANATION: Final = """\
One step is one evaluation of the loss and its gradient, and the update of the optimizer; a batch is
one content with a style for each image. Milliseconds are medians over alternating rounds. FLOPs are
those of the convolutions, by their definition, and of the Gram matrices, forward and backward; the
peak is the fastest matrix product of either library in the same precision. Memory is that of the
process on a CPU, of the arrays on a GPU; growth is what it needs beyond the imported library. The
first steps of L-BFGS differ in scale, so the losses differ from there on."""


@dataclass
class Row:
    """One contender in one configuration."""

    contender: str
    failed: str | None = None
    first_call: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    """A step, one value for each round."""
    losses: list[float] = field(default_factory=list)
    """Before each step of the last round."""
    peak_bytes: int = 0
    baseline_bytes: int = 0
    matmul_rate: float = 0.0
    """FLOP/s of a matrix product in the contender's precision."""

    @property
    def precision(self) -> str:
        """The last word of the contender's name."""
        return self.contender.split()[-1]


@dataclass
class Configuration:
    """One job and all its contenders."""

    job: Job
    skipped: str | None = None
    steps: int = 0
    rows: list[Row] = field(default_factory=list)

    def measured(self) -> list[Row]:
        """Return the rows of the contenders that did not fail."""
        return [row for row in self.rows if not row.failed and row.milliseconds]

    def reference(self) -> Row | None:
        """Return the row of `REFERENCE`, or the first in float32."""
        rows = [row for row in self.measured() if row.precision == "float32"]
        return next((row for row in rows if row.contender == REFERENCE), rows[0] if rows else None)


def loss_difference(row: Row, reference: Row | None, step: int) -> float | None:
    """Return the relative difference of a loss from that of the reference."""
    if reference is None or reference is row or not (row.losses and reference.losses):
        return None
    return abs(row.losses[step] / reference.losses[step] - 1)


def markdown(about: str, contenders: Sequence[str], configurations: list[Configuration]) -> str:
    """Return the whole report; ``about`` are facts about the machine."""

    def summary(cell: Callable[[Row], str]) -> str:
        rows = []
        for configuration in configurations:
            cells = {row.contender: cell(row) for row in configuration.measured()}
            rows.append([f"{configuration.job}", *(cells.get(name, "–") for name in contenders)])
        return table(["", *contenders], rows)

    parts = ["# nst_jax and PyTorch", EXPLANATION, about]
    parts += ["## Milliseconds a step", summary(lambda row: number(median(row.milliseconds)))]
    parts += ["## Peak memory, MiB", summary(lambda row: number(row.peak_bytes / 2**20))]
    for configuration in configurations:
        parts += [f"## {configuration.job}", *details(configuration)]
    return "\n\n".join(parts) + "\n"


def details(configuration: Configuration) -> list[str]:
    """Return the table of one configuration with a line before and after it."""
    if configuration.skipped:
        return [f"Not run: {configuration.skipped}."]
    reference = configuration.reference()
    flops = step_flops(configuration.job)
    rows = []
    for row in configuration.measured():
        ms = median(row.milliseconds)
        peak = max(r.matmul_rate for r in configuration.rows if r.precision == row.precision)
        differences = (loss_difference(row, reference, step) for step in (0, -1))
        spread = f"{number(min(row.milliseconds))} – {number(max(row.milliseconds))}"
        rows.append(
            [
                *(row.contender, number(ms), spread),
                f"{median(reference.milliseconds) / ms:.2f}" if reference else "–",
                number(flops / ms / 1e9),
                f"{flops / ms * 1e3 / peak:.0%}" if peak else "–",
                f"{row.first_call:.1f}",
                number(row.peak_bytes / 2**20),
                number((row.peak_bytes - row.baseline_bytes) / 2**20),
                *("–" if value is None else f"{value:.1e}" for value in differences),
            ]
        )
    head = ["", "ms a step", "min – max", "speed / reference", "TFLOP/s", "of peak"]
    head += ["first call, s", "peak memory, MiB", "growth, MiB"]
    head += ["loss differs, first step", f"loss differs, step {configuration.steps}"]
    rounds = max((len(row.milliseconds) for row in configuration.rows), default=0)
    about = f"{number(flops / 1e9)} GFLOP a step; {rounds} rounds of {configuration.steps} steps"
    about += f"; reference: {reference.contender}." if reference else "."
    failed = [f"- {row.contender} failed: {row.failed}" for row in configuration.rows if row.failed]
    return [about, table(head, rows), *(["\n".join(failed)] if failed else [])]
