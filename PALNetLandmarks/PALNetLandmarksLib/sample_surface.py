"""Even samples of a triangle surface: where the lines of a lattice meet it, however its triangles are listed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mesh import TriangleMesh

#: Triangles handled at once; bounds the memory of the intermediate arrays to about 100 MB.
_CHUNK = 250_000
#: 1/g and 1/g^2 of the plastic number g: the two-dimensional R2 low-discrepancy sequence (M. Roberts, 2018).
_R2_STEPS = (0.7548776662466927, 0.5698402909980532)
#: Mean over all directions of the largest component of a unit vector: the share of the lines through a square of the
#: lattice that meet the surface in it, on a surface that faces every way.
_MEAN_SHARE = 0.83
#: Decides between axes that a triangle faces alike, lest rounding does.
_PREFERENCE = np.array([[1.0], [1.0 + 1e-9], [1.0 + 2e-9]])
#: A triangle that stretches over more lines has a corner that is damaged; it is left out.
_MOST_ROWS = 20_000


@dataclass(frozen=True)
class SurfaceSamples:
    """Points spread over a surface, in such an order that the first ones, however many, are spread evenly, too.

    Attributes
    ----------
    points : (k, 3) float64, in the frame and unit of the mesh.
    normals : (k, 3) float64 unit normals of the triangles they lie on.
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
    least_pitch: float = 0.0,
) -> SurfaceSamples:
    """Take about ``count`` points off the surface, as even as its slant allows.

    The samples are the points where the lines of a square lattice meet the surface: lines along x, y or z, whichever
    the triangle faces most. So they follow from where the surface lies in the frame of the mesh and from nothing else:
    neither the order of triangles, vertices and corners nor triangles that are there twice move a sample, and where one
    comes or goes or is rounded, the samples elsewhere stay. What is to meet a scan alike in every pose brings it into a
    frame of its own first (``PrincipalFrame``, ``Alignment``). Surface that faces an axis gets a sample for each square
    of the lattice, the most slanted 0.58. Memory beyond the mesh: about 100 MB, and some 100 bytes for each sample.

    Parameters
    ----------
    mesh : the surface, in any frame and unit.
    count : number of samples on a surface that faces every way; there may be a fifth more, or a third fewer.
    triangle_subset : indices of the triangles to sample; all of them by default.
    least_pitch : no finer a lattice is laid, whatever ``count`` asks for; in the unit of the mesh.

    Returns
    -------
    SurfaceSamples; of no points if the surface has no area.
    """
    index = np.arange(len(mesh.triangles)) if triangle_subset is None else np.asarray(triangle_subset)
    chunks = [index[start : start + _CHUNK] for start in range(0, len(index), _CHUNK)]
    columns = np.ascontiguousarray(mesh.points.T)
    total = sum(0.5 * float(_lengths(_normals(_corners(columns, mesh.triangles[chunk]))).sum()) for chunk in chunks)
    if not np.isfinite(total) or total <= 0 or count <= 0:
        return SurfaceSamples(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, np.int64), 0.0)
    pitch = max(float(np.sqrt(_MEAN_SHARE * total / count)), least_pitch)
    met = []
    for chunk in chunks:
        corners = _corners(columns, mesh.triangles[chunk])
        corners /= pitch
        met += _meet(corners, chunk)
    points, normals, hit, rank, depth = (np.concatenate(part, axis=-1) for part in zip(*met))
    order = np.lexsort((depth, rank))
    return SurfaceSamples(points.T[order] * pitch, normals.T[order], hit[order], total)


#: Points (3, k), normals (3, k), triangles (k,) met, ranks (k,) of the lines in the order of the samples, and how far
#: along its line (k,) each point lies.
_Met = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


def _meet(corners: NDArray[np.float64], numbers: NDArray[np.int64]) -> list[_Met]:
    """Where the lines through whole numbers meet triangles (3 corners, 3, m), for each axis those that face it most."""
    normals = _normals(corners)
    facing = np.where(normals.any(axis=0), (np.abs(normals) * _PREFERENCE).argmax(axis=0), -1)
    met = []
    for axis in range(3):
        mine = np.flatnonzero(facing == axis)
        met.append(_meet_facing(corners.take(mine, axis=2), normals.take(mine, axis=1), numbers[mine], axis))
    return met


def _meet_facing(
    corners: NDArray[np.float64], normals: NDArray[np.float64], numbers: NDArray[np.int64], axis: int
) -> _Met:
    """Where the lines along ``axis`` meet triangles; an edge on a line belongs to one of its two triangles."""
    across, along = (axis + 1) % 3, (axis + 2) % 3
    # Each row of lines that a triangle reaches, and from where to where it covers that row.
    a, b, c = corners
    first, last = np.ceil(np.minimum(np.minimum(a, b), c)), np.ceil(np.maximum(np.maximum(a, b), c))
    rows = np.where(last[along] > first[along], last[across] - first[across], 0)
    of_row, step = _repeat(np.where(rows <= _MOST_ROWS, rows, 0))
    row = first[across, of_row] + step
    low, high = (np.ceil(end) for end in _covered(row, corners[:, (across, along)].take(of_row, axis=2)))
    of_line, step = _repeat(high - low)
    row, column, met = row[of_line], low[of_line] + step, of_row[of_line]
    normals, corner = normals.take(met, axis=1), a.take(met, axis=1)
    slope = (row - corner[across]) * normals[across] + (column - corner[along]) * normals[along]
    points = np.empty((3, len(met)))
    points[across], points[along], points[axis] = row, column, corner[axis] - slope / normals[axis]
    rank = (_R2_STEPS[0] * row + _R2_STEPS[1] * column) % 1.0
    return points, normals / _lengths(normals), numbers[met], rank, points[axis]


def _covered(row: NDArray[np.float64], corners: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From where (k,) to where (k,) flat triangles (3 corners, 2, k) cover rows (k,) that they reach."""
    low, high = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    below = corners[:, 0] <= row
    for one, other in ((0, 1), (1, 2), (2, 0)):
        cut = np.flatnonzero(below[one] != below[other])
        (x, y), (other_x, other_y) = (corners[corner].take(cut, axis=1) for corner in (one, other))
        crossing = y + (row[cut] - x) / (other_x - x) * (other_y - y)
        low[cut], high[cut] = np.minimum(low[cut], crossing), np.maximum(high[cut], crossing)
    return low, high


def _repeat(counts: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each index as often as its count says, and the numbers of the repetitions."""
    whole = counts.astype(np.int64)
    which = np.repeat(np.arange(len(whole)), whole)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(whole) - whole, whole)


def _corners(columns: NDArray[np.float64], triangles: NDArray[np.int64]) -> NDArray[np.float64]:
    """(3 corners, 3 coordinates, m) of triangles (m, 3); ``columns``: the coordinates (3, n) of all points."""
    corners = np.empty((3, 3, len(triangles)))
    for axis in range(3):
        corners[:, axis] = columns[axis][triangles.T]
    return corners


def _normals(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, m), as long as twice the areas."""
    (ux, uy, uz), (vx, vy, vz) = corners[1] - corners[0], corners[2] - corners[0]
    return np.stack([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx])


def _lengths(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of (3, m): (m,)."""
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->j", vectors, vectors))
    return lengths
