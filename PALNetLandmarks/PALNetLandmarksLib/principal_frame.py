"""A frame that a set of points brings along in every pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PrincipalFrame:
    """Mean (3,) and principal axes (3, 3; rows, right-handed) of points, each axis pointing to the longer tail.

    What is done in this frame meets a scan the same way whatever its pose in the file: the results for two poses of
    one scan lie within rounding of each other. ``points`` (k, 3) are those it was made from, in its coordinates.
    """

    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    points: NDArray[np.float64]

    @staticmethod
    def of(points: NDArray[np.float64]) -> PrincipalFrame:
        """The frame of points (k, 3), one at least."""
        centre = points.mean(axis=0)
        offset = points - centre
        axes = np.linalg.eigh(offset.T @ offset)[1].T
        along = offset @ axes.T
        squares, cubes = np.einsum("ij,ij->j", along, along), np.einsum("ij,ij,ij->j", along, along, along)
        with np.errstate(invalid="ignore"):  # a flat surface has no tails along its normal
            skewness = np.nan_to_num(cubes / squares**1.5)
        signs = np.where(skewness < 0, -1.0, 1.0)
        if np.linalg.det(axes) * signs.prod() < 0:
            signs[np.argmin(np.abs(skewness))] *= -1
        along *= signs
        return PrincipalFrame(centre, axes * signs[:, None], along)
