"""The result of a detection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Detection:
    """Landmarks found on one scan.

    Attributes
    ----------
    scan_name : what the scan is called in messages.
    labels : L labels in the order of the landmark scheme.
    points : (L, 3) float64 in the scan's own coordinates and unit.
    standard_deviation_mm : (L,) per axis, in millimetres on the subject: the network's doubt, and how far the landmark
        had to be moved to reach the surface; NaN where the network knows no doubt.
    missing : (L,) bool; the scan has no surface under the landmark, and ``points`` holds only a guess.
    rigid_transform : (4, 4) scan in millimetres -> canonical frame (LPS mm, origin at the tip of the nose).
    unit, unit_source : length unit of the scan's coordinates, and whether it was ``"given"`` or ``"estimated"``.
    face_scale : size of the face relative to the reference face.
    fitness : 0 to 1, how well the scan fits the reference face.
    coordinate_system : ``"LPS"`` or ``"RAS"``, the scan's.
    seconds : time of each step.
    weights_version, weights_sha256 : what placed the landmarks.
    device : ``"cpu"``, ``"cuda"`` or ``"mps"``.
    warnings : sentences for the user.
    """

    scan_name: str
    labels: tuple[str, ...]
    points: NDArray[np.float64]
    standard_deviation_mm: NDArray[np.float64]
    missing: NDArray[np.bool_]
    rigid_transform: NDArray[np.float64]
    unit: str
    unit_source: str
    face_scale: float
    fitness: float
    coordinate_system: str
    seconds: dict[str, float]
    weights_version: str
    weights_sha256: str
    device: str
    warnings: tuple[str, ...] = ()
