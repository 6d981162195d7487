"""Approximately even samples of a triangle surface: deterministic, and the same for every pose of the same file."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mesh import TriangleMesh

#: Triangles handled at once; bounds the memory of the intermediate arrays to about 100 MB.
_CHUNK = 500_000
#: 1/g and 1/g^2 of the plastic number g: the two-dimensional R2 low-discrepancy sequence (M. Roberts, 2018).
_R2_STEPS = np.array([0.7548776662466927, 0.5698402909980532])
#: Fraction of the golden ratio: the same in one dimension.
_GOLDEN_STEP = 0.6180339887498949
#: Multipliers of the SplitMix64 generator (Steele et al., 2014).
_SPLITMIX = tuple(np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class SurfaceSamples:
    """Points spread over a surface, in such an order that the first ones, however many, are spread evenly, too.

    Attributes
    ----------
    points : (k, 3) float64, in the frame and unit of the mesh.
    normals : (k, 3) float64 unit normals of the triangles they lie on (zero on degenerate triangles).
    triangle_index : (k,) int64, the triangle each point lies on.
    area : area of the sampled surface, in squared units of the mesh.
    """

    points: NDArray[np.float64]
    normals: NDArray[np.float64]
    triangle_index: NDArray[np.int64]
    area: float

    def thinned(self, count: int) -> SurfaceSamples:
        """``count`` of the samples, as even; all, if there are fewer."""
        return SurfaceSamples(self.points[:count], self.normals[:count], self.triangle_index[:count], self.area)

    def from_sample(self, first: int) -> SurfaceSamples:
        """The same samples, beginning with number ``first``; those before it come last."""
        points, normals = np.roll(self.points, -first, axis=0), np.roll(self.normals, -first, axis=0)
        return SurfaceSamples(points, normals, np.roll(self.triangle_index, -first), self.area)


def sample_surface(
    mesh: TriangleMesh,
    count: int = 10_000,
    triangle_subset: NDArray[np.int64] | None = None,
    samples_per_block: int = 1024,
) -> SurfaceSamples:
    """Take about ``count`` points off the surface, each standing for the same area.

    The triangles are taken in blocks that follow one another in the mesh. The area of a block, summed in the order of
    its triangles, is cut into equal strata, each of which gives one point at a scattered place that depends on the
    number of the block and of the stratum alone; where in the triangle it lies follows a low-discrepancy sequence. So a
    mesh always gives the same points, and a moved copy gives the moved points; rounding of its coordinates, or a
    triangle more or less in ``triangle_subset``, changes samples of that block and no others. Where neighbouring
    triangles follow each other (``in_order_of_place``), the samples are more even than random ones; whatever the order,
    they are no less even. (Regular places would be: a subdivided mesh may list the same surface several times over, and
    they meet it at the same spots each time.) Memory beyond the mesh: 16 bytes per triangle.

    Parameters
    ----------
    mesh : the surface, in any frame and unit.
    count : number of samples; there will be one in a hundred more or fewer at most, unless they are very few.
    triangle_subset : indices of the triangles to sample, ascending; all of them by default.
    samples_per_block : about how many samples a block gives, at least. The fewer, the more local a difference stays,
        and the less even the samples are.

    Returns
    -------
    SurfaceSamples of about ``count`` points; of no points if the surface has no area.
    """
    areas = _triangle_areas(mesh, triangle_subset)
    cumulative = np.cumsum(areas)
    total = float(cumulative[-1]) if len(cumulative) else 0.0
    if not np.isfinite(total) or total <= 0 or count <= 0:
        return SurfaceSamples(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, np.int64), 0.0)
    triangles = len(mesh.triangles)
    size = _block_size(triangles, count, samples_per_block)
    block, number, place = _strata(_area_before_blocks(size, triangles, triangle_subset, cumulative), total / count)
    chosen = np.minimum(np.searchsorted(cumulative, place, side="right"), len(areas) - 1)
    index = chosen if triangle_subset is None else np.asarray(triangle_subset)[chosen]
    corners = mesh.points[mesh.triangles[index]]
    across, along = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    u, v = ((_scattered(block, salt) + number * step) % 1.0 for salt, step in zip((2, 3), _R2_STEPS))
    outside = u + v > 1  # fold the unit square onto the triangle
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    cross = np.cross(across, along)
    normals = cross / np.maximum(np.linalg.norm(cross, axis=1), np.finfo(float).tiny)[:, None]
    points = corners[:, 0] + u[:, None] * across + v[:, None] * along
    order = np.argsort((_scattered(block, 1) + number * _GOLDEN_STEP) % 1.0, kind="stable")
    return SurfaceSamples(points[order], normals[order], index[order].astype(np.int64), total)


def _block_size(triangles: int, count: int, samples_per_block: int) -> int:
    """A power of two: it hardly ever changes with the number of samples."""
    return int(2 ** max(0, math.ceil(math.log2(samples_per_block * triangles / count))))


def _area_before_blocks(
    size: int, triangles: int, subset: NDArray[np.int64] | None, cumulative: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where on the summed area each block of ``size`` triangles begins and the last one ends: (blocks + 1,)."""
    # A block's number is that of its triangles in the file: it does not depend on what the subset leaves out.
    first = np.arange(0, triangles + size, size)
    if subset is not None:
        first = np.searchsorted(subset, first)
    first = np.minimum(first, len(cumulative))
    return np.where(first > 0, cumulative[first - 1], 0.0)


def _strata(
    edges: NDArray[np.float64], step: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The strata of all blocks: number of the block, number in the block, and the place on the summed area."""
    areas = np.diff(edges)
    # Each block begins with a part of a stratum, another one in each, so that in the mean none is favoured.
    begun = _scattered(np.arange(len(areas)), 0)
    strata = np.floor(areas / step + begun).astype(np.int64) + 1
    block = np.repeat(np.arange(len(areas)), strata)
    number = np.arange(len(block)) - np.repeat(np.cumsum(strata) - strata, strata)
    place = (number + _scattered(block, 4 + number) - begun[block]) * step
    kept = (place >= 0) & (place < areas[block])
    return block[kept], number[kept], (edges[block] + place)[kept]


def _scattered(numbers: NDArray[np.int64], salt: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) numbers in [0, 1) that look random; the same for the same number and salt with every version of numpy."""
    state = (numbers.astype(np.uint64) << np.uint64(24)) + np.asarray(salt).astype(np.uint64) + np.uint64(1)
    state = state * _SPLITMIX[0]
    state = (state ^ (state >> np.uint64(30))) * _SPLITMIX[1]
    state = (state ^ (state >> np.uint64(27))) * _SPLITMIX[2]
    state ^= state >> np.uint64(31)
    result: NDArray[np.float64] = (state >> np.uint64(11)) * 2.0**-53
    return result


def _triangle_areas(mesh: TriangleMesh, subset: NDArray[np.int64] | None) -> NDArray[np.float64]:
    triangles = mesh.triangles if subset is None else mesh.triangles[subset]
    areas = np.empty(len(triangles))
    x, y, z = (np.ascontiguousarray(mesh.points[:, axis]) for axis in range(3))
    for start in range(0, len(triangles), _CHUNK):
        a, b, c = (np.ascontiguousarray(column) for column in triangles[start : start + _CHUNK].T)
        ux, uy, uz = x[b] - x[a], y[b] - y[a], z[b] - z[a]
        vx, vy, vz = x[c] - x[a], y[c] - y[a], z[c] - z[a]
        squared = (uy * vz - uz * vy) ** 2 + (uz * vx - ux * vz) ** 2 + (ux * vy - uy * vx) ** 2
        areas[start : start + _CHUNK] = 0.5 * np.sqrt(squared)
    return areas
