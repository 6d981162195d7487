"""Corners and normals of many triangles at once, laid out for speed: one row for each coordinate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def triangle_corners(columns: NDArray[np.float64], triangles: NDArray[np.int64]) -> NDArray[np.float64]:
    """(3 corners, 3 coordinates, m) of triangles (m, 3); ``columns``: the coordinates (3, n) of all points."""
    corners = np.empty((3, 3, len(triangles)))
    for axis in range(3):
        corners[:, axis] = columns[axis][triangles.T]
    return corners


def crossed_edges(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normals (3, m) of triangles (3 corners, 3, m), as long as twice their areas."""
    (ux, uy, uz), (vx, vy, vz) = corners[1] - corners[0], corners[2] - corners[0]
    return np.stack([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx])


def lengths(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of (3, m): (m,)."""
    result: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->j", vectors, vectors))
    return result
