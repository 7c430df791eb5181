"""A woodblock sea before a red sun, in carved lines and washes of indigo."""

from __future__ import annotations

import numpy as np
from brush import Array, Mask, Rng, fractal, mix, noise, palette, smoothstep

INDIGO = (0.075, 0.12, 0.27)
CREAM = (0.95, 0.90, 0.77)


def paint() -> Array:
    """A woodblock sea: indigo waves in carved lines and foam before a vermilion sun."""
    rng = np.random.default_rng(5)
    tall, wide = 720, 960
    y, x = np.indices((tall, wide), np.float32)
    grain = np.sin(y / 3.1 + 2.4 * noise(rng, y.shape, (14, 160)) + 0.5 * noise(rng, y.shape, 3))
    patchy = fractal(rng, y.shape, 24)
    print_ = _sky(rng, x, y, grain, patchy)
    water = palette("c9d6c4", "8fb4bb", "4f86a6", "2a5a8c", "1b3a6b", "132650")
    for k in range(7):
        base = 350 + 62 * k + 8 * k * (k > 3)
        height = 120 + 14 * k
        shape = _wave(rng, x, y, base, height, 300 + 22 * k, 1000 * ((0.618 * k + 0.2) % 1))
        steep_y, steep_x = np.gradient(shape)
        depth = shape / np.maximum(np.hypot(steep_x, steep_y), 0.6)
        body = np.clip(depth + 0.5, 0, 1)
        wash = 0.12 + depth / 125 + 0.05 * patchy + 0.05 * grain + 0.05 * k
        wash += 0.16 * np.sign(np.sin(shape / 15.0 + 0.7)) * (depth > 8)
        print_ = mix(print_, water(wash), body)
        spacing = 15 + k
        swell = 0.5 + 0.5 * noise(rng, y.shape, (30, 60))
        thick = np.clip(2.9 - depth / 60 + 1.1 * swell, 0.2, 4.2)
        print_ = _carve(print_, shape, spacing, thick, INDIGO, body * (0.92 + 0.08 * grain))
        thin = np.clip(0.5 + 1.3 * noise(rng, y.shape, (20, 45)), 0, 2.2)
        print_ = _carve(print_, shape + 0.5 * spacing, spacing, thin, CREAM, body * (depth > 12))
        print_ = mix(print_, INDIGO, np.clip(2.6 - np.abs(depth), 0, 1))
        print_ = _foam(rng, print_, shape, (y < base - 0.42 * height), patchy)
    fibre = noise(rng, y.shape, (0.8, 5)) + noise(rng, y.shape, 0.8) + noise(rng, y.shape, 1.6)
    return np.clip(print_ * (1 + 0.02 * fibre + 0.02 * patchy)[..., None], 0, 1)


def _carve(
    picture: Array,
    phase: Array,
    spacing: float,
    thick: Array,
    colour: tuple[float, ...],
    where: Array,
) -> Array:
    """Draw the level lines of a field, ``spacing`` apart, as lines of varying thickness."""
    steep_y, steep_x = np.gradient(phase)
    steep = np.maximum(np.hypot(steep_x, steep_y), 0.35)
    offset = np.abs((phase / spacing + 0.5) % 1 - 0.5) * spacing / steep
    return mix(picture, colour, np.clip(thick / 2 - offset + 0.5, 0, 1) * where * (thick > 0.3))


def _sky(rng: Rng, x: Array, y: Array, grain: Array, patchy: Array) -> Array:
    """Cream paper with a graded indigo top, a grained red sun and rings cut around it."""
    paper = np.broadcast_to(np.asarray(CREAM, np.float32), (*x.shape, 3))
    brushed = noise(rng, x.shape, (5, 130)) + 0.6 * noise(rng, x.shape, (2, 60))
    dusk = smoothstep(215, 420, y + 10 * brushed) * 0.8
    picture = mix(paper, (0.93, 0.62, 0.40), dusk)
    r = np.hypot(x - 640, y - 205)
    picture = mix(picture, (0.22, 0.36, 0.55), smoothstep(200, -30, y + 9 * brushed) * 0.95)
    bend = r + 5 * noise(rng, x.shape, 50)
    swell = 1.3 + 1.2 * noise(rng, x.shape, (16, 50))
    picture = _carve(
        picture, bend, 15, np.clip(swell, 0, 3.4), (0.25, 0.38, 0.53), np.clip(r - 132, 0, 0.85)
    )
    disc = np.clip(128 - r + 0.8 * patchy, 0, 1) * (0.93 + 0.07 * grain)
    red = palette("8f1d14", "c8321f", "e2512c", "ee8a4a")(0.45 + 0.12 * patchy + 0.002 * (y - 205))
    picture = picture + (red - picture) * disc[..., None]
    streak = np.clip(2.0 * noise(rng, x.shape, (6, 70)) - 0.6, 0, 2.2)
    return _carve(picture, y + 0.06 * x + 3 * patchy, 13, streak, CREAM, disc)


def _wave(
    rng: Rng,
    x: Array,
    y: Array,
    base: float,
    height: float,
    length: float,
    shift: float,
) -> Array:
    """A field above zero inside a row of leaning, cusped waves."""
    rise = np.clip((base - y) / height, 0, 1.2)
    bent = x + shift + 0.3 * length * rise**2.2 + 6 * noise(rng, x.shape, 40)
    wobble = 1 + 0.22 * np.sin(bent / length * 2.1 + shift)
    crest = (1 - np.abs(np.sin(np.pi * bent / length)) ** 0.75) * wobble
    return (y - base + height * crest).astype(np.float32)


def _foam(rng: Rng, picture: Array, shape: Array, crest: Mask, patchy: Array) -> Array:
    """Beads of foam along the crests, joined to clumps, with spray above them."""
    rim_y, rim_x = np.nonzero(crest & (np.abs(shape) < 5))
    if len(rim_y) == 0:
        return picture
    tip = (rim_y.max() - rim_y) / np.ptp(rim_y)
    odds = 0.05 + tip**2
    picks = rng.choice(len(rim_y), max(12, len(rim_y) // 30), p=odds / odds.sum())
    clump = np.full(shape.shape, 99, np.float32)
    beads = [(rim_x[i], rim_y[i], 3 + 6 * tip[i] + 7 * rng.random() ** 2) for i in picks]
    beads += [(x + 26 * rng.normal(), y - abs(24 * rng.normal()), 1.4) for x, y, _ in beads[::2]]
    for x, y, radius in beads:
        top, left = max(int(y) - 30, 0), max(int(x) - 30, 0)
        window = np.s_[top : int(y) + 31, left : int(x) + 31]
        row, column = np.indices(clump[window].shape)
        away = np.hypot(column + left - x, row + top - y) - radius
        clump[window] = np.minimum(clump[window], away)
    clump += 1.1 * noise(rng, shape.shape, 3)
    picture = mix(picture, INDIGO, np.clip(2.0 - clump, 0, 1))
    picture = mix(picture, CREAM, np.clip(0.4 - clump, 0, 1) * (0.96 + 0.04 * np.tanh(patchy)))
    arcs = np.clip(1.3 - np.abs(clump + 4.5), 0, 1) * (noise(rng, shape.shape, 8) > -0.2)
    return mix(picture, (0.45, 0.62, 0.70), arcs)
