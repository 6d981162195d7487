"""What several formats have in common: descriptions of landmarks, and positions."""

from __future__ import annotations

import math
import re
from typing import Any

from ..landmark_set import LandmarkSet

_NOT_ON_SCAN, _CORRECTED = "(not on the scan)", "(corrected)"


def description(name: str, corrected: bool, defined: bool, standard_deviation_mm: float) -> str:
    """What is said of a landmark in its description: its name, and what is to be thought of its position.

    A corrected landmark is the user's, whose scatter nobody knows. ``standard_deviation_mm`` may be NaN.
    """
    note = f"± {standard_deviation_mm:.1f} mm" if math.isfinite(standard_deviation_mm) else ""
    if corrected:
        note = _CORRECTED
    elif not defined:
        note = _NOT_ON_SCAN
    return f"{name} {note}".strip()


def description_of(landmarks: LandmarkSet, index: int) -> str:
    """The ``description`` of one landmark of a set."""
    return description(
        landmarks.names[index] if landmarks.names else "",
        landmarks.corrected is not None and bool(landmarks.corrected[index]),
        bool(landmarks.defined[index]),
        math.nan if landmarks.standard_deviation_mm is None else float(landmarks.standard_deviation_mm[index]),
    )


def name_of(description: str) -> str:
    """The landmark's full name: its description without what ``description`` added to it."""
    return re.sub(rf"\s*(± [\d.]+ mm|{re.escape(_NOT_ON_SCAN)}|{re.escape(_CORRECTED)})$", "", description)


def position_of(value: Any) -> list[float]:
    """Three finite numbers, or ValueError."""
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError("a position is not three numbers")
    position = [float(coordinate) for coordinate in value]
    if not all(math.isfinite(coordinate) for coordinate in position):
        raise ValueError("a position is not three finite numbers")
    return position
