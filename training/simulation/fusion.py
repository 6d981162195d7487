"""Range images fused into one surface by a truncated signed distance field."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from .cameras import RangeImage
from .surfaces import compact, zero_surface


def fuse(
    images: list[RangeImage], voxel_mm: float, fill_voxels: float, rotation: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Fuse range images into points (n, 3) and triangles (m, 3).

    ``fill_voxels`` is the width (in voxels) of the smoothing that closes small gaps; ``rotation`` (3, 3) turns the
    grid, so that nothing can be learnt from its directions.
    """
    measured = np.concatenate([image.points() for image in images]) @ rotation.T
    margin = 5
    low = measured.min(axis=0) - margin * voxel_mm
    shape = np.ceil((measured.max(axis=0) - low) / voxel_mm).astype(int) + margin + 1
    near = np.zeros(shape, dtype=np.bool_)
    _mark(near, ((measured - low) / voxel_mm).astype(np.int32), 3)
    voxels = np.argwhere(near).astype(np.int32)
    total = np.zeros(len(voxels), dtype=np.float32)
    weight = np.zeros(len(voxels), dtype=np.float32)
    for image in images:
        # Voxel index to image coordinates (pixels, pixels, mm) in one affine map.
        to_image = (rotation @ image.axes.T) * [1 / image.pitch_mm, 1 / image.pitch_mm, 1.0]
        offset = ((low @ rotation - image.origin) @ image.axes.T) * [1 / image.pitch_mm, 1 / image.pitch_mm, 1.0]
        _integrate(
            voxels,
            voxel_mm * to_image,
            offset,
            image.range_mm,
            image.weight,
            4.0 * voxel_mm,
            4.0 * image.pitch_mm,
            total,
            weight,
        )
    truncation = np.float32(4.0 * voxel_mm)
    field = np.full(shape, truncation, dtype=np.float32)
    certainty = np.zeros(shape, dtype=np.float32)
    index = tuple(voxels.T)
    field[index] = total
    certainty[index] = weight
    _smooth(voxels, field, certainty, np.float32(np.exp(-0.5 / fill_voxels**2)), total, weight)
    field[...] = truncation
    field[index] = np.where(weight > 0.02, total / np.maximum(weight, 1e-6), truncation)
    certainty[index] = weight
    points, triangles = _isosurface(field, certainty > 0.02)
    return (points * voxel_mm + low) @ rotation, triangles


@numba.njit(cache=True)
def _mark(near, cells, reach):  # type: ignore[no-untyped-def]
    """Set the voxels within ``reach`` of any of ``cells`` (k, 3)."""
    centres = np.zeros(near.shape, dtype=np.bool_)
    for n in range(len(cells)):
        i, j, k = cells[n]
        if centres[i, j, k]:
            continue
        centres[i, j, k] = True
        near[i - reach : i + reach + 1, j - reach : j + reach + 1, k - reach : k + reach + 1] = True


@numba.njit(cache=True, fastmath=False)
def _integrate(voxels, to_image, offset, ranges, weights, truncation, jump, total, weight):  # type: ignore[no-untyped-def]
    """Add one range image's weighted, truncated signed distances at ``voxels`` (k, 3)."""
    height, width = ranges.shape
    for n in range(len(voxels)):
        i, j, k = voxels[n]
        u = i * to_image[0, 0] + j * to_image[1, 0] + k * to_image[2, 0] + offset[0]
        v = i * to_image[0, 1] + j * to_image[1, 1] + k * to_image[2, 1] + offset[1]
        if u < 0 or v < 0 or u >= width - 1 or v >= height - 1:
            continue
        depth = i * to_image[0, 2] + j * to_image[1, 2] + k * to_image[2, 2] + offset[2]
        u0, v0 = int(u), int(v)
        fu, fv = u - u0, v - v0
        un, vn = u0 + (1 if fu > 0.5 else 0), v0 + (1 if fv > 0.5 else 0)
        a, b, c, d = ranges[v0, u0], ranges[v0, u0 + 1], ranges[v0 + 1, u0], ranges[v0 + 1, u0 + 1]
        measured = (a * (1 - fu) + b * fu) * (1 - fv) + (c * (1 - fu) + d * fu) * fv
        # Across a jump in range the mean of two surfaces would be a third one: take the nearest pixel there.
        if not (max(a, b, c, d) - min(a, b, c, d) < jump):
            measured = ranges[vn, un]
        signed = measured - depth
        if not signed > -truncation:
            continue
        share = weights[vn, un]
        if signed > truncation:
            signed, share = truncation, 0.1 * share
        total[n] += share * signed
        weight[n] += share


@numba.njit(cache=True)
def _smooth(voxels, field, certainty, falloff, total, weight):  # type: ignore[no-untyped-def]
    """Weighted sums over the 26 neighbours into ``total`` and ``weight``; ``falloff`` is the share of a neighbour."""
    for n in range(len(voxels)):
        i, j, k = voxels[n]
        t = np.float32(0)
        w = np.float32(0)
        for di in range(-1, 2):
            for dj in range(-1, 2):
                for dk in range(-1, 2):
                    c = certainty[i + di, j + dj, k + dk]
                    if c > 0:
                        share = falloff ** np.float32(di * di + dj * dj + dk * dk)
                        t += share * field[i + di, j + dj, k + dk]
                        w += share * c
        total[n] = t
        weight[n] = w


def _isosurface(
    field: NDArray[np.float32], observed: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The zero level of ``field`` in voxel units, without the parts that lean on voxels nobody observed."""
    points, triangles = zero_surface(field)
    triangles = triangles[:, ::-1]  # the field grows outwards; VTK winds the other way
    below = np.floor(points + 1e-4).astype(int)
    above = np.minimum(np.ceil(points - 1e-4).astype(int), np.array(field.shape) - 1)
    good = observed[tuple(below.T)] & observed[tuple(above.T)]
    triangles = triangles[good[triangles].all(axis=1)]
    return compact(points, triangles)


def mesh_range_image(image: RangeImage) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """One range image as a surface of its own: pixels joined where the range does not jump."""
    height, width = image.range_mm.shape
    number = np.full((height, width), -1)
    valid = np.isfinite(image.range_mm)
    number[valid] = np.arange(valid.sum())
    quads = np.stack([number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]], axis=-1).reshape(-1, 4)
    depth = np.where(valid, image.range_mm, 0).reshape(-1)
    flat = np.arange(height * width).reshape(height, width)
    pixel = np.stack([flat[:-1, :-1], flat[:-1, 1:], flat[1:, 1:], flat[1:, :-1]], axis=-1).reshape(-1, 4)
    spread = np.ptp(depth[pixel], axis=1)
    quads = quads[(quads >= 0).all(axis=1) & (spread < 5 * image.pitch_mm)]
    triangles = np.vstack([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int64)
    return compact(image.points(), triangles)
