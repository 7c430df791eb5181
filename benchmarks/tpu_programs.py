"""The optimisation's programs as the TPU compiler gets them: shapes on a chip that is not there."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies

from nst_jax import LossWeights, Settings, loss, make_targets
from nst_jax.models.architectures import conv_names, conv_shape
from nst_jax.models.vgg import tap_names
from nst_jax.optimize import loop as optimize

MODEL, DTYPE, SETTINGS = "vgg19", jnp.bfloat16, Settings()


@dataclass(frozen=True)
class Chip:
    """The vendor's figures; the clock is peak / (2 x multipliers), 4·128² and 4·256² of them."""

    memory: int
    flops: float
    bandwidth: float
    clock: float


CHIPS: Final = {
    "v5e": Chip(16 * 2**30, 197e12, 819e9, 197e12 / (2 * 4 * 128**2)),
    "v6e": Chip(32 * 2**30, 918e12, 1640e9, 918e12 / (2 * 4 * 256**2)),
}


@functools.cache
def place(chip: str) -> jax.sharding.Sharding:
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{chip}:1x1", chips_per_host_bounds=(1, 1, 1)
    )
    return jax.sharding.SingleDeviceSharding(topology.devices[0])


def on_chip(tree: Any, chip: str) -> Any:
    def leaf(x: Any) -> Any:
        if not hasattr(x, "shape"):
            return x
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(chip))

    return jax.tree.map(leaf, tree)


def problem(size: int) -> tuple[jax.ShapeDtypeStruct, tuple[Any, ...]]:
    """The image and the loss' arguments for a square picture, as shapes."""
    array = jax.ShapeDtypeStruct
    image = array((size, size, 3), jnp.float32)
    params: dict[str, Any] = {
        "input": {"mean": array((3,), jnp.float32), "std": array((3,), jnp.float32)}
    }
    for name in conv_names(MODEL):
        shape = conv_shape(name)
        params[name] = {"kernel": array(shape, DTYPE), "bias": array(shape[-1:], DTYPE)}

    def targets_of(params: Any, content: Any, style: Any) -> Any:
        return make_targets(
            params,
            content,
            [style],
            content_layers=tuple(SETTINGS.content_layers),
            style_layers=tuple(SETTINGS.style_layers),
            form=SETTINGS.form,
            pooling=SETTINGS.pooling,
            padding=SETTINGS.padding,
        )

    weights = LossWeights(
        SETTINGS.content_weight,
        SETTINGS.style_weight,
        SETTINGS.tv,
        SETTINGS.content_layers,
        SETTINGS.style_layers,
    )
    return image, (params, jax.eval_shape(targets_of, params, image, image), weights)


def one_step(chip: str, size: int) -> Any:
    optimizer = optax.adam(0.01, b1=0.9, b2=0.99)

    def step(image: jax.Array, state: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        (total, parts), grads = jax.value_and_grad(loss, has_aux=True)(image, *args)
        updates, state = optimizer.update(grads, state, image)
        moved = jnp.asarray(optax.apply_updates(image, updates))
        return jnp.clip(moved, 0.0, 1.0), state, total, parts

    image, args = problem(size)
    state = jax.eval_shape(optimizer.init, image)
    return jax.jit(step, donate_argnums=(0, 1)).lower(*on_chip((image, state, args), chip))


class Captured(Exception):  # noqa: N818
    """What `minimise` asks to be compiled."""


def loop(chip: str, size: int, *, line_search: bool) -> Any:
    def capture(jitted: Any, *args: Any, static: Any, **donation: Any) -> Any:
        raise Captured(jitted, args, static)

    adam, lbfgs = optax.adam(0.01, b1=0.9, b2=0.99), optax.lbfgs(memory_size=10)
    image, args = problem(size)
    with mock.patch.object(optimize, "compile_to_fit", capture):
        try:
            optimize.minimise(
                loss,
                jnp.zeros(image.shape, image.dtype),
                args,
                optimizer=lbfgs if line_search else adam,
                steps=1,
            )
        except Captured as captured:
            jitted, args, static = captured.args
            return jitted.lower(*on_chip(args, chip), **static)
    raise RuntimeError("minimise compiled nothing")


def donated_bytes(lowered: Any) -> int:
    leaves = jax.tree.leaves(lowered.args_info)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves if x.donated)


PROGRAMS: Final[dict[str, Callable[[str, int], Any]]] = {
    "step, Adam": one_step,
    "loop, Adam": functools.partial(loop, line_search=False),
    "loop, L-BFGS": functools.partial(loop, line_search=True),
}


def useful_flops(size: int) -> float:
    """Of one evaluation with its gradient: each convolution and each Gram matrix once forward and
    once back, by their definition, without what a compiler adds."""
    taps = tap_names(MODEL)
    deepest = max(taps.index(tap) for tap in (*SETTINGS.content_layers, *SETTINGS.style_layers))
    total, names = 0.0, conv_names(MODEL)
    for name in names[: deepest // 2 + 1]:
        side = size >> (int(name[4]) - 1)
        height, width, inputs, filters = conv_shape(name)
        total += 4.0 * side**2 * height * width * inputs * filters
        if name.replace("conv", "relu") in SETTINGS.style_layers:
            total += 4.0 * side**2 * filters**2
    return total
