"""Which landmarks a user has corrected since they were detected, so that no correction is ever lost.

Nothing has to be noted while the user works: the positions as detected are kept, and what differs from them is a
correction. If the whole set was moved with its scan (a hardened transform), the detected positions move with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .known_points import known_points
from .procrustes import fit_similarity

DETECTED, CORRECTED, MISSING = "detected", "corrected", "missing"

#: A landmark further (mm) from its detected position than this was moved by the user.
MOVED_BEYOND_MM = 0.01

#: Two detections on one scan, with other weights perhaps, differ by less than ``SCAN_MOVED_BEYOND_MM`` unless the scan
#: was moved between them; then one similarity explains the difference to within ``SCAN_MOVED_WITHIN_MM``.
SCAN_MOVED_BEYOND_MM, SCAN_MOVED_WITHIN_MM = 3.0, 1.0
#: The same where the weights are the same: all poses of a scan give nearly the same landmarks. Another choice of
#: the surface point moves each by some tenths its own way: a similarity leaves more than a third of that.
SAME_WEIGHTS_MOVED_BEYOND_MM, SAME_WEIGHTS_MOVED_LEFT = 0.3, 1 / 3


@dataclass(frozen=True, eq=False)
class PlacedLandmarks:
    """Landmarks as they stand; NaN where one has no position.

    Attributes
    ----------
    points : (L, 3) present positions.
    detected : (L, 3) positions as detected, in the same coordinates at the time of detection.
    own : (L,) bool; the user's own wherever it lies: locked, corrected before an earlier detection, or from a file.
    unit_mm : length of the coordinates' unit in mm: a scan in metres moves by thousandths.
    """

    points: NDArray[np.float64]
    detected: NDArray[np.float64]
    own: NDArray[np.bool_]
    unit_mm: float = 1.0

    @property
    def _moved_beyond(self) -> float:
        return MOVED_BEYOND_MM / self.unit_mm

    def detected_now(self) -> NDArray[np.float64]:
        """(L, 3) the detected positions, moved along if most landmarks underwent one affine transform since."""
        both = known_points(self.points) & known_points(self.detected)
        before, now = self.detected[both], self.points[both]
        if len(before) < 8 or (np.linalg.norm(before - now, axis=1) > self._moved_beyond).mean() < 0.5:
            return self.detected
        transform = _common_affine(before, now, self._moved_beyond)
        if transform is None:
            return self.detected
        return _homogeneous(self.detected) @ transform

    def states(self) -> tuple[str, ...]:
        """``DETECTED``, ``CORRECTED`` (moved, placed, removed or locked by the user) or ``MISSING`` for each."""
        has_point = known_points(self.points)
        detected = self.detected_now()
        was_detected = known_points(detected)
        moved = np.linalg.norm(np.where(has_point[:, None], self.points - detected, 0.0), axis=1) > self._moved_beyond
        corrected: NDArray[np.bool_] = self.own | (has_point != was_detected) | (has_point & was_detected & moved)
        return tuple(
            CORRECTED if changed else DETECTED if there else MISSING for changed, there in zip(corrected, has_point)
        )

    def moved_with_scan(
        self, detected: NDArray[np.float64], unit_mm: float, same_weights: bool = False
    ) -> NDArray[np.float64]:
        """(L, 3) the present positions, carried along if the scan has been moved since it was detected.

        Parameters
        ----------
        detected : (L, 3) positions of a new detection on the scan, in the same coordinates.
        unit_mm : length of their unit in mm; another one than before if the scan was scaled meanwhile.
        same_weights : both detections were made with the same weights, so that small movements can be told.
        """
        before, now = self.detected_now(), detected
        both = known_points(before) & known_points(now)
        if both.sum() < 8:
            return self.points
        away = unit_mm * np.linalg.norm(before[both] - now[both], axis=1)
        motion = fit_similarity(before[both], now[both])
        left = unit_mm * np.linalg.norm(motion.apply(before[both]) - now[both], axis=1)
        moved = np.median(away) >= SCAN_MOVED_BEYOND_MM and np.median(left) <= SCAN_MOVED_WITHIN_MM
        if same_weights and np.median(away) >= SAME_WEIGHTS_MOVED_BEYOND_MM:
            moved |= np.median(left) < SAME_WEIGHTS_MOVED_LEFT * np.median(away)
        return motion.apply(self.points) if moved else self.points


def _common_affine(before: NDArray[np.float64], now: NDArray[np.float64], within: float) -> NDArray[np.float64] | None:
    """(4, 3) affine transform that most of the points followed, to ``within``; ``None`` if there is none.

    Corrected landmarks are outliers: those that fit worst are left out, a few at a time.
    """
    kept = np.arange(len(before))
    while 2 * len(kept) > len(before) and len(kept) >= 6:
        transform = np.linalg.lstsq(_homogeneous(before[kept]), now[kept], rcond=None)[0]
        residual = np.linalg.norm(_homogeneous(before[kept]) @ transform - now[kept], axis=1)
        if residual.max() <= within:
            return np.asarray(transform)
        worst = max(1, len(kept) // 20)
        kept = kept[np.argsort(residual)[:-worst]]
    return None


def _homogeneous(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack([points, np.ones((len(points), 1))])
