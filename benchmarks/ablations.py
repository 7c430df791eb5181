"""The measurements behind choices that the docs and the docstrings mention.

    python benchmarks/ablations.py

It prints, with the bundled VGG16:

1. the time of the input gradient of one convolution, as JAX derives it and as `conv3x3` computes
   it, outside and inside a compiled loop;
2. the final loss of L-BFGS when values outside [0, 1] are clipped at the end, clipped inside the
   loss, reflected inside the loss, or clipped after each step;
3. the loss (in float32) and the seconds of L-BFGS and Adam, each in float32 and in bfloat16;
4. the size of activations with average and L2 pooling relative to max pooling, on five photos.
"""

import argparse
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from common import (
    EXAMPLES,
    LOSS_WEIGHTS,
    default_targets,
    load_params,
    milliseconds,
    read_example,
    resize,
)
from jax import lax
from reporting import facts, number, table
from skimage import data
from sklearn.datasets import load_sample_image

from nst_jax import VGG, LossWeights, loss, make_targets, stylize, weights
from nst_jax.networks.kernels.conv3x3 import conv3x3
from nst_jax.optimize import (
    clip_to_unit,
    current_iterate,
    init_state,
    pyramid_lbfgs,
    run_steps,
)

STYLES: Final = ("swirls", "mosaic", "ink")


def conv_lax(x: jax.Array, kernel: jax.Array) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=layout)[0]


def convolution_gradient(params: Any, size: int, steps: int) -> str:
    x, kernel = jnp.ones((size, size, 128)), jnp.full((3, 3, 128, 128), 0.01)
    rows = []
    for name, conv in (("derived by JAX", conv_lax), ("nst_jax", conv3x3)):

        def gradient(x: jax.Array, kernel: jax.Array, conv: Any = conv) -> jax.Array:
            return jax.vjp(lambda x: conv(x, kernel), x)[1](x)[0]

        def loop(x: jax.Array, kernel: jax.Array, n: int, body: Any = gradient) -> jax.Array:
            return lax.fori_loop(0, n, lambda _, x: body(x, kernel), x)

        times = milliseconds(gradient, x, kernel), milliseconds(loop, x, kernel, 1)
        rows.append([name, *map(number, times)])
    return table([f"3x3, 128 to 128 filters, {size}x{size}", "ms", "ms in a loop"], rows)


def ranges(params: Any, size: int, steps: int) -> str:
    cat = read_example("cat", size)
    cases = {}
    for style in STYLES:
        targets = default_targets(params, cat, read_example(style, size))
        cases[f"{style} on the cat"] = cat, (params, targets, LOSS_WEIGHTS)
    for layer in ("relu1_1", "relu3_1"):
        noise = jax.random.uniform(jax.random.key(0), cat.shape)
        targets = make_targets(params, cat, content_layers=(layer,))
        loss_weights = LossWeights(content_layers={layer: 1.0})
        cases[f"{layer} from noise"] = noise, (params, targets, loss_weights)
    ways = ("clipped at the end", "clipped in the loss", "reflected", "clipped after each step")
    rows = [
        [name, *(f"{final_loss(way, steps, *case):.5f}" for way in ways)]
        for name, case in cases.items()
    ]
    return table([f"loss after {steps} steps", *ways], rows)


def reflect(image: jax.Array) -> jax.Array:
    phase = image % 2
    return jnp.where(phase <= 1, phase, 2 - phase)


@partial(jax.jit, static_argnums=(0, 1))
def final_loss(way: str, steps: int, image: jax.Array, args: Any) -> jax.Array:
    """Minimize the loss by L-BFGS; return the loss of the result, clipped to [0, 1]."""
    maps = {"clipped in the loss": clip_to_unit, "reflected": reflect}
    to_range = maps.get(way, lambda image: image)
    options: Any = {
        "optimizer": pyramid_lbfgs(),
        "project": clip_to_unit if way == "clipped after each step" else None,
    }

    def mapped(image: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return loss(to_range(image), *args)[0], {}

    state, _ = run_steps(mapped, init_state(image, **options), steps=steps, **options)
    return loss(clip_to_unit(to_range(current_iterate(state))), *args)[0]


def optimizers(params: Any, size: int, steps: int) -> str:
    cat, rows = read_example("cat", size), []
    for style in STYLES:
        targets = default_targets(params, cat, read_example(style, size))
        for optimizer in ("lbfgs", "adam"):
            row = [f"{style} on the cat, {optimizer}"]
            for dtype in ("float32", "bfloat16"):
                options: Any = {"min_size": None, "optimizer": optimizer, "dtype": dtype}
                paths = EXAMPLES / "cat.jpg", EXAMPLES / f"{style}.jpg"
                result = stylize(*paths, size=size, steps=steps, model="vgg16", **options)
                value = loss(jnp.asarray(result.image), params, targets, LOSS_WEIGHTS)[0]
                row += [f"{value:.5f}", number(result.metadata["steps_seconds"])]
            rows.append(row)
    return table([f"{steps} steps", "float32: loss", "seconds", "bfloat16: loss", "seconds"], rows)


def read_photos() -> list[np.ndarray]:
    photos = [data.astronaut(), data.chelsea(), data.coffee()]
    return [*photos, load_sample_image("china.jpg"), load_sample_image("flower.jpg")]


def pooling(params: Any, size: int, steps: int) -> str:
    photos = [jnp.asarray(resize(photo / 255, 2 * size)) for photo in read_photos()]
    layers = ("relu2_1", "relu3_1", "relu4_1", "relu5_1")

    @partial(jax.jit, static_argnums=2)
    def rms(params: Any, image: jax.Array, pooling: Any) -> jax.Array:
        features = VGG(pooling).features(params, image, layers)
        return jnp.stack([jnp.sqrt(jnp.square(features[name]).mean()) for name in layers])

    rows = []
    for kind in ("average", "l2"):
        logs = [np.log(rms(params, photo, kind) / rms(params, photo, "max")) for photo in photos]
        means = np.exp([*np.mean(logs, axis=0), np.mean(logs)])
        rows.append([kind, *(f"{mean:.2f}" for mean in means)])
    return table(["RMS relative to max pooling", *layers, "all"], rows)


ABLATIONS: Final = {f.__name__: f for f in (convolution_gradient, ranges, optimizers, pooling)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the choices that the docs mention.")
    parser.add_argument("--only", nargs="+", choices=ABLATIONS, default=list(ABLATIONS))
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    params = load_params(weights.bundled_path())
    print(facts(size=f"{options.size} pixels"))
    for name in options.only:
        print(f"\n{ABLATIONS[name](params, options.size, options.steps)}", flush=True)


if __name__ == "__main__":
    main()
