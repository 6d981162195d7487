"""Which points lie in a box along the axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def inside_box(points: NDArray[np.floating], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of points (n, 3) lie between two corners (3,) of a box."""
    inside = np.ones(len(points), dtype=bool)
    for axis in range(3):
        inside &= (points[:, axis] > low[axis]) & (points[:, axis] < high[axis])
    return inside
