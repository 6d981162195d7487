"""How landmarks and scan are shown: groups, sizes, the view's centre."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from PALNetLandmarksLib.scheme import Landmark, load_scheme

from .landmark_node import LandmarkNode

#: Groups that the user shows and hides, by the regions of the landmark scheme; the midline counts as one of its own.
GROUPS: Mapping[str, frozenset[str]] = {
    "eyes": frozenset({"eyes"}),
    "nose": frozenset({"nose"}),
    "mouth": frozenset({"mouth"}),
    "ears": frozenset({"ears"}),
    "jaw": frozenset({"jaw", "cheek", "forehead"}),
}


def group_of(landmark: Landmark) -> str:
    """The group of a landmark: ``"midline"`` or one of ``GROUPS``.

    Cheek and temple points go with the jaw: together they are the outline of the face.
    """
    if landmark.side == "midline":
        return "midline"
    return next(group for group, regions in GROUPS.items() if landmark.region in regions)


def show_groups(landmarks: LandmarkNode, shown: Collection[str]) -> None:
    """Show the landmarks of the groups ``shown`` and hide the others."""
    node, index = landmarks.node, landmarks.index()
    groups = {landmark.label: group_of(landmark) for landmark in load_scheme().landmarks}
    modified = node.StartModify()
    try:
        for label in landmarks.labels:
            if label in index:
                node.SetNthControlPointVisibility(index[label], groups[label] in shown)
    finally:
        node.EndModify(modified)


def set_sizes(landmarks: LandmarkNode, glyph_percent: float, text_percent: float) -> None:
    """Size of points and labels in per cent of the view, whatever the scan's unit."""
    display = landmarks.node.GetDisplayNode()
    if display is not None:
        display.SetUseGlyphScale(True)
        display.SetGlyphScale(glyph_percent)
        display.SetTextScale(text_percent)


def set_opacity(source, opacity: float) -> None:  # type: ignore[no-untyped-def]
    """Opacity (0 to 1) of the scan in 3D."""
    display = source.GetDisplayNode()
    if display is None:
        return
    if hasattr(display, "SetOpacity3D"):  # a segmentation's
        display.SetOpacity3D(opacity)
    else:
        display.SetOpacity(opacity)


def opacity_of(source) -> float | None:  # type: ignore[no-untyped-def]
    """What ``set_opacity`` sets; ``None`` where the scan has no display."""
    display = source.GetDisplayNode()
    if display is None:
        return None
    return float(display.GetOpacity3D() if hasattr(display, "GetOpacity3D") else display.GetOpacity())


def centre_on(landmarks: LandmarkNode, label: str) -> bool:
    """Make a landmark the point that all 3D views turn about; they keep their direction. False if it has no place."""
    node = landmarks.node
    if not landmarks.has_position(label):
        return False
    point = node.GetNthControlPointPositionWorld(landmarks.index()[label])
    cameras = node.GetScene().GetNodesByClass("vtkMRMLCameraNode")
    cameras.UnRegister(None)
    for number in range(cameras.GetNumberOfItems()):
        camera = cameras.GetItemAsObject(number)
        shift = [new - old for new, old in zip(point, camera.GetFocalPoint())]
        camera.SetPosition([old + by for old, by in zip(camera.GetPosition(), shift)])
        camera.SetFocalPoint(list(point))
        camera.ResetClippingRange()
    return True
