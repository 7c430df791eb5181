"""Losses of small images, and plain loops over Optax as references."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nst_jax.optimize import aot_compile

SHAPE = (4, 5, 3)
STEEPNESS = jnp.asarray(np.geomspace(0.1, 2, np.prod(SHAPE)).reshape(SHAPE), jnp.float32)


def uniform(low, high, seed=0, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape), jnp.float32)


START, GOAL = uniform(0, 1), uniform(0.2, 0.8, seed=1)
FAR_GOAL = uniform(-0.5, 1.5, seed=2)  # mostly outside of the range of images

OPTIMIZERS = {
    "adam": optax.adam(0.02),
    "sgd": optax.chain(optax.clip(0.5), optax.sgd(0.02, momentum=0.9)),
    "lbfgs": optax.lbfgs(memory_size=3),
}


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
    state, images, history = optimizer.init(image), [], []
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for _ in range(steps):
        (total, terms), grads = gradient(image, *args)
        updates, state = optimizer.update(grads, state, image)
        image = jnp.clip(optax.apply_updates(image, updates), 0, 1)
        images.append(np.asarray(image))
        history.append({"total": total, **terms})
    return images, {name: np.array([float(x[name]) for x in history]) for name in history[0]}


def plain_lbfgs(loss, image, goal, optimizer, steps):
    """Images and totals after each step: the loop of Optax' documentation, on a triangle wave."""

    def value(x):
        return loss(1 - jnp.abs(1 - x % 2), goal)[0]

    @jax.jit
    def step(x, state):
        total, grads = optax.value_and_grad_from_state(value)(x, state=state)
        updates, state = optimizer.update(grads, state, x, value=total, grad=grads, value_fn=value)
        return optax.apply_updates(x, updates), state

    state, images = optimizer.init(image), []
    for _ in range(steps):
        state = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)  # one type, one compilation
        image, state = step(image, state)
        images.append(np.asarray(1 - jnp.abs(1 - image % 2)))
    return images, np.array([float(loss(image, goal)[0]) for image in images])
