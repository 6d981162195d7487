"""What the peers share: they see the samples of scans that the library has aligned, at the reference's size, and their
points go onto the scan's surface."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.align import align_to_reference, to_canonical
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.region_of_interest import sample_region_of_interest
from PALNetLandmarksLib.surface import SurfaceLocator

from ...aligned_scans import AlignedScan
from ...augmentation import unpack
from ...prepared import PreparedScan, prepare_aligned_scan
from ..methods import Predict, Prediction

#: Landmarks (L, 3) from samples (n, 3) and their normals (n, 3), all in the reference's frame and size (LPS mm).
Place = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]


def prepare_placed_scans(scans: Iterable[AlignedScan]) -> list[PreparedScan]:
    """Samples and landmarks of aligned scans, in the reference's frame and size."""
    reference = load_reference()
    return [prepare_aligned_scan(scan, reference) for scan in scans]


def mean_error_mm(place: Place, scans: Sequence[PreparedScan]) -> dict[str, float]:
    """``error_mm`` and ``median_mm`` (of the subjects) over the landmarks that ``scans`` show."""
    errors = [np.linalg.norm(place(*unpack(scan)) - scan.landmarks, axis=1)[scan.visible] * scan.size for scan in scans]
    joined = np.concatenate(errors)
    return {"error_mm": float(joined.mean()), "median_mm": float(np.median(joined))}


def predictor_of(place: Place) -> Predict:
    """Alignment by the library, ``place``, and the nearest points of the surface."""
    reference = load_reference()

    def predict(mesh: TriangleMesh, unit: str | None) -> Prediction:
        times = [time.perf_counter()]
        found = align_to_reference(mesh, reference, unit)
        rotation, shift = found.transform[:3, :3], found.transform[:3, 3]
        aligned = mesh.with_points(to_canonical(mesh.points, found.transform, found.mm_per_unit))
        samples = sample_region_of_interest(aligned.with_points(aligned.points / found.face_scale), reference)
        times.append(time.perf_counter())
        placed = place(samples.points.astype(np.float32), samples.normals.astype(np.float32)) * found.face_scale
        times.append(time.perf_counter())
        points = SurfaceLocator(aligned).nearest_on_surface(placed)[0]
        times.append(time.perf_counter())
        unknown = np.full(len(points), np.nan)
        seconds = dict(zip(("align", "network", "surface"), np.diff(times).tolist()))
        return Prediction((points - shift) @ rotation, unknown, np.zeros(len(points), dtype=bool), seconds)

    return predict
