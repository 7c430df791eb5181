"""A windy night in thick strokes that follow eddies of air."""

from __future__ import annotations

import numpy as np
from brush import Array, Canvas, Labels, Palette, Rng, fractal, noise, palette, pick, trace

# Star, x, y, radius of its glow, turning sense.
LIGHTS = (
    (205, 165, 118, 1),
    (835, 105, 72, -1),
    (640, 62, 46, 1),
    (425, 75, 50, -1),
    (52, 372, 48, -1),
    (890, 330, 52, 1),
    (395, 345, 42, 1),
)
SWIRLS = ((565, 250, 140, -1), (760, 325, 80, 1), (320, 60, 70, -1))


def paint() -> Array:
    """A windy night: eddies of blue over hills and a field, lamps of yellow in the sky."""
    rng = np.random.default_rng(7)
    tall, wide = 720, 960
    y, x = np.indices((tall, wide), np.float32)
    tone, angle = _night_sky(rng, x, y)
    night = palette(
        "0b1238",
        "132a72",
        "1d47a3",
        "2f74bd",
        "57a5b8",
        "a9cfa6",
        "f3dd72",
        "f7a81f",
        "fbc93a",
        "fff4c4",
    )
    hills = palette("0a1a38", "123a5c", "1f5c70", "2f7f78", "5f9f6a", "a8b85a")
    field = palette("5b2f12", "a8621b", "dd9a22", "f3c73b", "fbe58c", "7f8d2d")

    ground = np.empty((tall, wide), np.int8)
    ground[:] = 0
    palettes: list[Palette] = [night, hills, hills, field]
    ridges = [
        470 + 34 * np.sin(x / 105 + 1.0) + 18 * np.sin(x / 47),
        535 + 30 * np.sin(x / 140 + 3.4) + 10 * np.sin(x / 38 + 1),
        600 + 26 * np.sin(x / 190 + 0.4) + 6 * np.sin(x / 60),
    ]
    for k, ridge in enumerate(ridges, start=1):
        below = y > ridge
        ground[below] = k
        slope = np.arctan(np.gradient(ridge, axis=1))
        depth = (y - ridge) / 90
        lean = (0.35, -0.5, 0.9)[k - 1]
        wave = lean * np.clip(depth, 0, 1.3) + 0.35 * np.sin(x / 60 + y / 33 + k)
        angle = np.where(below, slope + wave, angle)
        light = 0.42 - 0.1 * k + 0.3 * np.sin(depth * 5 + x / 80) + 0.13 * noise(rng, x.shape, 14)
        light = np.where(depth < 0.07, 0.02, light) if k < 3 else light + 0.42
        tone = np.where(below, light, tone)

    canvas = Canvas.primed(rng, pick(palettes, ground, tone * 0.6))
    for width, length, gap, jitter in (
        (30, 120, 15, 0.04),
        (17, 85, 10, 0.06),
        (11, 56, 9, 0.085),
        (7.5, 40, 12, 0.10),
    ):
        _lay_strokes(rng, canvas, palettes, ground, tone, angle, width, length, gap, jitter)
    return canvas.lit(rng)


def _night_sky(rng: Rng, x: Array, y: Array) -> tuple[Array, Array]:
    """Tone (0 dark to 1 glowing) and stroke angle of a sky full of eddies."""
    drift = noise(rng, x.shape, 70)
    curl_y, curl_x = np.gradient(drift)
    u = 1.0 + 34 * curl_y
    v = 0.35 * np.sin(x / 120) - 34 * curl_x
    tone = 0.27 + 0.07 * fractal(rng, x.shape, 40) + 0.07 * np.sin(y / 24 + 1.8 * drift)
    for cx, cy, radius, sense in (*LIGHTS, *SWIRLS):
        dx, dy = x - cx, y - cy
        r = np.hypot(dx, dy) + 1e-3
        pull = 9 * np.exp(-((r / (1.1 * radius)) ** 2))
        u += -sense * dy / r * pull - 0.12 * pull * dx / r
        v += sense * dx / r * pull - 0.12 * pull * dy / r
    for cx, cy, radius, sense in SWIRLS:
        dx, dy = x - cx, y - cy
        r = np.hypot(dx, dy) + 1e-3
        arms = np.cos(2 * np.arctan2(dy, dx) * sense - 5.5 * np.log(r / radius + 0.12))
        tone += np.exp(-((r / radius) ** 2)) * (0.16 + 0.24 * arms)
    for cx, cy, radius, _ in LIGHTS:
        r = np.hypot(x - cx, y - cy)
        rings = 0.11 * np.cos(r / radius * 16)
        glow = 0.86 * np.exp(-((r / (0.6 * radius)) ** 2)) + 0.3 * np.exp(-((r / radius) ** 2))
        tone = np.maximum(tone, glow * (1 + rings)) + 0.1 * np.exp(-r / radius)
    return tone.astype(np.float32), np.arctan2(v, u).astype(np.float32)


def _lay_strokes(
    rng: Rng,
    canvas: Canvas,
    palettes: list[Palette],
    ground: Labels,
    tone: Array,
    angle: Array,
    width: float,
    length: float,
    gap: float,
    jitter: float,
) -> None:
    """One layer of strokes, in random order, on a jittered lattice of starts."""
    tall, wide = tone.shape
    y, x = np.mgrid[-gap : tall + gap : gap, -gap : wide + gap : gap]
    start = np.stack([x.ravel(), y.ravel()], 1)
    start = rng.permutation(start + rng.uniform(-gap, gap, start.shape))
    lengths = length * rng.uniform(0.55, 1.25, len(start))
    paths = trace(angle, start, lengths, steps=4)
    at_x = np.clip(start[:, 0], 0, wide - 1).astype(int)
    at_y = np.clip(start[:, 1], 0, tall - 1).astype(int)
    tones = tone[at_y, at_x] + jitter * rng.standard_normal(len(start))
    colours = pick(palettes, ground[at_y, at_x], tones.astype(np.float32))
    colours += 0.03 * rng.standard_normal(colours.shape)
    for path, colour in zip(paths, colours, strict=True):
        canvas.stroke(rng, path, width * rng.uniform(0.75, 1.25), colour)
