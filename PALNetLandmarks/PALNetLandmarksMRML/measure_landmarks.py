"""Distances and angles between the landmarks as they stand in the scene."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PALNetLandmarksLib.align import UNITS
from PALNetLandmarksLib.errors import OutputError, UnknownUnitError
from PALNetLandmarksLib.measurements import MeasuredValue, measure, unit_of_landmarks, write_measurements
from PALNetLandmarksLib.reference import ReferenceFace, load_reference

from .export_landmarks import landmark_set, with_ending
from .landmark_node import LandmarkNode


def measure_landmarks(landmarks: LandmarkNode) -> tuple[MeasuredValue, ...]:
    """All measurements in mm and degrees; those that a corrected landmark takes part in have no standard deviation.

    Scan and landmarks may have been scaled since the detection: the unit is that in which they make a face now.
    """
    placed = landmark_set(landmarks)
    try:
        unit_mm = UNITS[unit_of_landmarks(placed, _reference(), landmarks.node.GetName())]
    except UnknownUnitError:
        unit_mm = landmarks.unit_mm
    points = placed.points * unit_mm
    deviations = placed.standard_deviation_mm
    assert deviations is not None  # landmark_set states them all, as NaN where there are none
    return measure(dict(zip(placed.labels, points)), dict(zip(placed.labels, deviations)))


def export_measurements(landmarks: LandmarkNode, path: Path | str) -> Path:
    """Write the measurements to ``path`` as a CSV table; a name without an ending gets ``.csv``.

    Raises
    ------
    OutputError
        If there are none, or the file cannot be written; see ``write_measurements``.
    """
    path = with_ending(Path(path), ".csv")
    if not landmarks.labels:
        raise OutputError("There is nothing to measure yet; detect the landmarks first.")
    write_measurements(path, [(landmarks.node.GetName(), measure_landmarks(landmarks))])
    return path


@lru_cache(maxsize=1)
def _reference() -> ReferenceFace:
    """Read once: the table of measurements follows every drag."""
    return load_reference()
