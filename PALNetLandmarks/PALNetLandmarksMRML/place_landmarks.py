"""One detection in a scene: from model node to markups node, as one step of undo."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from PALNetLandmarksLib.background import MOST_POINTS_IN_FOREGROUND, Job, Launch, detect_in_background
from PALNetLandmarksLib.detection import Detection
from PALNetLandmarksLib.detector import STEPS as DETECTION_STEPS
from PALNetLandmarksLib.detector import LandmarkDetector
from PALNetLandmarksLib.device import choose_device
from PALNetLandmarksLib.errors import LandmarkingError, WeightsError
from PALNetLandmarksLib.scheme import load_scheme

from .landmark_node import MODEL_REFERENCE, SEGMENT_ATTRIBUTE, LandmarkNode
from .model_scan import chosen_segment, surface_of
from .python_process import launch_python, python_executable


class NodeGoneError(LandmarkingError):
    """A node that the work needs has left the scene meanwhile."""


@dataclass(frozen=True)
class Settings:
    """How to detect.

    ``weights`` None takes the bundled ones; ``device`` one of ``PALNetLandmarksLib.device.DEVICES``; ``surface`` one of
    ``PALNetLandmarksLib.surface.SURFACES``; ``replace_corrected`` overwrites what the user corrected, too.
    """

    weights: Path | None = None
    device: str = "auto"
    surface: str = "triangle"
    replace_corrected: bool = False


#: What ``place_landmarks`` says, in order.
STEPS = ("surface of the model", *DETECTION_STEPS, "markups")


def place_landmarks(  # type: ignore[no-untyped-def]
    source, segment_id: str | None = None, settings: Settings = Settings(), launch: Launch = launch_python
) -> Generator[str, None, tuple[LandmarkNode, Detection]]:
    """Detect landmarks on ``source`` and put them into its markups node; yields one of ``STEPS`` before each piece.

    The scene changes in the last step alone: dropping the generator before that cancels without a trace. Large scans
    and graphics processors are left to a process of their own.

    Parameters
    ----------
    source : ``vtkMRMLModelNode``, or ``vtkMRMLSegmentationNode`` together with ``segment_id``.
    launch : starts that process.

    Returns
    -------
    (by ``StopIteration.value``) the node, new or that of an earlier detection on ``source``, and what was detected.

    Raises
    ------
    LandmarkingError
        One sentence for the user; the scene is unchanged.
    """
    scene = source.GetScene()
    yield STEPS[0]
    segment_id = chosen_segment(source, segment_id)
    raw = surface_of(source, segment_id)
    device = choose_device(settings.device)
    # Before any work: a weights file of the wrong kind is refused at once. The process loads it again.
    detector = load_detector(settings, "cpu")
    yield STEPS[0]
    # MRML knows millimetres alone, but a file in metres loads as it is: the unit is found as for any file.
    if device != "cpu" or len(raw.points) > MOST_POINTS_IN_FOREGROUND:
        weights = None if settings.weights is None else str(settings.weights)
        job = Job(raw.name, "RAS", weights, device, settings.surface)
        detection = yield from detect_in_background(raw.points, raw.triangles, job, launch, python_executable())
    else:
        scan = raw.scan()
        detection = yield from detector.detect_stepwise(scan)
    yield STEPS[-1]
    if scene is None or source.GetScene() is not scene:
        raise NodeGoneError(f"'{raw.name}' was removed from the scene during detection; load it again.")
    found = find_landmark_node(source, segment_id)
    if found is None:
        found = add_landmark_node(source, segment_id, raw.name)
    found.write(detection, settings.replace_corrected)
    return found, detection


def load_detector(settings: Settings, device: str | None = None) -> LandmarkDetector:
    """The detector that ``settings`` ask for, on ``device`` instead of theirs if given.

    Raises
    ------
    WeightsError
        If the weights are damaged or place other landmarks than the module's.
    DeviceError
        If the device cannot be used.
    """
    detector = LandmarkDetector.load(settings.weights, device or settings.device, settings.surface)
    if detector.labels != load_scheme().labels:
        raise WeightsError(
            f"The weights '{settings.weights}' place {len(detector.labels)} landmarks of another scheme; choose "
            f"weights trained for the {len(load_scheme())} landmarks of this module."
        )
    return detector


def add_landmark_node(source, segment_id: str | None, name: str) -> LandmarkNode:  # type: ignore[no-untyped-def]
    """A new node for the landmarks of ``source`` (of that segment), which is called ``name``; it holds none yet."""
    scene = source.GetScene()
    node = scene.CreateNodeByClass("vtkMRMLMarkupsFiducialNode")
    node.UnRegister(None)
    node.SetName(scene.GenerateUniqueName(f"{name} landmarks"))
    scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    node.SetNodeReferenceID(MODEL_REFERENCE, source.GetID())
    if segment_id is not None:
        node.SetAttribute(SEGMENT_ATTRIBUTE, segment_id)
    return LandmarkNode(node)


def find_landmark_node(source, segment_id: str | None = None) -> LandmarkNode | None:  # type: ignore[no-untyped-def]
    """The landmarks that were detected on ``source`` (on that segment, if one is named) before, or ``None``."""
    nodes = source.GetScene().GetNodesByClass("vtkMRMLMarkupsFiducialNode")
    nodes.UnRegister(None)
    for i in range(nodes.GetNumberOfItems()):
        node = nodes.GetItemAsObject(i)
        here = segment_id is None or node.GetAttribute(SEGMENT_ATTRIBUTE) == segment_id
        if here and node.GetNodeReferenceID(MODEL_REFERENCE) == source.GetID():
            return LandmarkNode(node)
    return None
