"""Where each scan lies in the reference frame, and the landmarks of its file with it; refused where they do not fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.align import (
    DOUBTFUL_FITNESS,
    LEAST_FITNESS,
    align_to_reference,
    canonical_mesh,
    no_face_found,
    to_canonical,
)
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.known_points import known_points
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.procrustes import fit_similarity
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import ReferenceFace
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from .folder import Subject, TrainingDataError

#: Raise it when the library aligns scans otherwise: what was kept of them is found anew.
_ALIGNMENT = 2

#: Median distance (mm) of landmarks from their scan that says: not placed on it, or in another frame or unit.
FAR_FROM_SCAN_MM = 10.0

#: Median distance (mm of the reference) of landmarks from where the mean face has those of their names, that says: left
#: and right are swapped, or names stand at the wrong points.
_FAR_FROM_NAMES_MM = 15.0

#: An unusual face's pose is taken where this many of the bundled landmarks lie like the reference's, turned and moved
#: by no more than this.
_VOUCHING, _VOUCHED_DEGREES, _VOUCHED_MM = 5, 20.0, 20.0


@dataclass(frozen=True)
class AlignedScan:
    """Where the face lies in a subject's scan, as the library's alignment finds it, and its landmarks there.

    ``transform`` (4, 4) rigid, from the file's coordinates times ``mm_per_unit`` to the canonical frame (LPS mm);
    ``landmarks`` (L, 3) canonical, mm of the subject, NaN where undefined; ``face_scale`` as in ``Alignment``.
    """

    subject: Subject
    transform: NDArray[np.float64]
    mm_per_unit: float
    inside_out: bool
    face_scale: float
    landmarks: NDArray[np.float64]

    def mesh(self) -> TriangleMesh:
        """The scan in the canonical frame, mm of the subject; read again from its file."""
        return canonical_mesh(read_scan(self.subject.scan), self.transform, self.mm_per_unit, self.inside_out)


def align_scans(
    subjects: Sequence[Subject],
    sets: dict[str, LandmarkSet],
    labels: tuple[str, ...],
    reference: ReferenceFace,
    cache: Path,
    unit: str | None = None,
    workers: int = 1,
    done: Callable[[str], None] = lambda name: None,
) -> tuple[list[AlignedScan], dict[str, LandmarkingError]]:
    """Align every scan by the library's own step; what it finds is kept in ``cache`` for the next run.

    Returns the aligned scans and, for those refused, the reason: a ``TrainingDataError`` where it is the landmark file.
    """
    cache.mkdir(parents=True, exist_ok=True)

    def attempt(subject: Subject) -> AlignedScan | LandmarkingError:
        try:
            return _align(subject, sets[subject.name].ordered(labels), reference, cache, unit)
        except LandmarkingError as error:
            return error.with_traceback(None)  # which would keep the scan in memory
        finally:
            done(subject.name)

    with ThreadPoolExecutor(workers) as executor:
        results = list(executor.map(attempt, subjects))
    aligned = [result for result in results if isinstance(result, AlignedScan)]
    refused = {s.name: result for s, result in zip(subjects, results) if isinstance(result, LandmarkingError)}
    return aligned, refused


def as_in_scan(landmarks: LandmarkSet, file: Path, mesh: TriangleMesh) -> LandmarkSet:
    """Landmarks of ``file`` in the coordinates that the scan has in its own file."""
    # LAFAS's points are the numbers of the scan's own file.
    return landmarks if file.suffix.lower() == ".txt" else landmarks.in_coordinate_system(mesh.coordinate_system)


def reference_digest(reference: ReferenceFace) -> str:
    """Short hash of the surface that scans are aligned to."""
    content = reference.points.tobytes() + reference.region_of_interest.tobytes()
    return hashlib.sha256(content).hexdigest()[:12]


def _align(
    subject: Subject, landmarks: LandmarkSet, reference: ReferenceFace, cache: Path, unit: str | None
) -> AlignedScan:
    mesh = read_scan(subject.scan)
    found = _find(subject, mesh, reference, cache / f"{subject.name}.json", unit)
    transform, mm_per_unit, face_scale = np.array(found["transform"]), found["mm_per_unit"], found["face_scale"]
    landmarks = as_in_scan(landmarks, subject.landmarks, mesh)
    landmarks = replace(landmarks, points=to_canonical(landmarks.points, transform, mm_per_unit))
    named, means = _like_reference(landmarks, reference, face_scale)
    if found["fitness"] < LEAST_FITNESS and not _vouch(named, means):
        raise no_face_found(mesh.name, found["fitness"], unit)
    if not landmarks.defined.any():
        raise TrainingDataError(f"'{subject.landmarks.name}' defines none of the landmarks; place them or remove it.")
    placed = canonical_mesh(mesh, transform, mm_per_unit, found["inside_out"])
    distance = float(np.median(cKDTree(placed.points).query(landmarks.points[landmarks.defined])[0]))
    if distance > FAR_FROM_SCAN_MM:
        raise TrainingDataError(
            f"The landmarks in '{subject.landmarks.name}' do not lie on '{subject.scan.name}' (median distance "
            f"{distance:.0f} mm); check that they belong to this scan and have its coordinate system and unit."
        )
    off = float(np.median(np.linalg.norm(named - means, axis=1))) if len(named) >= _VOUCHING else 0.0
    if off > _FAR_FROM_NAMES_MM:
        raise TrainingDataError(
            f"The landmarks in '{subject.landmarks.name}' lie {off:.0f} mm (median) from where a face has those of "
            "their names; check that left is the person's left and each name stands at its point."
        )
    return AlignedScan(subject, transform, mm_per_unit, found["inside_out"], face_scale, landmarks.points)


def _find(
    subject: Subject, mesh: TriangleMesh, reference: ReferenceFace, note: Path, unit: str | None
) -> dict[str, Any]:
    """Where the face lies in the scan, doubtful or not: as ``note`` says if it is of this scan, or found and noted."""
    stat = subject.scan.stat()
    key = [_ALIGNMENT, subject.scan.name, stat.st_size, stat.st_mtime_ns, unit, reference_digest(reference)]
    try:
        found: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    if found.get("key") == key and "fitness" in found:
        return found
    alignment = align_to_reference(mesh, reference, unit, DOUBTFUL_FITNESS)
    found = {
        "key": key,
        "transform": alignment.transform.tolist(),
        "mm_per_unit": alignment.mm_per_unit,
        "inside_out": alignment.inside_out,
        "face_scale": alignment.face_scale,
        "fitness": alignment.fitness,
    }
    note.write_text(json.dumps(found), encoding="utf-8")
    return found


def _like_reference(
    landmarks: LandmarkSet, reference: ReferenceFace, face_scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the landmarks (canonical frame) that the reference has, too: (k, 3) at its size, and the reference's own."""
    shared = tuple(label for label in reference.labels if label in landmarks.labels)
    points = landmarks.ordered(shared).points / face_scale
    means = reference.landmarks[[reference.labels.index(label) for label in shared]]
    known = known_points(points)
    return points[known], means[known]


def _vouch(points: NDArray[np.float64], means: NDArray[np.float64]) -> bool:
    """Whether annotated landmarks, in the frame of an alignment that is in doubt, lie there as on a face."""
    if len(points) < _VOUCHING:
        return False
    degrees = np.degrees(Rotation.from_matrix(fit_similarity(means, points).rotation).magnitude())
    moved = np.linalg.norm(points.mean(axis=0) - means.mean(axis=0))
    return bool(degrees <= _VOUCHED_DEGREES and moved <= _VOUCHED_MM)
