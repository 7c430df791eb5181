"""A contender's own process: reads a line of JSON, does what it says, answers with one.

`compare.py` starts it. In a process of its own a contender's peak memory is its own, and while
another one is measured it sleeps.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

from common import Job, Message, one_line, peak_resident_bytes, resident_bytes


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    worker = Worker()
    for line in sys.stdin:
        try:
            answer = worker.answer(**json.loads(line))
        except Exception as error:
            answer = {"error": one_line(error)}
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """What a process knows between two requests."""

    side: Any
    contender: Any
    baseline: int
    device: str

    def answer(self, do: str, **request: Any) -> Message:
        return getattr(self, do)(**request)

    def load(self, library: str) -> Message:
        """Import one side, and nothing of the other; what it takes is the memory's baseline."""
        self.side = importlib.import_module({"nst_jax": "jax_side", "torch": "torch_side"}[library])
        self.baseline = resident_bytes()
        return self.side.probe()

    def matmul(self, precision: str, device: str, size: int) -> Message:
        return {"rate": self.side.matmul_rate(precision, device, size)}

    def prepare(self, job: Message, mode: str, precision: str, device: str) -> Message:
        """Weights, pictures and targets; then the first step with all that it compiles."""
        self.device = device
        self.contender = self.side.contender(Job(**job), mode, precision, device)
        begun = time.perf_counter()
        self.contender.turn(1)
        return {"first_call": time.perf_counter() - begun}

    def turn(self, steps: int) -> Message:
        return self.contender.turn(steps)._asdict()

    def memory(self) -> Message:
        """Peak bytes, and what was there before: of the GPU, or of the process on a CPU."""
        if self.device == "gpu":
            return {"peak": self.side.device_peak_bytes(), "baseline": 0}
        return {"peak": peak_resident_bytes(), "baseline": self.baseline}


if __name__ == "__main__":
    main()
