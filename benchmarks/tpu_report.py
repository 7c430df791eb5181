"""What was found of each program, and ``TPU.md``."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import jax.numpy as jnp
from tpu_programs import CHIPS, DTYPE, MODEL, Chip

from nst_jax.models.architectures import CONVS_PER_BLOCK

SHOWN: Final = ("v5e", 1024, "step, Adam")
"""The program whose moves of data are listed one by one."""


@dataclass(frozen=True)
class Move:
    """An operation of the program that computes nothing."""

    kind: str
    shape: str
    source: str
    mib: float
    ms: float


@dataclass(frozen=True)
class Row:
    """What the compiler says of one program; times are milliseconds a step."""

    chip: str
    size: int
    program: str
    compile_seconds: float
    needed: int
    capacity: int
    in_place: bool
    host_transfers: list[str]
    foreign_calls: list[str]
    estimate: float
    products: float
    moves: float
    others: float
    by_flops: float
    by_bytes: float | None
    optimal: float | None
    copies: int
    largest_moves: list[Move]


HEADER = """# TPU: what the compiler says

**Estimates by XLA's TPU compiler. Nothing here was run on a TPU.** Written by
`{command}` with {versions}.

{model} in {dtype}, square pictures, default settings; one chip. The loops are
`nst_jax.optimize.loop`'s, with their number of turns as an argument. A turn of L-BFGS is counted with
*one* trial of its line search and without the rare branches.

- **memory**: arguments, results and temporaries as planned, of the chip's {memories}.
- **in place**: the picture and the optimiser's state are written where they were read.
- **host**: operations of the compiled program that talk to the host.
- **estimate**: the sum of the compiler's `estimated_cycles` at the chip's clock ({clocks}),
  operations one after the other. It is split into convolutions and matrix products with all that
  is fused to them, operations that only move data, and the rest.
- **copies**: `copy` and `transpose` operations of 1 MiB and more a step that were not fused.
- **of peak**: the convolutions' and Gram matrices' own FLOPs at the chip's peak ({peaks})
  against the estimate.
- **bytes**: what the operations read and write, at the chip's bandwidth ({bandwidths});
  some of it stays in on-chip memory.
- **optimal**: XLA's `optimal_seconds`, the larger of FLOPs/peak and bytes/bandwidth of every
  operation. The analysis takes 1 s off for every custom call; that is put back. Reported for the
  single step only, because in loops the analysis does not count turns.
"""


def report(rows: list[Row], checks: list[str]) -> str:
    def each(value: Callable[[Chip], str]) -> str:
        return ", ".join(f"{name} {value(CHIPS[name])}" for name in CHIPS)

    packages = ("jax", "jaxlib", "libtpu", "optax", "flax", "nst-jax")
    parts = [
        HEADER.format(
            command=" ".join(["python", "benchmarks/tpu.py", *sys.argv[1:]]),
            versions=", ".join(f"{name} {version(name)}" for name in packages),
            model=f"{MODEL.upper()} ({sum(CONVS_PER_BLOCK[MODEL])} convolutions)",
            dtype=jnp.dtype(DTYPE).name,
            memories=each(lambda chip: f"{chip.memory / 2**30:.0f} GiB"),
            clocks=each(lambda chip: f"{chip.clock / 1e9:.2f} GHz"),
            peaks=each(lambda chip: f"{chip.flops / 1e12:.0f} TFLOP/s"),
            bandwidths=each(lambda chip: f"{chip.bandwidth / 1e9:.0f} GB/s"),
        ),
        "| chip | size | program | compiled in s | memory GiB | in place | host | estimate ms "
        "| products | moves | rest | copies | of peak | FLOPs ms | bytes ms | optimal ms |\n"
        "|---|--:|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *map(table_line, rows),
        "",
    ]
    foreign = sorted({name for row in rows for name in row.foreign_calls})
    parts.append(f"Custom calls besides joins of prefetched parts: {', '.join(foreign) or 'none'}.")
    if transfers := [transfer for row in rows for transfer in row.host_transfers]:
        parts += ["", "Host transfers:", "", *(f"- `{transfer}`" for transfer in transfers)]
    if checks:
        parts += [
            "",
            "## How far the estimate can be trusted",
            "",
            "The same sum of cycles for two programs whose time is known from the chip's figures:",
            "",
            "| chip | program | estimate ms | by the chip's figures ms | share |",
            "|---|---|--:|--:|--:|",
            *checks,
            "",
            "A sum of two arrays does nothing but pass over memory, and the estimate gives it much "
            "less than the bandwidth. A program that moves much data may therefore look slower "
            "here than it is. *Optimal* errs the other way: it assumes that every operation "
            "reaches the peak or the bandwidth. These figures are good for comparing two programs "
            "on one chip, not for promising seconds.",
        ]
    for row in rows:
        if (row.chip, row.size, row.program) == SHOWN and row.largest_moves:
            parts += [
                "",
                f"## Data moved in a step ({row.chip}, {row.size}, {row.program})",
                "",
                "The largest operations that compute nothing:",
                "",
                "| operation | result and layout | of | MiB | ms |",
                "|---|---|---|--:|--:|",
                *(
                    f"| {move.kind} | `{move.shape}` | `{move.source[-50:]}` "
                    f"| {move.mib:.0f} | {move.ms:.2f} |"
                    for move in row.largest_moves
                ),
            ]
    return "\n".join(parts) + "\n"


def table_line(row: Row) -> str:
    def optional(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    cells = [
        row.chip,
        str(row.size),
        row.program,
        f"{row.compile_seconds:.0f}",
        f"{row.needed / 2**30:.2f}" + ("" if row.needed <= row.capacity else " **too much**"),
        "yes" if row.in_place else "**no**",
        str(len(row.host_transfers)),
        f"{row.estimate:.1f}",
        f"{row.products:.1f}",
        f"{row.moves:.1f}",
        f"{row.others:.1f}",
        str(row.copies),
        f"{row.by_flops / row.estimate:.0%}",
        f"{row.by_flops:.1f}",
        optional(row.by_bytes),
        optional(row.optimal),
    ]
    return "| " + " | ".join(cells) + " |"
