"""Paint the example style pictures from code: swirls.jpg, mosaic.jpg and ink.jpg.

Run from anywhere: ``python examples/paint_styles.py [name ...]`` (needs scikit-image).
Every picture starts from a fixed seed, so a run paints the same pictures again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from brush import Array, Canvas, Palette, fractal, mix, noise, palette, sample, smoothstep, trace
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import cKDTree
from skimage.measure import find_contours

HERE = Path(__file__).parent

# Star, x, y, radius of its glow, turning sense.
LIGHTS = (
    (760, 150, 120, 1),
    (140, 120, 70, -1),
    (300, 60, 44, 1),
    (545, 70, 48, -1),
    (905, 340, 46, -1),
    (80, 330, 50, 1),
    (575, 365, 40, 1),
)
SWIRLS = ((420, 235, 150, 1), (235, 300, 85, -1), (620, 250, 80, -1))


def swirls() -> Array:
    """A windy night: eddies of blue over hills and a field, lamps of yellow in the sky."""
    rng = np.random.default_rng(7)
    tall, wide = 720, 960
    y, x = np.indices((tall, wide), np.float32)
    tone, angle = _night_sky(rng, x, y)
    night = palette(
        "0b1238", "132a72", "1d47a3", "2f74bd", "57a5b8", "a9cfa6", "f3dd72", "f7a81f", "fbc93a",
        "fff4c4"
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

    canvas = Canvas.primed(rng, _pick(palettes, ground, tone * 0.6))
    for width, length, gap, jitter in (
        (30, 120, 15, 0.04),
        (17, 85, 10, 0.06),
        (11, 56, 9, 0.085),
        (7.5, 40, 12, 0.10),
    ):
        _lay_strokes(rng, canvas, palettes, ground, tone, angle, width, length, gap, jitter)
    return canvas.lit(rng)


def _night_sky(rng: np.random.Generator, x: Array, y: Array) -> tuple[Array, Array]:
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


def _pick(palettes: list[Palette], ground: Array, tone: Array) -> Array:
    """Colour tones by the palette of the ground they lie on."""
    colours = palettes[0](tone)
    for k, look_up in enumerate(palettes[1:], start=1):
        colours = np.where((ground == k)[..., None], look_up(tone), colours)
    return colours


def _lay_strokes(
    rng: np.random.Generator,
    canvas: Canvas,
    palettes: list[Palette],
    ground: Array,
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
    colours = _pick(palettes, ground[at_y, at_x], tones.astype(np.float32))
    colours += 0.03 * rng.standard_normal(colours.shape)
    for path, colour in zip(paths, colours, strict=True):
        canvas.stroke(rng, path, width * rng.uniform(0.75, 1.25), colour)


def mosaic() -> Array:
    """A blazing flower in glass tiles: tiles in rows along the shapes, dark joints, low light."""
    rng = np.random.default_rng(21)
    side = 768
    region = _flower(side)
    y, x = np.indices(region.shape, np.float32)
    seeds, clear, angle = _rows(rng, region, (15, 15, 17, 16, 21, 18, 17))
    half = np.s_[::2, ::2]
    points = np.stack([x[half], y[half]], -1).reshape(-1, 2)
    weight = (clear[half].ravel() > 1.5).astype(np.float32)
    for _ in range(3):
        owner, _, _ = _tiles(seeds, points, angle)
        mass = np.bincount(owner, weight, len(seeds))
        for k in range(2):
            moment = np.bincount(owner, weight * points[:, k], len(seeds))
            seeds[:, k] = np.where(mass > 0, moment / np.maximum(mass, 1), seeds[:, k])

    wobble = np.stack([noise(rng, region.shape, 5) for _ in range(2)], -1) * 1.1
    points = (np.stack([x, y], -1) + wobble).reshape(-1, 2).astype(np.float32)
    owner, near, far = _tiles(seeds, points, angle)
    joint = ((far - near) / 2).reshape(region.shape) + 0.35 * noise(rng, region.shape, 2)
    owner = owner.reshape(region.shape)
    glass = _glass(rng, region, clear, seeds)[owner]

    streaks = noise(rng, region.shape, (1.2, 5)) + noise(rng, region.shape, 2.5)
    tilt = rng.normal(0, 0.06, (len(seeds), 2))[owner]
    dome = 1.0 * smoothstep(0.6, 4.5, joint) + 0.13 * streaks
    relief_y, relief_x = np.gradient(gaussian_filter(dome, 0.6))
    facing = (relief_x + tilt[..., 0]) * 0.6 + (relief_y + tilt[..., 1]) * 0.8
    shade = 1 + 0.75 * np.tanh(1.9 * facing) + 0.045 * streaks
    lit = glass * shade[..., None] + 0.35 * np.clip(facing - 0.22, 0, 1)[..., None]
    mortar = np.array([0.085, 0.065, 0.075]) * (1 + 0.3 * noise(rng, region.shape, 1.2))[..., None]
    return np.clip(mix(lit, mortar, 1 - smoothstep(0.7, 1.9, joint)), 0, 1)


def _flower(side: int) -> NDArray[np.int64]:
    """Regions of the design: heart, petals, outer petals, flames, sky, and two waves."""
    y, x = np.indices((side, side), np.float32)
    dx, dy = x - 0.53 * side, y - 0.43 * side
    r, turn = np.hypot(dx, dy), np.arctan2(dy, dx)
    swirl = turn + 0.0016 * r
    inner = 105 + 62 * np.abs(np.sin(4 * swirl)) ** 0.8
    outer = 172 + 98 * np.abs(np.sin(4 * swirl + np.pi / 2)) ** 0.7
    flame = 292 + 62 * np.sin(16 * (turn - 0.0022 * r))
    wave = 0.87 * side + 38 * np.sin(x / 62) - 0.1 * x
    return np.select(
        [r < 58, r < inner, r < outer, r < flame, y > wave + 62, y > wave], [0, 1, 2, 3, 6, 5], 4
    )


def _rows(
    rng: np.random.Generator, region: NDArray[np.int64], sizes: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Lay tiles in rows along every region's outline: centres, distance to it, direction."""
    clear, angle = np.zeros((2, *region.shape), np.float32)
    laid: list[Array] = []
    for k, size in enumerate(sizes):
        inside = region == k
        depth = np.asarray(distance_transform_edt(inside), np.float32)
        down, right = np.gradient(gaussian_filter(depth, 2))
        angle = np.where(inside, np.arctan2(down, right), angle)
        clear += depth
        for level in np.arange(0.5 * size, depth.max(), size):
            for row in find_contours(depth, level):
                along = np.r_[0, np.cumsum(np.hypot(*np.diff(row, axis=0).T))]
                count = max(1, round(along[-1] / size))
                at = (np.arange(count) + 0.5 + rng.uniform(-0.12, 0.12, count)) / count * along[-1]
                laid.append(np.stack([np.interp(at, along, row[:, j]) for j in (1, 0)], 1))
    seeds = np.concatenate(laid).astype(np.float32)
    crowded = {j for _, j in cKDTree(seeds).query_pairs(10.0)}
    return np.delete(seeds, sorted(crowded), axis=0), clear, angle


def _tiles(seeds: Array, points: Array, angle: Array) -> tuple[NDArray[np.int64], Array, Array]:
    """Give each point to the nearest seed, by a square-ish distance turned along the design."""
    _, candidates = cKDTree(seeds).query(points, k=7, workers=2)
    a = sample(angle, seeds[:, 0], seeds[:, 1])[candidates]
    d = points[:, None] - seeds[candidates]
    along = d[..., 0] * np.cos(a) + d[..., 1] * np.sin(a)
    across = d[..., 1] * np.cos(a) - d[..., 0] * np.sin(a)
    distance = (along**4 + across**4) ** 0.25
    order = np.argsort(distance, axis=1)[:, :2]
    near, far = np.take_along_axis(distance, order, 1).T
    return np.take_along_axis(candidates, order[:, :1], 1)[:, 0], near, far


def _glass(
    rng: np.random.Generator, region: NDArray[np.int64], clear: Array, seeds: Array
) -> Array:
    """One colour per tile, from its region's box of glass; bands run along the outline."""
    boxes = [
        palette("5a1a0c", "a8480f", "f0a51a", "ffd75a"),
        palette("7a0a12", "c4161c", "e8341c", "f7672a"),
        palette("b5420c", "ee7d12", "fbb321", "ffe17a"),
        palette("6d0f2c", "a81432", "d8293a", "f2a65a"),
        palette("0a1a5c", "11339a", "1f5fc4", "37a3d8"),
        palette("06403c", "0b7a62", "2fae6e", "a5d66a"),
        palette("0a2a4a", "0f6a80", "27a9a0", "d8e8b0"),
    ]
    wide = region.shape[1]
    x, y = np.clip(seeds.round().astype(int), 0, wide - 1).T
    drift = 0.16 * noise(rng, region.shape, 45)[y, x]
    band = 0.2 * np.cos(clear[y, x] / 15) - 0.002 * clear[y, x]
    tone = 0.5 + drift + band + 0.13 * rng.standard_normal(len(seeds))
    colour = _pick(boxes, region[y, x], tone.astype(np.float32))
    spark = rng.random(len(seeds)) < np.where(region[y, x] == 4, 0.05, 0.02)
    colour[spark] = (0.98, 0.8, 0.32)
    return np.clip(colour + 0.035 * rng.standard_normal(colour.shape), 0, 1).astype(np.float32)


INDIGO = (0.075, 0.12, 0.27)
CREAM = (0.95, 0.90, 0.77)


def ink() -> Array:
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
    fibre = noise(rng, y.shape, (0.7, 4)) + noise(rng, y.shape, (4, 0.7)) + noise(rng, y.shape, 0.8)
    return np.clip(print_ * (1 + 0.022 * fibre + 0.02 * patchy)[..., None], 0, 1)


def _carve(
    picture: Array, phase: Array, spacing: float, thick: Array, ink: tuple[float, ...], where: Array
) -> Array:
    """Draw the level lines of a field, ``spacing`` apart, as lines of varying thickness."""
    steep_y, steep_x = np.gradient(phase)
    steep = np.maximum(np.hypot(steep_x, steep_y), 0.35)
    offset = np.abs((phase / spacing + 0.5) % 1 - 0.5) * spacing / steep
    return mix(picture, ink, np.clip(thick / 2 - offset + 0.5, 0, 1) * where * (thick > 0.3))


def _sky(rng: np.random.Generator, x: Array, y: Array, grain: Array, patchy: Array) -> Array:
    """Cream paper with a graded indigo top, a grained red sun and rings cut around it."""
    paper = np.broadcast_to(np.asarray(CREAM, np.float32), (*x.shape, 3))
    dusk = smoothstep(330, 480, y + 12 * patchy) * 0.55
    picture = mix(paper, (0.93, 0.62, 0.40), dusk)
    r = np.hypot(x - 640, y - 205)
    picture = mix(picture, (0.22, 0.36, 0.55), smoothstep(190, -40, y + 14 * patchy) * 0.95)
    bend = r + 5 * noise(rng, x.shape, 50)
    swell = 1.3 + 1.2 * noise(rng, x.shape, (16, 50))
    picture = _carve(picture, bend, 15, np.clip(swell, 0, 3.4), (0.30, 0.42, 0.55), 0.75 + 0 * r)
    disc = np.clip(128 - r + 0.8 * patchy, 0, 1) * (0.93 + 0.07 * grain)
    red = palette("8f1d14", "c8321f", "e2512c", "ee8a4a")(0.45 + 0.12 * patchy + 0.002 * (y - 205))
    picture = picture + (red - picture) * disc[..., None]
    streak = np.clip(2.0 * noise(rng, x.shape, (6, 70)) - 0.6, 0, 2.2)
    return _carve(picture, y + 0.06 * x + 3 * patchy, 13, streak, CREAM, disc)


def _wave(
    rng: np.random.Generator,
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


def _foam(
    rng: np.random.Generator, picture: Array, shape: Array, crest: NDArray[np.bool_], patchy: Array
) -> Array:
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


def main() -> None:
    """Paint the named pictures, or all of them."""
    studio = {"swirls": swirls, "mosaic": mosaic, "ink": ink}
    for name in sys.argv[1:] or studio:
        picture = Image.fromarray((studio[name]() * 255).round().astype(np.uint8))
        picture.save(HERE / f"{name}.jpg", quality=92, optimize=True)
        print(name, picture.size)


if __name__ == "__main__":
    main()
