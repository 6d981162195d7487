"""Even samples of a triangle surface: where the lines of a lattice meet it, however its triangles are listed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mesh import TriangleMesh
from .triangle_corners import PIECE, corners_in_pieces, crossed_edges, lengths, sparing

#: 1/g and 1/g^2 of the plastic number g: the two-dimensional R2 low-discrepancy sequence (M. Roberts, 2018).
_R2_STEPS = (0.7548776662466927, 0.5698402909980532)
#: Mean over all directions of the largest component of a unit vector: the share of the lines through a square of the
#: lattice that meet the surface in it, on a surface that faces every way.
_MEAN_SHARE = 0.83
#: Where the lines of the lattice pass, as a part of its pitch. Not at 0: there lies the middle plane of a symmetrical
#: surface, with the corners of its triangles. 0.5 lays lines alike on both sides of it.
_OFFSET = 0.5
#: Decides between axes that a triangle faces alike, lest rounding does.
_PREFERENCE = np.array([[1.0], [1.0 + 1e-9], [1.0 + 2e-9]])
#: A triangle that stretches over more lines, one way or the other, has a damaged corner; it is left out.
_MOST_LINES = 20_000.0


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
    area: float | None = None,
) -> SurfaceSamples:
    """Take about ``count`` points off the surface, as even as its slant allows.

    The samples are the points where the lines of a square lattice meet the surface: lines along x, y or z, whichever
    the triangle faces most. So they follow from where the surface lies in the frame of the mesh, and no order of its
    triangles, vertices and corners moves them. Where ``least_pitch`` decides, neither do triangles that are there
    twice, and where one comes or goes the samples elsewhere stay; where ``count`` does, the pitch goes by the area.
    What is to meet a scan alike in every pose brings it into a frame of its own first (``PrincipalFrame``,
    ``Alignment``). Surface that faces an axis gets a sample for each square of the lattice, the most slanted 0.58.
    Memory beyond the mesh: 24 bytes for each of its vertices, some 250 for each sample, and 50 MB.

    Parameters
    ----------
    mesh : the surface, in any frame and unit.
    count : number of samples on a surface that faces every way; there may be a fifth more, or a third fewer.
    triangle_subset : indices of the triangles to sample; all of them by default.
    least_pitch : no finer a lattice is laid, whatever ``count`` asks for; in the unit of the mesh.
    area : of the surface, where it has been measured already.

    Returns
    -------
    SurfaceSamples; of no points if the surface has no area, or so little that no line meets it.
    """
    triangles = mesh.triangles if triangle_subset is None else mesh.triangles[triangle_subset]
    columns = np.ascontiguousarray(mesh.points.T)
    total = _area(columns, triangles) if area is None else area
    if not np.isfinite(total) or total <= 0 or count <= 0:
        return SurfaceSamples(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, np.int64), 0.0)
    pitch = max(float(np.sqrt(_MEAN_SHARE * total / count)), least_pitch)
    columns = columns / pitch - _OFFSET
    found = [met for corners, numbers in _reaching(columns, triangles) for met in _meet(corners, numbers)]
    points, normals, numbers, rank, depth = (np.concatenate(part, axis=-1) for part in zip(*found))
    order = np.lexsort((depth, rank))
    numbers = numbers[order] if triangle_subset is None else np.asarray(triangle_subset)[numbers[order]]
    points, normals = (np.ascontiguousarray(values.T).take(order, axis=0) for values in (points, normals))
    return SurfaceSamples((points + _OFFSET) * pitch, normals, numbers, total)


#: Points (3, k), normals (3, k), triangles (k,) met, ranks (k,) of the lines in the order of the samples, and how far
#: along its line (k,) each point lies.
_Met = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


def _area(columns: NDArray[np.float64], triangles: NDArray[np.int64]) -> float:
    """Of the largest meshes a part is measured, as the sum sets the pitch alone."""
    apart = sparing(len(triangles))
    measured = corners_in_pieces(columns, triangles[::apart])
    return apart * sum(0.5 * float(lengths(crossed_edges(corners)).sum()) for _, corners in measured)


def _reaching(
    columns: NDArray[np.float64], triangles: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Corners (3 corners, 3, m) and numbers (m,) of the triangles that lines can meet, in one part or several.

    Of a fine mesh they are few.
    """
    held, count = [], 0
    for piece, corners in corners_in_pieces(columns, triangles):
        first, second, third = np.ceil(corners)
        crossed = (first != second) | (second != third)
        chosen = np.flatnonzero(crossed.sum(axis=0) >= 2)
        held.append((corners.take(chosen, axis=2), piece.start + chosen))
        count += len(chosen)
        if count >= PIECE or piece.stop >= len(triangles):
            held_corners, held_numbers = zip(*held)
            yield np.concatenate(held_corners, axis=2), np.concatenate(held_numbers)
            held, count = [], 0


def _meet(corners: NDArray[np.float64], numbers: NDArray[np.int64]) -> list[_Met]:
    """Where the lines through whole numbers meet triangles (3 corners, 3, m), for each axis those that face it most."""
    normals = crossed_edges(corners)
    facing = np.where(normals.any(axis=0), (np.abs(normals) * _PREFERENCE).argmax(axis=0), -1)
    found = []
    for axis in range(3):
        mine = np.flatnonzero(facing == axis)
        found.append(_meet_facing(corners.take(mine, axis=2), normals.take(mine, axis=1), numbers[mine], axis))
    return found


def _meet_facing(
    corners: NDArray[np.float64], normals: NDArray[np.float64], numbers: NDArray[np.int64], axis: int
) -> _Met:
    """Where the lines along ``axis`` meet triangles; an edge on a line belongs to one of its two triangles."""
    across, along = (axis + 1) % 3, (axis + 2) % 3
    # Each row of lines that a triangle reaches, and from where to where it covers that row.
    a, b, c = corners
    first, last = np.ceil(np.minimum(np.minimum(a, b), c)), np.ceil(np.maximum(np.maximum(a, b), c))
    lines = last - first
    reached = (lines[along] > 0) & (np.maximum(lines[across], lines[along]) <= _MOST_LINES)
    of_row, step = _repeat(np.where(reached, lines[across], 0))
    row = first[across, of_row] + step
    low, high = (np.ceil(end) for end in _covered(row, corners[:, (across, along)].take(of_row, axis=2)))
    of_line, step = _repeat(high - low)
    row, column, met = row[of_line], low[of_line] + step, of_row[of_line]
    normals, corner = normals.take(met, axis=1), a.take(met, axis=1)
    slope = (row - corner[across]) * normals[across] + (column - corner[along]) * normals[along]
    points = np.empty((3, len(met)))
    points[across], points[along], points[axis] = row, column, corner[axis] - slope / normals[axis]
    rank = (_R2_STEPS[0] * row + _R2_STEPS[1] * column) % 1.0
    return points, normals / lengths(normals), numbers[met], rank, points[axis]


def _covered(row: NDArray[np.float64], corners: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From where (k,) to where (k,) flat triangles (3 corners, 2, k) cover rows (k,) that they reach."""
    low, high = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    below = corners[:, 0] <= row
    for one, other in ((0, 1), (1, 2), (2, 0)):
        cut = np.flatnonzero(below[one] != below[other])
        ends = corners[one].take(cut, axis=1), corners[other].take(cut, axis=1)
        # From the lower end, whichever comes first: both triangles of an edge find the same.
        (x, y), (upper_x, upper_y) = (np.where(below[one][cut], *ends), np.where(below[other][cut], *ends))
        crossing = y + (row[cut] - x) / (upper_x - x) * (upper_y - y)
        low[cut], high[cut] = np.minimum(low[cut], crossing), np.maximum(high[cut], crossing)
    return low, high


def _repeat(counts: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each index as often as its count says, and the numbers of the repetitions; below one, not at all."""
    whole = np.maximum(counts, 0).astype(np.int64)
    which = np.repeat(np.arange(len(whole)), whole)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(whole) - whole, whole)
