"""Losses of small images, and plain loops over Optax as references."""

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import optax

from nst_jax.optimize import aot_compile, pyramid_lbfgs

SHAPE = (4, 5, 3)
STEEPNESS = jnp.asarray(np.geomspace(0.1, 2, np.prod(SHAPE)).reshape(SHAPE), jnp.float32)


def uniform(low, high, seed=0, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape), jnp.float32)


START, GOAL = uniform(0, 1), uniform(0.2, 0.8, seed=1)
FAR_GOAL = uniform(-0.5, 1.5, seed=2)  # mostly outside of the range of images

OPTIMIZERS = {
    "adam": optax.adam(0.02),
    "sgd": optax.chain(optax.clip(0.5), optax.sgd(0.02, momentum=0.9)),
    "lbfgs": pyramid_lbfgs(memory_size=3, num_bands=1),
}


def float64():
    """Return a context that computes in float64; older versions of JAX have it elsewhere."""
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    return enable(True)


EXECUTABLES = {}


def compile_once(jitted, *args, **static):
    """A `CompileFn` that lets the tests share executables."""
    leaves, structure = jax.tree.flatten(args)
    key = (structure, *map(jax.typeof, leaves), *static.values())
    if key not in EXECUTABLES:
        EXECUTABLES[key] = aot_compile(jitted, *args, **static)
    return EXECUTABLES[key]


def quadratic(image, goal):
    """A bowl that is steeper in some directions than in others, with two loss terms."""
    squares = STEEPNESS * (image - goal) ** 2
    return squares.sum(), {"mean": squares.mean(), "first": squares[0, 0, 0]}


def rippled(image, goal):
    """Not a quadratic, so that L-BFGS takes more than a step or two. It takes any shape."""
    distance = jnp.square(image - goal).sum()
    return distance + 0.1 * jnp.cos(9 * image).sum(), {"distance": distance}


def plain_loop(loss, image, args, optimizer, steps):
    """Images after each step, and the total and terms before it, without a compiled loop."""
    optimizer = optax.with_extra_args_support(optimizer)
    state, images, history = optimizer.init(image), [], []
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for _ in range(steps):
        (total, terms), grads = gradient(image, *args)
        extra_args = {"value": total, "grad": grads, "value_fn": lambda x: loss(x, *args)[0]}
        updates, state = optimizer.update(grads, state, image, **extra_args)
        image = jnp.clip(optax.apply_updates(image, updates), 0, 1)
        images.append(np.asarray(image))
        history.append({"total": total, **terms})
    return images, {name: np.array([float(x[name]) for x in history]) for name in history[0]}
