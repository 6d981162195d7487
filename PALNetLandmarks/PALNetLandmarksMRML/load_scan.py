"""From a file to a model node."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import slicer
from PALNetLandmarksLib.errors import UnreadableScanError
from PALNetLandmarksLib.read_scan import read_scan
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData

#: What Slicer reads by itself, with its own storage node.
SLICER_SUFFIXES = (".obj", ".ply", ".stl", ".vtp", ".vtk", ".g", ".byu")


def load_scan(path: Path | str):  # type: ignore[no-untyped-def]
    """Load a scan as ``vtkMRMLModelNode``: by Slicer's reader where it has one, else by the library's.

    Raises
    ------
    UnreadableScanError
        If the file holds no surface; nothing is left in the scene.
    """
    path = Path(path)
    if path.suffix.lower() not in SLICER_SUFFIXES:
        return _add_model(path)
    node = None
    with contextlib.suppress(RuntimeError):  # said below, by the library's reader
        node = slicer.util.loadModel(str(path))
    if node is None or node.GetPolyData() is None or node.GetPolyData().GetNumberOfPoints() == 0:
        if node is not None:  # Slicer calls a damaged file read
            slicer.mrmlScene.RemoveNode(node)
        read_scan(path)  # the library's reader says what is wrong
        raise UnreadableScanError(f"'{path.name}' cannot be read by Slicer; export it again as OBJ, PLY or STL.")
    return node


def _add_model(path: Path):  # type: ignore[no-untyped-def]
    scan = read_scan(path)
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
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", path.stem)
    node.SetAndObservePolyData(surface)
    node.CreateDefaultDisplayNodes()
    return node
