"""Markdown tables, and the facts about the machine that belong beside every measurement."""

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

import psutil

COMMAND_VARIABLES: Final = ("GLIBC_TUNABLES", "XLA_FLAGS")
"""Environment variables that change measurements; they are shown before the command."""
PACKAGES: Final = ("jax", "jaxlib", "libtpu", "optax", "flax", "torch")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is aligned left, the others right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Format with three significant digits and without an exponent.

    >>> number(1234.5), number(12.345), number(0.012345)
    ('1234', '12.3', '0.0123')
    """
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def facts(**others: str) -> str:
    """Return a Markdown list: date, machine, package versions, command, and ``others``."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    script = Path(sys.argv[0].removesuffix("/__main__.py")).name
    variables = [f"{name}={os.environ[name]}" for name in COMMAND_VARIABLES if name in os.environ]
    installed = {found.name.lower(): found.version for found in distributions()}
    versions = [f"{name} {installed[name]}" for name in PACKAGES if name in installed]
    memory = psutil.virtual_memory().total / 2**30
    found = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "versions": ", ".join([f"python {platform.python_version()}", *versions]),
        "command": f"`{shlex.join([*variables, 'python', f'benchmarks/{script}', *words])}`",
    }
    return "\n".join(f"- {name}: {value}" for name, value in (found | others).items())


def processor() -> str:
    """Return the name of the CPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def log(text: str) -> None:
    """Print progress to standard error, so that standard output holds the report alone."""
    print(text, file=sys.stderr, flush=True)
