"""The panel on real MRML: the real button is clicked, and what the user sees is asserted."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Union
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="slicer-core is not installed (pip install slicer-core)")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
import slicer

if not hasattr(slicer, "vtkMRMLScene"):
    pytest.skip("the package 'slicer' is not Slicer's", allow_module_level=True)

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(Path(__file__).parent))
import harness
from PALNetLandmarksLib.certainty import certainty_class
from PALNetLandmarksLib.detector import LandmarkDetector
from PALNetLandmarksLib.landmark_files import read_landmarks, write_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.mesh import TriangleMesh

MODULE = Path(__file__).resolve().parents[1] / "PALNetLandmarks"


@pytest.fixture(scope="module")
def application() -> Any:
    return harness.start()


@pytest.fixture
def panel(application: Any) -> Iterator[Any]:
    slicer.mrmlScene.Clear(False)
    widget = harness.load_module(MODULE, "PALNetLandmarks")
    yield widget
    widget.cleanup()
    slicer.mrmlScene.Clear(False)


@pytest.fixture
def loaded(panel: Any) -> Any:
    """The panel with the sample chosen."""
    panel._parameterNode.source = panel.logic.loadSample()
    panel._parameterNode.device = "cpu"
    return panel


def wait(panel: Any, seconds: float = 60.0) -> float:
    """Let the event loop run until the detection is over; the longest it was held up, in seconds.

    Processor time: other programs on the machine do not count, threads of our own do.
    """
    longest, end = 0.0, time.monotonic() + seconds
    while panel._run is not None:
        assert time.monotonic() < end, "the detection takes too long"
        begun = time.process_time()
        slicer.app.processEvents()
        longest = max(longest, time.process_time() - begun)
    return longest


def drag(panel: Any, node: Any, index: int, by: tuple[float, float, float]) -> None:
    """What a drag with the mouse does to the node, with a rest before the button is released."""
    node.InvokeCustomModifiedEvent(node.PointStartInteractionEvent)
    start = np.array(node.GetNthControlPointPositionWorld(index))
    for part in (0.3, 0.7, 1.0):
        node.SetNthControlPointPositionWorld(index, (start + part * np.array(by)).tolist())
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        slicer.app.processEvents()
    node.InvokeCustomModifiedEvent(node.PointEndInteractionEvent)


def detect_to(path: Path) -> None:
    """Landmarks of the sample as the command line writes them."""
    detection = LandmarkDetector.load(device="cpu").detect(MODULE / "Resources" / "SampleScan.ply")
    write_landmarks(
        path,
        LandmarkSet(
            detection.labels,
            detection.points,
            detection.coordinate_system,
            standard_deviation_mm=detection.standard_deviation_mm,
        ),
    )


def sample_in_metres(folder: Path) -> Path:
    """The sample, written in metres."""
    import trimesh
    from PALNetLandmarksLib.read_scan import read_scan

    sample = read_scan(MODULE / "Resources" / "SampleScan.ply")
    path = folder / "metres.ply"
    trimesh.Trimesh(sample.points / 1000, sample.triangles, process=False).export(path)
    return path


def landmark_nodes() -> list[Any]:
    return list(slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode"))


def test_a_click_places_fifty_landmarks(loaded: Any, tmp_path: Path) -> None:
    assert loaded.ui.detectButton.text == "Detect landmarks"
    loaded.ui.detectButton.click()
    assert loaded.ui.detectButton.text == "Cancel"
    assert wait(loaded) < 0.6  # on two cores: 0.3 s
    (node,) = landmark_nodes()
    assert node.GetNumberOfControlPoints() == 50
    assert node.GetName() == "PALNetLandmarksFace landmarks"
    assert "50 landmarks in" in loaded.ui.statusLabel.text
    assert "CPU" in loaded.ui.statusLabel.text
    assert loaded.ui.landmarkTable.rowCount == 31
    assert loaded.ui.landmarkTable.item(3, 1).text().startswith("detected")
    # The dots have the colours of the pictures, as the key under the table says.
    deviation = loaded._landmarks.deviations()["Prn"]
    dot = loaded.ui.landmarkTable.item(3, 1).icon().pixmap(8, 8).toImage().pixelColor(4, 4)
    assert (dot.red(), dot.green(), dot.blue()) == certainty_class(deviation).colour
    assert "#0072b2" in loaded.ui.certaintyLabel.text and "below&nbsp;1&nbsp;mm" in loaded.ui.certaintyLabel.text
    path = tmp_path / "anna.csv"
    loaded.exportLandmarks(str(path))
    assert len(path.read_text(encoding="utf-8").splitlines()) == 51


def test_cancel_leaves_the_scene_as_it_was(loaded: Any) -> None:
    before = slicer.mrmlScene.GetNumberOfNodes()
    loaded.ui.detectButton.click()
    for _ in range(3):
        loaded._advance()
    begun = time.perf_counter()
    loaded.ui.detectButton.click()
    assert time.perf_counter() - begun < 0.5
    assert loaded._run is None
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    assert "Cancelled" in loaded.ui.statusLabel.text


def test_a_corrected_landmark_is_kept_and_can_be_reset(loaded: Any) -> None:
    loaded.ui.detectButton.click()
    wait(loaded)
    (node,) = landmark_nodes()
    index = {node.GetNthControlPointLabel(i): i for i in range(50)}["Pg"]
    detected = np.array(node.GetNthControlPointPositionWorld(index))
    drag(loaded, node, index, (4.0, 0.0, 0.0))
    dragged = np.array(node.GetNthControlPointPositionWorld(index))
    assert 2.0 < np.linalg.norm(dragged - detected) < 6.0  # on the surface, not back
    loaded.ui.detectButton.click()
    wait(loaded)
    assert np.allclose(node.GetNthControlPointPositionWorld(index), dragged)
    loaded._table.choose("Pg")
    assert loaded.ui.resetButton.enabled
    loaded.ui.resetButton.click()
    assert np.allclose(node.GetNthControlPointPositionWorld(index), detected, atol=1e-3)


def test_closing_the_scene_in_mid_run_is_no_error(loaded: Any) -> None:
    loaded.ui.detectButton.click()
    loaded._advance()
    slicer.mrmlScene.Clear(False)
    slicer.app.processEvents()
    assert loaded._run is None
    assert landmark_nodes() == []
    assert not loaded.ui.exportButton.enabled


def test_removing_the_scan_in_mid_run_is_said(loaded: Any) -> None:
    source = loaded._parameterNode.source
    loaded.ui.detectButton.click()
    loaded._advance()
    loaded._advance()
    slicer.mrmlScene.RemoveNode(source)
    wait(loaded)
    assert "was removed from the scene" in loaded.ui.statusLabel.text
    assert landmark_nodes() == []


def test_reloading_the_module_keeps_the_landmarks(loaded: Any) -> None:
    loaded.ui.detectButton.click()
    wait(loaded)
    again = harness.load_module(MODULE, "PALNetLandmarks")
    assert again.ui.landmarkTable.item(3, 1).text().startswith("detected")
    assert again.ui.exportButton.enabled
    again.cleanup()


def test_a_shape_that_is_no_face_is_refused_in_one_sentence(panel: Any) -> None:
    from vtkmodules.vtkFiltersSources import vtkSphereSource

    sphere = vtkSphereSource()
    sphere.SetRadius(90.0)
    sphere.SetThetaResolution(100)
    sphere.SetPhiResolution(100)
    sphere.Update()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "ball")
    node.SetAndObservePolyData(sphere.GetOutput())
    panel._parameterNode.source = node
    panel.ui.detectButton.click()
    wait(panel)
    assert "No face was found on 'ball'" in panel.ui.statusLabel.text
    assert landmark_nodes() == []


def test_weights_that_are_none_are_refused_and_not_used(loaded: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"nothing of the kind")
    loaded.ui.weightsSelector.currentPath = str(path)
    assert loaded._parameterNode.weights == ""
    assert "weights.safetensors" in loaded.ui.statusLabel.text


def test_searching_and_hiding_groups(loaded: Any) -> None:
    loaded.ui.detectButton.click()
    wait(loaded)
    loaded.ui.searchEdit.text = "pogonion"
    table = loaded.ui.landmarkTable
    assert [row for row in range(table.rowCount) if not table.isRowHidden(row)] == [10]
    loaded.ui.earsCheckBox.click()
    (node,) = landmark_nodes()
    hidden = {node.GetNthControlPointLabel(i) for i in range(50) if not node.GetNthControlPointVisibility(i)}
    assert hidden == {f"{stem}_{side}" for stem in ("T", "Pra", "Sa", "Pa", "Sba") for side in "RL"}


def test_hidden_groups_stay_hidden_on_another_scan(loaded: Any) -> None:
    first = loaded._parameterNode.source
    loaded.ui.detectButton.click()
    wait(loaded)
    loaded._parameterNode.source = add_model(mesh_of(first), "other")
    loaded.ui.detectButton.click()
    wait(loaded)
    ears = [i for i in range(50) if loaded._landmarks.node.GetNthControlPointLabel(i).startswith("Sa_")]
    loaded.ui.earsCheckBox.click()
    loaded._parameterNode.source = first
    for checked in (False, True):
        assert loaded.ui.earsCheckBox.checked == checked
        assert [loaded._landmarks.node.GetNthControlPointVisibility(i) for i in ears] == [checked] * 2
        loaded.ui.earsCheckBox.click()


def test_the_models_of_the_slice_views_are_no_scan(panel: Any) -> None:
    """Slicer puts them into every scene, before any scan."""
    hidden = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Red Volume Slice")
    hidden.SetHideFromEditors(True)
    scan = panel.logic.loadSample()
    panel._parameterNode.source = None
    panel._initializeParameterNode()
    assert panel._parameterNode.source is scan


def test_what_slicer_saves_says_which_landmarks_were_corrected(loaded: Any) -> None:
    node = detected(loaded)
    index = loaded._landmarks.index()["Pg"]
    assert node.GetNthControlPointDescription(index).startswith("Pogonion ± ")
    drag(loaded, node, index, (3.0, 0.0, 0.0))
    assert node.GetNthControlPointDescription(index) == "Pogonion (corrected)"
    loaded.ui.undoButton.click()
    assert node.GetNthControlPointDescription(index).startswith("Pogonion ± ")
    other = loaded._landmarks.index()["Prn"]
    node.UnsetNthControlPointPosition(other)
    loaded._updateTable()
    assert node.GetNthControlPointDescription(other) == "Pronasale (corrected)"


def test_a_misspelt_property_is_an_error(panel: Any) -> None:
    with pytest.raises(AttributeError):
        panel.ui.detectButton.txet = "Detect"


def test_the_sample_is_offered(panel: Any) -> None:
    import SampleData

    source = SampleData.SampleDataLogic.sources["PALNetLandmarksFace"]
    assert Path(url2pathname(urlparse(source["uri"]).path)).is_file()
    node = source["download"](None)
    assert node.GetPolyData().GetNumberOfPoints() > 5000


def test_self_test(panel: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        slicer.selfTests["PALNetLandmarks"](msec=0)
    assert "Test passed" in caplog.messages


def test_parameters_and_widgets_follow_each_other(loaded: Any) -> None:
    ui, parameters = loaded.ui, loaded.logic.getParameterNode()  # as a script gets them
    source = parameters.source
    assert ui.inputSelector.currentNode() is source
    parameters.pointSize, parameters.opacity, parameters.replaceCorrected = 4.5, 0.3, True
    assert (ui.pointSizeSlider.value, ui.opacitySlider.value, ui.replaceCheckBox.checked) == (4.5, 0.3, True)
    for name, slider in (("pointSize", ui.pointSizeSlider), ("labelSize", ui.labelSizeSlider)):
        for end in (slider.minimum, slider.maximum):
            slider.value = end
            assert getattr(parameters, name) == end
    parameters.source = None
    assert ui.inputSelector.currentNode() is None
    assert not ui.detectButton.enabled
    ui.inputSelector.setCurrentNode(source)
    assert parameters.source is source
    assert ui.detectButton.enabled
    slicer.mrmlScene.RemoveNode(source)
    assert parameters.source is None
    assert not ui.detectButton.enabled


def test_a_scan_that_is_removed_leaves_the_choice_to_the_user(loaded: Any) -> None:
    first, second = loaded._parameterNode.source, loaded.logic.loadSample()
    assert second.GetName() != first.GetName()
    loaded.ui.inputSelector.activate(second)
    slicer.mrmlScene.RemoveNode(first)
    assert loaded._parameterNode.source is second is loaded.ui.inputSelector.currentNode()
    loaded.logic.loadSample()
    slicer.mrmlScene.RemoveNode(second)
    assert loaded._parameterNode.source is None
    assert loaded.ui.inputSelector.currentNode() is None


def test_an_imported_scene_leaves_the_chosen_scan_chosen(loaded: Any) -> None:
    second = loaded.logic.loadSample()
    loaded.ui.inputSelector.activate(second)
    scene = slicer.mrmlScene
    scene.StartState(scene.ImportState)
    scene.AddNewNodeByClass("vtkMRMLModelNode", "imported")
    scene.EndState(scene.ImportState)
    assert loaded._parameterNode.source is second
    assert loaded.ui.inputSelector.currentNode() is second


def test_of_two_scans_of_one_name_the_one_that_is_chosen_counts(loaded: Any) -> None:
    first, second = loaded._parameterNode.source, loaded.logic.loadSample()
    second.SetName(first.GetName())
    loaded.ui.inputSelector.activate(second)
    assert loaded._parameterNode.source is second


def test_the_tables_follow_a_drag_before_it_ends(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node = detected(loaded)
    slicer.app.processEvents()
    shown = []
    monkeypatch.setattr(loaded._measurements, "show", shown.append)
    node.InvokeCustomModifiedEvent(node.PointStartInteractionEvent)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:  # events closer to each other than the delay of the tables
        node.SetNthControlPointPositionWorld(3, (np.array(node.GetNthControlPointPositionWorld(3)) + 0.01).tolist())
        slicer.app.processEvents()
        time.sleep(0.01)
    node.InvokeCustomModifiedEvent(node.PointEndInteractionEvent)
    assert len(shown) >= 3


def test_a_closed_panel_and_the_parameters_part(loaded: Any) -> None:
    parameters = loaded.logic.getParameterNode()
    for _ in range(3):
        loaded.exit()
        loaded.enter()
    loaded.cleanup()
    gc.collect()  # Slicer crashes if the node still has observers of what is collected here
    parameters.pointSize = 5.0
    assert loaded.ui.pointSizeSlider.value == 2.0
    loaded.ui.labelSizeSlider.value = 7.0
    loaded.ui.inputSelector.setCurrentNode(None)
    assert parameters.labelSize == 2.5
    assert parameters.source is not None


def test_a_scene_brings_its_parameters_back(loaded: Any, tmp_path: Path) -> None:
    loaded._parameterNode.pointSize = 3.5
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(False)
    assert loaded.ui.pointSizeSlider.value == 2.0
    assert loaded._parameterNode.source is None
    slicer.mrmlScene.Connect()
    assert loaded.ui.pointSizeSlider.value == 3.5
    assert loaded._parameterNode.source.GetName() == "PALNetLandmarksFace"
    assert loaded.ui.inputSelector.currentNode() is loaded._parameterNode.source


class UnionWithoutNone:
    source: Union[slicer.vtkMRMLModelNode, slicer.vtkMRMLSegmentationNode]


def test_a_union_of_nodes_is_never_empty_without_none(application: Any) -> None:
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    with pytest.raises(TypeError):
        parameterNodeWrapper(UnionWithoutNone)(slicer.vtkMRMLScriptedModuleNode())


def detected(panel: Any) -> Any:
    """Click and wait; the markups node."""
    panel.ui.detectButton.click()
    wait(panel)
    (node,) = landmark_nodes()
    return node


def on_surface(node: Any, source: Any) -> np.ndarray:
    """Distance (mm) of each control point that has a position from the surface of ``source``, in the world."""
    from PALNetLandmarksLib.surface import SurfaceLocator
    from PALNetLandmarksMRML.model_scan import scan_of_model

    defined = [i for i in range(50) if node.GetNthControlPointPositionStatus(i) == node.PositionDefined]
    points = np.array([node.GetNthControlPointPositionWorld(i) for i in defined])
    return SurfaceLocator(scan_of_model(source)).nearest_on_surface(points)[1]


def test_no_piece_of_a_detection_works_longer_than_the_window_may_freeze(loaded: Any) -> None:
    scan = loaded._parameterNode.source
    mesh = mesh_of(scan)
    while len(mesh.points) < 100_000:
        mesh = subdivided(mesh)
    loaded._parameterNode.source = add_model(mesh, "fine")
    loaded.ui.detectButton.click()
    loaded._timer.stop()
    longest = 0.0
    while loaded._run is not None:
        begun = time.process_time()  # other programs on the machine do not count; threads of our own do
        loaded._advance()
        longest = max(longest, time.process_time() - begun)
    assert len(landmark_nodes()) == 1
    assert longest < 0.6  # on two cores: 0.3 s


def test_undo_takes_a_detection_back(loaded: Any) -> None:
    detected(loaded)
    loaded.ui.undoButton.click()
    assert landmark_nodes() == []
    assert loaded.ui.landmarkTable.item(3, 1).text() == ""
    assert not loaded.ui.exportButton.enabled
    detected(loaded)
    assert loaded.ui.landmarkTable.item(3, 1).text().startswith("detected")


def test_undo_takes_a_reset_back(loaded: Any) -> None:
    node = detected(loaded)
    index = loaded._landmarks.index()["Prn"]
    drag(loaded, node, index, (0.0, 5.0, 3.0))
    dragged = np.array(node.GetNthControlPointPositionWorld(index))
    slicer.util.confirmYesNoDisplay = lambda *_, **__: True
    loaded.ui.resetAllButton.click()
    assert not np.allclose(node.GetNthControlPointPositionWorld(index), dragged, atol=0.5)
    loaded.ui.undoButton.click()
    (node,) = landmark_nodes()
    assert np.allclose(node.GetNthControlPointPositionWorld(index), dragged)
    assert loaded._landmarks.states()["Prn"] == "corrected"


def test_undo_goes_back_drag_by_drag(loaded: Any) -> None:
    node = detected(loaded)
    prn, pg = (loaded._landmarks.index()[label] for label in ("Prn", "Pg"))
    as_detected = np.array(node.GetNthControlPointPositionWorld(prn))
    drag(loaded, node, prn, (0.0, 5.0, 3.0))
    drag(loaded, node, pg, (4.0, 0.0, 2.0))
    first = np.array(node.GetNthControlPointPositionWorld(prn))
    loaded.ui.undoButton.click()
    assert loaded._landmarks.states()["Pg"] == "detected"
    assert np.allclose(node.GetNthControlPointPositionWorld(prn), first)
    loaded.ui.undoButton.click()
    assert np.allclose(node.GetNthControlPointPositionWorld(prn), as_detected)
    assert landmark_nodes() == [node]
    loaded.ui.undoButton.click()
    assert landmark_nodes() == []


def test_undo_brings_a_deleted_landmark_back(loaded: Any) -> None:
    node = detected(loaded)
    pg = loaded._landmarks.index()["Pg"]
    position = np.array(node.GetNthControlPointPositionWorld(pg))
    node.RemoveNthControlPoint(pg)
    loaded.ui.undoButton.click()
    assert np.allclose(node.GetNthControlPointPositionWorld(loaded._landmarks.index()["Pg"]), position)
    assert loaded._landmarks.states()["Pg"] == "detected"


def test_undo_leaves_other_scans_alone(loaded: Any) -> None:
    first = loaded._parameterNode.source
    node = detected(loaded)
    loaded._parameterNode.source = add_model(mesh_of(first), "other")
    loaded.ui.detectButton.click()
    wait(loaded)
    (other,) = (one for one in landmark_nodes() if one is not node)
    pg = loaded._landmarks.index()["Pg"]
    drag(loaded, other, pg, (4.0, 0.0, 2.0))
    corrected = np.array(other.GetNthControlPointPositionWorld(pg))
    loaded._parameterNode.source = first
    loaded.ui.undoButton.click()
    assert landmark_nodes() == [other]
    assert np.allclose(other.GetNthControlPointPositionWorld(pg), corrected)


def test_reset_all_asks_before_corrections_are_lost(loaded: Any) -> None:
    node = detected(loaded)
    index = loaded._landmarks.index()["Prn"]
    drag(loaded, node, index, (0.0, 5.0, 3.0))
    dragged = np.array(node.GetNthControlPointPositionWorld(index))
    slicer.util.confirmYesNoDisplay = lambda *_, **__: False
    loaded.ui.resetAllButton.click()
    assert np.allclose(node.GetNthControlPointPositionWorld(index), dragged)


@pytest.mark.parametrize("snap", [True, False])
def test_a_dragged_landmark_goes_to_the_surface_if_asked(loaded: Any, snap: bool) -> None:
    node = detected(loaded)
    loaded.ui.snapCheckBox.checked = snap
    index = loaded._landmarks.index()["Pg"]
    drag(loaded, node, index, (3.0, 6.0, 0.0))
    distance = on_surface(node, loaded._parameterNode.source)[index]
    assert distance < 1e-3 if snap else distance > 1.0


def test_a_landmark_is_snapped_where_model_and_landmarks_are_transformed(loaded: Any) -> None:
    source = loaded._parameterNode.source
    matrix = np.array([[0.0, -1, 0, 40], [0, 0, 1, -25], [-1, 0, 0, 300], [0, 0, 0, 1]])
    transforms = []
    for shift in (0.0, 70.0):
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix[0, 3] += shift
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        transforms.append(transform)
    source.SetAndObserveTransformNodeID(transforms[0].GetID())
    node = detected(loaded)
    assert on_surface(node, source).max() < 1e-3
    index = loaded._landmarks.index()["Pg"]
    before = np.array(node.GetNthControlPointPositionWorld(index))
    drag(loaded, node, index, (4.0, 0.0, 3.0))
    assert on_surface(node, source).max() < 1e-3
    # The scan moves away under the landmarks: a drag then goes to where the scan is now.
    source.SetAndObserveTransformNodeID(transforms[1].GetID())
    drag(loaded, node, index, (70.0, 0.0, 0.0))
    assert on_surface(node, source)[index] < 1e-3
    assert 60 < np.linalg.norm(np.array(node.GetNthControlPointPositionWorld(index)) - before) < 80


def test_a_landmark_is_snapped_to_the_surface_as_it_is_now(loaded: Any) -> None:
    """Editing the points of a model is no change of its node."""
    source = loaded._parameterNode.source
    node = detected(loaded)
    index = loaded._landmarks.index()["Pg"]
    drag(loaded, node, index, (3.0, 2.0, 0.0))
    slicer.util.arrayFromModelPoints(source)[:] += (0.0, 15.0, 0.0)
    slicer.util.arrayFromModelPointsModified(source)
    drag(loaded, node, index, (0.0, 15.0, 1.0))
    assert on_surface(node, source)[index] < 1e-3


@pytest.mark.parametrize("suffix", [".glb", ".off", ".ply", ".stl", ".obj"])
def test_scans_of_all_formats_load_in_the_same_place(panel: Any, tmp_path: Path, suffix: str) -> None:
    import trimesh
    from PALNetLandmarksLib.read_scan import read_scan
    from PALNetLandmarksLib.resources import resource_path

    scan = read_scan(resource_path("SampleScan.ply"))
    path = tmp_path / f"anna{suffix}"
    trimesh.Trimesh(scan.points, scan.triangles, process=False).export(path)
    panel.loadScan(str(path))
    node = panel._parameterNode.source
    assert node.GetName() == "anna"
    points = slicer.util.arrayFromModelPoints(node)
    expected = scan.points * (-1, -1, 1)  # a file is LPS, the scene is RAS
    assert np.abs(points.min(axis=0) - expected.min(axis=0)).max() < 0.01
    assert np.abs(points.max(axis=0) - expected.max(axis=0)).max() < 0.01
    landmarks = detected(panel)
    assert on_surface(landmarks, node).max() < 0.01
    index = panel._landmarks.index()
    right, left = (landmarks.GetNthControlPointPositionWorld(index[label]) for label in ("Ex_R", "Ex_L"))
    assert right[0] - left[0] > 60  # R of RAS


def test_a_damaged_file_leaves_nothing_behind(panel: Any, tmp_path: Path) -> None:
    path = tmp_path / "anna.ply"
    path.write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 5000\nproperty float x\nend_header\n12")
    before = slicer.mrmlScene.GetNumberOfNodes()
    panel.loadScan(str(path))
    assert "anna.ply" in panel.ui.statusLabel.text
    assert slicer.mrmlScene.GetNumberOfNodes() == before


@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv"])
def test_exported_landmarks_load_on_the_scan_again(loaded: Any, tmp_path: Path, suffix: str) -> None:
    node = detected(loaded)
    path = tmp_path / f"Änne{suffix}"
    loaded.exportLandmarks(str(path))
    assert str(path) in loaded.ui.statusLabel.text
    again = slicer.util.loadMarkups(str(path))
    assert [again.GetNthControlPointLabel(i) for i in range(50)] == [node.GetNthControlPointLabel(i) for i in range(50)]
    assert on_surface(again, loaded._parameterNode.source).max() < 0.01
    assert again.GetNthControlPointDescription(3).startswith("Pronasale")


def test_an_exported_table_says_what_was_corrected(loaded: Any, tmp_path: Path) -> None:
    import csv

    node = detected(loaded)
    drag(loaded, node, loaded._landmarks.index()["Pg"], (4.0, 0.0, 2.0))
    loaded.exportLandmarks(str(tmp_path / "anna.csv"))
    with (tmp_path / "anna.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["label"]: row for row in csv.DictReader(stream)}
    assert rows["Pg"]["state"] == "corrected"
    assert rows["Pg"]["standard_deviation_mm"] == ""
    assert rows["Prn"]["state"] == "defined"
    assert float(rows["Prn"]["standard_deviation_mm"]) > 0
    loaded.exportLandmarks(str(tmp_path / "anna.mrk.json"))
    markups = json.loads((tmp_path / "anna.mrk.json").read_text(encoding="utf-8"))["markups"][0]
    notes = {point["label"]: point["description"] for point in markups["controlPoints"]}
    assert notes["Pg"].endswith("(corrected)")
    assert notes["Prn"].endswith("mm")


def test_measurements_follow_a_drag_and_say_no_certainty_for_what_was_corrected(loaded: Any, tmp_path: Path) -> None:
    table = loaded.ui.measurementTable
    names = [table.item(row, 0).text() for row in range(table.rowCount)]
    row, angle = names.index("Sn - Pg"), names.index("N - Sn - Pg")
    assert table.item(row, 1).text() == ""
    assert not loaded.ui.exportMeasurementsButton.enabled
    loaded.ui.detectButton.click()
    wait(loaded)
    (node,) = landmark_nodes()
    index = loaded._landmarks.index()

    def length() -> float:
        ends = [node.GetNthControlPointPositionWorld(index[label]) for label in ("Sn", "Pg")]
        return float(np.linalg.norm(np.subtract(*ends)))

    before = length()
    value, deviation = table.item(row, 1).text().removesuffix(" mm").split(" ±")
    assert float(value) == pytest.approx(before, abs=0.051) and 0.2 < float(deviation) < 3.0
    assert table.item(angle, 1).text().endswith("°")
    drag(loaded, node, index["Pg"], (0.0, 0.0, -6.0))
    loaded._updateTable()
    assert length() > before + 3.0
    assert table.item(row, 1).text() == f"{length():.1f} mm"
    loaded.exportMeasurements(str(tmp_path / "anna"))
    lines = (tmp_path / "anna.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 30
    assert f"PALNetLandmarksFace landmarks,Frontal,Sn - Pg,{length():.3f},,mm" in lines
    node.UnsetNthControlPointPosition(index["Pg"])
    loaded._updateTable()
    assert table.item(row, 1).text() == "missing"
    loaded.exportMeasurements(str(tmp_path / "anna.txt"))
    assert "ends in .csv" in loaded.ui.statusLabel.text


def test_measurements_of_a_scan_in_metres_are_in_millimetres(panel: Any, tmp_path: Path) -> None:
    metres = sample_in_metres(tmp_path)
    found = []
    for path in (MODULE / "Resources" / "SampleScan.ply", metres):
        node = panel.logic.detect(panel.logic.loadScan(path), device="cpu")
        found.append([one.value for one in panel.logic.measurementsOf(node)])
    np.testing.assert_allclose(found[1], found[0], atol=0.1)


def test_landmarks_of_the_command_line_are_taken_up_with_their_certainty(loaded: Any, tmp_path: Path) -> None:
    path = tmp_path / "anna.mrk.json"
    detect_to(path)
    loaded.loadLandmarks(str(path))
    assert loaded.ui.statusLabel.text == "50 landmarks loaded, 0 of them corrected."
    (node,) = landmark_nodes()
    states = loaded._landmarks.states()
    assert set(states.values()) == {"detected"}
    assert " ±" in loaded.ui.landmarkTable.item(3, 1).text()
    assert on_surface(node, loaded._parameterNode.source).max() < 0.01
    index = loaded._landmarks.index()
    right, left = (node.GetNthControlPointPositionWorld(index[label]) for label in ("Ex_R", "Ex_L"))
    assert right[0] - left[0] > 60  # R of RAS
    # One is corrected, the file exported, and taken up again: it is still known as corrected, and its place is kept.
    drag(loaded, node, index["Prn"], (4.0, 0.0, 2.0))
    kept = node.GetNthControlPointPositionWorld(index["Prn"])
    loaded.exportLandmarks(str(path))
    loaded.ui.undoButton.click()
    loaded.ui.undoButton.click()
    assert landmark_nodes() == []
    loaded.loadLandmarks(str(path))
    assert loaded.ui.statusLabel.text == "50 landmarks loaded, 1 of them corrected."
    assert loaded._landmarks.states()["Prn"] == "corrected"
    loaded.ui.detectButton.click()
    wait(loaded)
    (node,) = landmark_nodes()
    np.testing.assert_allclose(node.GetNthControlPointPositionWorld(index["Prn"]), kept, atol=1e-4)


def test_landmarks_that_slicer_saved_are_the_users_and_no_detection_moves_them(loaded: Any, tmp_path: Path) -> None:
    written, saved = tmp_path / "anna.mrk.json", tmp_path / "moved.mrk.json"
    detect_to(written)
    node = slicer.util.loadMarkups(str(written))
    i = next(i for i in range(50) if node.GetNthControlPointLabel(i) == "Pg")
    node.SetNthControlPointPosition(i, *np.add(node.GetNthControlPointPosition(i), (1.0, 0.0, 2.0)).tolist())
    node.GetStorageNode().SetFileName(str(saved))
    assert node.GetStorageNode().WriteData(node)
    moved = np.array(node.GetNthControlPointPosition(i))
    slicer.mrmlScene.RemoveNode(node)
    loaded.loadLandmarks(str(saved))
    assert set(loaded._landmarks.states().values()) == {"corrected"}
    slicer.util.confirmYesNoDisplay = lambda *_, **__: True
    loaded.ui.resetAllButton.click()  # nothing was detected that they could go back to
    assert set(loaded._landmarks.states().values()) == {"corrected"}
    # However often and however it detects, and wherever the detection is the same as what the user has.
    for surface in ("triangle", "centroid"):
        loaded._parameterNode.surface = surface
        loaded.ui.detectButton.click()
        wait(loaded)
        assert set(loaded._landmarks.states().values()) == {"corrected"}
    (node,) = landmark_nodes()
    now = node.GetNthControlPointPositionWorld(loaded._landmarks.index()["Pg"])
    np.testing.assert_allclose(now, moved, atol=1e-3)
    # Reset goes back to what was detected since.
    loaded.ui.resetAllButton.click()
    assert set(loaded._landmarks.states().values()) == {"detected"}
    assert np.linalg.norm(np.subtract(node.GetNthControlPointPositionWorld(loaded._landmarks.index()["Pg"]), now)) > 1.0


def test_landmarks_of_the_file_follow_a_scan_that_was_transformed(loaded: Any, tmp_path: Path) -> None:
    detect_to(tmp_path / "anna.mrk.json")
    source = loaded._parameterNode.source
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.array([[0.0, -1, 0, 90], [1, 0, 0, -20], [0, 0, 1, 300], [0, 0, 0, 1]])
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    source.SetAndObserveTransformNodeID(transform.GetID())
    loaded.loadLandmarks(str(tmp_path / "anna.mrk.json"))
    (node,) = landmark_nodes()
    assert on_surface(node, source).max() < 0.01
    # Exported from the world and taken up again, they are where they were.
    before = slicer.util.arrayFromMarkupsControlPoints(node, world=True)
    loaded.exportLandmarks(str(tmp_path / "world.mrk.json"))
    loaded.loadLandmarks(str(tmp_path / "world.mrk.json"))
    np.testing.assert_allclose(slicer.util.arrayFromMarkupsControlPoints(node, world=True), before, atol=1e-3)


def test_a_file_of_some_landmarks_leaves_the_others_and_asks_before_it_replaces_corrections(
    loaded: Any, tmp_path: Path
) -> None:
    path = tmp_path / "some.mrk.json"
    detect_to(path)
    write_landmarks(path, read_landmarks(path).ordered(("N", "Prn", "Sn", "Pg", "Ex_R", "Ex_L")))
    node = detected(loaded)
    index = loaded._landmarks.index()
    drag(loaded, node, index["Prn"], (3.0, 0.0, 0.0))
    drag(loaded, node, index["Gn"], (3.0, 0.0, 0.0))
    dragged = [node.GetNthControlPointPositionWorld(index[label]) for label in ("Prn", "Gn")]
    asked: list[str] = []
    slicer.util.confirmYesNoDisplay = lambda text, **_: asked.append(text)
    loaded.loadLandmarks(str(path))
    assert "2 of them corrected" in asked[0]
    assert np.allclose(node.GetNthControlPointPositionWorld(index["Prn"]), dragged[0])
    slicer.util.confirmYesNoDisplay = lambda *_, **__: True
    loaded.loadLandmarks(str(path))
    states = loaded._landmarks.states()
    assert states["Prn"] == "detected" and states["Gn"] == "corrected"
    assert list(states.values()).count("detected") == 49
    assert np.allclose(node.GetNthControlPointPositionWorld(index["Gn"]), dragged[1])


@pytest.mark.parametrize("with_landmarks", [True, False])
def test_a_scan_in_metres_that_is_scaled_keeps_corrections_and_measurements(
    loaded: Any, tmp_path: Path, with_landmarks: bool
) -> None:
    loaded.loadScan(str(sample_in_metres(tmp_path)))
    node = detected(loaded)
    index = loaded._landmarks.index()
    drag(loaded, node, index["Pg"], (0.003, 0.0, 0.002))
    corrected = 1000 * np.array(node.GetNthControlPointPositionWorld(index["Pg"]))
    row = [loaded.ui.measurementTable.item(i, 0).text() for i in range(29)].index("N - Pg")
    loaded._updateTable()
    length = loaded.ui.measurementTable.item(row, 1).text()
    assert exported_unit(loaded, tmp_path) == "m"
    scaled = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    scaled.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([1000.0, 1000, 1000, 1])))
    for moved in (loaded._parameterNode.source, node) if with_landmarks else (loaded._parameterNode.source,):
        moved.SetAndObserveTransformNodeID(scaled.GetID())
    loaded._updateTable()
    assert loaded.ui.measurementTable.item(row, 1).text() == length
    for _ in range(2):
        loaded.ui.detectButton.click()
        wait(loaded)
        assert loaded._landmarks.states()["Pg"] == "corrected"
        assert np.allclose(node.GetNthControlPointPositionWorld(index["Pg"]), corrected, atol=0.1)
    loaded._updateTable()
    assert float(loaded.ui.measurementTable.item(row, 1).text()[:-3]) == pytest.approx(float(length[:-3]), abs=0.11)
    assert exported_unit(loaded, tmp_path) == "mm"


def exported_unit(panel: Any, folder: Path) -> str:
    """What the table of the landmarks calls the unit of their coordinates."""
    panel.exportLandmarks(str(folder / "exported.csv"))
    (unit,) = {line.split(",")[-1] for line in (folder / "exported.csv").read_text().splitlines()[1:]}
    return unit


def test_an_exported_table_and_a_single_landmark_are_taken_up(loaded: Any, tmp_path: Path) -> None:
    path = tmp_path / "anna.csv"
    node = detected(loaded)
    index = loaded._landmarks.index()
    drag(loaded, node, index["Prn"], (3.0, 0.0, 0.0))
    corrected = slicer.util.arrayFromMarkupsControlPoints(node, world=True)
    loaded.exportLandmarks(str(path))
    slicer.util.confirmYesNoDisplay = lambda *_, **__: True
    loaded.ui.resetAllButton.click()
    loaded.loadLandmarks(str(path))
    np.testing.assert_allclose(slicer.util.arrayFromMarkupsControlPoints(node, world=True), corrected, atol=1e-6)
    assert set(loaded._landmarks.states().values()) == {"corrected"}
    loaded.ui.undoButton.click()
    write_landmarks(path, read_landmarks(path).ordered(("Prn",)))
    loaded.loadLandmarks(str(path))
    states = loaded._landmarks.states()
    assert states.pop("Prn") == "corrected" and set(states.values()) == {"detected"}
    np.testing.assert_allclose(node.GetNthControlPointPositionWorld(index["Prn"]), corrected[index["Prn"]], atol=1e-6)


def test_two_lists_with_landmarks_of_the_same_name_are_told_apart_from_damage(loaded: Any, tmp_path: Path) -> None:
    path = tmp_path / "two.mrk.json"
    detect_to(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, "markups": 2 * document["markups"]}), encoding="utf-8")
    loaded.loadLandmarks(str(path))
    assert "two points are called 'Tr'" in loaded.ui.statusLabel.text


def test_landmarks_of_another_scan_are_refused(loaded: Any, tmp_path: Path) -> None:
    path = tmp_path / "ben.mrk.json"
    detect_to(path)
    other = read_landmarks(path)
    write_landmarks(path, replace(other, points=np.add(other.points, (0.0, 1.5, 1.5))))
    before = slicer.mrmlScene.GetNumberOfNodes()
    loaded.loadLandmarks(str(path))
    assert "do not lie on 'PALNetLandmarksFace'" in loaded.ui.statusLabel.text
    write_landmarks(path, LandmarkSet(("A1", "A2", "A3"), np.eye(3)))
    loaded.loadLandmarks(str(path))
    assert "has none of the 50 known landmarks" in loaded.ui.statusLabel.text
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_a_name_without_ending_becomes_a_markups_file(loaded: Any, tmp_path: Path) -> None:
    detected(loaded)
    loaded.exportLandmarks(str(tmp_path / "anna"))
    assert [path.name for path in tmp_path.iterdir()] == ["anna.mrk.json"]
    loaded.exportLandmarks(str(tmp_path / "anna"))
    assert "'anna.mrk.json' exists already" in loaded.ui.statusLabel.text


def test_a_folder_that_cannot_be_written_is_said(loaded: Any, tmp_path: Path) -> None:
    detected(loaded)
    (tmp_path / "file").write_text("no folder")
    loaded.exportLandmarks(str(tmp_path / "file" / "anna.mrk.json"))
    assert "anna.mrk.json" in loaded.ui.statusLabel.text
    assert loaded.ui.statusLabel.text.count(".") <= 4


def test_an_emptied_path_stands_for_the_bundled_weights(loaded: Any, tmp_path: Path) -> None:
    from PALNetLandmarksLib.resources import resource_path

    path = tmp_path / "mine.safetensors"
    for suffix in ("", ".sha256"):
        Path(f"{path}{suffix}").write_bytes(Path(f"{resource_path('Weights.safetensors')}{suffix}").read_bytes())
    loaded.ui.weightsSelector.currentPath = str(path)
    assert loaded._parameterNode.weights == str(path)
    loaded.ui.weightsSelector.currentPath = ""
    assert loaded._parameterNode.weights == ""


def test_weights_of_another_scheme_are_refused(loaded: Any, tmp_path: Path) -> None:
    from PALNetLandmarksLib.resources import resource_path
    from PALNetLandmarksLib.weights import load_weights, save_weights

    bundled = load_weights(resource_path("Weights.safetensors"))
    labels = [f"X{i}" for i in range(50)]
    path = tmp_path / "other.safetensors"
    save_weights(path, bundled.arrays, {**bundled.metadata, "labels": json.dumps(labels)})
    loaded.ui.weightsSelector.currentPath = str(path)
    assert loaded._parameterNode.weights == ""
    assert "choose weights trained for the 50 landmarks of this module" in loaded.ui.statusLabel.text


def test_a_large_scan_goes_to_a_process_of_its_own(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from PALNetLandmarksMRML import place_landmarks

    here = detected(loaded)
    expected = np.array(slicer.util.arrayFromMarkupsControlPoints(here))
    slicer.mrmlScene.RemoveNode(here)
    monkeypatch.setattr(place_landmarks, "MOST_POINTS_IN_FOREGROUND", 1000)
    started = []
    launch = slicer.util.launchConsoleProcess
    monkeypatch.setattr(
        slicer.util, "launchConsoleProcess", lambda *a, **k: started.append(launch(*a, **k)) or started[-1]
    )
    node = detected(loaded)
    assert len(started) == 1
    assert np.abs(slicer.util.arrayFromMarkupsControlPoints(node) - expected).max() < 1e-6

    slicer.mrmlScene.RemoveNode(node)
    before = slicer.mrmlScene.GetNumberOfNodes()
    loaded.ui.detectButton.click()
    while len(started) < 2:
        slicer.app.processEvents()
    begun = time.monotonic()
    loaded.ui.detectButton.click()
    assert time.monotonic() - begun < 0.5
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    started[1].wait(timeout=10)  # ends by itself


def test_torch_is_installed_only_when_asked_and_by_the_pytorch_extension(
    panel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import types

    panel.ui.installTorchButton.click()
    assert "Extensions Manager" in panel.ui.statusLabel.text
    asked = []
    there = False

    def logic(answer: Any) -> Any:
        def install(askConfirmation: bool = False) -> Any:  # noqa: N803
            asked.append(askConfirmation)
            return answer

        return types.SimpleNamespace(installTorch=install, torchInstalled=lambda: there)

    stub = types.ModuleType("PyTorchUtils")
    monkeypatch.setitem(sys.modules, "PyTorchUtils", stub)
    for answer, sentence in ((None, "was not installed"), (types.ModuleType("torch"), "is installed")):
        stub.PyTorchUtilsLogic = lambda answer=answer: logic(answer)
        panel.ui.installTorchButton.click()
        assert sentence in panel.ui.statusLabel.text
    assert asked == [True, True]
    there = True
    panel.ui.installTorchButton.click()
    assert "is installed" in panel.ui.statusLabel.text
    assert asked == [True, True], "what is there is not installed again"


def test_sizes_and_opacity_reach_the_scene(loaded: Any) -> None:
    node = detected(loaded)
    loaded.ui.pointSizeSlider.value = 4.5
    loaded.ui.labelSizeSlider.value = 6.0
    loaded.ui.opacitySlider.value = 0.4
    assert node.GetDisplayNode().GetGlyphScale() == pytest.approx(4.5)
    assert node.GetDisplayNode().GetTextScale() == pytest.approx(6.0)
    scan = loaded._parameterNode.source
    assert scan.GetDisplayNode().GetOpacity() == pytest.approx(0.4)
    # What the module Models sets stays.
    scan.GetDisplayNode().SetOpacity(0.6)
    loaded.exit()
    loaded.enter()
    assert scan.GetDisplayNode().GetOpacity() == loaded.ui.opacitySlider.value == pytest.approx(0.6)
    loaded.loadScan(str(MODULE / "Resources" / "SampleScan.ply"))
    assert loaded.ui.opacitySlider.value == 1.0
    loaded.ui.inputSelector.activate(scan)
    assert scan.GetDisplayNode().GetOpacity() == loaded.ui.opacitySlider.value == pytest.approx(0.6)


def test_the_chosen_landmark_is_centred_and_the_view_keeps_its_direction(loaded: Any) -> None:
    node = detected(loaded)
    camera = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCameraNode")
    camera.SetPosition([10.0, 500.0, 20.0])
    camera.SetFocalPoint([0.0, 0.0, 0.0])
    loaded._table.choose("Ex_L")
    there = np.array(node.GetNthControlPointPositionWorld(loaded._landmarks.index()["Ex_L"]))
    assert np.allclose(camera.GetFocalPoint(), there)
    assert np.allclose(np.subtract(camera.GetPosition(), there), [10.0, 500.0, 20.0])
    loaded._table.go(1)
    assert loaded._table.chosen != "Ex_L"
    loaded._table.go(-1)
    assert loaded._table.chosen == "Ex_L"


def triangles_of(model: Any) -> np.ndarray:
    from vtkmodules.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(model.GetPolyData().GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64)


def subdivided(mesh: Any) -> Any:
    from training.benchmarks.speed import subdivide

    return subdivide(mesh)


def mesh_of(model: Any) -> TriangleMesh:
    return TriangleMesh(np.array(slicer.util.arrayFromModelPoints(model)), triangles_of(model))


def add_model(mesh: Any, name: str) -> Any:
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData

    points, cells, surface = vtkPoints(), vtkCellArray(), vtkPolyData()
    points.SetData(numpy_to_vtk(mesh.points, deep=True))
    offsets = np.arange(0, 3 * len(mesh.triangles) + 1, 3)
    cells.SetData(
        numpy_to_vtkIdTypeArray(offsets, deep=True), numpy_to_vtkIdTypeArray(mesh.triangles.ravel(), deep=True)
    )
    surface.SetPoints(points)
    surface.SetPolys(cells)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", name)
    node.SetAndObservePolyData(surface)
    return node
