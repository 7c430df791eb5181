"""A flower of glass tiles, laid in rows along its outlines."""

from __future__ import annotations

import numpy as np
from brush import Array, Labels, Rng, mix, noise, palette, pick, sample, smoothstep
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import KDTree
from skimage.measure import find_contours


def paint() -> Array:
    """A blazing flower in glass tiles: tiles in rows along the shapes, dark joints, low light."""
    rng = np.random.default_rng(21)
    side = 768
    region = _flower(side)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    seeds, clear, angle = _rows(rng, region, (15, 15, 17, 16, 21, 18, 17))
    points = np.stack([x[::2, ::2], y[::2, ::2]], -1).reshape(-1, 2)
    weight = (clear[::2, ::2].ravel() > 1.5).astype(np.float32)
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


def _flower(side: int) -> Labels:
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


def _rows(rng: Rng, region: Labels, sizes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Lay tiles in rows along every region's outline: centres, distance to it, direction."""
    clear: Array = np.zeros(region.shape, np.float32)
    angle: Array = clear.copy()
    laid: list[Array] = []
    for k, size in enumerate(sizes):
        inside = region == k
        depth: Array = np.asarray(distance_transform_edt(inside), np.float32)
        down, right = np.gradient(gaussian_filter(depth, 2))
        angle = np.where(inside, np.arctan2(down, right), angle)
        clear = np.asarray(np.where(inside, depth, clear))
        for level in np.arange(0.5 * size, depth.max(), size):
            for row in find_contours(depth, level):
                along = np.r_[0, np.cumsum(np.hypot(*np.diff(row, axis=0).T))]
                count = max(1, round(along[-1] / size))
                at = (np.arange(count) + 0.5 + rng.uniform(-0.12, 0.12, count)) / count * along[-1]
                laid.append(np.stack([np.interp(at, along, row[:, j]) for j in (1, 0)], 1))
    seeds = np.concatenate(laid).astype(np.float32)
    crowded = {j for _, j in KDTree(seeds).query_pairs(10.0)}
    return np.delete(seeds, sorted(crowded), axis=0), clear, angle


def _tiles(seeds: Array, points: Array, angle: Array) -> tuple[Labels, Array, Array]:
    """Give each point to the nearest seed, by a square-ish distance turned along the design."""
    _, candidates = KDTree(seeds).query(points, k=7, workers=2)
    a = sample(angle, seeds[:, 0], seeds[:, 1])[candidates]
    d = points[:, None] - seeds[candidates]
    along = d[..., 0] * np.cos(a) + d[..., 1] * np.sin(a)
    across = d[..., 1] * np.cos(a) - d[..., 0] * np.sin(a)
    distance = (along**4 + across**4) ** 0.25
    order = np.argsort(distance, axis=1)[:, :2]
    near, far = np.take_along_axis(distance, order, 1).T
    return np.take_along_axis(candidates, order[:, :1], 1)[:, 0], near, far


def _glass(rng: Rng, region: Labels, clear: Array, seeds: Array) -> Array:
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
    colour = pick(boxes, region[y, x], tone.astype(np.float32))
    spark = rng.random(len(seeds)) < np.where(region[y, x] == 4, 0.05, 0.02)
    colour[spark] = (0.98, 0.8, 0.32)
    return np.clip(colour + 0.035 * rng.standard_normal(colour.shape), 0, 1).astype(np.float32)
