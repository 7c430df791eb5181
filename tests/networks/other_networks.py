"""Two networks that are not VGG: one strides by 3 and by 2, one attends to the whole image."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from nst_jax import InputError
from nst_jax.networks import zero_outside


@dataclass(frozen=True)
class StridedCNN:
    """Strided convolutions with ReLU. Each reads one position beyond its own on every side."""

    strides: tuple[int, ...] = (3, 2)

    def depth(self, layer):
        names = [f"conv{i}" for i in range(1, len(self.strides) + 1)]
        if layer not in names:
            raise InputError(f"unknown layer {layer!r}; choose one of {', '.join(names)}")
        return names.index(layer) + 1

    def features(self, params, image, layers, window=None):
        found, x = {}, zero_outside(image - 0.5, window)
        for i, stride in enumerate(self.strides[: max(map(self.depth, layers))], start=1):
            kernel = params[f"conv{i}"]
            x = lax.conv_general_dilated(
                x[None].astype(kernel.dtype),
                kernel,
                (stride, stride),
                ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )[0]
            window = None if window is None else window.downsample(stride)
            x = found[f"conv{i}"] = zero_outside(jax.nn.relu(x), window)
        return {layer: found[layer] for layer in layers}

    def grid(self, layer, shape):
        return shape[0] // self.stride(layer), shape[1] // self.stride(layer)

    def stride(self, layer):
        return math.prod(self.strides[: self.depth(layer)])

    def receptive_radius(self, params, layers):
        return sum(math.prod(self.strides[:i]) for i in range(max(map(self.depth, layers))))

    def min_size(self, layers):
        return max(map(self.stride, layers))

    def prepare(self, params, dtype, layers):
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), params)

    def init(self, key, filters=8):
        params, before = {}, 3
        for i, stride in enumerate(self.strides, start=1):
            shape = (stride + 2, stride + 2, before, filters)
            scale = (2 / (shape[0] * shape[1] * before)) ** 0.5
            params[f"conv{i}"] = scale * jax.random.normal(jax.random.fold_in(key, i), shape)
            before = filters
        return params


@dataclass(frozen=True)
class PatchTransformer:
    """Blocks of attention over the patches of the whole image, with positions as sines."""

    patch: int = 8
    width: int = 16
    depth: int = 2

    def features(self, params, image, layers, window=None):
        rows, columns = self.grid(layers[0], image.shape[:2])
        pixels = image[: rows * self.patch, : columns * self.patch]
        patches = pixels.reshape(rows, self.patch, columns, self.patch, 3).swapaxes(1, 2)
        x = patches.reshape(rows * columns, -1).astype(params["embed"].dtype) @ params["embed"]
        x += self.positions(rows, columns).astype(x.dtype)
        found = {}
        for i, block in enumerate(params["blocks"], start=1):
            queries, keys, values = jnp.split(jax.nn.standardize(x) @ block["attend"], 3, axis=-1)
            x += jax.nn.softmax(queries @ keys.T / self.width**0.5) @ values
            x += jax.nn.gelu(jax.nn.standardize(x) @ block["up"]) @ block["down"]
            found[f"block{i}"] = x.reshape(rows, columns, -1)
        return {layer: found[layer] for layer in layers}

    def positions(self, rows, columns):
        waves = 2.0 ** -jnp.arange(self.width // 4)
        sides = [jnp.arange(side)[:, None] * waves for side in (rows, columns)]
        down, across = (jnp.concatenate([jnp.sin(x), jnp.cos(x)], axis=1) for x in sides)
        shape = (rows, columns, self.width // 2)
        down, across = jnp.broadcast_to(down[:, None], shape), jnp.broadcast_to(across, shape)
        return jnp.concatenate([down, across], axis=2).reshape(rows * columns, self.width)

    def grid(self, layer, shape):
        if layer not in (names := [f"block{i}" for i in range(1, self.depth + 1)]):
            raise InputError(f"unknown layer {layer!r}; choose one of {', '.join(names)}")
        return shape[0] // self.patch, shape[1] // self.patch

    def stride(self, layer):
        return self.patch

    def receptive_radius(self, params, layers):
        return None

    def min_size(self, layers):
        return self.patch

    def prepare(self, params, dtype, layers):
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), params)

    def init(self, key):
        def matrix(index, inputs, outputs):
            values = jax.random.normal(jax.random.fold_in(key, index), (inputs, outputs))
            return values / inputs**0.5

        width = self.width
        blocks = [
            {
                "attend": matrix(3 * i + 1, width, 3 * width),
                "up": matrix(3 * i + 2, width, 2 * width),
                "down": matrix(3 * i + 3, 2 * width, width),
            }
            for i in range(self.depth)
        ]
        return {"embed": matrix(0, 3 * self.patch**2, width), "blocks": blocks}
