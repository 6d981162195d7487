"""Shoulders and collars under the head."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .noise import smooth_noise
from .surfaces import Surface


def _loft(rings: NDArray[np.float64]) -> Surface:
    """Join rings of points (r, k, 3), each closed, into a tube: points (r * k, 3) and triangles."""
    count, around = rings.shape[:2]
    i, j = np.meshgrid(np.arange(count - 1), np.arange(around), indexing="ij")
    a, b = i * around + j, i * around + (j + 1) % around
    c, d = a + around, b + around
    triangles = np.concatenate([np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    return rings.reshape(-1, 3), triangles.astype(np.int64)


def sew_garment(size: float, rng: np.random.Generator) -> Surface:
    """A shirt: shoulders falling away from the neck, with folds; head frame, LPS mm."""
    angle = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    # Distance below the chin-neck angle, half width, half depth: neck opening, shoulder slope, shoulder tip, trunk.
    top = rng.uniform(-150, -112)
    slope = rng.uniform(25, 60)
    width = rng.uniform(160, 235)
    drop = np.array([0.0, 6.0, 0.35 * slope, slope, slope + 30, slope + 90, slope + 220])
    half_width = np.array([62.0, 70.0, 100.0, 0.82 * width, 0.97 * width, width, 0.95 * width])
    half_depth = np.array([60.0, 66.0, 78.0, 90.0, 100.0, 112.0, 118.0]) * rng.uniform(0.85, 1.15)
    levels = np.linspace(0, drop[-1], 110)
    rx, ry = np.interp(levels, drop, half_width), np.interp(levels, drop, half_depth)
    squareness = np.interp(levels, drop, [1.0, 1.0, 0.9, 0.7, 0.65, 0.6, 0.6])
    cosine, sine = np.cos(angle), np.sin(angle)
    x = rx[:, None] * np.sign(cosine) * np.abs(cosine) ** squareness[:, None]
    y = ry[:, None] * np.sign(sine) * np.abs(sine) ** squareness[:, None] + rng.uniform(15, 40)
    # The neck opening is lower in front (y is towards the back).
    z = top - levels[:, None] + rng.uniform(0, 30) * np.exp(-levels[:, None] / 40) * sine
    points, triangles = _loft(np.stack(np.broadcast_arrays(x, y, z), axis=-1).astype(float))
    folds = rng.uniform(1, 5) * smooth_noise(points * [1, 1, 0.5], 45, rng) + rng.uniform(0, 3) * smooth_noise(
        points, 120, rng
    )
    outward = points - [0, 25, 0]
    outward[:, 2] = 0
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-6)
    # The levels run downwards, so the tube is wound inside out.
    return (points + outward * folds[:, None]) * size, triangles[:, ::-1]


def sew_collar(size: float, rng: np.random.Generator) -> Surface:
    """A collar standing around the neck; head frame, LPS mm."""
    angle = np.linspace(0, 2 * np.pi, 140, endpoint=False)
    heights = np.linspace(0, 1, 22)[:, None]
    top, bottom = rng.uniform(-128, -88), -175.0
    flare = rng.uniform(-4, 18)
    radius = (
        58
        + rng.uniform(2, 16)
        + flare * heights
        + 3 * smooth_noise(np.stack([60 * np.cos(angle), 60 * np.sin(angle), 0 * angle], axis=1), 60, rng)
    )
    x = radius * np.cos(angle)
    y = radius * np.sin(angle) * 1.0 + 22
    z = bottom + (top - bottom + rng.uniform(0, 28) * np.sin(angle)) * heights
    opening = rng.uniform(0, 0.5)
    points, triangles = _loft(np.stack(np.broadcast_arrays(x, y, z), axis=-1).astype(float))
    centre = points[triangles].mean(axis=1)
    front = np.abs(np.arctan2(centre[:, 0], -(centre[:, 1] - 22))) > opening
    return points * size, triangles[front]
