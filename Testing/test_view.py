"""The landmarks in Slicer's own 3D view: drawn where they lie, dragged by the mouse along the skin."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from harness.view import ThreeDView
from PALNetLandmarksLib.surface import SurfaceLocator
from PALNetLandmarksMRML.model_scan import scan_of_model

MODULE = Path(__file__).resolve().parents[1] / "PALNetLandmarks"


@pytest.fixture(scope="module")
def panel() -> Iterator[Any]:
    """The panel after a detection of the sample."""
    application = harness.start()
    slicer.mrmlScene.Clear(False)
    panel = harness.load_module(MODULE, "PALNetLandmarks")
    panel._parameterNode.source = panel.logic.loadSample()
    panel._parameterNode.device = "cpu"
    panel.ui.detectButton.click()
    while panel._run is not None:
        application.processEvents()
    yield panel
    panel.cleanup()
    slicer.mrmlScene.Clear(False)


@pytest.fixture(scope="module")
def view(panel: Any) -> ThreeDView:
    """Slicer's own 3D view of the face, from the front."""
    shown = ThreeDView(slicer.mrmlScene, *slicer.app.logics)
    bounds = np.zeros(6)
    panel._parameterNode.source.GetRASBounds(bounds)
    shown.look_at(bounds.reshape(3, 2).mean(axis=1))
    return shown


def distance_from_surface(source: Any, point: np.ndarray) -> float:
    return float(SurfaceLocator(scan_of_model(source)).nearest_on_surface(point[None])[1][0])


def test_the_face_and_its_landmarks_are_drawn_where_they_lie(panel: Any, view: Any, tmp_path: Path) -> None:
    node = panel._landmarks.node
    picture = view.picture().astype(int)
    index = panel._landmarks.index()
    marked = picture[..., 0] - picture[..., 1:].max(axis=-1) > 60  # the points are red, skin and ground are not
    for label in ("G", "Ex_R", "Ex_L", "Ch_R", "Ch_L", "Gn", "Is_L"):
        x, y = view.display(node.GetNthControlPointPositionWorld(index[label]))
        row, column = len(picture) - 1 - round(y), round(x)
        assert marked[row - 8 : row + 9, column - 8 : column + 9].sum() > 25, label
    assert 500 < marked.sum() < 0.05 * marked.size
    panel.ui.eyesCheckBox.click()
    hidden = view.picture().astype(int)
    x, y = view.display(node.GetNthControlPointPositionWorld(index["Ex_R"]))
    row, column = len(hidden) - 1 - round(y), round(x)
    near = hidden[row - 6 : row + 7, column - 6 : column + 7]
    assert (near[..., 0] - near[..., 1:].max(axis=-1) > 60).sum() == 0
    panel.ui.eyesCheckBox.click()
    view.save(tmp_path / "face.png")
    assert (tmp_path / "face.png").stat().st_size > 10_000


def test_the_mouse_drags_one_landmark_along_the_surface(panel: Any, view: Any) -> None:
    node, source = panel._landmarks.node, panel._parameterNode.source
    before = slicer.util.arrayFromMarkupsControlPoints(node, world=True)
    i = panel._landmarks.index()["Pg"]
    view.drag(view.display(before[i]), (40, 16))
    after = slicer.util.arrayFromMarkupsControlPoints(node, world=True)
    moved = np.linalg.norm(after - before, axis=1)
    assert 10 < moved[i] < 30
    assert np.delete(moved, i).max() == 0
    assert distance_from_surface(source, after[i]) < 1e-3  # the view drops it 0.3 mm off; the panel snaps it
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        slicer.app.processEvents()
    assert panel.ui.landmarkTable.item(10, 1).text() == "corrected"


def test_the_mouse_does_not_drag_a_locked_landmark(panel: Any, view: Any) -> None:
    node = panel._landmarks.node
    before = slicer.util.arrayFromMarkupsControlPoints(node, world=True)
    i = panel._landmarks.index()["Gn"]
    node.SetNthControlPointLocked(i, True)
    view.drag(view.display(before[i]), (30, 10))
    after = slicer.util.arrayFromMarkupsControlPoints(node, world=True)
    assert np.array_equal(before, after)
    assert panel._landmarks.states()["Gn"] == "corrected"  # what is locked is the user's


def test_a_missing_landmark_is_placed_by_a_click(panel: Any, view: Any) -> None:
    node = panel._landmarks.node
    i = panel._landmarks.index()["Prn"]
    before = np.array([node.GetNthControlPointPositionWorld(k) for k in range(50)])
    node.UnsetNthControlPointPosition(i)
    panel._table.choose("Prn")
    assert "'Place landmark'" in panel.ui.statusLabel.text
    assert panel.ui.placeButton.enabled
    view.draw()
    where = view.display(before[i])
    panel.ui.placeButton.click()
    view.click(where)
    assert node.GetNumberOfControlPoints() == 50
    assert node.GetNthControlPointPositionStatus(i) == node.PositionDefined
    after = np.array([node.GetNthControlPointPositionWorld(k) for k in range(50)])
    assert np.linalg.norm(after[i] - before[i]) < 2.0
    np.testing.assert_array_equal(np.delete(after, i, 0), np.delete(before, i, 0))
    assert distance_from_surface(panel._parameterNode.source, after[i]) < 0.05
    assert panel._landmarks.states()["Prn"] == "corrected"
    # One click, one landmark.
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform
    panel._updateTable()
    assert not panel.ui.placeButton.enabled
    panel.ui.undoButton.click()
    assert node.GetNthControlPointPositionStatus(i) != node.PositionDefined
    panel._landmarks.reset()
