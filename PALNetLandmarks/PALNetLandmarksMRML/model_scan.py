"""From a model node or a segment to a scan in world coordinates (RAS mm)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
from PALNetLandmarksLib.errors import UnreadableScanError
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.mesh_formats.raw_mesh import triangulate_polygons, triangulate_strips
from PALNetLandmarksLib.read_scan import clean_scan
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
from vtkmodules.vtkCommonTransforms import vtkGeneralTransform


@dataclass(frozen=True, eq=False)
class RawSurface:
    """A surface as the scene has it: ``points`` (n, 3) world RAS mm, ``triangles`` (m, 3), not checked yet."""

    points: np.ndarray
    triangles: np.ndarray
    name: str

    def scan(self) -> TriangleMesh:
        """The surface checked and cleaned; raises ``UnreadableScanError``."""
        return clean_scan(self.points, self.triangles, self.name, "RAS")


def chosen_segment(source, segment_id: str | None = None) -> str | None:  # type: ignore[no-untyped-def]
    """The segment that is meant: None for a model, the only one of a segmentation where none is named.

    Raises
    ------
    UnreadableScanError
        If there are several segments, or none, and none is named.
    """
    if segment_id is not None or not source.IsA("vtkMRMLSegmentationNode"):
        return segment_id
    segmentation = source.GetSegmentation()
    if segmentation.GetNumberOfSegments() != 1:
        raise UnreadableScanError(
            f"'{source.GetName()}' has {segmentation.GetNumberOfSegments()} segments; say which one shows the face."
        )
    return str(segmentation.GetNthSegmentID(0))


def surface_of(source, segment_id: str | None = None) -> RawSurface:  # type: ignore[no-untyped-def]
    """The surface of a model node, or of a segment of a segmentation node.

    Raises
    ------
    UnreadableScanError
        If there is no such segment, or no point.
    """
    segment_id = chosen_segment(source, segment_id)
    return _model_surface(source) if segment_id is None else _segment_surface(source, segment_id)


def surface_time(source, segment_id: str | None = None) -> int:  # type: ignore[no-untyped-def]
    """When the surface itself was changed last (VTK's time), which the node need not know; 0 if there is none yet.

    Raises
    ------
    UnreadableScanError
        As ``chosen_segment`` does.
    """
    segment_id = chosen_segment(source, segment_id)
    if segment_id is None:
        surface = source.GetPolyData()
    else:
        segment = source.GetSegmentation().GetSegment(segment_id)
        kind = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        surface = segment.GetRepresentation(kind) if segment is not None else None
    return 0 if surface is None else int(surface.GetMTime())


def scan_of_model(model) -> TriangleMesh:  # type: ignore[no-untyped-def]
    """The surface of ``model`` (``vtkMRMLModelNode``) as seen in the world, RAS mm; the node is not changed.

    All parent transforms count, linear or not.

    Raises
    ------
    UnreadableScanError
        If the node has no surface fit for detection.
    """
    return _model_surface(model).scan()


def _model_surface(model) -> RawSurface:  # type: ignore[no-untyped-def]
    return _surface(model.GetPolyData(), model)


def _segment_surface(segmentation, segment_id: str) -> RawSurface:  # type: ignore[no-untyped-def]
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        raise UnreadableScanError(f"'{segmentation.GetName()}' has no such segment; choose one of its segments.")
    segmentation.CreateClosedSurfaceRepresentation()
    surface = vtkPolyData()
    segmentation.GetClosedSurfaceRepresentation(segment_id, surface)
    return _surface(surface, segmentation, segment.GetName())


def _surface(surface: vtkPolyData | None, node, name: str = "") -> RawSurface:  # type: ignore[no-untyped-def]
    name = name or node.GetName() or "the model"
    if surface is None or surface.GetNumberOfPoints() == 0:
        raise UnreadableScanError(f"'{name}' holds no points; load the scan again.")
    points = to_world(vtk_to_numpy(surface.GetPoints().GetData()), node)
    triangles = np.concatenate(
        [
            triangulate_polygons(*_cells(surface.GetPolys())),
            triangulate_strips(*_cells(surface.GetStrips())),
        ]
    )
    return RawSurface(points, triangles, name)


def to_world(points: np.ndarray, node) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Points (n, 3) in the coordinates of a node, in the world: through all transforms above it, linear or not."""
    points = np.array(points, dtype=np.float64)
    parent = node.GetParentTransformNode()
    if parent is None:
        return points
    transform = vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(parent, None, transform)
    before, after = vtkPoints(), vtkPoints()
    before.SetData(numpy_to_vtk(points))
    after.SetDataTypeToDouble()
    transform.TransformPoints(before, after)
    return np.array(vtk_to_numpy(after.GetData()))


def _cells(cells: vtkCellArray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of all cells, one after the other, and how many each has."""
    if cells.GetNumberOfCells() == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    corners = vtk_to_numpy(cells.GetConnectivityArray()).astype(np.int64)
    return corners, np.diff(vtk_to_numpy(cells.GetOffsetsArray()).astype(np.int64))
