"""What pays on a GPU: one choice at a time against the default. In the project:

python benchmarks/gpu.py

Every experiment runs Adam on one picture through `nst_jax.minimise` in a process of its own,
because XLA reads its flags when it starts. Then it looks for the largest square that fits. The
table goes to ``benchmarks/GPU.md``; `compare.py` holds the same steps against PyTorch. On a machine
without a GPU it runs too, as a check of the script: pass small ``--sizes``.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from common import Job, one_line, step_flops
from results import number, table

HERE: Final = Path(__file__).parent


class Experiment(NamedTuple):
    """A change of one thing."""

    precision: str = "bfloat16"
    flags: str = ""


EXPERIMENTS: Final = {
    "default (bfloat16)": Experiment(),
    "float32 with TF32": Experiment("tf32"),
    "float32 without TF32": Experiment("float32"),
    "no CUDA graphs": Experiment(flags="--xla_gpu_enable_command_buffer="),
    "loops inside CUDA graphs": Experiment(
        flags="--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUDNN,CONDITIONAL,WHILE"
    ),
    "no autotuning": Experiment(flags="--xla_gpu_autotune_level=0"),
    "products by cuBLAS alone": Experiment(flags="--xla_gpu_enable_triton_gemm=false"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Try choices on a GPU.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--steps", type=int, default=1000, help="Adam steps of each run")
    parser.add_argument("--limit", type=int, default=65536, help="largest square to try")
    parser.add_argument("--output", type=Path, default=HERE / "GPU.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(**json.loads(options.one))))
        return
    rows, machine = [], {}
    for size in options.sizes:
        usual = None
        for name, experiment in EXPERIMENTS.items():
            found = run(experiment, size, options.steps)
            machine = found.pop("machine", machine)
            print(size, name, found, file=sys.stderr, flush=True)
            if "error" in found:
                rows.append([f"{size} × {size}", name, found["error"], *["–"] * 6])
                continue
            usual = usual or found["ms"]
            rate = step_flops(size) / found["ms"] * 1e3
            rows.append(
                [
                    f"{size} × {size}",
                    name,
                    number(found["ms"]),
                    f"{found['ms'] / usual:.2f}",
                    number(rate / 1e12),
                    f"{rate / found['peak_rate']:.0%}",
                    number(found["seconds"]),
                    number(found["compile_seconds"]),
                    f"{found['peak_bytes'] / 2**20:.0f}",
                ]
            )
    fitting = largest(options.limit)
    head = ["", "", "ms a step", "of default", "TFLOP/s", "of a bfloat16 product"]
    head += [f"{options.steps} steps, s", "compilation, s", "peak, MiB"]
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        **machine,
        "command": f"`python benchmarks/gpu.py {' '.join(sys.argv[1:])}`",
        "largest square that fits (bfloat16, Adam)": fitting,
    }
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    title = "# Choices on a GPU\n\nWritten by `python benchmarks/gpu.py`."
    options.output.write_text(f"{title}\n\n" + "\n".join(lines) + f"\n\n{table(head, rows)}\n")


def run(experiment: Experiment, size: int, steps: int) -> dict[str, Any]:
    """One experiment in its own process."""
    request = json.dumps({"size": size, "steps": steps, **experiment._asdict()})
    flags = f"{os.environ.get('XLA_FLAGS', '')} {experiment.flags}".strip()
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [sys.executable, __file__, "--one", request],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"NST_JAX_OFFLINE": "1"},
    )
    if done.returncode != 0:
        return {"error": (done.stderr.strip().splitlines() or ["it ended"])[-1][:160]}
    return json.loads(done.stdout.splitlines()[-1])


def one(size: int, steps: int, precision: str, flags: str) -> dict[str, Any]:
    """In the experiment's process: compile, take the steps three times, tell the median."""
    import jax
    import jax_side

    device = jax.devices()[0]
    where = "gpu" if device.platform == "gpu" else "cpu"
    try:
        contender = jax_side.contender(Job(size, 1, "adam"), "", precision, where)
        begun = time.perf_counter()
        first = contender.turn(1)
        compile_seconds = time.perf_counter() - begun - first.seconds
        seconds = statistics.median(contender.turn(steps).seconds for _ in range(3))
    except Exception as error:  # told in the table
        return {"error": one_line(error)}
    return {
        "ms": 1e3 * seconds / steps,
        "seconds": seconds,
        "compile_seconds": compile_seconds,
        "peak_bytes": jax_side.device_peak_bytes(),
        "peak_rate": jax_side.matmul_rate("bfloat16", where, 8192 if where == "gpu" else 1024),
        "machine": {"device": device.device_kind, "jax": jax.__version__},
    }


def largest(limit: int) -> str:
    """The largest square, in steps of 256 pixels up to ``limit``, that still takes a step."""
    fits, fails = 0, limit + 256
    size = min(1024, limit)
    while fails - fits > 256:
        if "error" in run(Experiment(), size, 1):
            fails = size
        else:
            fits = size
        doubled = 2 * fits if fails > limit else limit + 1
        size = doubled if fits and doubled <= limit else (fits + fails) // 512 * 256
    return f"{fits} × {fits}" if fails <= limit else f"{fits} × {fits}, the largest tried"


if __name__ == "__main__":
    main()
