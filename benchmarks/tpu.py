"""What XLA's TPU compiler makes of the optimisation, on a machine without a TPU.

python benchmarks/tpu.py

``libtpu`` compiles for chips that are not there. This compiles one step of Adam, and the rolled
loops of Adam and of L-BFGS exactly as `nst_jax.optimize.loop.minimise` asks for them, for one chip of
two generations, and writes to ``benchmarks/TPU.md`` what the compiler says: whether the plan fits
the memory, whether the loop talks to the host, whether the picture is updated in place, which data
is moved about around the convolutions, and how many cycles it expects. No weights are needed, only
their shapes. **Nothing is run on a TPU; all of it is estimates.**

Needs ``pip install libtpu``, in an environment of its own, because JAX looks for a chip wherever
it finds one installed. ``--json`` prints the results instead of writing the file.
"""

import argparse
import dataclasses
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
from tpu_hlo import (
    MOVING,
    inside,
    kind_of,
    loop_body,
    mebibytes,
    parse,
    talks_to_host,
    text_of,
    turn,
)
from tpu_programs import CHIPS, PROGRAMS, donated_bytes, on_chip, useful_flops
from tpu_report import Move, Row, report, table_line

REPORT: Final = Path(__file__).with_name("TPU.md")
SIZES: Final = (512, 1024, 2048)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the optimisation for TPUs.")
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=list(CHIPS))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    jax.config.update("jax_platforms", "cpu")  # the compiler alone, no chip
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

    rows: list[Row] = []
    checks: list[str] = []
    for chip in options.chips:
        if not options.json:
            checks += credibility(chip)
        for size in options.sizes:
            for program in options.programs:
                rows.append(measure(chip, size, program))
                if not options.json:
                    print(table_line(rows[-1]), flush=True)
                    REPORT.write_text(report(rows, checks), encoding="utf-8")
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows]))


def measure(chip: str, size: int, program: str) -> Row:
    lowered = PROGRAMS[program](chip, size)
    begun = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - begun
    plan, costs = compiled.memory_analysis(), compiled.cost_analysis()
    parsed, entry = parse(text_of(compiled))
    everything = [operation for operations in parsed.values() for operation in operations]
    body = turn(parsed, loop_body(parsed, entry))
    figures, per_ms = CHIPS[chip], CHIPS[chip].clock / 1e3

    by_kind = {"products": 0, "moves": 0, "others": 0}
    moves: list[Move] = []
    for operation in body:
        kind = kind_of(parsed, operation)
        by_kind[kind] += operation.cycles
        if kind == "moves" and operation.cycles:
            source = re.search(r'op_name="([^"]*)"', operation.line)
            moves.append(
                Move(
                    operation.opcode
                    if operation.opcode != "fusion"
                    else " + ".join(sorted(set(inside(parsed, operation)) & MOVING)),
                    operation.shape,
                    source[1] if source else "",
                    mebibytes(operation.shape),
                    operation.cycles / per_ms,
                )
            )
    moves.sort(key=lambda move: -move.ms)
    calls = [op for op in everything if op.opcode == "custom-call"]
    targets = {re.sub(r'.*custom_call_target="([^"]*)".*', r"\1", op.line) for op in calls}
    straight = program.startswith("step")  # in a loop, the totals do not tell one turn from another
    return Row(
        chip,
        size,
        program,
        round(seconds, 1),
        plan.temp_size_in_bytes
        + plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes,
        figures.memory,
        plan.alias_size_in_bytes >= donated_bytes(lowered) > 0,
        [op.line.strip()[:200] for op in everything if talks_to_host(op)],
        sorted(targets - {"ConcatBitcast"}),  # joins parts that were fetched one by one
        sum(by_kind.values()) / per_ms,
        by_kind["products"] / per_ms,
        by_kind["moves"] / per_ms,
        by_kind["others"] / per_ms,
        1e3 * useful_flops(size) / figures.flops,
        1e3 * costs["bytes accessed"] / figures.bandwidth if straight else None,
        # The analysis counts -1 s, "unknown", for every custom call.
        1e3 * (costs["optimal_seconds"] + len(calls)) if straight else None,
        sum(
            op.opcode in ("copy", "transpose") and op.cycles > 0 and mebibytes(op.shape) >= 1
            for op in body
        ),
        moves[:15],
    )


def credibility(chip: str) -> list[str]:
    """Compare the compiler's cycles with the chip's figures where the truth is known roughly."""
    figures, lines = CHIPS[chip], []
    cases: dict[str, tuple[Callable[..., Any], tuple[int, int], Any, float]] = {
        "a product of two 8192x8192 matrices, bfloat16": (
            jnp.matmul,
            (8192, 8192),
            jnp.bfloat16,
            2 * 8192**3 / figures.flops,
        ),
        "a sum of two 8192x8192 matrices, float32": (
            jnp.add,
            (8192, 8192),
            jnp.float32,
            3 * 4 * 8192**2 / figures.bandwidth,
        ),
    }
    for name, (function, shape, dtype, ideal) in cases.items():
        argument = on_chip(jax.ShapeDtypeStruct(shape, dtype), chip)
        compiled = jax.jit(function).lower(argument, argument).compile()
        parsed, entry = parse(text_of(compiled))
        seconds = sum(op.cycles for op in turn(parsed, entry)) / figures.clock
        lines.append(
            f"| {chip} | {name} | {1e3 * seconds:.2f} | {1e3 * ideal:.2f} | {ideal / seconds:.0%} |"
        )
    return lines


if __name__ == "__main__":
    main()
