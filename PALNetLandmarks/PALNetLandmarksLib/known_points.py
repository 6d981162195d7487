"""Which points have a position."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def known_points(points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of points (..., 3) have a position, (...): no coordinate is NaN or infinite."""
    return np.asarray(np.isfinite(points).all(axis=-1))
