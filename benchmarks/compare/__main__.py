"""Compare nst_jax with PyTorch: time, arithmetic and memory of the same optimization.

    python benchmarks/compare

It measures the contenders for this machine (`CONTENDERS`) and prints Markdown tables. Each has a
process of its own. In each round all contenders run once, and the order rotates from round to
round. Both libraries run the same steps: Adam, or L-BFGS *without a line search*, so that one step
is one evaluation of the loss and its gradient everywhere. A contender fails if its loss differs at
the start. Nothing else should run on the machine meanwhile. ``--largest`` finds the largest square
that nst_jax can optimize instead.

Environment variables before the command apply to all contenders and are printed with it:
``GLIBC_TUNABLES=glibc.malloc.hugetlb=1`` (huge pages), or ``XLA_FLAGS`` such as
``--xla_gpu_autotune_level=0`` and ``--xla_gpu_enable_command_buffer=``.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TextIO

# `python benchmarks/compare` puts this folder on the path, and not the folder with the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
from processes import ChildError
from reporting import facts, log

from compare import worker
from compare.report import Configuration, Row, loss_difference, markdown
from compare.worker import Worker
from compare.workload import Job, step_bytes

CONTENDERS: Final = {
    "cpu": tuple(
        f"{side} {precision}"
        for precision in ("float32", "bfloat16")
        for side in ("nst_jax", "nst_jax vmap", "torch eager", "torch compile")
    ),
    "gpu": tuple(
        f"{side} {precision}"
        for precision in ("float32", "tf32", "bfloat16")
        for side in ("nst_jax", "torch eager", "torch compile", "torch graphs")
    ),
}
"""Library, mode, precision. ``vmap`` runs a batch in one vmapped loop, as on GPUs. On GPUs float32
is without TF32, ``tf32`` is the default of JAX for float32, and ``torch graphs`` is torch.compile
with CUDA graphs."""

TOLERANCES: Final = {"float32": 1e-3, "tf32": 5e-3, "bfloat16": 2e-2}
"""The largest relative difference of the first loss from that of the reference."""
OPTIMIZERS: Final = ("adam", "lbfgs")
MATMUL_SIZES: Final = {"cpu": 2048, "gpu": 8192}
LARGEST_STEP: Final = 256


def main() -> None:
    options = parse()
    if options.largest:
        options.out.write(largest_square(options.device or "gpu", options.largest) + "\n")
        return
    gpus = [] if options.device == "cpu" else [gpu_name(library) for library in worker.SIDES]
    if not all(gpus) and (any(gpus) or options.device == "gpu"):
        raise SystemExit("JAX or PyTorch finds no GPU; install CUDA builds, or use --device cpu")
    device = "gpu" if any(gpus) else "cpu"
    contenders = options.contenders or CONTENDERS[device]
    if unknown := set(contenders) - set(CONTENDERS[device]):
        raise SystemExit(f"unknown contenders {unknown}; choose from {CONTENDERS[device]}")
    configurations: list[Configuration] = []
    about = facts(device=", ".join(filter(None, gpus)) or "CPU")
    try:
        for optimizer in options.optimizers:
            for size in options.sizes:
                for batch in options.batches:
                    configurations.append(Configuration(Job(size, batch, optimizer)))
                    measure(configurations[-1], contenders, device, options)
                    if options.out is not sys.stdout:  # a later kill loses nothing
                        write(options.out, markdown(about, contenders, configurations))
    finally:  # Ctrl-C reports what is measured
        write(options.out, markdown(about, contenders, configurations))


def write(out: TextIO, report: str) -> None:
    """Write the report of now over an earlier one; standard output has no earlier one."""
    if out is not sys.stdout:
        out.seek(0)
        out.truncate()
    out.write(report)
    out.flush()


def gpu_name(library: str) -> str | None:
    with closing(Worker(None)) as process:
        return process.call(worker.load, library)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compare", description="Compare nst_jax with PyTorch.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS)
    parser.add_argument("--steps", type=int, default=100, help="most steps of a round")
    parser.add_argument("--rounds", type=int, default=5, help="most rounds")
    parser.add_argument("--budget", type=float, default=90, help="seconds of a configuration")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="default: the GPU if there is one")
    parser.add_argument("--largest", type=int, metavar="LIMIT", help="largest square up to LIMIT")
    parser.add_argument("--out", type=argparse.FileType("w"), default="-", help="Markdown file")
    return parser.parse_args()


def measure(
    configuration: Configuration, contenders: Sequence[str], device: str, options: Any
) -> None:
    """Measure all contenders in one configuration."""
    job = configuration.job
    log(f"{job}")
    needed, available = step_bytes(job), psutil.virtual_memory().available
    if device == "cpu" and needed > 0.7 * available:
        amounts = f"about {needed / 2**30:.1f} GiB and {available / 2**30:.1f} GiB are free"
        configuration.skipped = f"one contender needs {amounts}"
        return
    rows = {name: Row(name) for name in contenders if job.batch > 1 or "vmap" not in name}
    configuration.rows = list(rows.values())
    workers: dict[str, Worker] = {}

    def call(name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Return None and record the reason if a contender fails."""
        try:
            return workers[name].call(function, *args)
        except ChildError as error:
            rows[name].failed = str(error)
            log(f"  {name}: {error}")
            workers.pop(name).close()

    def run_round(steps: int, order: Sequence[str]) -> float:
        """Run each contender once; return the seconds of all together."""
        total = 0.0
        for name in order:
            if timing := call(name, worker.run, steps):
                total += timing.seconds
                rows[name].losses = timing.losses
                rows[name].milliseconds.append(1e3 * timing.seconds / steps)
        return total

    try:
        for name, row in rows.items():
            library, *mode, precision = name.split()
            workers[name] = Worker(device)
            call(name, worker.load, library)
            if name in workers:
                prepared = call(name, worker.prepare, job, " ".join(mode), precision, device)
                row.first_call = prepared or 0.0
        step_seconds = max(run_round(1, list(workers)), 1e-6)
        for row in configuration.rows:
            row.milliseconds.clear()  # the first round only warms up
        budget = max(2, int(options.budget / step_seconds))  # steps of each contender
        rounds = min(options.rounds, budget)
        configuration.steps = min(options.steps, budget // rounds)
        for index in range(rounds):
            order = list(workers)
            shift = index % max(1, len(order))
            run_round(configuration.steps, order[shift:] + order[:shift])
        for name in list(workers):
            if found := call(name, worker.finish, MATMUL_SIZES[device]):
                rows[name].peak_bytes, rows[name].baseline_bytes, rows[name].matmul_rate = found
    finally:
        for process in workers.values():
            process.close()
    check_agreement(configuration)


def check_agreement(configuration: Configuration) -> None:
    """Mark contenders as failed if their first loss shows that they do other work."""
    reference = configuration.reference()
    for row in configuration.rows:
        difference = loss_difference(row, reference, 0)
        if difference is not None and not difference <= TOLERANCES[row.precision]:
            row.failed = f"its first loss differs by {difference:.1e} from the reference"
            log(f"  {row.contender}: {row.failed}")


def largest_square(device: str, limit: int) -> str:
    """Find the largest square, in multiples of `LARGEST_STEP`, that takes a step without tiles."""
    fits, fails = 0, limit + 1
    while fails - fits > LARGEST_STEP:
        # Double until a size fails, then bisect.
        size = min(2 * fits, limit) if fails > limit and fits else (fits + fails) // 2
        size = max(LARGEST_STEP, size // LARGEST_STEP * LARGEST_STEP)
        log(f"{size} × {size}")
        try:
            with closing(Worker(device)) as process:
                process.call(worker.load, "nst_jax")
                process.call(worker.prepare, Job(size, 1, "adam"), "", "bfloat16", device)
            fits = size
        except ChildError as error:
            log(f"  {error}")
            fails = size
    note = "" if fails <= limit else ", the largest tried"
    return f"Largest square (Adam, bfloat16, without tiles): {fits} × {fits}{note}."


if __name__ == "__main__":
    main()
