"""Placing by a click a landmark that has no position."""

from __future__ import annotations

from .landmark_node import LandmarkNode


def start_placing(landmarks: LandmarkNode, label: str) -> None:
    """Let the next click in a view place the landmark ``label``, once.

    Does nothing where the landmark has a position: that is dragged.
    """
    if landmarks.has_position(label):
        return
    node = landmarks.node
    i = landmarks.index().get(label)
    if i is None:  # deleted by the user
        i = node.AddControlPoint([0.0, 0.0, 0.0], label)
        node.UnsetNthControlPointPosition(i)
    node.SetNthControlPointLocked(i, False)
    node.SetControlPointPlacementStartIndex(i)
    scene = node.GetScene()
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    selection.SetReferenceActivePlaceNodeClassName(node.GetClassName())
    selection.SetActivePlaceNodeID(node.GetID())
    interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    interaction.SetPlaceModePersistence(0)
    interaction.SetCurrentInteractionMode(interaction.Place)
