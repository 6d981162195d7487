"""The outer surface of a scan: what is seen from outside, without airways and bone in skin surfaces from CT."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .sample_surface import SurfaceSamples

#: Looks at the surface, spread evenly over the sphere.
_DIRECTIONS = 48
#: A sample seen from a smaller share of them lies inside. (0.2 and 0.3 found fewer faces on skin from CT; so did pixels
#: of 2 and of 3.5.)
_LEAST_SEEN = 0.1
#: Pixels of the depth maps in distances between samples: coarse enough that nothing is seen through the gaps.
_PIXEL = 2.5
#: A sample this far (in pixels) behind the foremost one is hidden.
_DEPTH = 0.75
#: Depth maps with more pixels than this for each sample list only those that hold one.
_SPARSE = 100


def outer_samples(samples: SurfaceSamples) -> SurfaceSamples:
    """Those of the samples that are seen from outside, in the same order; units and pose do not matter.

    Orthographic depth maps are made of the samples themselves, so triangles may face any way and overlap.
    """
    seen = _share_seen(samples.points, np.sqrt(samples.area / max(len(samples.points), 1))) > _LEAST_SEEN
    return SurfaceSamples(
        samples.points[seen], samples.normals[seen], samples.triangle_index[seen], samples.area * float(seen.mean())
    )


def _share_seen(points: NDArray[np.float64], spacing: float) -> NDArray[np.float64]:
    """Share of the directions (0 to 1) from which each of the points (n, 3) is seen."""
    pixel = _PIXEL * spacing
    seen = np.zeros(len(points))
    for along in _fibonacci_sphere(_DIRECTIONS):
        across = np.linalg.svd(along[None])[2][1:]  # two axes at right angles to it
        cells = np.floor(points @ across.T / pixel)
        if np.prod(np.ptp(cells, axis=0) + 1) > _SPARSE * len(points):  # a fragment far off stretches the picture
            column, row = (np.unique(cells[:, axis], return_inverse=True)[1] for axis in (0, 1))
            flat = np.unique(column * len(points) + row, return_inverse=True)[1]
        else:
            column, row = (cells - cells.min(axis=0)).astype(np.int64).T
            flat = column * (row.max() + 1) + row
        depth = points @ along
        foremost = np.full(flat.max() + 1, -np.inf)
        np.maximum.at(foremost, flat, depth)
        seen += depth > foremost[flat] - _DEPTH * pixel
    return seen / _DIRECTIONS


def _fibonacci_sphere(count: int) -> NDArray[np.float64]:
    """(count, 3) unit vectors, about evenly spread."""
    height = 1 - (2 * np.arange(count) + 1) / count
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(count)
    around = np.sqrt(1 - height**2)
    return np.stack([around * np.cos(turn), around * np.sin(turn), height], axis=1)
