"""One detection in a scene: from model node to markups node, as one step of undo."""

from __future__ import annotations

from collections.abc import Generator

from PALNetLandmarksLib.detection import Detection
from PALNetLandmarksLib.detector import LandmarkDetector
from PALNetLandmarksLib.errors import LandmarkingError

from .landmark_node import MODEL_REFERENCE, LandmarkNode
from .model_scan import scan_of_model, scan_of_segment


class NodeGoneError(LandmarkingError):
    """A node that the work needs has left the scene meanwhile."""


def place_landmarks(  # type: ignore[no-untyped-def]
    detector: LandmarkDetector,
    source,
    segment_id: str | None = None,
    replace_corrected: bool = False,
) -> Generator[str, None, tuple[LandmarkNode, Detection]]:
    """Detect landmarks on ``source`` and put them into its markups node; says each step before taking it.

    The scene changes in the last step alone: dropping the generator before that cancels without a trace.

    Parameters
    ----------
    source : ``vtkMRMLModelNode``, or ``vtkMRMLSegmentationNode`` together with ``segment_id``.
    replace_corrected : overwrite what the user corrected, too.

    Returns
    -------
    (by ``StopIteration.value``) the node, new or that of an earlier detection on ``source``, and what was detected.

    Raises
    ------
    LandmarkingError
        One sentence for the user; the scene is unchanged.
    """
    scene = source.GetScene()
    yield "surface of the model"
    scan = scan_of_model(source) if segment_id is None else scan_of_segment(source, segment_id)
    # MRML knows millimetres alone, but a file in metres loads as it is: the unit is found as for any file.
    detection = yield from detector.detect_stepwise(scan)
    yield "markups"
    if source.GetScene() is not scene or scene is None:
        raise NodeGoneError(f"'{scan.name}' was removed from the scene during detection; load it again.")
    found = find_landmark_node(source)
    scene.SetUndoOn()
    if found is not None:
        found.node.SetUndoEnabled(True)
    scene.SaveStateForUndo()
    if found is None:
        name = scene.GenerateUniqueName(f"{scan.name} landmarks")
        node = scene.CreateNodeByClass("vtkMRMLMarkupsFiducialNode")
        node.UnRegister(None)
        node.SetName(name)
        node.SetUndoEnabled(True)
        scene.AddNode(node)
        node.CreateDefaultDisplayNodes()
        node.SetNodeReferenceID(MODEL_REFERENCE, source.GetID())
        found = LandmarkNode(node)
    found.write(detection, replace_corrected)
    return found, detection


def find_landmark_node(source) -> LandmarkNode | None:  # type: ignore[no-untyped-def]
    """The landmarks that were detected on ``source`` before; ``None`` if there are none."""
    nodes = source.GetScene().GetNodesByClass("vtkMRMLMarkupsFiducialNode")
    nodes.UnRegister(None)
    for i in range(nodes.GetNumberOfItems()):
        node = nodes.GetItemAsObject(i)
        if node.GetNodeReferenceID(MODEL_REFERENCE) == source.GetID():
            return LandmarkNode(node)
    return None
