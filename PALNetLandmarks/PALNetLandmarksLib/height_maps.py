"""Height maps: the skin around each landmark as small images, the patches of the shipped model.

Each landmark has a fixed direction of view (the mean skin normal there). Around a centre, the surface samples are drawn
into square images seen from that direction, at a fine and at a coarse scale: coverage, height, and the two tangential
components of the normal. Left landmarks are drawn mirrored, so that both sides of the face look alike to the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Channels of a height map: coverage, height, normal to the right, normal upwards.
CHANNELS = 4
#: Those of the normal.
NORMALS = slice(2, 4)


@dataclass(frozen=True)
class HeightMapConfig:
    """Size of the maps.

    ``pixels`` per side; ``pitch_mm`` pixel size of each scale; ``depth_mm`` how far above or below the centre a surface
    may lie to be drawn, per scale; ``stride`` which share of the samples a scale draws (the first n-th part, as even as
    all: see ``SurfaceSamples``); ``softness_mm`` how strongly the outer of two surfaces in one pixel wins (a surface
    that much further out weighs e times as much).
    """

    pixels: int = 24
    pitch_mm: tuple[float, ...] = (1.25, 3.4)
    depth_mm: tuple[float, ...] = (14.0, 48.0)
    stride: tuple[int, ...] = (1, 5)
    softness_mm: float = 3.0


def landmark_frames(normals: NDArray[np.float64], mirrored: tuple[int, ...]) -> NDArray[np.float32]:
    """Directions of view (L, 3, 3): rows are the image's right, up and outward axes in the canonical frame (LPS).

    ``normals`` (L, 3) are the mean skin normals, ``mirrored`` names each landmark's counterpart (-1: it has none). A
    landmark whose counterpart comes earlier gets the mirror image of its counterpart's frame (a left-handed one).
    """
    flip = np.array([-1.0, 1.0, 1.0])
    frames = np.zeros((len(normals), 3, 3))
    for i, other in enumerate(mirrored):
        if 0 <= other < i:
            frames[i] = frames[other] * flip
            continue
        outward = normals[i].copy()
        if other >= 0:  # Symmetric by construction: the counterpart's normal is the mirror image.
            outward += normals[other] * flip
        outward /= np.linalg.norm(outward)
        up = np.array([0.0, 0.0, 1.0]) if abs(outward[2]) < 0.85 else np.array([0.0, -1.0, 0.0]) * np.sign(outward[2])
        right = np.cross(up, outward)
        right /= np.linalg.norm(right)
        frames[i] = np.stack([right, np.cross(outward, right), outward])
    return frames.astype(np.float32)


def cut_height_maps(
    points: NDArray[np.floating],
    normals: NDArray[np.floating],
    centres: NDArray[np.floating],
    frames: NDArray[np.float32],
    config: HeightMapConfig,
) -> NDArray[np.float32]:
    """Draw the height maps of all landmarks.

    Parameters
    ----------
    points, normals : (n, 3) surface samples in the canonical frame (LPS mm, at the reference's size), in the order that
        ``sample_surface`` gives them.
    centres : (L, 3) middle of each map.
    frames : (L, 3, 3) from ``landmark_frames``.

    Returns
    -------
    (scales, L, pixels, pixels, CHANNELS) float32; heights divided by the scale's depth range; zero where nothing is.
    """
    maps = []
    for pitch, depth, stride in zip(config.pitch_mm, config.depth_mm, config.stride):
        drawn = share(len(points), stride)
        maps.append(
            _draw(
                np.ascontiguousarray(points[:drawn], dtype=np.float32),
                np.ascontiguousarray(normals[:drawn], dtype=np.float32),
                np.asarray(centres, dtype=np.float32),
                frames,
                config.pixels,
                pitch,
                depth,
                config.softness_mm,
            )
        )
    return np.stack(maps)


def share(count: int, stride: int) -> int:
    """How many of ``count`` samples a scale draws."""
    return -(-count // stride)


def _draw(
    points: NDArray[np.float32],
    normals: NDArray[np.float32],
    centres: NDArray[np.float32],
    frames: NDArray[np.float32],
    pixels: int,
    pitch: float,
    depth: float,
    softness: float,
) -> NDArray[np.float32]:
    count = len(centres)
    half = np.float32(0.5 * (pixels - 1))
    reach = np.float32((half + 0.5) * pitch)
    # A box test first: most samples are nowhere near a given landmark.
    radius = np.float32(np.sqrt(2) * reach)
    columns, directions = np.ascontiguousarray(points.T), np.ascontiguousarray(normals.T)
    x, y, z = columns
    drawn = []
    for landmark, (axes, centre) in enumerate(zip(frames, centres)):
        cx, cy, cz = centre
        near = np.flatnonzero((np.abs(x - cx) < radius) & (np.abs(y - cy) < radius) & (np.abs(z - cz) < radius))
        local = axes @ (columns.take(near, axis=1) - centre[:, None])
        right, up, outward = np.abs(local)
        inside = np.flatnonzero((right < reach) & (up < reach) & (outward < depth))
        tilt = axes @ directions.take(near[inside], axis=1)
        # Surfaces seen from behind (the far side of an ear) are not drawn.
        facing = np.flatnonzero(tilt[2] > -0.2)
        local, tilt = local.take(inside[facing], axis=1), tilt.take(facing, axis=1)
        drawn.append((np.full(len(facing), landmark), local, tilt))
    landmark_of, local, tilt = (np.concatenate(part, axis=-1) for part in zip(*drawn))

    u, v = local[:2] / np.float32(pitch) + half
    u0, v0 = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    fu, fv = u - u0, v - v0
    front = np.exp(local[2] / np.float32(softness))
    wide = pixels + 2  # a margin of one pixel takes what falls just outside
    base = (landmark_of * wide + v0 + 1) * wide + u0 + 1
    values = np.stack([np.ones(len(front), np.float32), local[2] / np.float32(depth), tilt[0], tilt[1]])
    total = np.zeros((CHANNELS, count * wide * wide))
    for step, part in ((0, (1 - fu) * (1 - fv)), (1, fu * (1 - fv)), (wide, (1 - fu) * fv), (wide + 1, fu * fv)):
        weight = part * front
        for channel in range(CHANNELS):
            total[channel] += np.bincount(base + step, weight * values[channel], total.shape[1])
    image = total.astype(np.float32).reshape(CHANNELS, count, wide, wide)
    # Gaps between samples are closed from the neighbouring pixels; larger ones stay open.
    spread = image[:, :, :, :-2] + image[:, :, :, 1:-1] + image[:, :, :, 2:]
    spread = spread[:, :, :-2] + spread[:, :, 1:-1] + spread[:, :, 2:]
    image = image[:, :, 1:-1, 1:-1] + np.float32(0.02) * spread
    covered = image[0] > 1e-4
    scale = np.where(covered, 1 / np.maximum(image[0], 1e-4), 0)
    maps = np.empty((count, pixels, pixels, CHANNELS), dtype=np.float32)
    maps[..., 0] = covered
    for channel in range(1, CHANNELS):
        maps[..., channel] = image[channel] * scale
    return maps
