"""Taking triangle surfaces apart and putting them together: points (n, 3) and triangles (m, 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkImageData, vtkPolyData
from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D, vtkPolyDataNormals
from vtkmodules.vtkFiltersModeling import vtkFillHolesFilter, vtkLoopSubdivisionFilter

Surface = tuple[NDArray[np.float64], NDArray[np.int64]]


def compact(points: NDArray[np.float64], triangles: NDArray[np.int64]) -> Surface:
    """Drop the points that no triangle uses."""
    used = np.zeros(len(points), dtype=bool)
    used[triangles] = True
    return points[used], (np.cumsum(used) - 1)[triangles]


def join(parts: Sequence[Surface]) -> Surface:
    """One surface of several, as they are."""
    offsets = np.cumsum([0] + [len(points) for points, _ in parts[:-1]])
    return (
        np.concatenate([points for points, _ in parts]),
        np.concatenate([triangles + offset for (_, triangles), offset in zip(parts, offsets)]),
    )


def bridge_holes(points: NDArray[np.float64], triangles: NDArray[np.int64], radius_mm: float) -> Surface:
    """Close the holes that fit into a sphere of ``radius_mm`` by large flat triangles, as capture software does."""
    closing = vtkFillHolesFilter()
    closing.SetInputData(to_vtk(points, triangles))
    closing.SetHoleSize(radius_mm)
    turning = vtkPolyDataNormals()  # the filter winds its triangles either way
    turning.SetInputConnection(closing.GetOutputPort())
    turning.ConsistencyOn()
    turning.SplittingOff()
    turning.Update()
    return _from_vtk(turning.GetOutput())


def subdivide_smoothly(points: NDArray[np.float64], triangles: NDArray[np.int64], times: int) -> Surface:
    """Loop's subdivision: every triangle becomes four, ``times`` over, of a surface that is smooth in the limit."""
    smoothing = vtkLoopSubdivisionFilter()
    smoothing.SetInputData(to_vtk(points, triangles))
    smoothing.SetNumberOfSubdivisions(times)
    smoothing.Update()
    return _from_vtk(smoothing.GetOutput())


def unweld(points: NDArray[np.float64], triangles: NDArray[np.int64]) -> Surface:
    """Every triangle with three vertices of its own, as in an STL file."""
    return points[triangles].reshape(-1, 3), np.arange(triangles.size).reshape(-1, 3)


def split_triangles(triangles: NDArray[np.int64], point_count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut every triangle into four at the middles of its edges.

    Returns
    -------
    triangles : (4 m, 3), where the middle of edge number i is point ``point_count + i``.
    edges : (e, 2) the points that each edge joins.
    """
    edges, edge_of = find_edges(triangles, point_count)
    a, b, c = triangles.T
    ab, bc, ca = (point_count + edge_of).T
    corners = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
    return np.concatenate([np.stack(corner, axis=1) for corner in corners]), edges


def find_edges(triangles: NDArray[np.int64], point_count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges (e, 2), each once, and which of them are each triangle's ab, bc and ca (m, 3)."""
    pairs = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    keys, edge_of = np.unique(pairs[:, 0] * point_count + pairs[:, 1], return_inverse=True)
    return np.stack([keys // point_count, keys % point_count], axis=1), edge_of.reshape(-1, 3)


def zero_surface(field: NDArray[np.floating], corner: Sequence[float] = (0.0, 0.0, 0.0), cell: float = 1.0) -> Surface:
    """Where a field (nx, ny, nz) on a grid from ``corner`` with cells of ``cell`` is zero; wound as VTK winds."""
    image = vtkImageData()
    image.SetDimensions(*field.shape)
    image.SetSpacing(cell, cell, cell)
    image.SetOrigin(*corner)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(field.ravel(order="F")), deep=True))
    edges = vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, 0.0)
    edges.ComputeNormalsOff()
    edges.ComputeGradientsOff()
    edges.ComputeScalarsOff()
    edges.Update()
    surface = edges.GetOutput()
    if surface.GetNumberOfCells() == 0:
        return np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64)
    return _from_vtk(surface)


def to_vtk(points: NDArray[np.float64], triangles: NDArray[np.int64]) -> vtkPolyData:
    """A copy as VTK's filters take it."""
    surface = vtkPolyData()
    locations = vtkPoints()
    locations.SetData(numpy_to_vtk(np.ascontiguousarray(points), deep=True))
    surface.SetPoints(locations)
    cells = vtkCellArray()
    offsets = np.arange(0, triangles.size + 1, 3)
    cells.SetData(numpy_to_vtkIdTypeArray(offsets, deep=True), numpy_to_vtkIdTypeArray(triangles.ravel(), deep=True))
    surface.SetPolys(cells)
    return surface


def _from_vtk(surface: vtkPolyData) -> Surface:
    points = vtk_to_numpy(surface.GetPoints().GetData()).astype(np.float64)
    return points, vtk_to_numpy(surface.GetPolys().GetConnectivityArray()).reshape(-1, 3).astype(np.int64)
