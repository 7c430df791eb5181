"""Run the command line of a checkout as a child process; measure its time and its memory.

This module imports neither JAX nor nst_jax, because a child may inherit the peak memory of its
parent (`ru_maxrss`).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image

ROOT: Final = Path(__file__).resolve().parents[1]
CONTENT: Final = ROOT / "examples" / "cat.jpg"
STYLE: Final = ROOT / "examples" / "swirls.jpg"


STAGES: Final = {
    "trace": r"tracing (?:\+ transforming )?_run_chunk for p?jit",
    "lower": r"jaxpr to MLIR module conversion jit\(_run_chunk\)",
    "compile": r"XLA compilation of jit\(_run_chunk\)",
}
"""The lines of JAX's log about the optimization loop."""


class Usage(NamedTuple):
    """What one command needed."""

    seconds: float  # wall-clock time
    peak_bytes: int  # resident memory


def run(*arguments: str | Path, checkout: Path = ROOT, cache: Path | None = None) -> Usage:
    """Run the ``nst-jax`` of a checkout to its end, with a cache folder or the user's own cache.

    Raises:
        SystemExit: the command failed; the message is its standard error.
    """
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = _start(checkout, arguments, cache, errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            raise SystemExit(f"nst-jax {arguments[0]} failed: {errors.read()}")
    return Usage(seconds, usage.ru_maxrss * 1024)


def compilations(
    *arguments: str | Path, checkout: Path = ROOT, cache: Path | None = None
) -> dict[str, float]:
    """Run a command; return the seconds that its optimization loops took to trace, lower and
    compile, and the number of all programs."""
    with tempfile.TemporaryFile("w+") as errors:
        with _start(checkout, arguments, cache, errors, {"JAX_LOG_COMPILES": "1"}) as process:
            process.wait()
        errors.seek(0)
        log = errors.read()
    totals = {
        stage: sum(map(float, re.findall(rf"Finished {line} in ([\d.e+-]+) sec", log)))
        for stage, line in STAGES.items()
    }
    return {**totals, "programs": float(log.count("Finished XLA compilation of"))}


def first_step(*arguments: str | Path, checkout: Path = ROOT, cache: Path | None = None) -> float:
    """Return the seconds until the progress bar shows the first loss; then kill the command."""
    start = time.perf_counter()
    with _start(checkout, arguments, cache, subprocess.PIPE) as process:
        assert process.stderr is not None
        output = b""
        while b"loss=" not in output:
            piece = os.read(process.stderr.fileno(), 4096)
            if not piece:
                raise SystemExit(f"nst-jax {arguments[0]} took no step: {output.decode()}")
            output += piece
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def _start(
    checkout: Path,
    arguments: tuple[str | Path, ...],
    cache: Path | None,
    errors: Any,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    scripts = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["nst-jax"].partition(":")
    environment = os.environ | {"PYTHONPATH": str(checkout)} | dict(variables or {})
    if cache is not None:
        environment |= {"NST_JAX_CACHE": str(cache), "NST_JAX_OFFLINE": "1"}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # it takes precedence
    # -P keeps the current folder, which may be another checkout, off the import path.
    code = f"from {module} import {function}; {function}()"
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)


def metadata(path: Path) -> dict[str, Any]:
    """Return the metadata that nst_jax wrote into a PNG file."""
    with Image.open(path) as image:
        return json.loads(image.info["nst_jax"])
