"""Corners and normals of many triangles at once, laid out for speed: one row for each coordinate."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

#: Triangles handled at once, as many as stay in the processor's cache.
PIECE = 10_000
#: Meshes of more triangles are measured by every second one, or third.
_MEASURED = 4_000_000
#: Threads that fetch corners, and of how many pieces on they are worth their start.
_FETCHERS, _FEW_PIECES = 2, 50


def triangle_corners(columns: NDArray[np.float64], triangles: NDArray[np.int64]) -> NDArray[np.float64]:
    """(3 corners, 3 coordinates, m) of triangles (m, 3); ``columns``: the coordinates (3, n) of all points."""
    return columns.take(triangles.T, axis=1).transpose(1, 0, 2)


def corners_in_pieces(
    columns: NDArray[np.float64], triangles: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """``triangle_corners`` of some triangles after others, with the part of ``triangles`` that they are.

    Of no triangles, one empty piece. The next pieces are fetched by other threads meanwhile: of a large mesh, memory
    takes longer to give the corners than most of what is done with them.
    """

    def fetch(piece: slice) -> tuple[slice, NDArray[np.float64]]:
        return piece, triangle_corners(columns, triangles[piece])

    pieces = [slice(start, start + PIECE) for start in range(0, max(len(triangles), 1), PIECE)]
    if len(pieces) < _FEW_PIECES:
        yield from map(fetch, pieces)
        return
    with ThreadPoolExecutor(_FETCHERS) as executor:
        coming: deque[Future[tuple[slice, NDArray[np.float64]]]] = deque()
        for piece in pieces:
            coming.append(executor.submit(fetch, piece))
            if len(coming) > 2 * _FETCHERS:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def sparing(count: int) -> int:
    """Which part of ``count`` triangles is enough to measure their surface: every so manieth."""
    return 1 + count // _MEASURED


def crossed_edges(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normals (3, m) of triangles (3 corners, 3, m), as long as twice their areas."""
    (ux, uy, uz), (vx, vy, vz) = corners[1] - corners[0], corners[2] - corners[0]
    return np.stack([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx])


def lengths(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of (3, m): (m,)."""
    result: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->j", vectors, vectors))
    return result
