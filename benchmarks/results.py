"""What a comparison found, and how it is written down."""

import re
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from common import Job, step_flops

REFERENCE: Final = "torch eager float32"
"""What ratios and differences of losses are against, if it was among the contenders."""

INTRODUCTION: Final = """\
# nst_jax and PyTorch

Written by `python benchmarks/compare.py`, one section a device; a run replaces its device's own.

One step is one evaluation of the loss and its gradient, and the optimiser's update. Both sides
minimise the same loss (nst_jax's defaults: content at relu4_2, style at relu1_1 … relu5_1) with the
same weights in VGG19's shape, from the same start. Several pictures are one content with a style
each. Milliseconds are the median over rounds in which the contenders take turns, with the fastest
and the slowest; the first call, compilation with it, is apart. Arithmetic is what the convolutions,
as they are defined, and Gram matrices need, forward and back to the picture (nst_jax's float32 on
CPUs does with less, by Winograd's algorithm); the peak is the best matrix product that JAX or
PyTorch reached in the same precision and the same run. Memory is the process' (on a CPU) or the
GPU's, at its peak, and its growth over what the process took once the library was imported. Losses
are compared at the start and before the last step. L-BFGS runs without a line search on both sides,
so that its steps do equal work; its first step is scaled differently in Optax and in PyTorch, and
its losses part from there. `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` before the command gives both
sides their memory in huge pages, as some Linux systems do by themselves.
"""


@dataclass
class Row:
    """One contender in one configuration."""

    contender: str
    precision: str
    failed: str | None = None
    first_call: float = 0.0
    ms: list[float] = field(default_factory=list)
    """Milliseconds a step, one figure a round."""
    losses: list[float] = field(default_factory=list)
    """Of the last turn."""
    peak_bytes: int = 0
    baseline_bytes: int = 0


@dataclass
class Configuration:
    """One job, all contenders."""

    job: Job
    skipped: str | None = None
    steps: int = 0
    rows: list[Row] = field(default_factory=list)

    def reference(self) -> Row | None:
        """What the others are compared with: the `REFERENCE`, or else any float32."""
        good = [row for row in self.rows if not row.failed and row.losses]
        named = [row for row in good if row.contender == REFERENCE]
        return next(iter(named + [row for row in good if row.precision == "float32"]), None)


@dataclass
class Results:
    """One run of the comparison."""

    device: str
    """The section's title."""
    facts: dict[str, str]
    """Date, machine, versions, command."""
    peaks: dict[str, dict[str, float]]
    """FLOP/s of a matrix product, by precision and library."""
    contenders: list[str]
    configurations: list[Configuration] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def difference(row: Row, reference: Row | None, at: int) -> float | None:
    """How far a loss is from the reference's, as a share of it."""
    if reference is None or reference is row or not (row.losses and reference.losses):
        return None
    return abs(row.losses[at] / reference.losses[at] - 1)


def write(results: Results, path: Path) -> None:
    """Put the run's section into the file in place of its device's former one."""
    sections = (
        re.split(r"^(?=## )", path.read_text(), flags=re.MULTILINE)[1:] if path.exists() else []
    )
    title = f"## {results.device}"
    others = [section for section in sections if section.splitlines()[0] != title]
    text = "\n".join([INTRODUCTION, *(s.strip() + "\n" for s in (*others, section(results)))])
    path.write_text(text)


def section(results: Results) -> str:
    """One run as Markdown."""
    parts = [f"## {results.device}"]
    parts.append("\n".join(f"- {name}: {value}" for name, value in results.facts.items()))
    peaks = [
        [precision, *(f"{rates[name] / 1e12:.3g}" for name in rates)]
        for precision, rates in results.peaks.items()
    ]
    libraries = next(iter(results.peaks.values()), {})
    parts.append("Matrix product, TFLOP/s:")
    parts.append(table(["precision", *libraries], peaks))
    parts.append("### Milliseconds a step")
    parts.append(_summary(results))
    for configuration in results.configurations:
        parts += _configuration(configuration, results)
    return "\n\n".join(parts)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; figures to the right, the first column to the left."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _title(job: Job) -> str:
    return f"{job.optimizer}, {job.size} × {job.size}, batch {job.batch}"


def _summary(results: Results) -> str:
    lines = []
    for configuration in results.configurations:
        found = {row.contender: _figures(row.ms) for row in configuration.rows if row.ms}
        cells = [found.get(contender, "–") for contender in results.contenders]
        lines.append([_title(configuration.job), *cells])
    return table(["", *results.contenders], lines)


def _figures(ms: list[float]) -> str:
    return number(statistics.median(ms))


def _configuration(configuration: Configuration, results: Results) -> list[str]:
    parts = [f"### {_title(configuration.job)}"]
    if configuration.skipped:
        return [*parts, f"Not run: {configuration.skipped}."]
    flops = step_flops(configuration.job.size, configuration.job.batch)
    steps = configuration.steps
    rounds = max((len(row.ms) for row in configuration.rows), default=0)
    parts.append(
        f"{flops / 1e9:.4g} GFLOP a step of all pictures; {rounds} rounds, steps in each: {steps}."
    )
    reference = configuration.reference()
    head = [
        "",
        "ms a step",
        "fastest – slowest",
        f"speed / {_name(reference)}",
        "TFLOP/s",
        "of peak",
    ]
    head += ["first call, s", "peak memory, MiB", "growth, MiB", "start loss off by"]
    head += [f"loss off by, step {steps}"]
    lines = []
    for row in configuration.rows:
        if row.failed or not row.ms:
            continue
        median = statistics.median(row.ms)
        rate = flops / median * 1e3
        peak = max(results.peaks.get(row.precision, {}).values(), default=0.0)
        lines.append(
            [
                row.contender,
                number(median),
                f"{number(min(row.ms))} – {number(max(row.ms))}",
                f"{statistics.median(reference.ms) / median:.2f}" if reference else "–",
                number(rate / 1e12),
                f"{rate / peak:.0%}" if peak else "–",
                f"{row.first_call:.1f}",
                f"{row.peak_bytes / 2**20:.0f}",
                f"{(row.peak_bytes - row.baseline_bytes) / 2**20:.0f}",
                _off(difference(row, reference, 0)),
                _off(difference(row, reference, -1)),
            ]
        )
    parts.append(table(head, lines))
    failed = [row for row in configuration.rows if row.failed]
    parts += ["\n".join(f"- {row.contender}: not measured: {row.failed}" for row in failed)] * bool(
        failed
    )
    return parts


def _name(reference: Row | None) -> str:
    return reference.contender if reference else "–"


def _off(share: float | None) -> str:
    return "–" if share is None else f"{share:.1e}"


def number(value: float) -> str:
    """Three digits that count, and no exponent.

    >>> number(1234.5), number(12.345), number(0.012345)
    ('1234', '12.3', '0.0123')
    """
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
