"""The part of an aligned scan that holds the face."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .inside_box import inside_box
from .mesh import TriangleMesh
from .reference import ReferenceFace
from .sample_surface import SurfaceSamples, sample_surface
from .smooth_rough import EVEN, evenness, smoothed

#: Distance between the lines that sample the region of interest, that between the pixels of the finest height maps.
SAMPLE_PITCH_MM = 1.25

#: About as many samples has a surface three times as large as that of a head, with all that lies inside it or is there
#: several times over. Larger ones are sampled no more densely than that.
SAMPLES_AT_MOST = 150_000

#: How far around the reference's box the height maps may look.
_MARGIN_MM = 10.0


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
    mesh: TriangleMesh,
    reference: ReferenceFace,
    turn: NDArray[np.float64] | None = None,
    pitch_mm: float = SAMPLE_PITCH_MM,
) -> SurfaceSamples:
    """Even samples of the same part and what lies just around it (see ``sample_surface``), smoothed where it is rough
    (see ``smooth_rough``).

    ``turn``: rotation (3, 3) from the frame of ``mesh`` to that of the lattice, the same by default.
    """
    chosen = _triangles_inside(mesh, reference, _MARGIN_MM)

    def sample(surface: TriangleMesh) -> SurfaceSamples:
        if turn is None:
            return sample_surface(surface, SAMPLES_AT_MOST, chosen, pitch_mm)
        samples = sample_surface(surface.with_points(surface.points @ turn.T), SAMPLES_AT_MOST, chosen, pitch_mm)
        return replace(samples, points=samples.points @ turn, normals=samples.normals @ turn)

    samples = sample(mesh)
    return samples if evenness(samples) >= EVEN else sample(smoothed(mesh, chosen))


def _triangles_inside(mesh: TriangleMesh, reference: ReferenceFace, margin_mm: float) -> NDArray[np.int64]:
    """Numbers of the triangles inside the reference's box widened by a margin, ascending."""
    low, high = reference.region_of_interest[0] - margin_mm, reference.region_of_interest[1] + margin_mm
    inside = inside_box(mesh.points, low, high)
    return np.flatnonzero(np.logical_and.reduce(inside.take(mesh.triangles.T)))
