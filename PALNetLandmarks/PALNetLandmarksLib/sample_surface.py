"""Approximately even samples of a triangle surface: deterministic, and the same for every pose of the same file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mesh import TriangleMesh

#: Triangles handled at once; bounds the memory of the intermediate arrays to about 100 MB.
_CHUNK = 500_000
#: 1/g and 1/g^2 of the plastic number g: the two-dimensional R2 low-discrepancy sequence (M. Roberts, 2018).
_R2_STEPS = np.array([0.7548776662466927, 0.5698402909980532])
#: Multipliers of the SplitMix64 generator (Steele et al., 2014).
_SPLITMIX = tuple(np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class SurfaceSamples:
    """Points spread over a surface.

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
        """About ``count`` of the samples, as even: one of each few that follow one another. All, if there are fewer."""
        step = len(self.points) // max(count, 1)
        if step <= 1:
            return self
        first = np.arange(0, len(self.points) - step + 1, step)
        kept = first + (_scattered(len(first)) * step).astype(np.int64)
        return SurfaceSamples(self.points[kept], self.normals[kept], self.triangle_index[kept], self.area)


def sample_surface(
    mesh: TriangleMesh, count: int = 10_000, triangle_subset: NDArray[np.int64] | None = None
) -> SurfaceSamples:
    """Take ``count`` points off the surface, each standing for the same area.

    The area, summed in the order of the triangles, is cut into ``count`` equal strata, each of which gives one point at
    a scattered place that depends on its number alone; where in the triangle it lies follows a low-discrepancy
    sequence. So a file always gives the same points, and a moved copy gives the moved points. Files list neighbouring
    triangles mostly one after the other, which makes the samples more even than random ones, and whatever the order,
    they are no less even. (Regular places would be: a subdivided mesh may list the same surface several times over, and
    they meet it at the same spots each time.) Memory beyond the mesh: 16 bytes per triangle.

    Parameters
    ----------
    mesh : the surface, in any frame and unit.
    count : number of samples.
    triangle_subset : indices of the triangles to sample; all of them by default.

    Returns
    -------
    SurfaceSamples of ``count`` points; of no points if the surface has no area.
    """
    areas = _triangle_areas(mesh, triangle_subset)
    cumulative = np.cumsum(areas)
    total = float(cumulative[-1]) if len(cumulative) else 0.0
    if not np.isfinite(total) or total <= 0 or count <= 0:
        return SurfaceSamples(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, np.int64), 0.0)
    strata = (np.arange(count) + _scattered(count)) * (total / count)
    chosen = np.minimum(np.searchsorted(cumulative, strata, side="right"), len(areas) - 1)
    index = chosen if triangle_subset is None else np.asarray(triangle_subset)[chosen]
    corners = mesh.points[mesh.triangles[index]]
    across, along = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    u, v = ((np.arange(1, count + 1)[:, None] * _R2_STEPS) % 1.0).T
    outside = u + v > 1  # fold the unit square onto the triangle
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    cross = np.cross(across, along)
    normals = cross / np.maximum(np.linalg.norm(cross, axis=1), np.finfo(float).tiny)[:, None]
    points = corners[:, 0] + u[:, None] * across + v[:, None] * along
    return SurfaceSamples(points, normals, index.astype(np.int64), total)


def _scattered(count: int) -> NDArray[np.float64]:
    """(count,) numbers in [0, 1) that look random and are the same with every version of numpy."""
    state = np.arange(1, count + 1, dtype=np.uint64) * _SPLITMIX[0]
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
