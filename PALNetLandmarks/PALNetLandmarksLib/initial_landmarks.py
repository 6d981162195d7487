"""First guess of the landmarks: the mean landmarks of the training subjects, put on the aligned scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .surface import nearest_points


def place_initial_landmarks(
    template: ArrayLike, points: NDArray[np.floating], reach_mm: float = np.inf
) -> NDArray[np.float64]:
    """Move each landmark of the template to the nearest vertex of the aligned scan (paper, initial approximation).

    Parameters
    ----------
    template : (L, 3) mean landmarks, mm, canonical LPS frame.
    points : (n, 3) vertices of the scan, aligned to the reference, same frame and unit; n >= 1.
    reach_mm : a landmark of the template with no vertex within this distance stays where it is: where the scan has a
        hole, the far side of the hole says nothing. The paper knows no such limit.

    Returns
    -------
    (L, 3) float64, each a vertex of the scan if one is within reach.

    Raises
    ------
    ValueError
        If the scan has no vertices, or a template point is not finite.
    """
    indices, distances = nearest_points(points, template)
    nearest = points[indices[:, 0]].astype(np.float64)
    return np.where(distances[:, :1] <= reach_mm, nearest, np.asarray(template, dtype=np.float64))
