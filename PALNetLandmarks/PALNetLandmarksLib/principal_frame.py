"""A frame that a surface brings along in every pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mesh import TriangleMesh

#: Triangles handled at once; bounds the memory of the intermediate arrays.
_CHUNK = 500_000


@dataclass(frozen=True)
class PrincipalFrame:
    """Centre (3,) and principal axes (3, 3; rows, right-handed) of a surface, each axis pointing to the longer tail.

    What is done in this frame meets a scan the same way whatever its pose in the file: the results for two poses of
    one scan lie within rounding of each other.
    """

    centre: NDArray[np.float64]
    axes: NDArray[np.float64]

    @staticmethod
    def of(mesh: TriangleMesh) -> PrincipalFrame:
        """Every triangle counts by its area, at its centre; a surface without area gets the frame it is in."""
        centres, areas = _centres_and_areas(mesh)
        total = areas.sum()
        if not np.isfinite(total) or total <= 0:
            return PrincipalFrame(np.zeros(3), np.eye(3))
        weights = areas / total
        centre = weights @ centres
        centres -= centre
        axes = np.linalg.eigh((centres * weights[:, None]).T @ centres)[1].T
        moments = [[weights @ (centres @ axis) ** power for power in (2, 3)] for axis in axes]
        squares, cubes = np.array(moments).T
        with np.errstate(invalid="ignore", divide="ignore"):  # a flat surface has no tails along its normal
            skewness = np.nan_to_num(cubes / squares**1.5)
        signs = np.where(skewness < 0, -1.0, 1.0)
        if np.linalg.det(axes) * signs.prod() < 0:
            signs[np.argmin(np.abs(skewness))] *= -1
        return PrincipalFrame(centre, axes * signs[:, None])

    def place(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (n, 3) of the surface's own frame in this one."""
        return (points - self.centre) @ self.axes.T


def _centres_and_areas(mesh: TriangleMesh) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of all triangles, (m, 3) and (m,)."""
    centres, areas = np.empty((len(mesh.triangles), 3)), np.empty(len(mesh.triangles))
    for start in range(0, len(areas), _CHUNK):
        a, b, c = (mesh.points[corner] for corner in mesh.triangles[start : start + _CHUNK].T)
        centres[start : start + _CHUNK] = (a + b + c) / 3
        areas[start : start + _CHUNK] = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return centres, areas
