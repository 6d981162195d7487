"""From the markups node to a file."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PALNetLandmarksLib.errors import OutputError, UnknownUnitError
from PALNetLandmarksLib.landmark_files import write_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.landmark_states import CORRECTED, DETECTED
from PALNetLandmarksLib.measurements import unit_of_landmarks
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from PALNetLandmarksLib.scheme import load_scheme

from .landmark_node import LandmarkNode

SUFFIXES = (".mrk.json", ".fcsv", ".csv")


def landmark_set(landmarks: LandmarkNode) -> LandmarkSet:
    """The landmarks as they stand in the world (LPS), with a standard deviation where the detected position stands.

    Scan and landmarks may have been scaled since the detection: the unit is that in which they make a face now.
    """
    node, index, states = landmarks.node, landmarks.index(), landmarks.states()
    points = np.full((len(landmarks.labels), 3), np.nan)
    for row, label in enumerate(landmarks.labels):
        if landmarks.has_position(label):
            points[row] = node.GetNthControlPointPositionWorld(index[label])
    names = {landmark.label: landmark.name for landmark in load_scheme().landmarks}
    deviations = landmarks.deviations()
    placed = LandmarkSet(
        labels=landmarks.labels,
        points=points,
        coordinate_system="RAS",
        names=tuple(names.get(label, "") for label in landmarks.labels),
        standard_deviation_mm=np.array(
            [deviations[label] if states[label] == DETECTED else np.nan for label in landmarks.labels]
        ),
        corrected=np.array([states[label] == CORRECTED for label in landmarks.labels]),
    ).in_coordinate_system("LPS")
    try:
        return replace(placed, unit=unit_of_landmarks(placed, _reference(), node.GetName()))
    except UnknownUnitError:
        return replace(placed, unit=landmarks.unit or "mm")


def export_landmarks(landmarks: LandmarkNode, path: Path | str) -> Path:
    """Write the landmarks to ``path`` (``.mrk.json``, ``.fcsv`` or ``.csv``), in LPS as Slicer itself does.

    A name without an ending gets ``.mrk.json``.

    Raises
    ------
    OutputError
        If there are none, the ending is another, or the file cannot be written.
    """
    path = with_ending(Path(path), SUFFIXES[0])
    if not landmarks.labels:
        raise OutputError("There are no landmarks to export yet; detect them first.")
    if not path.name.lower().endswith((*SUFFIXES, ".json")):
        raise OutputError(f"'{path.name}' should end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    write_landmarks(path, landmark_set(landmarks))
    return path


def with_ending(path: Path, ending: str) -> Path:
    """``path``, with ``ending`` if it has none; raises ``OutputError`` if there is a file of that name then."""
    if path.suffix:
        return path
    path = path.with_name(path.name + ending)
    if path.exists():  # nobody was asked whether to replace this one
        raise OutputError(f"'{path.name}' exists already; give its whole name to replace it, or another name.")
    return path


@lru_cache(maxsize=1)
def _reference() -> ReferenceFace:
    """Read once: the table of measurements follows every drag."""
    return load_reference()
