"""The triangle mesh that every step of the pipeline takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TriangleMesh:
    """A surface scan.

    Attributes
    ----------
    points : (n, 3) float64, in whatever frame and unit the owner says (files: as stored in the file).
    triangles : (m, 3) int64 vertex indices, counter-clockwise seen from outside.
    name : what to call the scan in messages (usually the file name).
    coordinate_system : ``"LPS"`` or ``"RAS"``: how Slicer would interpret ``points``. Files without a header are LPS.
    warnings : sentences for the user gathered while reading.
    """

    points: NDArray[np.float64]
    triangles: NDArray[np.int64]
    name: str = "scan"
    coordinate_system: str = "LPS"
    warnings: tuple[str, ...] = field(default=())

    def with_points(self, points: NDArray[np.float64]) -> TriangleMesh:
        """The same topology with other ``points`` (n, 3)."""
        return replace(self, points=points)

    @cached_property
    def triangle_areas_and_normals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Areas (m,) in squared units of the points, and unit normals (m, 3); zero normals for degenerate triangles."""
        cross = self._crossed_edges()
        length = np.linalg.norm(cross, axis=1)
        normals = cross / np.maximum(length, np.finfo(float).tiny)[:, None]
        return 0.5 * length, normals

    @cached_property
    def vertex_normals(self) -> NDArray[np.float64]:
        """Area-weighted unit normals (n, 3); zero for vertices without triangles."""
        cross = self._crossed_edges()  # as long as twice the area
        total = np.empty_like(self.points)
        for axis in range(3):
            total[:, axis] = np.bincount(
                self.triangles.ravel(), weights=np.repeat(cross[:, axis], 3), minlength=len(self.points)
            )
        return total / np.maximum(np.linalg.norm(total, axis=1), np.finfo(float).tiny)[:, None]

    def _crossed_edges(self) -> NDArray[np.float64]:
        corners = self.points[self.triangles]
        return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
