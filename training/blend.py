"""Further subjects between those of registered scans, on which each vertex is the same place of every face.

Published face models (FaceScape's, for example) come registered to one template: all have the same triangles. Weighted
sums of such faces are faces, too, with landmarks where the sums of their landmarks lie. A network that learns from them
sees as many people as it likes instead of the few hundred that were scanned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.align import canonical_mesh
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.procrustes import fit_similarity
from PALNetLandmarksLib.read_scan import read_scan
from scipy.spatial import cKDTree

from .aligned_scans import AlignedScan

#: Subjects that a blend is made of. A few leave it what makes a face unlike a Gaussian cloud of faces.
MIXED = 4

#: Scans of one sensor can have the same triangles by its grid of pixels. On registered ones, a landmark carried by the
#: vertex nearest to it from one scan to another lies this near (median, mm of the reference) to the other's own.
REGISTERED_MM = 5.0


@dataclass(frozen=True)
class RegisteredScans:
    """Scans of one topology, in the frame of the reference face at its size.

    ``points`` (s, n, 3) float32, ``landmarks`` (s, L, 3), ``triangles`` (m, 3).
    """

    points: NDArray[np.float32]
    landmarks: NDArray[np.float64]
    triangles: NDArray[np.int64]

    @classmethod
    def of(cls, scans: Sequence[AlignedScan]) -> RegisteredScans | None:
        """Those of the scans that have all landmarks; ``None`` if they are not registered, or too few to blend."""
        points, landmarks, triangles = [], [], None
        for scan in scans:
            if not np.isfinite(scan.landmarks).all():
                continue
            mesh = read_scan(scan.subject.scan)  # in the file's own order, by which scans correspond
            mesh = canonical_mesh(mesh, scan.transform, scan.mm_per_unit, scan.inside_out)
            if triangles is None:
                triangles = mesh.triangles
            elif len(mesh.points) != len(points[0]) or not np.array_equal(mesh.triangles, triangles):
                return None
            points.append((mesh.points / scan.face_scale).astype(np.float32))
            landmarks.append(scan.landmarks / scan.face_scale)
        if triangles is None or len(points) <= MIXED or not _correspond(points, landmarks):
            return None
        # The alignment of each by its surface is good to a degree or so; its vertices say exactly how it lies.
        mean = np.mean(points, axis=0)
        for i, own in enumerate(points):
            to_mean = fit_similarity(own, mean)
            points[i], landmarks[i] = to_mean.apply(own).astype(np.float32), to_mean.apply(landmarks[i])
        return cls(np.stack(points), np.stack(landmarks), triangles)

    @cached_property
    def _means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.points.mean(axis=0, dtype=np.float64), self.landmarks.mean(axis=0)

    def blend(self, name: str, rng: np.random.Generator) -> tuple[TriangleMesh, NDArray[np.float64]]:
        """A face that differs from the mean as those of the scans do, and its landmarks (L, 3)."""
        chosen = rng.choice(len(self.points), MIXED, replace=False)
        weights = rng.normal(size=MIXED)
        # With squares that sum to one, blends vary about the mean as much as the scans themselves.
        weights /= np.linalg.norm(weights)
        rest = 1.0 - weights.sum()
        mean_points, mean_landmarks = self._means
        points = rest * mean_points + np.tensordot(weights, self.points[chosen], 1)
        landmarks = rest * mean_landmarks + np.tensordot(weights, self.landmarks[chosen], 1)
        return TriangleMesh(points, self.triangles, name), landmarks


def _correspond(points: Sequence[NDArray[np.float32]], landmarks: Sequence[NDArray[np.float64]]) -> bool:
    """Whether landmarks (L, 3 each) lie near the same vertices (n, 3 each) of all scans."""
    vertices = cKDTree(points[0]).query(landmarks[0])[1]
    apart = [np.linalg.norm(own[vertices] - marks, axis=1) for own, marks in zip(points, landmarks)]
    return bool(np.median(apart) <= REGISTERED_MM)
