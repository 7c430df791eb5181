"""PyTorch's side of the comparison."""

import time
from typing import Any

import torch
from common import MODEL, Contender, Job, Message, Turn, best_rate, network, pictures
from torch_reference import objective, optimizer, to_tensor

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


def probe() -> Message:
    """Say what there is."""
    gpu = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "versions": {"torch": torch.__version__},
    }


def matmul_rate(precision: str, device: str, size: int) -> float:
    """FLOP/s of a square product."""
    _set_tf32(precision == "tf32")
    a = torch.randn(size, size, device=_cuda(device)).to(DTYPES[precision])
    seconds = []
    for _ in range(7):
        _synchronize(device)
        begun = time.perf_counter()
        _ = a @ a
        _synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return best_rate(2 * size**3, seconds)


def device_peak_bytes() -> int:
    """The most that tensors have held on the GPU."""
    return torch.cuda.max_memory_allocated()


class TorchContender:
    """``eager``, ``compile`` (its default mode) or ``graphs`` (compiled, with CUDA graphs)."""

    def __init__(self, job: Job, mode: str, precision: str, device: str) -> None:
        _set_tf32(precision == "tf32")
        torch.backends.cudnn.benchmark = True  # choose the fastest kernels for these shapes
        self.job, self.device, self.graphs = job, device, mode == "graphs"
        content, styles, start = pictures(job)
        self.start = to_tensor(start, _cuda(device))
        self.objective: Any = objective(
            network(), MODEL, content, styles, dtype=DTYPES[precision], device=_cuda(device)
        )
        if mode != "eager":
            options: dict[str, Any] = {"mode": "reduce-overhead"} if self.graphs else {}
            self.objective = torch.compile(self.objective, fullgraph=True, **options)

    def turn(self, steps: int) -> Turn:
        """Losses stay on the device until the end, so that the host does not wait for them."""
        # Adam works pixel by pixel; L-BFGS sees one picture at a time, each with its own memory.
        parts = self.start.split(1) if self.job.optimizer == "lbfgs" else [self.start]
        images = [part.clone().requires_grad_() for part in parts]
        steppers = [optimizer(self.job.optimizer, image) for image in images]
        losses: list[Any] = []

        def evaluate() -> Any:
            if self.graphs:
                torch.compiler.cudagraph_mark_step_begin()
            for stepper in steppers:
                stepper.zero_grad(set_to_none=True)
            loss = self.objective(torch.cat(images) if len(images) > 1 else images[0])
            loss.backward()
            losses.append(loss.detach().clone())

        def already_evaluated() -> Any:
            return losses[-1]

        _synchronize(self.device)
        begun = time.perf_counter()
        for _ in range(steps):
            evaluate()
            for stepper in steppers:
                stepper.step(already_evaluated)
            with torch.no_grad():
                for image in images:
                    image.clamp_(0, 1)
        _synchronize(self.device)
        seconds = time.perf_counter() - begun
        if self.device == "gpu":
            torch.cuda.empty_cache()  # the others need the memory while this one waits
        return Turn(seconds, torch.stack(losses).tolist())


def contender(job: Job, mode: str, precision: str, device: str) -> Contender:
    """Make it ready; ``torch.compile`` does its work in the first turn."""
    return TorchContender(job, mode, precision, device)


def _set_tf32(allowed: bool) -> None:
    # The older of two interfaces: `fp32_precision`, the newer, makes torch.compile fail
    # (https://github.com/pytorch/pytorch/issues/166387), and the two may not be mixed.
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _cuda(device: str) -> str:
    return "cuda" if device == "gpu" else "cpu"


def _synchronize(device: str) -> None:
    if device == "gpu":
        torch.cuda.synchronize()
