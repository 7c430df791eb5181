"""Where the time of one step of nst_jax goes. In the project folder:

python benchmarks/profile_step.py

It prints three tables; every figure is the fastest of several runs, because differences of medians
would show the machine's moods:

1. the step from the inside out: the network alone, the losses with it, the gradient, and the whole
   step with its optimiser (`nst_jax.minimise`, as `nst_jax.stylize` runs it). A part's time is the
   difference to the program before it, so the parts sum to the step;
2. the network by stages, from tap to tap, forward and with the way back to the picture;
3. every convolution alone, forward and its input gradient, with the FLOP/s it reaches.

Programs that are timed alone fuse and lay out memory a little differently from the same work inside
a step: parts are right to some per cent. ``--trace`` records five whole steps for Perfetto
(https://ui.perfetto.dev) or TensorBoard, which shows the step itself.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from common import MODEL, TAPS, Job, conv_flops, side, step_flops, used_convs
from jax_side import DTYPES, WEIGHTS, JaxContender, loss_of_style
from results import number

from nst_jax import VGG
from nst_jax.models.architectures import conv_shape
from nst_jax.models.kernels.conv3x3 import convolve
from nst_jax.models.vgg import tap_names


def main() -> None:
    parser = argparse.ArgumentParser(description="Say where a step's time goes.")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--optimizer", choices=("adam", "lbfgs"), default="adam")
    parser.add_argument("--repeats", type=int, default=7, help="runs, of which the fastest counts")
    parser.add_argument("--trace", type=Path, metavar="DIR", help="record five steps there")
    options = parser.parse_args()

    job = Job(options.size, options.batch, options.optimizer)
    step = Step(job, options.dtype, options.repeats)
    if options.trace:
        step.run(1)
        with jax.profiler.trace(options.trace):
            step.run(5)
        print(f"five steps are recorded in {options.trace}")
    device = jax.devices()[0].device_kind
    print(
        f"{job.size} x {job.size}, batch {job.batch}, {options.dtype}, {job.optimizer}, {device}, "
        f"jax {jax.__version__}; milliseconds, the fastest of {options.repeats} runs"
    )
    for rows in (step.parts(), step.stages(), step.convolutions()):
        print(f"\n{aligned(rows)}")


class Step:
    """One job's pictures, targets and programs."""

    def __init__(self, job: Job, precision: str, repeats: int) -> None:
        self.job, self.dtype, self.repeats = job, DTYPES[precision], repeats
        self.whole = JaxContender(job, "vmap", precision, jax.default_backend())
        self.params, self.batched = self.whole.params, self.whole.vmapped
        self.image = self.whole.start if self.batched else self.whole.start[0]

    def ms(self, function: Callable[..., Any], *args: Any) -> float:
        """Milliseconds of a program's fastest run, compiled before."""
        program = jax.jit(function)
        jax.block_until_ready(program(*args))
        times = []
        for _ in range(self.repeats):
            begun = time.perf_counter()
            jax.block_until_ready(program(*args))
            times.append(1e3 * (time.perf_counter() - begun))
        return min(times)

    def run(self, steps: int) -> float:
        """Milliseconds a step of whole steps."""
        return 1e3 * self.whole.turn(steps).seconds / steps

    def features(self, image: jax.Array, params: Any, taps: tuple[str, ...]) -> dict[str, Any]:
        """The network alone, over one picture or a batch."""

        def of_one(image: jax.Array) -> dict[str, Any]:
            return VGG(params)(image, taps)

        return jax.vmap(of_one)(image) if self.batched else of_one(image)

    def parts(self) -> list[list[str]]:
        style = self.whole.each if self.batched else self.whole.own[0]
        args = (self.image, style, self.params, self.whole.shared)

        def forward(image: jax.Array, params: Any) -> Any:
            return self.features(image, params, TAPS)

        def value(image: jax.Array, style: Any, params: Any, shared: Any) -> jax.Array:
            if not self.batched:
                return loss_of_style(image, style, params, shared, WEIGHTS)[0]
            of_each = jax.vmap(loss_of_style, (0, 0, None, None, None))
            return of_each(image, style, params, shared, WEIGHTS)[0].sum()

        self.run(1)
        times = {
            "network, forward": self.ms(forward, self.image, self.params),
            "losses and Gram matrices": self.ms(value, *args),
            "way back to the picture": self.ms(jax.value_and_grad(value), *args),
            "optimiser and loop": min(self.run(5) for _ in range(self.repeats)),
        }
        rows, before, whole = [["part", "ms", "share"]], 0.0, times["optimiser and loop"]
        for name, until in times.items():
            rows.append([name, number(until - before), f"{(until - before) / whole:.0%}"])
            before = until
        rate = step_flops(self.job.size, self.job.batch) / whole / 1e6
        return [*rows, [f"step, at {rate:.0f} GFLOP/s", number(whole), "100%"]]

    def stages(self) -> list[list[str]]:
        rows = [["up to", "forward", "this stage", "and back", "this stage"]]
        before, both_before = 0.0, 0.0
        for tap in (tap for tap in tap_names(MODEL) if tap in TAPS):

            def energy(image: jax.Array, params: Any, tap: str = tap) -> jax.Array:
                features = self.features(image, params, (tap,))[tap]
                return 0.5 * jnp.square(features.astype(jnp.float32)).sum()

            forward = self.ms(energy, self.image, self.params)
            both = self.ms(jax.grad(energy), self.image, self.params)
            values = (forward, forward - before, both, both - both_before)
            rows.append([tap, *(number(value) for value in values)])
            before, both_before = forward, both
        return rows

    def convolutions(self) -> list[list[str]]:
        """Layers of one shape are timed once."""
        rows = [["convolution", "forward", "GFLOP/s", "gradient", "GFLOP/s"]]
        shapes: dict[tuple[int, ...], list[str]] = {}
        for name in used_convs():
            shapes.setdefault((side(name, self.job.size), *conv_shape(name)), []).append(name)
        many = jax.vmap(convolve, (0, None))
        key = jax.random.key(0)
        for (length, *shape), names in shapes.items():
            kernel = self.params[names[0]]["kernel"]
            x = jax.random.normal(key, (self.job.batch, length, length, shape[2]), self.dtype)
            dy = jax.random.normal(key, (self.job.batch, length, length, shape[3]), self.dtype)

            def gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
                return jax.vjp(lambda x: many(x, kernel), x)[1](dy)[0]

            flops = self.job.batch * conv_flops(names[0], self.job.size)
            cells = []
            for ms in (self.ms(many, x, kernel), self.ms(gradient, x, kernel, dy)):
                cells += [number(ms), f"{flops / ms / 1e6:.0f}"]
            times = f" (and {len(names) - 1} like it)" if len(names) > 1 else ""
            rows.append([names[0] + times, *cells])
        return rows


def aligned(rows: list[list[str]]) -> str:
    """Columns in line: the first to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
