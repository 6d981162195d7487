"""Rough scans, as from depth cameras: noise that no scan had from which the network learnt is smoothed away first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

from .inside_box import inside_box
from .mesh import TriangleMesh
from .sample_surface import SurfaceSamples

#: Evenness below which a surface is smoothed. Simulated captures and the real scans at hand have 0.97 to 0.99.
EVEN = 0.95
#: Edge of the cells within which normals are compared, mm.
_CELL_MM = 4.0
#: The middle of the face, between brows and chin: lowest and highest x, y and z, canonical LPS mm at the reference's
#: size. Hair, collars and ears are rough on every scan.
_MIDDLE_MM = np.array([[-45.0, -np.inf, -60.0], [45.0, 60.0, 50.0]])
#: Rounds of a step towards the neighbours' mean and a longer one back, as shares of the way: what spreads over many
#: edges passes (Taubin's pass band 1 / 0.5 - 1 / 0.53 = 0.11), what changes from vertex to vertex does not.
_ROUNDS, _THERE, _BACK = 10, 0.5, -0.53


def evenness(samples: SurfaceSamples) -> float:
    """How much alike normals are within a few millimetres in the middle of the face: 1 where it is as smooth as glass.

    ``samples`` of an aligned scan at the reference's size. The mean length of the mean normal in each cell; 1 where
    there is nothing to compare.
    """
    points, normals = samples.points, samples.normals
    inside = inside_box(points, *_MIDDLE_MM) & (normals[:, 1] < -0.3)
    cells = np.floor(points[inside] / _CELL_MM).astype(np.int64)
    _, member, counts = np.unique(cells @ (1, 4096, 4096**2), return_inverse=True, return_counts=True)
    total = np.stack([np.bincount(member, normals[inside, axis], len(counts)) for axis in range(3)], axis=1)
    told = counts > 2
    return float(np.linalg.norm(total[told], axis=1).sum() / counts[told].sum()) if told.any() else 1.0


def smoothed(mesh: TriangleMesh, chosen: NDArray[np.int64]) -> TriangleMesh:
    """The mesh with the vertices of the ``chosen`` triangles moved by Taubin's smoothing (SIGGRAPH 1995).

    It shrinks much less than going to the neighbours' mean alone. Vertices at borders of the chosen part stay.
    """
    triangles, count = mesh.triangles[chosen], len(mesh.points)
    start, end = triangles[:, [0, 1, 2]].ravel(), triangles[:, [1, 2, 0]].ravel()
    ones = np.ones(2 * len(start), dtype=np.float32)
    edges = coo_matrix((ones, (np.r_[start, end], np.r_[end, start])), shape=(count, count)).tocsr()
    neighbours = np.diff(edges.indptr)
    at_border = np.bincount(np.repeat(np.arange(count), neighbours), edges.data < 2, count) > 0  # edges of one triangle
    fixed = at_border | (neighbours == 0)
    edges.data[:] = 1
    neighbours = np.maximum(neighbours, 1)[:, None]
    points = mesh.points.astype(np.float64)
    for _ in range(_ROUNDS):
        for share in (_THERE, _BACK):
            step = edges @ points / neighbours - points
            step[fixed] = 0
            points = points + share * step
    return mesh.with_points(points)
