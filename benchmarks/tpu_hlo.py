"""Reading optimised HLO: what a program computes, what it only moves, and in how many cycles."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import jax

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
