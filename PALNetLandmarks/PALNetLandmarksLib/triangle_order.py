"""Triangles in an order that follows from where they lie: software lists the same surface in any order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .mesh import TriangleMesh
from .principal_frame import PrincipalFrame

#: Bits for each coordinate: three of them fill a key, with cells of less than a micrometre on a head.
_BITS = 21
#: Larger meshes stay in their files' order: the largest scans would take some seconds longer.
MOST_TRIANGLES = 4_000_000
#: Triangles handled at once; bounds the memory of the intermediate arrays to about 100 MB.
_CHUNK = 500_000
#: The corner that lies least far along this begins a triangle; at an angle to all axes, along which corners may tie.
_CORNERS_ALONG = np.array([1.0, 0.7548776662466927, 0.5698402909980532])
#: Coordinates beyond this are damaged, and their products no numbers.
_LARGEST = 1e100
#: (shift, mask) that spread 21 bits over every third of 63.
_SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def in_order_of_place(mesh: TriangleMesh) -> TriangleMesh:
    """The same surface, its triangles along a Z-curve through the principal frame of their vertices.

    Neighbours mostly follow each other. Neither the pose nor the unit of the mesh, nor the order of its vertices and
    triangles, nor which corner a triangle is listed from, nor vertices without triangles change the result, except on
    shapes without a principal frame (spheres, rectangles). A mesh that has no place, for want of triangles or for
    points that are no numbers of any use, stays as it is, and so does one of more than MOST_TRIANGLES.
    """
    if len(mesh.triangles) > MOST_TRIANGLES:
        return mesh
    used = np.zeros(len(mesh.points), dtype=bool)
    used[mesh.triangles.ravel()] = True
    if not used.all():
        compact = TriangleMesh(mesh.points[used], (np.cumsum(used) - 1)[mesh.triangles])
        return replace(mesh, triangles=np.flatnonzero(used)[in_order_of_place(compact).triangles])
    if not len(mesh.triangles) or not np.abs(mesh.points).max() < _LARGEST:
        return mesh
    places = PrincipalFrame.of(mesh.points).points
    keys = _keys(places, mesh.triangles)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    ordered = np.empty_like(mesh.triangles)
    along = places @ _CORNERS_ALONG
    for start in range(0, len(order), _CHUNK):
        chosen = mesh.triangles[order[start : start + _CHUNK]]
        a, b, c = along[chosen.T]
        for first, begins in ((1, (b < a) & (b <= c)), (2, (c < a) & (c < b))):
            chosen[begins] = np.roll(chosen[begins], -first, axis=1)
        ordered[start : start + _CHUNK] = chosen
    # Double-sided surfaces list two triangles in one place, which their second corners tell apart.
    same = keys[1:] == keys[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    ordered[tied] = ordered[tied][np.lexsort((along[ordered[tied, 1]], keys[tied]))]
    return replace(mesh, triangles=ordered)


def _keys(places: NDArray[np.float64], triangles: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Where the centre of each triangle comes on the curve: (m,). ``places``: (n, 3)."""
    low = places.min(axis=0)
    extent = float((places.max(axis=0) - low).max()) or 1.0
    keys = np.zeros(len(triangles), dtype=np.uint64)
    for axis in range(3):
        cells = (places[:, axis] - low[axis]) * ((2**_BITS - 1) / extent / 3)  # a third, as three corners are summed
        for start in range(0, len(triangles), _CHUNK):
            a, b, c = triangles[start : start + _CHUNK].T
            centres = (cells[a] + cells[b] + cells[c]).astype(np.uint64)
            keys[start : start + _CHUNK] |= _spread(centres) << np.uint64(axis)
    return keys


def _spread(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Two empty places after each bit."""
    for shift, mask in _SPREAD:
        bits = (bits | (bits << np.uint64(shift))) & np.uint64(mask)
    return bits
