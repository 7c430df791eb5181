"""What XLA's TPU compiler makes of the optimisation, on a machine without a TPU.

python benchmarks/tpu.py

``libtpu`` compiles for chips that are not there. This compiles one step of Adam, and the rolled
loops of Adam and of L-BFGS exactly as `nst_jax.optimize.minimise` asks for them, for one chip of
two generations, and writes to ``benchmarks/TPU.md`` what the compiler says: whether the plan fits
the memory, whether the loop talks to the host, whether the picture is updated in place, which data
is moved about around the convolutions, and how many cycles it expects. No weights are needed, only
their shapes. **Nothing is run on a TPU; all of it is estimates.**

Needs ``pip install libtpu``, in an environment of its own, because JAX looks for a chip wherever
it finds one installed. ``--json`` prints the results instead of writing the file.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from unittest import mock

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies

from nst_jax import LossWeights, Settings, loss, make_targets, optimize
from nst_jax.architectures import CONVS_PER_BLOCK, conv_names, conv_shape
from nst_jax.vgg import tap_names

REPORT: Final = Path(__file__).with_name("TPU.md")
MODEL, DTYPE, SETTINGS = "vgg19", jnp.bfloat16, Settings()
SIZES: Final = (512, 1024, 2048)
SHOWN = ("v5e", 1024, "step, Adam")
"""The program whose moves of data are listed one by one."""


@dataclass(frozen=True)
class Chip:
    """The vendor's figures; the clock is peak / (2 x multipliers), 4·128² and 4·256² of them."""

    memory: int
    flops: float
    bandwidth: float
    clock: float


CHIPS: Final = {
    "v5e": Chip(16 * 2**30, 197e12, 819e9, 197e12 / (2 * 4 * 128**2)),
    "v6e": Chip(32 * 2**30, 918e12, 1640e9, 918e12 / (2 * 4 * 256**2)),
}


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


# --- the programs --------------------------------------------------------------------------------


@functools.cache
def place(chip: str) -> jax.sharding.Sharding:
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{chip}:1x1", chips_per_host_bounds=(1, 1, 1)
    )
    return jax.sharding.SingleDeviceSharding(topology.devices[0])


def on_chip(tree: Any, chip: str) -> Any:
    def leaf(x: Any) -> Any:
        if not hasattr(x, "shape"):
            return x
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(chip))

    return jax.tree.map(leaf, tree)


def problem(size: int) -> tuple[jax.ShapeDtypeStruct, tuple[Any, ...]]:
    """The image and the loss' arguments for a square picture, as shapes."""
    array = jax.ShapeDtypeStruct
    image = array((size, size, 3), jnp.float32)
    params: dict[str, Any] = {
        "input": {"mean": array((3,), jnp.float32), "std": array((3,), jnp.float32)}
    }
    for name in conv_names(MODEL):
        shape = conv_shape(name)
        params[name] = {"kernel": array(shape, DTYPE), "bias": array(shape[-1:], DTYPE)}

    def targets_of(params: Any, content: Any, style: Any) -> Any:
        return make_targets(
            params,
            content,
            [style],
            content_layers=tuple(SETTINGS.content_layers),
            style_layers=tuple(SETTINGS.style_layers),
            form=SETTINGS.form,
            pooling=SETTINGS.pooling,
            padding=SETTINGS.padding,
        )

    weights = LossWeights(
        SETTINGS.content_weight,
        SETTINGS.style_weight,
        SETTINGS.tv,
        SETTINGS.content_layers,
        SETTINGS.style_layers,
    )
    return image, (params, jax.eval_shape(targets_of, params, image, image), weights)


def one_step(chip: str, size: int) -> Any:
    optimizer = optax.adam(0.01, b1=0.9, b2=0.99)

    def step(image: jax.Array, state: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        (total, parts), grads = jax.value_and_grad(loss, has_aux=True)(image, *args)
        updates, state = optimizer.update(grads, state, image)
        moved = jnp.asarray(optax.apply_updates(image, updates))
        return jnp.clip(moved, 0.0, 1.0), state, total, parts

    image, args = problem(size)
    state = jax.eval_shape(optimizer.init, image)
    return jax.jit(step, donate_argnums=(0, 1)).lower(*on_chip((image, state, args), chip))


class Captured(Exception):  # noqa: N818
    """What `minimise` asks to be compiled."""


def loop(chip: str, size: int, *, line_search: bool) -> Any:
    def capture(jitted: Any, *args: Any, **kwargs: Any) -> Any:
        raise Captured(jitted, args, kwargs)

    adam, lbfgs = optax.adam(0.01, b1=0.9, b2=0.99), optax.lbfgs(memory_size=10)
    image, args = problem(size)
    with mock.patch.object(optimize, "compile_to_fit", capture):
        try:
            optimize.minimise(
                loss,
                jnp.zeros(image.shape, image.dtype),
                args,
                optimizer=lbfgs if line_search else adam,
                steps=1,
            )
        except Captured as captured:
            jitted, args, kwargs = captured.args
            return jitted.lower(*on_chip(args, chip), **on_chip(kwargs, chip))
    raise RuntimeError("minimise compiled nothing")


def donated_bytes(lowered: Any) -> int:
    leaves = jax.tree.leaves(lowered.args_info)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves if x.donated)


PROGRAMS: Final[dict[str, Callable[[str, int], Any]]] = {
    "step, Adam": one_step,
    "loop, Adam": functools.partial(loop, line_search=False),
    "loop, L-BFGS": functools.partial(loop, line_search=True),
}


def useful_flops(size: int) -> float:
    """Of one evaluation with its gradient: each convolution and each Gram matrix once forward and
    once back, by their definition, without what a compiler adds."""
    taps = tap_names(MODEL)
    deepest = max(taps.index(tap) for tap in (*SETTINGS.content_layers, *SETTINGS.style_layers))
    total, names = 0.0, conv_names(MODEL)
    for name in names[: deepest // 2 + 1]:
        side = size >> (int(name[4]) - 1)
        height, width, inputs, filters = conv_shape(name)
        total += 4.0 * side**2 * height * width * inputs * filters
        if name.replace("conv", "relu") in SETTINGS.style_layers:
            total += 4.0 * side**2 * filters**2
    return total


# --- reading the compiled program ----------------------------------------------------------------

MOVING = {"copy", "transpose", "reshape", "pad", "slice", "concatenate", "broadcast", "reverse"}
MOVING |= {"dynamic-slice", "dynamic-update-slice", "gather"}
SILENT = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "iota"}
ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}


@dataclass(frozen=True)
class Operation:
    opcode: str
    shape: str
    line: str
    calls: tuple[str, ...]

    @property
    def cycles(self) -> int:
        found = re.search(r'"estimated_cycles":"(\d+)"', self.line)
        return int(found[1]) if found else 0


Program = dict[str, list[Operation]]


def parse(text: str) -> tuple[Program, str]:
    """Read optimised HLO: the operations of each computation, and the entry's name."""
    program: Program = {}
    entry = current = ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" ") and "(" in line:
            current = line.removeprefix("ENTRY ").split()[0].lstrip("%")
            program[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif " = " in line and current:
            shape, rest = split_shape(line.split(" = ", 1)[1])
            attributes = rest.split(", metadata=")[0].split(", backend_config=")[0]
            called = re.findall(
                r"(?:calls|body|true_computation|false_computation|to_apply)=%([^\s,]+)", attributes
            )
            for branches in re.findall(r"branch_computations=\{([^}]*)\}", attributes):
                called += [name.strip().lstrip("%") for name in branches.split(",")]
            program[current].append(Operation(rest.split("(")[0], shape, line, tuple(called)))
    return program, entry


def text_of(compiled: jax.stages.Compiled) -> str:
    text = compiled.as_text()
    assert text is not None
    return text


def split_shape(text: str) -> tuple[str, str]:
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if letter == " " and depth == 0:
            return text[:i], text[i + 1 :]
    return text, ""


def turn(program: Program, name: str) -> list[Operation]:
    """The operations of one turn: a nested loop once, and of a condition the cheapest branch."""
    operations: list[Operation] = []
    for operation in program[name]:
        if operation.opcode == "conditional":
            branches = [turn(program, branch) for branch in operation.calls]
            operations += min(branches, key=lambda ops: sum(op.cycles for op in ops))
        elif operation.opcode in ("while", "call"):
            operations += [op for called in operation.calls for op in turn(program, called)]
        else:
            operations.append(operation)
    return operations


def loop_body(program: Program, entry: str) -> str:
    """The body of the loop that costs most; the entry itself where there is none."""
    bodies = [op.calls[0] for op in program[entry] if op.opcode == "while" and op.calls]
    costs = {name: sum(op.cycles for op in turn(program, name)) for name in bodies}
    return max(costs, key=lambda name: costs[name]) if costs else entry


def inside(program: Program, operation: Operation) -> Iterator[str]:
    yield operation.opcode
    if operation.opcode == "fusion":
        for name in operation.calls:
            for inner in program[name]:
                yield from inside(program, inner)


def kind_of(program: Program, operation: Operation) -> str:
    """``products`` (convolutions and matrix products), ``moves`` (nothing computed), ``others``."""
    opcodes = set(inside(program, operation)) - SILENT - {"fusion"}
    if opcodes & {"convolution", "dot"}:
        return "products"
    return "moves" if opcodes <= MOVING else "others"


def mebibytes(shape: str) -> float:
    total = 0
    for item, dims in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape):
        count = math.prod(int(dim) for dim in filter(None, dims.split(",")))
        total += count * ITEM_BYTES.get(item, 4)
    return total / 2**20


def talks_to_host(operation: Operation) -> bool:
    """Transfers, callbacks, and copies to the host's memory, which is memory space 5."""
    if operation.opcode in ("infeed", "outfeed") or operation.opcode.startswith(("send", "recv")):
        return True
    callback = operation.opcode == "custom-call" and re.search(
        r'custom_call_target="[^"]*(callback|[Hh]ost)', operation.line
    )
    return bool(callback) or "S(5)" in operation.shape or "is_host_transfer=true" in operation.line


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


# --- the report ----------------------------------------------------------------------------------

HEADER = """# TPU: what the compiler says

**Estimates by XLA's TPU compiler. Nothing here was run on a TPU.** Written by
`{command}` with {versions}.

{model} in {dtype}, square pictures, default settings; one chip. The loops are
`nst_jax.optimize`'s, with their number of turns as an argument. A turn of L-BFGS is counted with
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


if __name__ == "__main__":
    main()
