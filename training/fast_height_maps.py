"""The library's height maps, compiled: the trainer draws hundreds of thousands of them.

``Testing/test_height_maps.py`` holds it to ``PALNetLandmarksLib.height_maps.cut_height_maps``, which needs numpy alone.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.height_maps import CHANNELS, HeightMapConfig, share


def cut_height_maps_fast(
    points: NDArray[np.float32],
    normals: NDArray[np.float32],
    centres: NDArray[np.float32],
    frames: NDArray[np.float32],
    config: HeightMapConfig,
) -> NDArray[np.float32]:
    """Same arguments and result as ``cut_height_maps``; releases the interpreter lock."""
    count, pixels = len(centres), config.pixels
    maps = np.zeros((len(config.pitch_mm), count, pixels, pixels, CHANNELS), dtype=np.float32)
    for scale, (pitch, depth, stride) in enumerate(zip(config.pitch_mm, config.depth_mm, config.stride)):
        drawn = share(len(points), stride)
        _draw(points[:drawn], normals[:drawn], centres, frames, pixels, pitch, depth, config.softness_mm, maps[scale])
    return maps


@numba.njit(cache=True, nogil=True)
def _draw(points, normals, centres, frames, pixels, pitch, depth, softness, maps):  # type: ignore[no-untyped-def]
    half = 0.5 * (pixels - 1)
    reach = (half + 0.5) * pitch
    radius = np.sqrt(2.0) * reach
    wide = pixels + 2
    # Sort the points into cells along all axes once, so that each landmark looks at its neighbourhood only.
    cell = radius
    low = np.array([points[:, 0].min(), points[:, 1].min(), points[:, 2].min()])
    dims = np.empty(3, np.int64)
    for axis in range(3):
        dims[axis] = int((points[:, axis].max() - low[axis]) / cell) + 1
    key = np.empty(len(points), np.int64)
    start = np.zeros(dims[0] * dims[1] * dims[2] + 1, np.int64)
    for n in range(len(points)):
        a = int((points[n, 0] - low[0]) / cell)
        b = int((points[n, 1] - low[1]) / cell)
        c = int((points[n, 2] - low[2]) / cell)
        key[n] = (a * dims[1] + b) * dims[2] + c
        start[key[n] + 1] += 1
    for k in range(1, len(start)):
        start[k] += start[k - 1]
    fill = start[:-1].copy()
    order = np.empty(len(points), np.int64)
    for n in range(len(points)):
        order[fill[key[n]]] = n
        fill[key[n]] += 1
    image = np.empty((wide, wide, 4))
    for landmark in range(len(centres)):
        image[:] = 0.0
        cx, cy, cz = centres[landmark]
        f = frames[landmark]
        first = np.empty(3, np.int64)
        last = np.empty(3, np.int64)
        for axis in range(3):
            position = (centres[landmark, axis] - low[axis]) / cell
            first[axis] = max(0, int(np.floor(position - 1.0)))
            last[axis] = min(dims[axis] - 1, int(np.floor(position + 1.0)))
        for a in range(first[0], last[0] + 1):
            for b in range(first[1], last[1] + 1):
                for c in range(first[2], last[2] + 1):
                    k = (a * dims[1] + b) * dims[2] + c
                    for m in range(start[k], start[k + 1]):
                        n = order[m]
                        x, y, z = points[n, 0] - cx, points[n, 1] - cy, points[n, 2] - cz
                        if abs(x) >= radius or abs(y) >= radius or abs(z) >= radius:
                            continue
                        u = f[0, 0] * x + f[0, 1] * y + f[0, 2] * z
                        v = f[1, 0] * x + f[1, 1] * y + f[1, 2] * z
                        w = f[2, 0] * x + f[2, 1] * y + f[2, 2] * z
                        if abs(u) >= reach or abs(v) >= reach or abs(w) >= depth:
                            continue
                        nx, ny, nz = normals[n, 0], normals[n, 1], normals[n, 2]
                        if f[2, 0] * nx + f[2, 1] * ny + f[2, 2] * nz <= -0.2:
                            continue
                        tu = f[0, 0] * nx + f[0, 1] * ny + f[0, 2] * nz
                        tv = f[1, 0] * nx + f[1, 1] * ny + f[1, 2] * nz
                        pu, pv = u / pitch + half, v / pitch + half
                        iu, iv = int(np.floor(pu)), int(np.floor(pv))
                        fu, fv = pu - iu, pv - iv
                        front = np.exp(w / softness)
                        height = w / depth
                        for du in range(2):
                            for dv in range(2):
                                share = front * (fu if du else 1 - fu) * (fv if dv else 1 - fv)
                                image[iv + 1 + dv, iu + 1 + du, 0] += share
                                image[iv + 1 + dv, iu + 1 + du, 1] += share * height
                                image[iv + 1 + dv, iu + 1 + du, 2] += share * tu
                                image[iv + 1 + dv, iu + 1 + du, 3] += share * tv
        for i in range(pixels):
            for j in range(pixels):
                weight = image[i + 1, j + 1, 0]
                for di in range(3):
                    for dj in range(3):
                        weight += 0.02 * image[i + di, j + dj, 0]
                if weight <= 1e-4:
                    continue
                maps[landmark, i, j, 0] = 1.0
                for channel in range(1, 4):
                    value = image[i + 1, j + 1, channel]
                    for di in range(3):
                        for dj in range(3):
                            value += 0.02 * image[i + di, j + dj, channel]
                    maps[landmark, i, j, channel] = value / weight
