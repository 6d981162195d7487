"""From a file to a model node."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import slicer
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.read_scan import read_scan
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData

#: What Slicer reads by itself, with its own storage node.
SLICER_SUFFIXES = (".obj", ".ply", ".stl", ".vtp", ".vtk")


def load_scan(path: Path | str):  # type: ignore[no-untyped-def]
    """Load a scan as ``vtkMRMLModelNode``: by Slicer's reader where it has one, else from the library's.

    Raises
    ------
    UnreadableScanError
        If the file holds no surface; nothing is left in the scene.
    """
    path = Path(path)
    # The library's reader first: it says what is wrong with a file, and Slicer 5.12 crashes on a truncated PLY.
    scan = read_scan(path)
    if path.suffix.lower() not in SLICER_SUFFIXES:
        return _add_model(scan, path.stem)
    node = None
    with contextlib.suppress(RuntimeError):
        node = slicer.util.loadModel(str(path))
    if node is None or node.GetPolyData() is None or node.GetPolyData().GetNumberOfPoints() == 0:
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)
        return _add_model(scan, path.stem)
    return node


def _add_model(scan: TriangleMesh, name: str):  # type: ignore[no-untyped-def]
    points = vtkPoints()
    flip = (-1.0, -1.0, 1.0) if scan.coordinate_system == "LPS" else (1.0, 1.0, 1.0)
    points.SetData(numpy_to_vtk(np.asarray(scan.points, dtype=np.float64) * flip, deep=True))
    corners = np.ascontiguousarray(scan.triangles, dtype=np.int64).ravel()
    offsets = np.arange(0, len(corners) + 1, 3, dtype=np.int64)
    cells = vtkCellArray()
    cells.SetData(numpy_to_vtkIdTypeArray(offsets, deep=True), numpy_to_vtkIdTypeArray(corners, deep=True))
    surface = vtkPolyData()
    surface.SetPoints(points)
    surface.SetPolys(cells)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", name)
    node.SetAndObservePolyData(surface)
    node.CreateDefaultDisplayNodes()
    return node
