"""The part of an aligned scan that holds the face."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .mesh import TriangleMesh
from .reference import ReferenceFace
from .sample_surface import SurfaceSamples, sample_surface

#: Distance between the samples of the region of interest, about that between the pixels of the finest height maps.
SAMPLE_PITCH_MM = 1.25

#: About as many samples has a surface three times as large as that of a head, with all that lies inside it or is there
#: several times over. Larger ones are sampled no more densely than that.
SAMPLES_AT_MOST = 150_000

#: How far around the reference's box the height maps may look.
MARGIN_MM = 10.0


def crop_to_region_of_interest(mesh: TriangleMesh, reference: ReferenceFace, margin_mm: float = 0.0) -> TriangleMesh:
    """The triangles of ``mesh`` (aligned, reference-sized, LPS mm) inside the reference's box, with their vertices."""
    chosen = triangles_inside(mesh, reference, margin_mm)
    used = np.zeros(len(mesh.points), dtype=bool)
    used[mesh.triangles[chosen]] = True
    index = np.cumsum(used) - 1
    return TriangleMesh(
        mesh.points[used], index[mesh.triangles[chosen]], mesh.name, mesh.coordinate_system, mesh.warnings
    )


def sample_region_of_interest(
    mesh: TriangleMesh, reference: ReferenceFace, margin_mm: float = MARGIN_MM
) -> SurfaceSamples:
    """Even samples of the same part (see ``sample_surface``), without copying the mesh."""
    return sample_surface(mesh, SAMPLES_AT_MOST, triangles_inside(mesh, reference, margin_mm), SAMPLE_PITCH_MM)


def triangles_inside(mesh: TriangleMesh, reference: ReferenceFace, margin_mm: float) -> NDArray[np.int64]:
    """Numbers of the triangles inside the reference's box widened by a margin, ascending."""
    low, high = reference.region_of_interest[0] - margin_mm, reference.region_of_interest[1] + margin_mm
    inside = ((mesh.points > low) & (mesh.points < high)).all(axis=1)
    return np.flatnonzero(inside[mesh.triangles].all(axis=1))
