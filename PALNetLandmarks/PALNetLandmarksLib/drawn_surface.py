"""What a picture shows of a scan: the part around the face, no finer than it can be seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .align import to_canonical
from .inside_box import inside_box
from .mesh import TriangleMesh
from .rasterise import pieces

#: Above this many triangles the drawn surface is thinned to cells of THINNING_CELL_MM.
MOST_TRIANGLES = 400_000
THINNING_CELL_MM = 0.8


@dataclass(frozen=True)
class DrawnSurface:
    """Canonical points (n, 3) in mm, triangles (m, 3), and outward unit normals (n, 3), single precision."""

    points: NDArray[np.float32]
    triangles: NDArray[np.int32]
    normals: NDArray[np.float32]


def surface_to_draw(
    mesh: TriangleMesh, transform: NDArray[np.float64], mm_per_unit: float, box: NDArray[np.float64]
) -> DrawnSurface:
    """The part of the scan that can be seen in any view, thinned if it has more triangles than pixels can show.

    Parameters
    ----------
    mesh : the scan in its own frame and unit.
    transform, mm_per_unit : from there to canonical LPS mm, as of ``Alignment``.
    box : (2, 3) lower and upper corner of what the picture shows, canonical mm.
    """
    points = to_canonical(mesh.points, transform, mm_per_unit).astype(np.float32)
    # Every view shows the region's whole height, and what lies beside the face (a chair, a second person) must not hide
    # it; how far the scan reaches forwards and backwards doesn't matter.
    beyond = np.array([60.0, np.inf, 5.0])
    lower, upper = (box + np.array([-beyond, beyond])).astype(np.float32)
    near = inside_box(points, lower, upper)
    kept = [piece[np.logical_or.reduce(near.take(piece.T))] for piece in pieces(mesh.triangles)]
    triangles = np.concatenate([piece.astype(np.int32) for piece in kept]) if kept else np.empty((0, 3), np.int32)
    if len(triangles) > MOST_TRIANGLES:
        points, triangles = _thinned(points, triangles)
    else:
        points, triangles = _compacted(points, triangles)
    normals = _vertex_normals(points, triangles)
    # An inside-out scan is shaded like any other: on the front of a face more normals point forwards than backwards.
    facing = normals[points[:, 1] < box[:, 1].mean(), 1]
    if facing.sum() > 0:
        normals = -normals
    return DrawnSurface(points, triangles, normals)


def _compacted(
    points: NDArray[np.float32], triangles: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Only the points that the triangles use."""
    used = np.zeros(len(points), dtype=bool)
    used[triangles] = True
    return points[used], (np.cumsum(used, dtype=np.int32) - 1)[triangles]


def _thinned(
    points: NDArray[np.float32], triangles: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Vertex clustering: the points of each cell become their mean, triangles within a cell vanish."""
    used = np.zeros(len(points), dtype=bool)
    used[triangles] = True
    columns = np.ascontiguousarray(points[used].T)
    key = np.zeros(columns.shape[1], dtype=np.int64)
    for column in columns:
        cell = np.floor((column - column.min()) / THINNING_CELL_MM).astype(np.int64)
        key = key * (cell.max() + 1) + cell
    _, cluster, count = np.unique(key, return_inverse=True, return_counts=True)
    cluster = cluster.reshape(-1).astype(np.int32)
    means = np.stack([np.bincount(cluster, weights=column) / count for column in columns], axis=1)
    cluster_of = np.empty(len(used), dtype=np.int32)
    cluster_of[used] = cluster
    remapped = []
    for piece in pieces(triangles):
        first, second, third = corners = cluster_of.take(piece.T)
        spans = (first != second) & (second != third) & (third != first)
        remapped.append(corners.T[spans])
    return means.astype(np.float32), np.concatenate(remapped)


def _vertex_normals(points: NDArray[np.float32], triangles: NDArray[np.int32]) -> NDArray[np.float32]:
    """Area-weighted unit normals (n, 3), in pieces."""
    total = np.zeros((3, len(points)))
    for piece in pieces(triangles):
        first = points[piece[:, 0]]
        cross = np.cross(points[piece[:, 1]] - first, points[piece[:, 2]] - first)
        for axis in range(3):
            for corner in range(3):
                total[axis] += np.bincount(piece[:, corner], weights=cross[:, axis], minlength=len(points))
    length = np.maximum(np.sqrt((total**2).sum(axis=0)), np.finfo(np.float32).tiny)
    return (total / length).T.astype(np.float32)
