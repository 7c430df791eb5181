"""The measurements behind choices that the README and the docstrings quote. In the project folder:

python benchmarks/choices.py

It prints, with the bundled VGG16:

1. the input gradient of one convolution, as JAX derives it and as `nst_jax.models.kernels.conv3x3` has it,
   outside and inside a rolled loop;
2. the final loss of L-BFGS when what leaves [0, 1] is clipped at the end, clipped inside the loss,
   or folded;
3. the loss that L-BFGS and Adam reach in as many steps, and the seconds that they take;
4. the size of activations with average and L2 pooling against max pooling, on five photos;
5. the loss of pictures made in bfloat16 against that of pictures made in float32, both judged by
   the float32 network.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from skimage import data
from sklearn.datasets import load_sample_image

from nst_jax import VGG, LossWeights, Settings, Targets, loss, make_targets, stylize
from nst_jax.images import io as images
from nst_jax.models.kernels.conv3x3 import convolve
from nst_jax.models.weights import load as weights
from nst_jax.optimize.loop import fold

SETTINGS = Settings()
SIZE, STEPS = 96, 100


def main() -> None:
    params = jax.tree.map(jnp.asarray, weights.resolve("vgg16").params)
    gradients_in_loops()
    ranges(params)
    optimizers()
    pooling_gains(params)
    precisions(params)


# --- 1 -------------------------------------------------------------------------------------------


def derived(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )[0]


def seconds(function: Callable[..., Any], *args: Any) -> float:
    jax.block_until_ready(function(*args))
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def gradients_in_loops() -> None:
    print("input gradient of a 3x3 convolution, 128 -> 128 at 128x128, milliseconds (median of 7)")
    x, kernel = jnp.ones((128, 128, 128)), jnp.full((3, 3, 128, 128), 0.01)
    for name, convolution in (("derived by JAX", derived), ("nst_jax.convolution", convolve)):

        def gradient(x: jax.Array, kernel: jax.Array, conv: Any = convolution) -> jax.Array:
            return jax.vjp(lambda x: conv(x, kernel), x)[1](x)[0]

        def loop(x: jax.Array, kernel: jax.Array, turns: int, step: Any = gradient) -> jax.Array:
            return lax.fori_loop(0, turns, lambda _, x: step(x, kernel), x)

        plain, rolled = seconds(jax.jit(gradient), x, kernel), seconds(jax.jit(loop), x, kernel, 1)
        print(f"  {name:<20} outside {1e3 * plain:6.1f}   in a loop {1e3 * rolled:6.1f}")


# --- 2 -------------------------------------------------------------------------------------------

RANGES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "clipped at the end": lambda image: image,
    "clipped in the loss": lambda image: jnp.clip(image, 0, 1),
    "folded": fold,
}


def ranges(params: Any) -> None:
    print(f"loss of the delivered picture after {STEPS} L-BFGS steps at {SIZE} pixels")
    cat = example("cat")
    noise = jax.random.uniform(jax.random.key(0), cat.shape)
    style_layers, content_layers = dict(SETTINGS.style_layers), dict(SETTINGS.content_layers)
    both = LossWeights(SETTINGS.content_weight, 1.0, 0.0, content_layers, style_layers)
    jobs = {
        f"{name} on the cat": (
            cat,
            targets_of(params, name),
            both,
        )
        for name in ("swirls", "mosaic", "ink")
    }
    for layer in ("relu1_1", "relu3_1"):
        targets = make_targets(params, cat, content_layers=(layer,))
        jobs[f"{layer} from noise"] = (noise, targets, LossWeights(content_layers={layer: 1.0}))
    for name, (start, targets, loss_weights) in jobs.items():
        figures = [
            f"{title} {descend(into, start, params, targets, loss_weights):.5f}"
            for title, into in RANGES.items()
        ]
        print(f"  {name:<20} {'   '.join(figures)}")


def example(name: str) -> jax.Array:
    pixels = images.read(f"examples/{name}.jpg").pixels
    return jnp.asarray(images.resize(pixels, images.fit(pixels.shape, SIZE)))


def targets_of(params: Any, style: str) -> Targets:
    """Of the cat in a style, at the default layers."""
    return make_targets(
        params,
        example("cat"),
        [example(style)],
        content_layers=tuple(SETTINGS.content_layers),
        style_layers=tuple(SETTINGS.style_layers),
    )


@functools.partial(jax.jit, static_argnums=0)
def descend(
    into: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    params: Any,
    targets: Targets,
    loss_weights: LossWeights,
) -> jax.Array:
    optimizer = optax.lbfgs(memory_size=10)

    def value(image: jax.Array) -> jax.Array:
        return loss(into(image), params, targets, loss_weights)[0]

    def step(_: Any, carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        image, state = carry
        total, grads = optax.value_and_grad_from_state(value)(image, state=state)
        updates, state = optimizer.update(
            grads, state, image, value=total, grad=grads, value_fn=value
        )
        return jnp.asarray(optax.apply_updates(image, updates)), state

    image, _ = lax.fori_loop(0, STEPS, step, (image, optimizer.init(image)))
    return loss(jnp.clip(into(image), 0, 1), params, targets, loss_weights)[0]


# --- 3 -------------------------------------------------------------------------------------------


def optimizers() -> None:
    print(f"loss and seconds after {STEPS} steps at {SIZE} pixels")
    for name in ("swirls", "mosaic", "ink"):
        figures = []
        for optimizer in ("lbfgs", "adam"):
            result = stylize(
                "examples/cat.jpg",
                f"examples/{name}.jpg",
                size=SIZE,
                steps=STEPS,
                model="vgg16",
                optimizer=optimizer,
            )
            took = result.settings["steps_seconds"]
            figures.append(f"{optimizer} {result.history[-1]['total']:.5f} in {took:.1f} s")
        print(f"  {name + ' on the cat':<20} {'   '.join(figures)}")


# --- 4 -------------------------------------------------------------------------------------------


def pooling_gains(params: Any) -> None:
    print("RMS of activations against max pooling, geometric mean over five photos")
    photos = [data.astronaut(), data.chelsea(), data.coffee()]
    photos += [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    taps = ("relu2_1", "relu3_1", "relu4_1", "relu5_1")

    @functools.partial(jax.jit, static_argnums=1)
    def rms(image: jax.Array, pooling: Any) -> dict[str, jax.Array]:
        features = VGG(params, pooling=pooling)(image, taps)
        return {tap: jnp.sqrt(jnp.square(x).mean()) for tap, x in features.items()}

    for pooling in ("average", "l2"):
        ratios = []
        for photo in photos:
            image = jnp.asarray(images.resize(photo / 255, images.fit(photo.shape, 256)))
            found, usual = rms(image, pooling), rms(image, "max")
            ratios.append([float(found[tap] / usual[tap]) for tap in taps])
        means = np.exp(np.log(ratios).mean(0))
        cells = "   ".join(f"{tap} {mean:.2f}" for tap, mean in zip(taps, means, strict=True))
        print(f"  {pooling:<8} {cells}   all {np.exp(np.log(ratios).mean()):.2f}")


# --- 5 -------------------------------------------------------------------------------------------


def precisions(params: Any) -> None:
    print(
        f"float32 loss of pictures made in float32 and in bfloat16, {STEPS} steps at {SIZE} pixels"
    )
    style_layers, content_layers = dict(SETTINGS.style_layers), dict(SETTINGS.content_layers)
    weights = LossWeights(SETTINGS.content_weight, 1.0, 0.0, content_layers, style_layers)
    for name in ("swirls", "mosaic", "ink"):
        targets = targets_of(params, name)
        for optimizer in ("lbfgs", "adam"):
            full, half = (
                stylize(
                    "examples/cat.jpg",
                    f"examples/{name}.jpg",
                    size=SIZE,
                    steps=STEPS,
                    model="vgg16",
                    optimizer=optimizer,
                    dtype=dtype,
                ).image
                for dtype in ("float32", "bfloat16")
            )
            found = [float(loss(jnp.asarray(x), params, targets, weights)[0]) for x in (full, half)]
            change = found[1] / found[0] - 1
            title = f"{name} on the cat, {optimizer}"
            print(f"  {title:<26} {found[0]:.5f}   {found[1]:.5f}   {change:+.1%}")


if __name__ == "__main__":
    main()
