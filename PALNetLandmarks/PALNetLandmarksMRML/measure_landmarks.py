"""Distances and angles between the landmarks as they stand in the scene."""

from __future__ import annotations

from pathlib import Path

from PALNetLandmarksLib.align import UNITS
from PALNetLandmarksLib.errors import OutputError
from PALNetLandmarksLib.measurements import MeasuredValue, measure, write_measurements

from .export_landmarks import landmark_set, with_ending
from .landmark_node import LandmarkNode


def measure_landmarks(landmarks: LandmarkNode) -> tuple[MeasuredValue, ...]:
    """All measurements in mm and degrees; those that a corrected landmark takes part in have no standard deviation."""
    placed = landmark_set(landmarks)
    deviations, unit = placed.standard_deviation_mm, placed.unit
    assert deviations is not None and unit is not None  # landmark_set states them all, NaN where there is no deviation
    points = placed.points * UNITS[unit]
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
