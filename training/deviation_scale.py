"""How much larger than stated the errors are, landmark by landmark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .benchmarks.metrics import RADIUS_95

#: The common scale counts as much as this many points of a landmark.
PRIOR_POINTS = 40


def fit_deviation_scale(
    errors: NDArray[np.float64], deviations: NDArray[np.float64], mirrored: Sequence[int], wanted: float = 0.95
) -> NDArray[np.float64]:
    """Scale (L,) of the deviations from errors (n, L), NaN where unknown, and deviations (n, L), in millimetres.

    ``mirrored``: each landmark's counterpart, -1 where it has none; both sides of the face get one scale. ``wanted``:
    share of the errors that the scaled 95 % regions are to hold.
    """
    ratio = errors / deviations / RADIUS_95
    common = float(np.nanquantile(ratio, wanted))
    scales = []
    for i, other in enumerate(mirrored):
        both = ratio[:, sorted({i, other} - {-1})]
        known = both[np.isfinite(both)]
        own = float(np.quantile(known, wanted)) if len(known) else common
        share = len(known) / (len(known) + PRIOR_POINTS)
        scales.append(share * own + (1 - share) * common)
    return np.array(scales)
