"""nst_jax against PyTorch: time, arithmetic and memory of the same optimisation. In the project:

python benchmarks/compare.py

It measures the contenders that suit the machine (`CONTENDERS`), each in a process of its own that
sleeps while another works, in rounds whose order rotates, and writes ``benchmarks/RESULTS.md``.
Both sides run the same steps: Adam, or L-BFGS *without a line search* on either side, because one
step is then one evaluation of the loss and its gradient everywhere, which a line search's steps are
not. The losses must agree at the start, or a contender's figures are not given.

How many steps and rounds are run follows from ``--budget``; what would not fit it, or the memory,
is left out with a line that says so. Nothing else should run on the machine meanwhile.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from common import Job, Message, step_bytes, step_flops
from results import Configuration, Results, Row, difference, write

HERE: Final = Path(__file__).parent

CONTENDERS: Final = {
    "cpu": (
        "nst_jax float32",
        "nst_jax vmap float32",
        "torch eager float32",
        "torch compile float32",
        "nst_jax bfloat16",
        "nst_jax vmap bfloat16",
        "torch eager bfloat16",
        "torch compile bfloat16",
    ),
    "gpu": tuple(
        f"{side} {precision}"
        for precision in ("float32", "tf32", "bfloat16")
        for side in ("nst_jax", "torch eager", "torch compile", "torch graphs")
    ),
}
"""Several pictures are done as `nst_jax.stylize_each` does them: on CPUs one after another, for
which ``nst_jax vmap`` is the alternative, and vmapped on GPUs. There, float32 is without TF32;
``nst_jax tf32`` is what JAX does by default. ``torch graphs`` is torch.compile with CUDA graphs."""

AGREEMENT: Final = {"float32": 1e-3, "tf32": 5e-3, "bfloat16": 2e-2}
"""How far the start's loss may be from the reference's, as a share of it."""

MATMUL_SIZE: Final = {"cpu": 2048, "gpu": 8192}
ALLOCATOR: Final = "GLIBC_TUNABLES"
USUAL_EFFICIENCY: Final = 0.5
"""The share of the peak that is expected when time is predicted."""


def main() -> None:
    options = parse()
    helpers = {library: Worker(options.device) for library in ("nst_jax", "torch")}
    probes = {name: helper.ask("load", library=name) for name, helper in helpers.items()}
    gpus = [answer["gpu"] for answer in probes.values()]
    device = "gpu" if all(gpus) else "cpu"
    if device != (options.device or device) or any(gpus) != all(gpus):
        raise SystemExit("JAX, PyTorch or both find no GPU; install CUDA builds, or --device cpu")
    contenders = list(options.contenders or CONTENDERS[device])
    for contender in contenders:
        if contender not in CONTENDERS[device]:
            known = ", ".join(CONTENDERS[device])
            raise SystemExit(f"unknown contender {contender!r}; on this {device}: {known}")
    results = Results(
        f"GPU: {gpus[-1]}" if device == "gpu" else f"CPU: {cpu()}",
        facts(probes),
        peaks(contenders, device, helpers),
        contenders,
    )
    jobs = [
        Job(s, b, o) for o in options.optimizers for s in options.sizes for b in options.batches
    ]
    try:
        for job in jobs:
            say(f"{job.optimizer}, {job.size} x {job.size}, batch {job.batch}")
            results.configurations.append(measure(job, results, device, options))
    except KeyboardInterrupt:
        results.facts["command"] += ", stopped after these"
        raise
    finally:  # Ctrl-C keeps what is done
        if results.configurations:
            write(results, options.output)
            if options.json:
                options.json.write_text(json.dumps(results.as_json(), indent=1) + "\n")
            say(f"written to {options.output.name}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare nst_jax with PyTorch.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--optimizers", nargs="+", choices=("adam", "lbfgs"), default=["adam", "lbfgs"]
    )
    parser.add_argument("--steps", type=int, default=100, help="most steps a turn")
    parser.add_argument("--rounds", type=int, default=5, help="most turns of each contender")
    parser.add_argument(
        "--budget", type=float, default=90, help="seconds of steps a configuration, about"
    )
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="all by default")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="the GPU where both sides see it")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md")
    parser.add_argument("--json", type=Path, help="where to write the raw figures")
    return parser.parse_args()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- measuring -----------------------------------------------------------------------------------


def measure(job: Job, results: Results, device: str, options: argparse.Namespace) -> Configuration:
    """All contenders in one configuration."""
    configuration = Configuration(job)
    configuration.skipped = why_not(job, results, device, options.budget)
    if configuration.skipped:
        say(f"  not run: {configuration.skipped}")
        return configuration
    workers: dict[str, Worker] = {}
    rows = {name: Row(name, name.split()[-1]) for name in taking_part(job, results)}
    configuration.rows = list(rows.values())

    def ask(name: str, do: str, **request: Any) -> Message:
        """Nothing, and the reason in the table, if a contender fails."""
        try:
            return workers[name].ask(do, **request)
        except WorkerError as error:
            rows[name].failed = str(error)
            say(f"  {name}: {error}")
            workers.pop(name).close()
            return {}

    def turns(steps: int, order: Sequence[str], record: bool = True) -> float:
        """One turn of each, and the seconds that all took together."""
        total = 0.0
        for name in order:
            if answer := ask(name, "turn", steps=steps):
                total += answer["seconds"]
                rows[name].losses = answer["losses"]
                if record:
                    rows[name].ms.append(1e3 * answer["seconds"] / steps)
        return total

    try:
        for name, row in rows.items():
            library, *mode, precision = name.split()
            workers[name] = Worker(device)
            if ask(name, "load", library=library):
                request = {"mode": " ".join(mode), "precision": precision, "device": device}
                row.first_call = ask(name, "prepare", job=asdict(job), **request).get(
                    "first_call", 0
                )
        second = max(turns(1, list(workers), record=False), 1e-6)
        most = max(2, int(options.budget / second) - 1)  # steps that the budget has left, or two
        rounds = min(options.rounds, most)
        configuration.steps = max(1, min(options.steps, most // rounds))
        for turn in range(rounds):
            names = list(workers)
            shift = turn % max(1, len(names))
            turns(configuration.steps, names[shift:] + names[:shift])
        for name in list(workers):
            if answer := ask(name, "memory"):
                rows[name].peak_bytes, rows[name].baseline_bytes = (
                    answer["peak"],
                    answer["baseline"],
                )
    finally:
        for worker in workers.values():
            worker.close()
    check_agreement(configuration)
    return configuration


def taking_part(job: Job, results: Results) -> list[str]:
    """There is nothing to vmap over in a single picture."""
    return [name for name in results.contenders if job.batch > 1 or "vmap" not in name]


def why_not(job: Job, results: Results, device: str, budget: float) -> str | None:
    """Say what a configuration lacks: memory or time."""
    needed = step_bytes(job.size, job.batch)
    if device == "cpu" and needed > 0.7 * available_bytes():
        return (
            f"one contender needs about {needed / 2**30:.1f} GiB of memory and "
            f"{available_bytes() / 2**30:.1f} GiB are free"
        )
    best = {precision: max(rates.values()) for precision, rates in results.peaks.items()}
    seconds = sum(
        step_flops(job.size, job.batch) / (USUAL_EFFICIENCY * best[name.split()[-1]])
        for name in taking_part(job, results)
    )
    if 2 * seconds > budget:  # one step to warm up and one to measure
        return (
            f"one step of every contender takes about {seconds:.0f} s by the machine's peak, too "
            f"long for a budget of {budget:.0f} s (--budget)"
        )
    return None


def check_agreement(configuration: Configuration) -> None:
    """Strike out contenders whose first loss shows that they do other work."""
    reference = configuration.reference()
    for row in configuration.rows:
        off = difference(row, reference, 0)
        if off is not None and not off <= AGREEMENT[row.precision]:
            row.failed = f"its first loss is off by {off:.1e}: it does not do the same work"
            say(f"  {row.contender}: {row.failed}")


def peaks(
    contenders: Sequence[str], device: str, helpers: dict[str, "Worker"]
) -> dict[str, dict[str, float]]:
    """FLOP/s of matrix products in the precisions in use, with either library; ends ``helpers``."""
    size = MATMUL_SIZE[device]
    precisions = list(dict.fromkeys(contender.split()[-1] for contender in contenders))
    found: dict[str, dict[str, float]] = {precision: {} for precision in precisions}
    for library, helper in helpers.items():
        for precision in precisions:
            answer = helper.ask("matmul", precision=precision, device=device, size=size)
            found[precision][library.removeprefix("nst_")] = answer["rate"]
        helper.close()
    return found


# --- the machine ---------------------------------------------------------------------------------


def facts(probes: dict[str, Message]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for probe in probes.values():
        versions |= probe["versions"]
    words = ["python", "benchmarks/compare.py", *sys.argv[1:]]
    if ALLOCATOR in os.environ:  # it decides how often memory's pages are handed out anew
        words.insert(0, f"{ALLOCATOR}={os.environ[ALLOCATOR]}")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "memory": f"{meminfo('MemTotal') / 2**30:.0f} GiB",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "command": f"`{shlex.join(Path(w).name if w.startswith('/') else w for w in words)}`",
    }


def cpu() -> str:
    """What its results are filed under; how memory is handed out makes a difference there."""
    pages = ", huge pages" if "hugetlb=1" in os.environ.get(ALLOCATOR, "") else ""
    return f"{processor()}, {os.cpu_count()} cores{pages}"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def available_bytes() -> int:
    return meminfo("MemAvailable")


def meminfo(name: str) -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


# --- the workers ---------------------------------------------------------------------------------


class WorkerError(Exception):
    """A contender could not do what it was asked; the message is one line for the table."""


class Worker:
    """A process that runs ``worker.py``."""

    def __init__(self, device: str | None) -> None:
        self.caches = tempfile.TemporaryDirectory(prefix="nst_jax-benchmark-")
        environment = os.environ | {
            "NST_JAX_OFFLINE": "1",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            # compile anew, so that the first call shows it
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TORCHINDUCTOR_CACHE_DIR": self.caches.name,
            "TRITON_CACHE_DIR": self.caches.name,
        }
        if device == "cpu":
            environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )

    def ask(self, do: str, **request: Any) -> Message:
        """Wait for the answer.

        Raises:
            WorkerError: it answered with an error, or died.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps({"do": do, **request}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self.process.wait()
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        return f"its process ended: {lines[-1] if lines else f'exit status {code}'}"

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None and self.process.poll() is None:
            self.process.stdin.close()
        self.process.wait()
        self.errors.close()
        self.caches.cleanup()


if __name__ == "__main__":
    main()
