"""The markups node that holds the landmarks: writing detections into it, and telling what the user corrected.

What was detected is kept in attributes of the node itself, so that it survives ``.mrml`` and ``.mrb`` files.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from typing import Any

import numpy as np
from PALNetLandmarksLib.align import UNITS
from PALNetLandmarksLib.detection import Detection
from PALNetLandmarksLib.landmark_formats.fields import description
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.landmark_states import CORRECTED, PlacedLandmarks
from PALNetLandmarksLib.scheme import load_scheme

#: Attributes and node reference, each under the module's name.
DETECTED_ATTRIBUTE = "PALNetLandmarks.Detected"
DEVIATION_ATTRIBUTE = "PALNetLandmarks.StandardDeviation"
OWN_ATTRIBUTE = "PALNetLandmarks.Corrected"
WEIGHTS_ATTRIBUTE = "PALNetLandmarks.WeightsSHA256"
UNIT_ATTRIBUTE = "PALNetLandmarks.Unit"
SEGMENT_ATTRIBUTE = "PALNetLandmarks.Segment"
MODEL_REFERENCE = "PALNetLandmarks.Model"


class LandmarkNode:
    """A ``vtkMRMLMarkupsFiducialNode`` with the landmarks of one scan.

    Parameters
    ----------
    node : the markups node; one that was never filled by a detection has no landmarks yet.
    """

    def __init__(self, node) -> None:  # type: ignore[no-untyped-def]
        self.node = node

    @property
    def labels(self) -> tuple[str, ...]:
        """The landmarks that were detected, in their order; empty before the first detection."""
        return tuple(self._remembered())

    def deviations(self) -> dict[str, float]:
        """Standard deviation (mm) of each landmark as detected, by label; NaN where the network says none."""
        known = self._attribute(DEVIATION_ATTRIBUTE)
        return {label: float(known.get(label) or math.nan) for label in self.labels}

    @property
    def unit(self) -> str | None:
        """Unit of the scene's coordinates, ``None`` as long as nothing told it: Slicer knows millimetres alone, and a
        file in metres loads as it is."""
        unit = self.node.GetAttribute(UNIT_ATTRIBUTE)
        return unit if unit in UNITS else None

    @property
    def unit_mm(self) -> float:
        """Millimetres per unit of the scene."""
        return UNITS[self.unit or "mm"]

    def landmarks(self) -> PlacedLandmarks:
        """The landmarks as they stand, in the node's own coordinates (RAS mm under its parent transform)."""
        remembered = self._remembered()
        index = self.index()
        points = np.full((len(remembered), 3), np.nan)
        kept = self._own()
        own = np.array([label in kept for label in remembered], dtype=bool)
        for row, label in enumerate(remembered):
            if label not in index:
                continue
            i = index[label]
            own[row] |= self.node.GetNthControlPointLocked(i)
            if self.is_defined(i):
                points[row] = self.node.GetNthControlPointPosition(i)
        detected = [[math.nan] * 3 if point is None else point for point in remembered.values()]
        return PlacedLandmarks(points, np.array(detected, dtype=np.float64).reshape(-1, 3), own, self.unit_mm)

    def states(self) -> dict[str, str]:
        """State of each landmark by label, see ``PALNetLandmarksLib.landmark_states``."""
        return dict(zip(self.labels, self.landmarks().states()))

    def write(self, detection: Detection, replace_corrected: bool = False) -> None:
        """Put ``detection`` (world RAS mm) into the node; what the user corrected stays unless ``replace_corrected``.

        If the scan has been moved since the last detection, what was corrected moves with it. A control point that the
        scan has no surface for is there without a position. Control points of other names are left alone.
        """
        kept = set() if replace_corrected else {label for label, state in self.states().items() if state == CORRECTED}
        if not self.labels and not replace_corrected:
            # Points of the same names that somebody placed before the first detection are his.
            kept = {label for label, i in self.index().items() if self.is_defined(i)} & set(detection.labels)
        placed = {label: self._from_world(world) for label, world in zip(detection.labels, detection.points)}
        there = {label: placed[label] for label, missing in zip(detection.labels, detection.missing) if not missing}
        same_weights = self.node.GetAttribute(WEIGHTS_ATTRIBUTE) == detection.weights_sha256
        carried = self._moved_with_scan(there, UNITS[detection.unit], same_weights)
        modified = self.node.StartModify()
        try:
            for label in detection.labels:
                if label not in kept:
                    self._put(label, there.get(label))
                elif label in carried:
                    self.node.SetNthControlPointPosition(self.index()[label], carried[label])
            self._remember(
                {label: there.get(label) for label in detection.labels},
                dict(zip(detection.labels, detection.standard_deviation_mm)),
                kept,
                detection.weights_sha256,
                detection.unit,
            )
            self.describe()
        finally:
            self.node.EndModify(modified)

    def adopt(self, placed: LandmarkSet, unit: str) -> None:
        """Take over landmarks (world RAS, of the module's scheme) that stand in a file; others stay as they are.

        Where the file says what was detected and what corrected, so does the node afterwards; otherwise all of them
        are the user's, and no detection moves them.
        """
        points = {
            label: self._from_world(world) if there else None
            for label, world, there in zip(placed.labels, placed.points, placed.defined)
        }
        deviation, corrected = placed.standard_deviation_mm, placed.corrected
        known = np.full(len(placed), np.nan) if deviation is None else deviation
        whose = placed.defined if corrected is None else corrected
        own = {label for label, yes in zip(placed.labels, whose) if yes}
        there = {label: None for label in load_scheme().labels if label not in self.index()} | points
        modified = self.node.StartModify()
        try:
            deviations = self._attribute(DEVIATION_ATTRIBUTE) | dict(zip(placed.labels, known.tolist()))
            for label, point in there.items():
                self._put(label, point)
            detected = {label: None for label in load_scheme().labels} | self._remembered()
            detected |= {label: None if label in own else point for label, point in points.items()}
            self._remember(detected, deviations, self._own() - points.keys() | own, "", unit)
            self.describe()
        finally:
            self.node.EndModify(modified)

    def describe(self) -> None:
        """Let the descriptions of the control points, which Slicer saves with them, say what holds now.

        Which point was corrected is told by where it stands: to be called whenever the user has moved some.
        """
        index, deviations = self.index(), self.deviations()
        for label, state in self.states().items():
            if label not in index:
                continue
            i = index[label]
            text = description(
                self._names.get(label, ""), state == CORRECTED, self.is_defined(i), deviations.get(label, math.nan)
            )
            if self.node.GetNthControlPointDescription(i) != text:
                self.node.SetNthControlPointDescription(i, text)

    @cached_property
    def _names(self) -> dict[str, str]:
        return {landmark.label: landmark.name for landmark in load_scheme().landmarks}

    def _from_world(self, world: np.ndarray) -> list[float]:
        """A point of the world in the node's own coordinates."""
        local = [0.0, 0.0, 0.0]
        self.node.TransformPointFromWorld([float(value) for value in world], local)
        return local

    def _put(self, label: str, local: list[float] | None) -> None:
        """Put a control point, unlocked, where it was found (made if there is none), or leave it without a position."""
        i = self.index().get(label)
        if i is None:
            i = self.node.AddControlPoint(local or [0.0, 0.0, 0.0], label)
        self.node.SetNthControlPointLocked(i, False)
        if local is None:
            self.node.UnsetNthControlPointPosition(i)
        else:
            self.node.SetNthControlPointPosition(i, local)

    def _own(self) -> set[str]:
        """What is the user's wherever it lies: kept by a detection, or taken from a file."""
        return set(self._attribute(OWN_ATTRIBUTE, list))

    def _remember(
        self,
        detected: dict[str, list[float] | None],
        deviations: dict[str, float | None],
        own: set[str],
        weights: str,
        unit: str,
    ) -> None:
        """Keep in the node's attributes what was detected, and what is the user's."""
        known = {
            label: None if value is None or not math.isfinite(value) else round(float(value), 3)
            for label, value in deviations.items()
        }
        self.node.SetAttribute(OWN_ATTRIBUTE, json.dumps(sorted(own)))
        self.node.SetAttribute(DETECTED_ATTRIBUTE, json.dumps(detected))
        self.node.SetAttribute(DEVIATION_ATTRIBUTE, json.dumps(known))
        self.node.SetAttribute(WEIGHTS_ATTRIBUTE, weights)
        self.node.SetAttribute(UNIT_ATTRIBUTE, unit)

    def reset(self, labels: tuple[str, ...] | None = None) -> None:
        """Put landmarks (all of them by default) back to where they were detected, and unlock them.

        Those that a detection did not find lose their position; those from a file that no detection has seen stay.
        """
        detected = dict(zip(self.labels, self.landmarks().detected_now()))
        index = self.index()
        chosen = self.labels if labels is None else labels
        seen = bool(self.node.GetAttribute(WEIGHTS_ATTRIBUTE))
        modified = self.node.StartModify()
        try:
            back = {label for label in chosen if seen or np.isfinite(detected[label]).all()}
            self.node.SetAttribute(OWN_ATTRIBUTE, json.dumps(sorted(self._own() - back)))
            for label in chosen:
                i = index.get(label)
                if i is None:
                    i = self.node.AddControlPoint([0.0, 0.0, 0.0], label)
                self.node.SetNthControlPointLocked(i, False)
                if np.isfinite(detected[label]).all():
                    self.node.SetNthControlPointPosition(i, [float(value) for value in detected[label]])
                elif seen:
                    self.node.UnsetNthControlPointPosition(i)
            self.describe()
        finally:
            self.node.EndModify(modified)

    def _moved_with_scan(
        self, found: dict[str, list[float]], unit_mm: float, same_weights: bool
    ) -> dict[str, list[float]]:
        """Positions, by label, that the landmarks have if they follow the scan to where it is ``found`` now."""
        detected = np.array([found.get(label, [math.nan] * 3) for label in self.labels]).reshape(-1, 3)
        placed = self.landmarks()
        rows = zip(self.labels, placed.moved_with_scan(detected, unit_mm, same_weights), placed.points)
        return {label: now.tolist() for label, now, before in rows if np.isfinite(now).all() and (now != before).any()}

    def _remembered(self) -> dict[str, list[float] | None]:
        return self._attribute(DETECTED_ATTRIBUTE)

    def _attribute(self, name: str, kind: type = dict) -> Any:
        """An attribute of the node, which holds JSON; an empty ``kind`` where there is none, or another."""
        text = self.node.GetAttribute(name)
        if not text:
            return kind()
        try:
            document = json.loads(text)
        except ValueError:
            return kind()
        return document if isinstance(document, kind) else kind()

    def index(self) -> dict[str, int]:
        """Control point of each label; the first one where several share it."""
        result: dict[str, int] = {}
        for i in range(self.node.GetNumberOfControlPoints()):
            result.setdefault(self.node.GetNthControlPointLabel(i), i)
        return result

    def has_position(self, label: str) -> bool:
        """Whether there is a control point of that label with a position."""
        i = self.index().get(label)
        return i is not None and self.is_defined(i)

    def is_defined(self, i: int) -> bool:
        """Whether control point ``i`` has a position."""
        return bool(self.node.GetNthControlPointPositionStatus(i) == self.node.PositionDefined)
