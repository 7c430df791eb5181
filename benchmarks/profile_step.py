"""Where the time of one step of nst_jax goes.

    python benchmarks/profile_step.py

It prints three tables; every value is the fastest of several runs:

1. the step from the inside out: the network alone, with the losses, with the gradient, and the
   whole step with its optimizer (`nst_jax.minimize`, with the loop that `nst_jax.stylize` runs).
   The time of a part is the difference to the line before, so the parts sum to the step;
2. the network by stages, from layer to layer, forward and with the gradient of the image;
3. every convolution alone, forward and its input gradient, with its FLOP/s.

Functions that are compiled alone fuse and lay out memory a little differently from the same work
inside a step, so parts are right to some percent. ``--trace`` records five whole steps with JAX's
profiler for Perfetto (https://ui.perfetto.dev) or TensorBoard, which shows the step itself.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from common import LOSS_WEIGHTS, milliseconds
from compare.jax_side import DTYPES, Contender, style_loss
from compare.workload import LAYERS, MODEL, Job, conv_flops, side, step_flops, used_convs
from reporting import number, table

from nst_jax import VGG
from nst_jax.networks import layer_names
from nst_jax.networks.architectures import conv_shape
from nst_jax.networks.kernels.conv3x3 import conv3x3


def main() -> None:
    parser = argparse.ArgumentParser(description="Show where the time of a step goes.")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--optimizer", choices=("adam", "lbfgs"), default="adam")
    parser.add_argument("--repeats", type=int, default=7, help="runs, of which the fastest counts")
    parser.add_argument("--trace", type=Path, metavar="DIR", help="record a profile of five steps")
    options = parser.parse_args()

    job = Job(options.size, options.batch, options.optimizer)
    profile = Profile(job, options.dtype, options.repeats)
    if options.trace:
        profile.run(1)
        with jax.profiler.trace(options.trace):
            profile.run(5)
        print(f"a profile of five steps is in {options.trace}\n")
    device = jax.devices()[0].device_kind
    print(f"{job}, {options.dtype}, {device}, jax {jax.__version__}; milliseconds")
    for head, *rows in (profile.parts(), profile.stages(), profile.convolutions()):
        print(f"\n{table(head, rows)}")


class Profile:
    """One job: its images and targets, and the times of its parts."""

    def __init__(self, job: Job, precision: str, repeats: int) -> None:
        self.job, self.dtype, self.repeats = job, DTYPES[precision], repeats
        self.contender = Contender(job, "vmap", precision, jax.default_backend())
        self.params, self.vmapped = self.contender.params, self.contender.vmapped
        self.image = self.contender.init if self.vmapped else self.contender.init[0]

    def time(self, function: Callable[..., Any], *args: Any) -> float:
        return milliseconds(function, *args, repeats=self.repeats)

    def run(self, steps: int) -> float:
        return 1e3 * self.contender.run(steps).seconds / steps

    def features(self, image: jax.Array, params: Any, layers: tuple[str, ...]) -> dict[str, Any]:
        """Run the network on one image or on a batch."""
        network = partial(VGG().features, params, layers=layers)
        return jax.vmap(network)(image) if self.vmapped else network(image)

    def parts(self) -> list[list[str]]:
        """Time the step from the inside out."""
        style = self.contender.stacked if self.vmapped else self.contender.styles[0]
        args = (self.image, style, self.params, self.contender.shared)

        def value(*args: Any) -> jax.Array:
            axes = (0, 0, None, None, None)
            losses: Any = jax.vmap(style_loss, axes) if self.vmapped else style_loss
            return losses(*args, LOSS_WEIGHTS)[0].sum()

        forward = partial(self.features, layers=LAYERS)
        self.run(1)
        times = {
            "network, forward": self.time(forward, self.image, self.params),
            "losses and Gram matrices": self.time(value, *args),
            "gradient": self.time(jax.value_and_grad(value), *args),
            "optimizer and loop": min(self.run(5) for _ in range(self.repeats)),
        }
        rows, before, whole = [["part", "ms", "share"]], 0.0, times["optimizer and loop"]
        for name, until in times.items():
            rows.append([name, number(until - before), f"{(until - before) / whole:.0%}"])
            before = until
        rate = step_flops(self.job) / whole / 1e6
        return [*rows, [f"step, {rate:.0f} GFLOP/s", number(whole), "100%"]]

    def stages(self) -> list[list[str]]:
        """Time the network up to each layer of the loss."""
        rows = [["up to", "forward", "this stage", "with gradient", "this stage"]]
        forward_before = gradient_before = 0.0
        for layer in (layer for layer in layer_names(MODEL) if layer in LAYERS):

            def energy(image: jax.Array, params: Any, layer: str = layer) -> jax.Array:
                features = self.features(image, params, (layer,))[layer]
                return 0.5 * jnp.square(features.astype(jnp.float32)).sum()

            forward = self.time(energy, self.image, self.params)
            gradient = self.time(jax.grad(energy), self.image, self.params)
            values = (forward, forward - forward_before, gradient, gradient - gradient_before)
            rows.append([layer, *map(number, values)])
            forward_before, gradient_before = forward, gradient
        return rows

    def convolutions(self) -> list[list[str]]:
        """Time each convolution alone; convolutions of one shape are timed once."""
        rows = [["convolution", "forward", "GFLOP/s", "input gradient", "GFLOP/s"]]
        shapes: dict[tuple[int, ...], list[str]] = {}
        for name in used_convs():
            shapes.setdefault((side(name, self.job.size), *conv_shape(name)), []).append(name)
        batched = jax.vmap(conv3x3, (0, None))
        key = jax.random.key(0)
        for (length, *shape), names in shapes.items():
            kernel = self.params[names[0]]["kernel"]
            x = jax.random.normal(key, (self.job.batch, length, length, shape[2]), self.dtype)
            dy = jax.random.normal(key, (self.job.batch, length, length, shape[3]), self.dtype)

            def gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
                return jax.vjp(lambda x: batched(x, kernel), x)[1](dy)[0]

            flops = self.job.batch * conv_flops(names[0], self.job.size)
            forward = self.time(batched, x, kernel)
            backward = self.time(gradient, x, kernel, dy)
            same = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            rates = [f"{flops / ms / 1e6:.0f}" for ms in (forward, backward)]
            rows.append([names[0] + same, number(forward), rates[0], number(backward), rates[1]])
        return rows


if __name__ == "__main__":
    main()
