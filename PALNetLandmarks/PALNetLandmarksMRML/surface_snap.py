"""Corrected landmarks go to the nearest point of the scan."""

from __future__ import annotations

from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.surface import SurfaceLocator

from .model_scan import surface_of, surface_time


class SurfaceSnap:
    """Puts control points on the surface of one scan.

    The surface is read again when it, its node or a transform above it changed.

    Parameters
    ----------
    source : model or segmentation node; segment_id : the segment, if it is a segmentation.
    """

    def __init__(self, source, segment_id: str | None = None) -> None:  # type: ignore[no-untyped-def]
        self.source, self.segment_id = source, segment_id
        self._state: tuple[object, ...] | None = None
        self._locator: SurfaceLocator | None = None

    def is_for(self, source, segment_id: str | None = None) -> bool:  # type: ignore[no-untyped-def]
        """Whether this is the scan that points are put on."""
        return source is self.source and segment_id == self.segment_id

    def snap(self, node, i: int) -> bool:  # type: ignore[no-untyped-def]
        """Move control point ``i`` of a markups node to the nearest point of the surface; False if there is none."""
        locator = self._current_locator()
        if locator is None or node.GetNthControlPointPositionStatus(i) != node.PositionDefined:
            return False
        point = locator.nearest_on_surface([node.GetNthControlPointPositionWorld(i)])[0][0]
        node.SetNthControlPointPositionWorld(i, [float(value) for value in point])
        return True

    def _current_locator(self) -> SurfaceLocator | None:
        try:
            state = self._current_state()
            if self._state != state:
                self._state, self._locator = state, None
                self._locator = SurfaceLocator(surface_of(self.source, self.segment_id).scan())
        except LandmarkingError:
            return None
        return self._locator

    def _current_state(self) -> tuple[object, ...]:
        """What tells one state of the surface in the world from another."""
        state: list[object] = [self.source.GetScene() is not None, self.source.GetMTime()]
        state.append(surface_time(self.source, self.segment_id))
        parent = self.source.GetParentTransformNode()
        while parent is not None:
            state += [parent.GetID(), parent.GetTransformToWorldMTime()]
            parent = parent.GetParentTransformNode()
        return tuple(state)
