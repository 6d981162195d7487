"""VTK's XML poly data (``.vtp``), through VTK's own reader."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from .raw_mesh import (
    Integers,
    MeshFormatError,
    RawMesh,
    check_indices,
    coordinate_system_from_header,
    triangulate_polygons,
    triangulate_strips,
)


def read_vtp(path: Path) -> RawMesh:
    """Points, polygons and triangle strips of all pieces of a VTP file.

    Raises
    ------
    MeshFormatError
    """
    data = path.read_bytes()
    _check_frame(data)
    # Imported here: no other format needs VTK, whose start-up would delay them.
    from vtkmodules.vtkIOXML import vtkXMLPolyDataReader

    errors: list[str] = []

    def remember(_caller: Any, event: str) -> None:
        errors.append(event)

    reader: Any = vtkXMLPolyDataReader()
    # With an observer VTK reports errors to it instead of printing them. The bytes are read here, as VTK's handling of
    # file names outside the system's code page differs between its versions on Windows.
    for source in (reader, reader.GetExecutive()):
        source.AddObserver("ErrorEvent", remember)
        source.AddObserver("WarningEvent", remember)
    reader.ReadFromInputStringOn()
    reader.SetInputString(data)
    reader.UpdateInformation()
    parser = reader.GetXMLParser()
    if not errors and parser is not None:
        for source in filter(None, (parser, parser.GetCompressor())):
            source.AddObserver("ErrorEvent", remember)
            source.AddObserver("WarningEvent", remember)
        reader.GetPointDataArraySelection().DisableAllArrays()
        reader.GetCellDataArraySelection().DisableAllArrays()
        reader.Update()
    if errors:
        raise MeshFormatError("is damaged: its data cannot be decoded; copy or export it again")
    surface = reader.GetOutput()
    points = _points(surface)
    triangles = np.concatenate(
        [triangulate_polygons(*_cells(surface.GetPolys())), triangulate_strips(*_cells(surface.GetStrips()))]
    )
    check_indices(triangles, len(points))
    space = surface.GetFieldData().GetAbstractArray("SPACE")
    header = f"SPACE={space.GetVariantValue(0).ToString()}" if space is not None and space.GetNumberOfValues() else ""
    return RawMesh(points, triangles, coordinate_system_from_header(header))


def _check_frame(data: bytes) -> None:
    opening = re.search(rb"<VTKFile\b[^>]*>", data[:100_000])
    if opening is None:
        raise MeshFormatError("is not a VTP mesh (it has no 'VTKFile' element); export the scan again as VTP")
    kind = re.search(rb"\btype\s*=\s*[\"'](\w+)", opening.group())
    if kind is None or kind.group(1) != b"PolyData":
        name = kind.group(1).decode("ascii", "replace") if kind else "something unnamed"
        raise MeshFormatError(f"holds a VTK {name}, not a surface; save a surface model (PolyData) instead")
    if b"</VTKFile>" not in data[-4096:]:
        raise MeshFormatError("is truncated: the end of its XML is missing; copy or export it again")
    # VTK prints errors of the XML itself before any observer could be attached, so they are looked for here first.
    for attribute, known in ((b"byte_order", b"LittleEndian|BigEndian"), (b"header_type", b"UInt32|UInt64")):
        value = re.search(rb"\b" + attribute + rb"\s*=\s*[\"']([^\"']*)", opening.group())
        if value is not None and not re.fullmatch(known, value.group(1)):
            raise MeshFormatError("is damaged: its first element has errors; copy or export it again")
    # Appended raw data are no XML; they begin after an underscore.
    appended = re.search(rb"<AppendedData\b[^>]*>", data)
    document = data[: appended.end()] + b"</AppendedData></VTKFile>" if appended else data
    try:
        expat.ParserCreate().Parse(document, True)
    except expat.ExpatError:
        raise MeshFormatError("is damaged: its XML has errors; copy or export it again") from None


def _points(surface: Any) -> NDArray[Any]:
    from vtkmodules.util.numpy_support import vtk_to_numpy

    if surface.GetPoints() is None or surface.GetNumberOfPoints() == 0:
        return np.empty((0, 3))
    return np.array(vtk_to_numpy(surface.GetPoints().GetData()))


def _cells(cells: Any) -> tuple[Integers, Integers]:
    """Point indices of all cells, one after the other, and the number of points of each."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkIdTypeArray

    if cells is None or cells.GetNumberOfCells() == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    arrays = []
    for source in (cells.GetConnectivityArray(), cells.GetOffsetsArray()):
        # Newer VTK keeps some of these as formulas; copying makes plain numbers of any kind of array.
        plain = vtkIdTypeArray()
        plain.DeepCopy(source)
        arrays.append(vtk_to_numpy(plain).astype(np.int64))
    return arrays[0], np.diff(arrays[1])
