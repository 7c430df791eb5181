"""A small painting kit in numpy: noise, palettes, bristle strokes, oblique light on thick paint.

Pictures are float arrays (height, width, 3) in 0..1; points are (x, y) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

Array = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]
Rng = np.random.Generator
Palette = Callable[[Array], Array]


def noise(rng: Rng, shape: tuple[int, int], sigma: float | tuple[float, float]) -> Array:
    """Smooth Gaussian noise of unit variance; ``sigma`` is its grain in pixels, (y, x)."""
    raw = rng.standard_normal(shape).astype(np.float32)
    smooth = gaussian_filter(raw, sigma, mode="wrap")
    return (smooth - smooth.mean()) / (smooth.std() + 1e-9)


def fractal(rng: Rng, shape: tuple[int, int], sigma: float, octaves: int = 4) -> Array:
    """Noise summed over octaves, each half as large and half as strong as the last."""
    total = sum(noise(rng, shape, sigma / 2**k) / 2**k for k in range(octaves))
    return np.asarray(total / np.std(total), np.float32)


def smoothstep(low: float, high: float, x: Array) -> Array:
    """Rise from 0 at ``low`` to 1 at ``high`` (or fall, where low > high)."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Array, b: Array | Sequence[float], weight: Array) -> Array:
    """Blend two pictures by a (height, width) weight."""
    return a + (np.asarray(b, np.float32) - a) * weight[..., None]


def palette(*colours: str) -> Palette:
    """Map 0..1 to evenly spaced hex colours with linear blends between them."""
    table = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in colours]) / 255
    stops = np.linspace(0, 1, len(colours))

    def look_up(t: Array) -> Array:
        channels = [np.interp(t, stops, table[:, k]) for k in range(3)]
        return np.stack(channels, axis=-1).astype(np.float32)

    return look_up


def pick(palettes: list[Palette], ground: Labels, tone: Array) -> Array:
    """Colour tones by the palette of the ground they lie on."""
    colours = palettes[0](tone)
    for k, look_up in enumerate(palettes[1:], start=1):
        colours = np.where((ground == k)[..., None], look_up(tone), colours)
    return colours


def sample(field: Array, x: Array, y: Array) -> Array:
    """Read a field at points, bilinear, clamped at the border."""
    return map_coordinates(field, [y, x], order=1, mode="nearest")


def trace(angle: Array, start: Array, length: Array, steps: int = 9) -> Array:
    """Follow an angle field both ways from every start: (strokes, 2*steps+1, 2) points."""
    cos, sin = np.cos(angle), np.sin(angle)
    step = (length / (2 * steps))[:, None]
    halves = []
    for sign in (1, -1):
        point = start.copy()
        before = sign * np.stack([sample(f, point[:, 0], point[:, 1]) for f in (cos, sin)], 1)
        path = []
        for _ in range(steps):
            way = np.stack([sample(f, point[:, 0], point[:, 1]) for f in (cos, sin)], 1)
            way *= np.where((way * before).sum(1, keepdims=True) < 0, -1, 1)
            before = way / (np.linalg.norm(way, axis=1, keepdims=True) + 1e-6)
            point = point + before * step
            path.append(point)
        halves.append(path)
    return np.stack([*halves[1][::-1], start, *halves[0]], axis=1).astype(np.float32)


@dataclass
class Canvas:
    """Paint (colour) and how thick it lies (relief), with the brush's bristle marks."""

    colour: Array
    relief: Array
    bristles: Array

    @classmethod
    def primed(cls, rng: Rng, ground: Array) -> Canvas:
        """Start from a ground colour per pixel and no relief."""
        marks = noise(rng, (256, 1024), (1.6, 60)) + 0.6 * noise(rng, (256, 1024), (7, 120))
        return cls(ground.copy(), np.zeros(ground.shape[:2], np.float32), marks / marks.std())

    def stroke(self, rng: Rng, path: Array, width: float, colour: Array, dry: float = 0.5) -> None:
        """Drag one loaded brush along a path: tapered, streaked, drier toward its end."""
        tall, wide = self.relief.shape
        reach = width / 2 + 2
        x0, y0 = np.maximum(np.floor(path.min(0) - reach).astype(int), 0)
        x1, y1 = np.minimum(np.ceil(path.max(0) + reach).astype(int) + 1, (wide, tall))
        if x1 - x0 < 2 or y1 - y0 < 2:
            return
        along, across = _stroke_frame(path, x0, y0, x1, y1)
        blunt = np.minimum(1, np.minimum(along / 0.12 + 0.35, (1 - along) / 0.35 + 0.15))
        half = width / 2 * blunt
        v = across / half
        row = rng.uniform(0, 200) + v * (3 + width) * 0.8
        span = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
        column = rng.uniform(0, 1000) + along * span
        marks = map_coordinates(self.bristles, [row, column], order=1, mode="wrap")
        edge = np.clip((half - np.abs(across)) / 1.2 + 0.5, 0, 1)
        thirst = dry * (3.2 * along**3 + 1.6 * v**6) - 1.6
        alpha = edge * np.clip((marks - thirst) / 0.5, 0, 1)
        alpha *= (along > 0.001) & (along < 0.999)
        here = np.s_[y0:y1, x0:x1]
        streak = 1 + 0.075 * marks + 0.05 * v * rng.choice([-1, 1])
        paint = np.clip(colour * streak[..., None], 0, 1)
        self.colour[here] = mix(self.colour[here], paint, alpha)
        ridge = 0.55 + 0.28 * marks + 0.5 * v**4 - 0.25 * along
        level = 0.35 * self.relief[here] + ridge * min(1.0, width / 14)
        self.relief[here] += (level - self.relief[here]) * alpha

    def lit(self, rng: Rng, depth: float = 0.62, weave: float = 0.03) -> Array:
        """Light the relief from the upper left, over a faint cloth weave."""
        y, x = np.indices(self.relief.shape, np.float32)
        wobble = noise(rng, self.relief.shape, 12)
        cloth = np.sin(x * 1.9 + wobble) * np.sin(y * 1.9 - wobble)
        relief = gaussian_filter(self.relief, 0.7) + weave * cloth
        slope_y, slope_x = np.gradient(relief)
        facing: Array = np.asarray(slope_x * 0.6 + slope_y * 0.8)
        shade = np.asarray(1 + depth * np.tanh(2.2 * facing))
        gloss: Array = 0.22 * np.clip(facing - 0.16, 0, 0.8)
        return np.clip(self.colour * shade[..., None] + gloss[..., None], 0, 1)


def _stroke_frame(path: Array, x0: int, y0: int, x1: int, y1: int) -> tuple[Array, Array]:
    """Where each pixel lies on a path: the fraction along it and the signed distance across."""
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    best = np.full(x.shape, np.inf, np.float32)
    along, across = np.zeros_like(x), np.zeros_like(x)
    pieces = len(path) - 1
    for i, (a, b) in enumerate(pairwise(path)):
        dx, dy = b - a
        size = dx * dx + dy * dy + 1e-6
        px, py = x - a[0], y - a[1]
        t = np.clip((px * dx + py * dy) / size, 0, 1)
        away = (px - t * dx) ** 2 + (py - t * dy) ** 2
        nearer = away < best
        best = np.where(nearer, away, best)
        along = np.where(nearer, (i + t) / pieces, along)
        side = np.where(px * dy - py * dx < 0, -1, 1)
        across = np.where(nearer, side * np.sqrt(away), across)
    return along, across
