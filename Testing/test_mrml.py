"""Detection inside real MRML scenes (slicer-core: 3D Slicer's own code without its window)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PALNetLandmarksLib.detection import Detection
from PALNetLandmarksLib.detector import LandmarkDetector
from PALNetLandmarksLib.errors import NotAFaceError, UnreadableScanError
from PALNetLandmarksLib.landmark_states import CORRECTED, DETECTED, MISSING
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.resources import resource_path
from PALNetLandmarksLib.surface import SurfaceLocator

slicer = pytest.importorskip("slicer_core", reason="slicer-core is not installed (pip install slicer-core)")
import slicer as _slicer  # noqa: E402

if not hasattr(_slicer, "vtkMRMLScene"):
    pytest.skip("the package 'slicer' is not Slicer's", allow_module_level=True)

from PALNetLandmarksMRML.landmark_node import LandmarkNode  # noqa: E402
from PALNetLandmarksMRML.model_scan import scan_of_model  # noqa: E402
from PALNetLandmarksMRML.place_landmarks import NodeGoneError, Settings, find_landmark_node, place_landmarks  # noqa: E402
from vtkmodules.vtkCommonCore import vtkPoints  # noqa: E402
from vtkmodules.vtkCommonDataModel import vtkPolyData  # noqa: E402
from vtkmodules.vtkCommonMath import vtkMatrix4x4  # noqa: E402
from vtkmodules.vtkCommonTransforms import vtkThinPlateSplineTransform  # noqa: E402
from vtkmodules.vtkFiltersSources import vtkSphereSource  # noqa: E402

SAMPLE = resource_path("SampleScan.ply")


@pytest.fixture(scope="module")
def detector() -> LandmarkDetector:
    return LandmarkDetector.load(device="cpu")


@pytest.fixture(scope="module")
def in_file(detector: LandmarkDetector) -> Detection:
    """The landmarks of the file itself (LPS)."""
    return detector.detect(SAMPLE)


@pytest.fixture
def scene() -> Iterator[object]:
    """A scene with the logics that Slicer attaches to its own."""
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    markups = slicer.vtkSlicerMarkupsLogic()
    markups.SetMRMLApplicationLogic(application)
    markups.SetMRMLScene(scene)
    yield scene
    scene.Clear(True)


def load_sample(scene) -> object:  # type: ignore[no-untyped-def]
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", "Anna")
    storage = scene.AddNewNodeByClass("vtkMRMLModelStorageNode")
    storage.SetFileName(str(SAMPLE))
    assert storage.ReadData(node)
    node.SetAndObserveStorageNodeID(storage.GetID())
    return node


def run(source, segment_id=None, **options) -> LandmarkNode:  # type: ignore[no-untyped-def]
    steps = place_landmarks(source, segment_id, Settings(device="cpu", **options))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value[0]


def world_points(landmarks: LandmarkNode) -> np.ndarray:
    node = landmarks.node
    points = np.full((node.GetNumberOfControlPoints(), 3), np.nan)
    for i in range(len(points)):
        if node.GetNthControlPointPositionStatus(i) == node.PositionDefined:
            points[i] = node.GetNthControlPointPositionWorld(i)
    return points


def distance_to_model(landmarks: LandmarkNode, model) -> np.ndarray:  # type: ignore[no-untyped-def]
    points = world_points(landmarks)
    points = points[np.isfinite(points).all(axis=1)]
    return SurfaceLocator(scan_of_model(model)).nearest_on_surface(points)[1]


def linear_transform(scene, model) -> object:  # type: ignore[no-untyped-def]
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtkMatrix4x4()
    for i, row in enumerate([[0, -1, 0, 40], [0, 0, 1, -25], [-1, 0, 0, 300]]):
        for j, value in enumerate(row):
            matrix.SetElement(i, j, value)
    transform.SetMatrixTransformToParent(matrix)
    model.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def warp(scene, model) -> object:  # type: ignore[no-untyped-def]
    """A transform that bends by some 5 mm; Slicer keeps it from parent as splines do."""
    spline = vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    before, after = vtkPoints(), vtkPoints()
    for x in (-120, 120):
        for y in (-120, 120):
            for z in (-120, 120):
                before.InsertNextPoint(x, y, z)
                after.InsertNextPoint(x + 0.03 * y + 8, y + 4 * np.sign(z), z + 3 * np.sign(x))
    spline.SetSourceLandmarks(before)
    spline.SetTargetLandmarks(after)
    transform = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    transform.SetAndObserveTransformToParent(spline)
    model.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def test_fifty_named_landmarks_lie_where_the_file_has_them(scene, detector, in_file) -> None:  # type: ignore[no-untyped-def]
    model = load_sample(scene)
    before = model.GetPolyData().GetMTime()
    landmarks = run(model)
    node = landmarks.node
    assert node.GetName() == "Anna landmarks"
    assert [node.GetNthControlPointLabel(i) for i in range(50)] == list(detector.labels)
    assert node.GetNumberOfControlPoints() == 50
    assert model.GetPolyData().GetMTime() == before
    # RAS in the scene, LPS in the file; the pose of the scan does not change the result.
    expected = np.where(in_file.missing[:, None], np.nan, in_file.points) * [-1, -1, 1]
    np.testing.assert_allclose(world_points(landmarks), expected, atol=0.05)
    assert distance_to_model(landmarks, model).max() < 1e-3
    assert "mm" in node.GetNthControlPointDescription(list(detector.labels).index("Prn"))
    assert node.GetDisplayNode() is not None


@pytest.mark.parametrize("make", [linear_transform, warp])
@pytest.mark.parametrize("hardened", [False, True])
def test_parent_transforms_are_honoured(scene, detector, make, hardened) -> None:  # type: ignore[no-untyped-def]
    model = load_sample(scene)
    make(scene, model)
    if hardened:
        model.HardenTransform()
        assert model.GetParentTransformNode() is None
    landmarks = run(model)
    assert distance_to_model(landmarks, model).max() < 1e-3
    # Not mirrored: up x forward points to the subject's left in any pose.
    at = dict(zip(detector.labels, world_points(landmarks)))
    up, forward = at["N"] - at["Sn"], at["Prn"] - 0.5 * (at["Ex_R"] + at["Ex_L"])
    assert np.dot(np.cross(up, forward), at["Ex_L"] - at["Ex_R"]) > 0


def test_the_left_eye_is_on_the_subjects_left(scene, detector) -> None:  # type: ignore[no-untyped-def]
    landmarks = run(load_sample(scene))
    at = dict(zip(detector.labels, world_points(landmarks)))
    up, forward = at["N"] - at["Sn"], at["Prn"] - 0.5 * (at["Ex_R"] + at["Ex_L"])
    assert np.dot(np.cross(up, forward), at["Ex_L"] - at["Ex_R"]) > 0


def test_corrected_and_locked_landmarks_are_kept(scene, detector) -> None:  # type: ignore[no-untyped-def]
    model = load_sample(scene)
    landmarks = run(model)
    node = landmarks.node
    detected = world_points(landmarks)
    prn, sn, n = (detector.labels.index(label) for label in ("Prn", "Sn", "N"))
    moved = (detected[prn] + [3.0, -2.0, 1.0]).tolist()
    node.SetNthControlPointPosition(prn, moved)
    node.SetNthControlPointLocked(sn, True)
    node.UnsetNthControlPointPosition(n)
    states = landmarks.states()
    assert (states["Prn"], states["Sn"], states["N"], states["Sto"]) == (CORRECTED, CORRECTED, CORRECTED, DETECTED)
    again = run(model)
    assert again.node is node
    np.testing.assert_allclose(world_points(again)[prn], moved, atol=1e-9)
    assert node.GetNthControlPointLocked(sn)
    assert np.isnan(world_points(again)[n]).all()
    run(model, replace_corrected=True)
    np.testing.assert_allclose(world_points(again), detected, atol=1e-6)
    assert CORRECTED not in again.states().values()


def test_a_landmark_can_be_reset(scene, detector) -> None:  # type: ignore[no-untyped-def]
    landmarks = run(load_sample(scene))
    detected = world_points(landmarks)
    landmarks.node.SetNthControlPointPosition(4, 0.0, 0.0, 0.0)
    landmarks.node.SetNthControlPointPosition(9, 0.0, 0.0, 0.0)
    landmarks.reset((detector.labels[4],))
    np.testing.assert_allclose(world_points(landmarks)[4], detected[4], atol=1e-9)
    np.testing.assert_allclose(world_points(landmarks)[9], 0.0, atol=1e-9)
    landmarks.reset()
    np.testing.assert_allclose(world_points(landmarks), detected, atol=1e-9)


def test_a_hardened_transform_corrects_nothing(scene, detector) -> None:  # type: ignore[no-untyped-def]
    landmarks = run(load_sample(scene))
    node = landmarks.node
    before = landmarks.states()
    linear_transform(scene, node)
    assert landmarks.states() == before
    node.HardenTransform()
    assert landmarks.states() == before
    node.SetNthControlPointPosition(7, 0.0, 0.0, 0.0)
    assert landmarks.states() == {**before, detector.labels[7]: CORRECTED}


def test_corrections_move_with_the_scan(scene, detector) -> None:  # type: ignore[no-untyped-def]
    model = load_sample(scene)
    landmarks = run(model)
    before = world_points(landmarks)
    landmarks.node.SetNthControlPointPosition(9, *(before[9] + 4.0))
    transform = linear_transform(scene, model)
    matrix = np.eye(4)
    to_world = vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(to_world)
    matrix = np.array([[to_world.GetElement(i, j) for j in range(4)] for i in range(4)])
    assert run(model).node is landmarks.node
    expected = matrix[:3, :3] @ (before[9] + 4.0) + matrix[:3, 3]
    assert np.linalg.norm(world_points(landmarks)[9] - expected) < 0.1
    assert landmarks.states()[detector.labels[9]] == CORRECTED


def test_a_scan_in_metres_keeps_its_corrections(scene, detector) -> None:  # type: ignore[no-untyped-def]
    model = load_sample(scene)
    points = model.GetPolyData().GetPoints()
    for i in range(points.GetNumberOfPoints()):
        points.SetPoint(i, *(value / 1000.0 for value in points.GetPoint(i)))
    landmarks = run(model)
    corrected = world_points(landmarks)[9] + [0.0, 0.0, 0.004]
    landmarks.node.SetNthControlPointPosition(9, *corrected)
    assert landmarks.states()[detector.labels[9]] == CORRECTED
    run(model)
    np.testing.assert_allclose(world_points(landmarks)[9], corrected, atol=1e-9)


def test_points_placed_by_hand_before_are_kept(scene, detector) -> None:  # type: ignore[no-untyped-def]
    model = load_sample(scene)
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    node.SetNodeReferenceID("PALNetLandmarks.Model", model.GetID())
    node.AddControlPoint([1.0, 2.0, 3.0], "Prn")
    landmarks = run(model)
    assert landmarks.node is node
    assert landmarks.states()["Prn"] == CORRECTED
    assert node.GetNumberOfControlPoints() == 50
    np.testing.assert_allclose(node.GetNthControlPointPosition(0), [1.0, 2.0, 3.0])


def test_the_scenes_own_undo_is_left_alone(scene, detector) -> None:  # type: ignore[no-untyped-def]
    """It would take back a detection together with all that was corrected since."""
    before = scene.GetUndoFlag(), scene.GetNumberOfUndoLevels()
    run(load_sample(scene))
    assert (scene.GetUndoFlag(), scene.GetNumberOfUndoLevels()) == before


def test_cancelling_leaves_the_scene_as_it_was(scene, detector) -> None:  # type: ignore[no-untyped-def]
    model = load_sample(scene)
    before = scene.GetNumberOfNodes()
    names = []
    steps = place_landmarks(model, settings=Settings(device="cpu"))
    for step in steps:
        names.append(step)
        if step == "markups":
            break
    steps.close()
    assert list(dict.fromkeys(names)) == ["surface of the model", "read", "align", "landmarks", "surface", "markups"]
    assert scene.GetNumberOfNodes() == before
    assert find_landmark_node(model) is None


def test_a_model_removed_meanwhile_is_said(scene, detector) -> None:  # type: ignore[no-untyped-def]
    model = load_sample(scene)
    steps = place_landmarks(model, settings=Settings(device="cpu"))
    for step in steps:
        if step == "surface":
            scene.RemoveNode(model)
            break
    with pytest.raises(NodeGoneError, match="'Anna' was removed from the scene"):
        list(steps)
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0


def test_corrections_survive_a_saved_scene(scene, detector, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    landmarks = run(load_sample(scene))
    landmarks.node.SetNthControlPointPosition(3, 5.0, 6.0, 7.0)
    states = landmarks.states()
    expected = world_points(landmarks)
    scene.SetRootDirectory(str(tmp_path))
    model_storage = scene.GetFirstNodeByClass("vtkMRMLModelStorageNode")
    model_storage.SetFileName(str(tmp_path / "Anna.ply"))
    assert model_storage.WriteData(scene.GetFirstNodeByClass("vtkMRMLModelNode"))
    storage = scene.AddNewNodeByClass("vtkMRMLMarkupsJsonStorageNode")
    storage.SetFileName(str(tmp_path / "landmarks.mrk.json"))
    landmarks.node.SetAndObserveStorageNodeID(storage.GetID())
    assert storage.WriteData(landmarks.node)
    assert scene.Commit(str(tmp_path / "scene.mrml"))
    with zipfile.ZipFile(tmp_path / "scene.mrb", "w") as bundle:  # what an .mrb is: the scene's folder, zipped
        for name in ("scene.mrml", "Anna.ply", "landmarks.mrk.json"):
            bundle.write(tmp_path / name, f"bundle/{name}")
    with zipfile.ZipFile(tmp_path / "scene.mrb") as bundle:
        bundle.extractall(tmp_path / "opened")
    again = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(again)
    markups = slicer.vtkSlicerMarkupsLogic()
    markups.SetMRMLApplicationLogic(application)
    markups.SetMRMLScene(again)
    again.SetURL(str(tmp_path / "opened" / "bundle" / "scene.mrml"))
    assert again.Connect()
    model = again.GetFirstNodeByClass("vtkMRMLModelNode")
    reopened = find_landmark_node(model)
    assert reopened is not None
    np.testing.assert_allclose(world_points(reopened), expected, atol=1e-3)
    assert reopened.states() == states
    assert reopened.states()[detector.labels[3]] == CORRECTED


def test_what_the_scan_does_not_show_is_missing(scene, detector) -> None:  # type: ignore[no-untyped-def]
    # The sample with everything around its left ear cut away.
    mesh = read_scan(SAMPLE)
    points = dict(zip(detector.labels, detector.detect(mesh).points))
    centre = 0.5 * (points["Sa_L"] + points["Sba_L"]) if "Sa_L" in points else points["Pa_L"]
    model = load_sample(scene)
    cut = vtkPolyData()
    cut.DeepCopy(model.GetPolyData())
    ids = [
        i
        for i in range(cut.GetNumberOfCells())
        if np.linalg.norm(np.array(cut.GetCell(i).GetPoints().GetPoint(0)) - centre * [-1, -1, 1]) < 60
    ]
    cut.BuildLinks()
    for i in ids:
        cut.DeleteCell(i)
    cut.RemoveDeletedCells()
    model.SetAndObservePolyData(cut)
    landmarks = run(model)
    missing = {label for label, state in landmarks.states().items() if state == MISSING}
    assert {label for label in detector.labels if label in ("Sa_L", "Sba_L", "Pa_L")} <= missing
    assert not {label for label in missing if label.endswith("_R")}
    i = detector.labels.index("Pa_L")
    assert landmarks.node.GetNthControlPointDescription(i).endswith("(not on the scan)")


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("empty", UnreadableScanError, "'Anna' holds no points"),
        ("cloud", UnreadableScanError, "'Anna' holds points but no faces"),
        ("nan", UnreadableScanError, "'Anna' has .* not finite"),
        ("ball", NotAFaceError, "'Anna'"),
    ],
)
def test_bad_models_are_refused_in_one_sentence(scene, detector, case, error, message) -> None:  # type: ignore[no-untyped-def]
    model = load_sample(scene)
    surface = vtkPolyData()
    if case == "cloud":
        surface.SetPoints(model.GetPolyData().GetPoints())
    elif case == "nan":
        surface.DeepCopy(model.GetPolyData())
        surface.GetPoints().SetPoint(10, float("nan"), 0.0, 0.0)
    elif case == "ball":
        ball = vtkSphereSource()
        ball.SetRadius(90)
        ball.SetThetaResolution(100)
        ball.SetPhiResolution(100)
        ball.Update()
        surface = ball.GetOutput()
    model.SetAndObservePolyData(surface)
    before = scene.GetNumberOfNodes()
    with pytest.raises(error, match=message) as raised:
        run(model)
    assert str(raised.value).count(". ") == 0
    assert scene.GetNumberOfNodes() == before


def test_a_segment_under_a_transform_is_detected_on_its_surface(scene, detector) -> None:  # type: ignore[no-untyped-def]
    model = load_sample(scene)
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "CT")
    segmentation.SetSourceRepresentationToClosedSurface()
    segmentation.SetAndObserveTransformNodeID(linear_transform(scene, model).GetID())
    segmentation.AddSegmentFromClosedSurfaceRepresentation(model.GetPolyData(), "Skin", [1.0, 0.8, 0.7], "skin")
    landmarks = run(segmentation, segment_id="skin")
    assert landmarks.node.GetName() == "Skin landmarks"
    assert distance_to_model(landmarks, model).max() < 1e-2
    with pytest.raises(UnreadableScanError, match="'CT' has no such segment"):
        run(segmentation, segment_id="bone")
    assert run(segmentation).node is landmarks.node  # its only segment


def test_each_segment_has_landmarks_of_its_own(scene, detector) -> None:  # type: ignore[no-untyped-def]
    model = load_sample(scene)
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "CT")
    segmentation.SetSourceRepresentationToClosedSurface()
    for name in ("before", "after"):
        segmentation.AddSegmentFromClosedSurfaceRepresentation(model.GetPolyData(), name, [1.0, 0.8, 0.7], name)
    with pytest.raises(UnreadableScanError, match="'CT' has 2 segments; say which one shows the face"):
        run(segmentation)
    before, after = (run(segmentation, segment_id=name) for name in ("before", "after"))
    assert before.node is not after.node
    assert after.node.GetName() == "after landmarks"
    before.node.SetNthControlPointPosition(9, 0.0, 0.0, 0.0)
    assert run(segmentation, segment_id="after").states()[detector.labels[9]] != CORRECTED
    assert find_landmark_node(segmentation, "before").node is before.node  # type: ignore[union-attr]
