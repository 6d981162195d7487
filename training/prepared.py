"""Scans prepared for training: dense surface samples in the reference frame, a few hundred kilobytes each.

A prepared scan holds what the patches of any landmark, pose and scale can be cut from, so that augmentation needs
neither the mesh nor a second alignment.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.errors import UnreadableScanError
from PALNetLandmarksLib.known_points import known_points
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.procrustes import SimilarityTransform, fit_similarity
from PALNetLandmarksLib.reference import ReferenceFace
from PALNetLandmarksLib.region_of_interest import SAMPLE_PITCH_MM, sample_region_of_interest
from PALNetLandmarksLib.sample_surface import SurfaceSamples
from scipy.spatial.transform import Rotation

from .aligned_scans import AlignedScan

#: Positions are kept as multiples of this many millimetres in 16 bits.
STEP_MM = 0.006

#: Of preparation as a whole: raise it when samples, patches or files come out otherwise. It is in each file, which is
#: refused if it has another one, and in the names of what a training keeps, which is then made anew. That rough scans
#: are smoothed did not raise it: no simulated scan is rough, so pools are what they were.
PREPARATION = 3


@dataclass(frozen=True)
class PreparedScan:
    """One scan in the reference frame scaled to the reference's size (LPS mm of the reference).

    ``points`` (n, 3) int16 in steps of ``STEP_MM``; ``normals`` (n, 3) int8 in 1/127;
    ``landmarks`` (L, 3) float32; ``visible`` (L,) bool; ``size`` millimetres per reference millimetre.
    """

    points: NDArray[np.int16]
    normals: NDArray[np.int8]
    landmarks: NDArray[np.float32]
    visible: NDArray[np.bool_]
    size: float


def prepare_scan(
    mesh: TriangleMesh, landmarks: NDArray[np.float64], visible: NDArray[np.bool_], reference: ReferenceFace
) -> PreparedScan:
    """Sample ``mesh`` (mm) where the reference's region of interest lies, by Procrustes on its annotated landmarks.

    Raises
    ------
    ValueError
        If fewer than three landmarks are known (finite), or the scan has no surface in the region of interest.
    """
    known = _known(landmarks, mesh.name)
    to_reference = fit_similarity(landmarks[known], reference.landmarks[known])
    return prepare_placed_scan(mesh, landmarks, visible, reference, to_reference)


def prepare_placed_scan(
    mesh: TriangleMesh,
    landmarks: NDArray[np.float64],
    visible: NDArray[np.bool_],
    reference: ReferenceFace,
    to_reference: SimilarityTransform,
) -> PreparedScan:
    """The same with a given similarity from ``mesh`` to the reference; undefined landmarks (NaN) stay undefined.

    Raises
    ------
    ValueError
        If fewer than three landmarks are known, or the scan has no surface in the region of interest.
    """
    known = _known(landmarks, mesh.name)
    samples = _sample_anyhow(mesh.with_points(to_reference.apply(mesh.points)), reference)
    if not len(samples.points):
        raise ValueError(f"'{mesh.name}' has no surface around its landmarks.")
    return PreparedScan(
        points=np.clip(np.round(samples.points / STEP_MM), -32767, 32767).astype(np.int16),
        normals=np.round(samples.normals * 127).astype(np.int8),
        landmarks=to_reference.apply(landmarks).astype(np.float32),
        visible=np.asarray(visible, dtype=bool) & known,
        size=1.0 / to_reference.scale,
    )


def _sample_anyhow(placed: TriangleMesh, reference: ReferenceFace) -> SurfaceSamples:
    """Samples of the region of interest, on a lattice that lies another way in each scan.

    One that lay in all scans as at detection would tell the network how augmentation turned and stretched a view. The
    scan's name says how it lies; its pose in the file makes no difference.
    """
    rng = np.random.default_rng(zlib.crc32(placed.name.encode()))
    turn, pitch = Rotation.random(random_state=rng).as_matrix(), SAMPLE_PITCH_MM * rng.uniform(0.9, 1.1)
    return sample_region_of_interest(placed, reference, turn, pitch)


def prepare_aligned_scan(scan: AlignedScan, reference: ReferenceFace) -> PreparedScan:
    """A laboratory's scan as the library has aligned it, brought to the reference's size; raises the same."""
    to_size = SimilarityTransform(1.0 / scan.face_scale, np.eye(3), np.zeros(3))
    all_known = np.ones(len(scan.landmarks), dtype=bool)
    return prepare_placed_scan(scan.mesh(), scan.landmarks, all_known, reference, to_size)


def _known(landmarks: NDArray[np.float64], name: str) -> NDArray[np.bool_]:
    """Which landmarks have a position; three are what it takes to tell how a face lies."""
    known = known_points(landmarks)
    if known.sum() < 3:
        raise ValueError(f"'{name}' has {known.sum()} of the landmarks; place three or more, or remove it.")
    return known


def save_prepared(path: Path, scan: PreparedScan) -> None:
    """Write one prepared scan; the file appears whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez(stream, format=PREPARATION, **vars(scan))
    partial.replace(path)


def load_prepared(path: Path) -> PreparedScan:
    """Read one prepared scan.

    Raises
    ------
    UnreadableScanError
        If another version of this program wrote it.
    """
    with np.load(path) as data:
        if "format" not in data or int(data["format"]) != PREPARATION:
            raise UnreadableScanError(
                f"'{path.name}' was prepared by another version; make the cohort again, in a new folder."
            )
        return PreparedScan(
            points=data["points"],
            normals=data["normals"],
            landmarks=data["landmarks"],
            visible=data["visible"],
            size=float(data["size"]),
        )
