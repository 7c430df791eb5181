"""The functions that run in the process of a contender, and the environment of that process."""

import importlib
import resource
import tempfile
import time
from typing import Any, Final

import psutil
from processes import CPU_ONLY, ENVIRONMENT, ChildProcess

from compare.workload import Job

SIDES: Final = {"nst_jax": "compare.jax_side", "torch": "compare.torch_side"}
_process: dict[str, Any] = {}
"""What a process remembers between two calls."""


class Worker(ChildProcess):
    """A process for one contender, with empty caches of its own."""

    def __init__(self, device: str | None) -> None:
        self.caches = tempfile.TemporaryDirectory(prefix="nst_jax-benchmark-")
        caches = dict.fromkeys(("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"), self.caches.name)
        super().__init__(ENVIRONMENT | caches | (CPU_ONLY if device == "cpu" else {}))

    def close(self) -> None:
        """End the process and remove its caches."""
        super().close()
        self.caches.cleanup()


def load(library: str) -> str | None:
    """Import one side and return the name of its GPU; the memory is then the baseline."""
    side = importlib.import_module(SIDES[library])
    _process.update(side=side, baseline=psutil.Process().memory_info().rss)
    return side.gpu_name()


def prepare(job: Job, mode: str, precision: str, device: str) -> float:
    """Prepare a contender; return the seconds of its first step with all compilation."""
    contender = _process["side"].Contender(job, mode, precision, device)
    _process.update(contender=contender, device=device)
    start = time.perf_counter()
    contender.run(1)
    return time.perf_counter() - start


def run(steps: int) -> Any:
    """Take some steps; return their `compare.workload.Timing`."""
    return _process["contender"].run(steps)


def finish(size: int) -> tuple[int, int, float]:
    """Return peak and baseline bytes (of the GPU, or of the process on a CPU), and the FLOP/s of a
    product of two matrices of ``size`` × ``size``, the fastest of seven."""
    peak, baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, _process["baseline"]
    if _process["device"] == "gpu":
        peak, baseline = _process["side"].device_peak_bytes(), 0
    multiply = _process["contender"].matmul(size)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - start)
    return peak, baseline, 2 * size**3 / min(seconds)
