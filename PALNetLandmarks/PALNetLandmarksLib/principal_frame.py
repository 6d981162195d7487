"""A frame that a surface brings along in every pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mesh import TriangleMesh
from .triangle_corners import corners_in_pieces, crossed_edges, lengths, sparing


@dataclass(frozen=True)
class PrincipalFrame:
    """Centre (3,) and principal axes (3, 3; rows, right-handed) of a surface, each axis pointing to the longer tail;
    and its area.

    What is done in this frame meets a scan the same way whatever its pose in the file: the results for two poses of
    one scan lie within rounding of each other.
    """

    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    area: float

    @staticmethod
    def of(mesh: TriangleMesh) -> PrincipalFrame:
        """Every triangle counts by its area, at its centre; a surface without area gets the frame it is in.

        Memory beyond the mesh: 24 bytes for each vertex and up to 50 for each triangle.
        """
        centres, areas = _centres_and_areas(mesh)
        total = float(areas.sum())
        area = total * sparing(len(mesh.triangles))
        if not np.isfinite(total) or total <= 0:
            return PrincipalFrame(np.zeros(3), np.eye(3), area)
        areas /= total
        centre = centres @ areas
        centres -= centre[:, None]
        covariance = np.array([[(one * areas) @ other for other in centres] for one in centres])
        axes = np.linalg.eigh(covariance)[1].T
        skewness = np.array([_skewness(axis @ centres, areas) for axis in axes])
        signs = np.where(skewness < 0, -1.0, 1.0)
        if np.linalg.det(axes) * signs.prod() < 0:
            signs[np.argmin(np.abs(skewness))] *= -1
        return PrincipalFrame(centre, axes * signs[:, None], area)

    def place(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (n, 3) of the surface's own frame in this one."""
        return (points - self.centre) @ self.axes.T

    def back(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """The other way."""
        return points @ self.axes + self.centre


def _skewness(along: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Of values (m,) about 0; 0 where all are 0, as along the normal of a flat surface."""
    squares = along * along
    variance, cubes = float(weights @ squares), float(weights @ (squares * along))
    return cubes / variance**1.5 if variance > 0 and np.isfinite(cubes) else 0.0


def _centres_and_areas(mesh: TriangleMesh) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the triangles that count, (3, m) and (m,)."""
    triangles = mesh.triangles[:: sparing(len(mesh.triangles))]
    centres, areas = np.empty((3, len(triangles))), np.empty(len(triangles))
    for piece, corners in corners_in_pieces(np.ascontiguousarray(mesh.points.T), triangles):
        centres[:, piece] = (corners[0] + corners[1] + corners[2]) / 3
        areas[piece] = 0.5 * lengths(crossed_edges(corners))
    return centres, areas
