"""What became of the landmarks of one scan, step by step, so that the last step can be taken back.

The scene's own undo knows no drags and no scans: it would take back a detection with all that was corrected since, or
what was done last on another scan.
"""

from __future__ import annotations

from dataclasses import dataclass

from .landmark_node import (
    DETECTED_ATTRIBUTE,
    DEVIATION_ATTRIBUTE,
    OWN_ATTRIBUTE,
    UNIT_ATTRIBUTE,
    WEIGHTS_ATTRIBUTE,
    LandmarkNode,
)

ATTRIBUTES = (DETECTED_ATTRIBUTE, DEVIATION_ATTRIBUTE, OWN_ATTRIBUTE, WEIGHTS_ATTRIBUTE, UNIT_ATTRIBUTE)


@dataclass(frozen=True)
class _Point:
    """A control point: ``position`` None where it has none."""

    position: tuple[float, ...] | None
    locked: bool
    description: str


@dataclass(frozen=True)
class _Step:
    """The landmarks as they stood."""

    points: dict[str, _Point]
    attributes: dict[str, str | None]


class LandmarkHistory:
    """The steps of one landmark node.

    Parameters
    ----------
    landmarks : the node; control points that are no landmarks are none of this class's business.
    new : a detection has just made the node, so that the first step is to have none.
    """

    def __init__(self, landmarks: LandmarkNode, new: bool = False) -> None:
        self.landmarks = landmarks
        self._steps: list[_Step | None] = [None] if new else []
        self.note()

    def note(self) -> None:
        """Remember the landmarks as they stand, if they changed."""
        now = self._current()
        if not self._steps or self._steps[-1] != now:
            self._steps.append(now)

    def undo(self) -> bool:
        """Take the last step back; False where there is none. The node leaves the scene if that step made it."""
        self.note()
        if len(self._steps) < 2:
            return False
        self._steps.pop()
        before = self._steps[-1]
        if before is None:
            node = self.landmarks.node
            node.GetScene().RemoveNode(node)
        else:
            self._restore(before)
        return True

    def _current(self) -> _Step:
        node, points = self.landmarks.node, {}
        known = set(self.landmarks.labels)
        for label, i in self.landmarks.index().items():
            if label in known:
                position = tuple(node.GetNthControlPointPosition(i)) if self.landmarks.is_defined(i) else None
                points[label] = _Point(
                    position, bool(node.GetNthControlPointLocked(i)), node.GetNthControlPointDescription(i)
                )
        return _Step(points, {name: node.GetAttribute(name) for name in ATTRIBUTES})

    def _restore(self, step: _Step) -> None:
        node = self.landmarks.node
        modified = node.StartModify()
        try:
            for label in [label for label in self.landmarks.labels if label not in step.points]:
                i = self.landmarks.index().get(label)
                if i is not None:
                    node.RemoveNthControlPoint(i)
            for name, value in step.attributes.items():
                if value is None:
                    node.RemoveAttribute(name)
                else:
                    node.SetAttribute(name, value)
            for label, point in step.points.items():
                i = self.landmarks.index().get(label)
                if i is None:
                    i = node.AddControlPoint([0.0, 0.0, 0.0], label)
                if point.position is None:
                    node.UnsetNthControlPointPosition(i)
                else:
                    node.SetNthControlPointPosition(i, list(point.position))
                node.SetNthControlPointLocked(i, point.locked)
                node.SetNthControlPointDescription(i, point.description)
        finally:
            node.EndModify(modified)
