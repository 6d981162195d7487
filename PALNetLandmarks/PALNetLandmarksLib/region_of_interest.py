"""The part of an aligned scan that holds the face."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .mesh import TriangleMesh
from .reference import ReferenceFace
from .sample_surface import SurfaceSamples, sample_surface

#: Samples taken on the region of interest: about 1.4 mm apart on an adult face.
SAMPLE_COUNT = 48_000

#: Few, so that a triangle that comes or goes at the border of the region, by rounding, changes no samples elsewhere.
_SAMPLES_PER_BLOCK = 16


def crop_to_region_of_interest(mesh: TriangleMesh, reference: ReferenceFace, margin_mm: float = 0.0) -> TriangleMesh:
    """The triangles of ``mesh`` (aligned, reference-sized, LPS mm) inside the reference's box, with their vertices."""
    chosen = _triangles_inside(mesh, reference, margin_mm)
    used = np.zeros(len(mesh.points), dtype=bool)
    used[mesh.triangles[chosen]] = True
    index = np.cumsum(used) - 1
    return TriangleMesh(
        mesh.points[used], index[mesh.triangles[chosen]], mesh.name, mesh.coordinate_system, mesh.warnings
    )


def sample_region_of_interest(
    mesh: TriangleMesh, reference: ReferenceFace, count: int = SAMPLE_COUNT, margin_mm: float = 10.0
) -> SurfaceSamples:
    """About ``count`` even samples of the same part (see ``sample_surface``), without copying the mesh."""
    return sample_surface(mesh, count, _triangles_inside(mesh, reference, margin_mm), _SAMPLES_PER_BLOCK)


def _triangles_inside(mesh: TriangleMesh, reference: ReferenceFace, margin_mm: float) -> NDArray[np.int64]:
    low, high = reference.region_of_interest[0] - margin_mm, reference.region_of_interest[1] + margin_mm
    inside = ((mesh.points > low) & (mesh.points < high)).all(axis=1)
    return np.flatnonzero(inside[mesh.triangles].all(axis=1))
