"""Reading scans: the same surface in every format, exactly; every bad file refused with one clear sentence."""

from __future__ import annotations

import base64
import json
import re
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PALNetLandmarksLib.errors import UnreadableScanError
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.read_scan import SUPPORTED_SUFFIXES, read_scan
from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
from vtkmodules.vtkCommonCore import vtkPoints, vtkStringArray
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
from vtkmodules.vtkIOGeometry import vtkOBJWriter, vtkSTLWriter
from vtkmodules.vtkIOLegacy import vtkPolyDataWriter
from vtkmodules.vtkIOPLY import vtkPLYWriter
from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
ROWS, COLUMNS = 60, 50


def bumpy_sheet(offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """3,000 points on a wavy sheet without any symmetry, (n, 3) float64, and its quads, (m, 4)."""
    rng = np.random.default_rng(1)
    u, v = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
    points = np.stack([30 + 3.1 * u, -50 + 3.3 * v, 9 * np.sin(u / 7) * np.cos(v / 5)], axis=-1).reshape(-1, 3)
    points = np.round(points + rng.normal(scale=0.2, size=points.shape), 6) + offset
    corner = (u[:-1, :-1] * COLUMNS + v[:-1, :-1]).ravel()
    quads = np.stack([corner, corner + COLUMNS, corner + COLUMNS + 1, corner + 1], axis=1)
    return points, quads


POINTS, QUADS = bumpy_sheet()
TRIANGLES = np.concatenate([QUADS[:, [0, 1, 2]], QUADS[:, [0, 2, 3]]])
SINGLE = POINTS.astype(np.float32).astype(np.float64)


def poly_data(points: np.ndarray, cells: np.ndarray, strips: list[list[int]] | None = None) -> vtkPolyData:
    def cell_array(ids: list[np.ndarray]) -> vtkCellArray:
        offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in ids])])
        array = vtkCellArray()
        array.SetData(
            numpy_to_vtkIdTypeArray(offsets, deep=True), numpy_to_vtkIdTypeArray(np.concatenate(ids), deep=True)
        )
        return array

    vtk_points = vtkPoints()
    vtk_points.SetData(numpy_to_vtk(points, deep=True))
    data = vtkPolyData()
    data.SetPoints(vtk_points)
    if len(cells):
        data.SetPolys(cell_array(list(cells)))
    if strips:
        data.SetStrips(cell_array([np.array(strip) for strip in strips]))
    return data


def vtk_write(writer: object, path: Path, data: vtkPolyData) -> Path:
    writer.SetInputData(data)  # type: ignore[attr-defined]
    writer.SetFileName(str(path))  # type: ignore[attr-defined]
    assert writer.Write() == 1  # type: ignore[attr-defined]
    return path


def obj_text(points: np.ndarray, cells: np.ndarray, head: str = "", corner: str = "{0}") -> str:
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in points.tolist()]
    lines += ["f " + " ".join(corner.format(i + 1) for i in cell) for cell in cells.tolist()]
    return head + "\n".join(lines) + "\n"


def ply_bytes(points: np.ndarray, cells: np.ndarray, order: str = "<", comment: str = "", real: str = "f8") -> bytes:
    name = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
    head = (
        f"ply\nformat {name} 1.0\n{comment}element vertex {len(points)}\n"
        + "".join(
            f"property {'double' if real == 'f8' else 'float'} {axis}\nproperty uchar c{axis}\n" for axis in "xyz"
        )
        + f"element face {len(cells)}\nproperty uchar flag\nproperty list uchar int vertex_indices\nend_header\n"
    )
    vertex = np.zeros(len(points), dtype=[(k, order + real if i % 2 == 0 else "u1") for i, k in enumerate("xaybzc")])
    for axis, key in enumerate("xyz"):
        vertex[key] = points[:, axis]
    width = cells.shape[1]
    face = np.zeros(len(cells), dtype=[("flag", "u1"), ("n", "u1"), ("ids", order + "i4", (width,))])
    face["n"] = width
    face["ids"] = cells
    return head.encode() + vertex.tobytes() + face.tobytes()


def stl_bytes(points: np.ndarray, triangles: np.ndarray, header: bytes = b"binary") -> bytes:
    record = np.zeros(len(triangles), dtype=[("n", "<f4", (3,)), ("v", "<f4", (3, 3)), ("a", "<u2")])
    record["v"] = points[triangles]
    return header.ljust(80) + struct.pack("<I", len(triangles)) + record.tobytes()


def off_text(points: np.ndarray, cells: np.ndarray) -> str:
    lines = [f"{x!r} {y!r} {z!r}" for x, y, z in points.tolist()]
    lines += [f"{len(cell)} " + " ".join(map(str, cell)) for cell in cells.tolist()]
    return f"OFF\n# a comment\n{len(points)} {len(cells)} 0\n" + "\n".join(lines) + "\n"


def gltf_document(binary: bytes, number_of_indices: int, nodes: list[dict], mode: int = 4) -> dict:
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": nodes,
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "mode": mode}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(POINTS), "type": "VEC3"},
            {"bufferView": 1, "componentType": 5125, "count": number_of_indices, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 12 * len(POINTS)},
            {"buffer": 0, "byteOffset": 12 * len(POINTS), "byteLength": 4 * number_of_indices},
        ],
        "buffers": [{"byteLength": len(binary)}],
    }


def glb_bytes(nodes: list[dict] | None = None, indices: np.ndarray = TRIANGLES, mode: int = 4) -> bytes:
    binary = POINTS.astype("<f4").tobytes() + indices.astype("<u4").tobytes()
    document = json.dumps(gltf_document(binary, indices.size, nodes or [{"mesh": 0}], mode)).encode()
    document += b" " * (-len(document) % 4)
    chunks = struct.pack("<II", len(document), 0x4E4F534A) + document
    chunks += struct.pack("<II", len(binary), 0x004E4942) + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def area(mesh: TriangleMesh) -> float:
    return float(mesh.triangle_areas_and_normals[0].sum())


SHEET_AREA = area(TriangleMesh(SINGLE, TRIANGLES))


def assert_is_sheet(mesh: TriangleMesh, points: np.ndarray = POINTS) -> None:
    """Every point is there bit for bit (in any order), none twice, and the surface faces the same way everywhere."""
    order, expected_order = np.lexsort(mesh.points.T), np.lexsort(points.T)
    np.testing.assert_array_equal(mesh.points[order], points[expected_order])
    assert mesh.points.dtype == np.float64
    assert mesh.triangles.dtype == np.int64
    assert len(mesh.triangles) == len(TRIANGLES)
    assert area(mesh) == pytest.approx(SHEET_AREA, rel=1e-4)
    assert np.all(mesh.triangle_areas_and_normals[1][:, 2] > 0)


# ---------------------------------------------------------------------------------------------------------------------
# Formats


def obj_cases() -> dict[str, str]:
    mixed = obj_text(POINTS, QUADS[:100]) + obj_text(POINTS[:0], TRIANGLES[np.r_[100 : len(QUADS)]])
    mixed += obj_text(POINTS[:0], TRIANGLES[len(QUADS) + np.r_[100 : len(QUADS)]])
    relative = obj_text(POINTS, QUADS[:0]) + "".join(
        "f " + " ".join(str(i - len(POINTS)) for i in quad) + "\n" for quad in QUADS.tolist()
    )
    plain = obj_text(POINTS, QUADS)
    parts = obj_text(POINTS, QUADS[:0], head="o first\n") + obj_text(POINTS[:0], QUADS[:1000], head="g a\nusemtl b\n")
    parts += obj_text(POINTS[:0], QUADS[1000:], head="g c\ns off\n")
    colours = re.sub(r"(?m)^(v .*)$", r"\1 0.5 0.25 1", plain)
    some_colours = re.sub(r"(?m)^(v .*1)$", r"\1 0.5 0.25 1", plain)
    return {
        "quads": plain,
        "triangles and quads": mixed,
        "texture": obj_text(POINTS, QUADS, "mtllib a.mtl\nvt 0 1\nvn 0 0 1\n", "{0}/1"),
        "normals": obj_text(POINTS, QUADS, "vt 0 1\nvn 0 0 1\n", "{0}//1"),
        "texture and normals": obj_text(POINTS, QUADS, "vt 0 1\nvn 0 0 1\n", "{0}/1/1"),
        "relative indices": relative,
        "groups": parts,
        "colours": colours,
        "colours on some": some_colours,
        "dos": plain.replace("\n", "\r\n"),
        "old mac": plain.replace("\n", "\r"),
        "indented, tabs": plain.replace("v ", "  v\t").replace("f ", "\tf \t"),
        "byte order mark": "\ufeff" + plain,
        "comments": "# C:\\scans\\\n" + plain.replace("\nf ", " # point\n# x\nf ", 1),
        "continued lines": re.sub(r"(?m)^(f \d+ \d+) ", "\\1 \\\\\n  ", plain),
        "no last newline": plain.rstrip("\n"),
        "unwelded": obj_text(POINTS[TRIANGLES].reshape(-1, 3), np.arange(TRIANGLES.size).reshape(-1, 3)),
        "interleaved normals": re.sub(r"(?m)^(v .*)$", r"vn 0 0 1\n\1", plain),
    }


@pytest.mark.parametrize("case", obj_cases())
def test_obj_keeps_points_in_double_precision(tmp_path: Path, case: str) -> None:
    assert_is_sheet(read_scan(write(tmp_path / "sheet.obj", obj_cases()[case])))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("cells", [TRIANGLES, QUADS], ids=["triangles", "quads"])
def test_binary_ply(tmp_path: Path, order: str, cells: np.ndarray) -> None:
    assert_is_sheet(read_scan(write(tmp_path / "sheet.ply", ply_bytes(POINTS, cells, order))))


def test_ply_of_triangles_and_quads_with_other_elements(tmp_path: Path) -> None:
    head = (
        f"ply\r\nformat binary_little_endian 1.0\r\nelement camera 2\r\nproperty float f\r\n"
        f"element vertex {len(POINTS)}\r\nproperty double x\r\nproperty double y\r\nproperty double z\r\n"
        f"element face {len(QUADS) + 1000}\r\nproperty list uchar int vertex_index\r\n"
        "property list uchar float texcoord\r\nend_header\r\n"
    )
    faces = []
    for i, quad in enumerate(QUADS.tolist()):
        for cell in [quad] if i % 3 else [quad[:3], [quad[0], *quad[2:]]]:
            faces.append(struct.pack(f"<B{len(cell)}i", len(cell), *cell))
            faces.append(struct.pack("<B6f", 6, *[0.5] * 6) if i % 2 else b"\0")
    number = len(faces) // 2
    head = head.replace(str(len(QUADS) + 1000), str(number))
    data = head.encode() + b"\0" * 8 + POINTS.astype("<f8").tobytes() + b"".join(faces)
    assert_is_sheet(read_scan(write(tmp_path / "mixed.ply", data)))
    with pytest.raises(UnreadableScanError, match="is truncated"):
        read_scan(write(tmp_path / "mixed.ply", data[:-40]))
    # Corners by the thousand million, where a quad should begin.
    short = data.index(faces[-2], len(data) - 60)
    with pytest.raises(UnreadableScanError, match=r"is truncated|do not exist"):
        read_scan(write(tmp_path / "mixed.ply", data[:short] + b"\xff" + data[short + 1 :]))


def test_ply_of_quads_and_triangles_by_turns_is_read_as_fast_as_others(tmp_path: Path) -> None:
    side = 330
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    points = np.stack([x, y, np.sin(x / 9)], axis=-1).reshape(-1, 3).astype(">f4")
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).ravel()
    quads = np.stack([corner, corner + 1, corner + side + 1, corner + side], axis=1)
    by_turns = ([quad] if i % 2 else [quad[:3], quad[2:] + quad[:1]] for i, quad in enumerate(quads.tolist()))
    faces = [cell for cells in by_turns for cell in cells]
    head = (
        f"ply\nformat binary_big_endian 1.0\nelement vertex {len(points)}\nproperty float x\nproperty float y\n"
        f"property float z\nelement face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = b"".join(struct.pack(f">B{len(cell)}i", len(cell), *cell) for cell in faces)
    path = write(tmp_path / "turns.ply", head.encode() + points.tobytes() + rows)
    usual = write(tmp_path / "triangles.ply", ply_bytes(points, np.vstack([quads[:, :3], quads[:, [2, 3, 0]]])))
    seconds = []
    for file in (usual, path):
        begun = time.process_time()
        mesh = read_scan(file)
        seconds.append(time.process_time() - begun)
    assert seconds[1] < 12 * seconds[0]  # run by run it took 40 times as long
    expected = np.sort(np.vstack([quads[:, [0, 1, 2]], quads[:, [2, 3, 0]]]), axis=1)
    found = np.sort(mesh.triangles, axis=1)
    assert np.array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


@pytest.mark.parametrize("ascii_file", [True, False])
def test_ply_triangle_strips(tmp_path: Path, ascii_file: bool) -> None:
    strip = grid_strip()
    head = (
        f"ply\nformat {'ascii' if ascii_file else 'binary_little_endian'} 1.0\nelement vertex {len(POINTS)}\n"
        "property double x\nproperty double y\nproperty double z\n"
        "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    ).encode()
    if ascii_file:
        rows = "\n".join(" ".join(map(repr, point)) for point in POINTS.tolist())
        data = head + rows.encode() + f"\n{len(strip)} {' '.join(map(str, strip))}\n".encode()
    else:
        data = head + POINTS.astype("<f8").tobytes() + np.array([len(strip), *strip], dtype="<i4").tobytes()
    assert_is_sheet(read_scan(write(tmp_path / "strips.ply", data)))


def grid_strip() -> list[int]:
    """The sheet as triangle strips along its rows, separated by -1, wound like ``TRIANGLES``."""
    strip: list[int] = []
    for row in range(ROWS - 1):
        for column in range(COLUMNS):
            strip += [row * COLUMNS + column, (row + 1) * COLUMNS + column]
        strip.append(-1)
    return strip[:-1]


def test_ascii_ply_with_extra_columns(tmp_path: Path) -> None:
    head = (
        f"ply\nformat ascii 1.0\ncomment x\nelement vertex {len(POINTS)}\nproperty float nx\nproperty double x\n"
        "property double y\nproperty double z\nproperty uchar red\n"
        f"element face {len(QUADS)}\nproperty float quality\nproperty list uchar int vertex_indices\n"
        "property list uchar float texcoord\nend_header\n"
    )
    rows = [f"0.1 {x!r} {y!r} {z!r} 255" for x, y, z in POINTS.tolist()]
    rows += [f"0.5 4 {' '.join(map(str, quad))} 2 0.25 0.75" for quad in QUADS.tolist()]
    assert_is_sheet(read_scan(write(tmp_path / "sheet.ply", head + "\n".join(rows))))


@pytest.mark.parametrize("header", [b"binary", b"solid that is not ASCII"])
def test_binary_stl_is_welded(tmp_path: Path, header: bytes) -> None:
    assert_is_sheet(read_scan(write(tmp_path / "sheet.stl", stl_bytes(POINTS, TRIANGLES, header))), SINGLE)


def test_ascii_stl_of_two_solids(tmp_path: Path) -> None:
    lines = []
    for part in (TRIANGLES[:2000], TRIANGLES[2000:]):
        lines.append("solid vertex")
        for a, b, c in POINTS[part].tolist():
            lines.append("  facet normal 0 0 1\n    outer loop")
            lines += [f"      vertex {x!r} {y!r} {z!r}" for x, y, z in (a, b, c)]
            lines.append("    endloop\n  endfacet")
        lines.append("endsolid vertex")
    mesh = read_scan(write(tmp_path / "two.stl", "\n".join(lines) + "\n"))
    assert_is_sheet(mesh)
    assert mesh.warnings == ()
    mesh = read_scan(write(tmp_path / "open.stl", "\n".join(lines[:-1]) + "\n"))
    assert_is_sheet(mesh)
    assert "cut short" in mesh.warnings[0]


@pytest.mark.parametrize("keyword", ["OFF", "COFF"])
def test_off(tmp_path: Path, keyword: str) -> None:
    text = off_text(POINTS, QUADS).replace("OFF", keyword, 1)
    assert_is_sheet(read_scan(write(tmp_path / "sheet.off", text)))
    text = text.replace(f"{keyword}\n# a comment\n", f"{keyword} ")
    assert_is_sheet(read_scan(write(tmp_path / "one_line.off", text)))
    assert_is_sheet(read_scan(write(tmp_path / "colours.off", re.sub(r"(?m)^(4 .*)$", r"\1 0.1 0.2 0.3", text))))


@pytest.mark.parametrize("version", [42, 51])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "ascii"])
@pytest.mark.parametrize("content", ["triangles", "mixed", "strips"])
def test_legacy_vtk(tmp_path: Path, version: int, binary: bool, content: str) -> None:
    strips = [[r * COLUMNS + c + s * COLUMNS for c in range(COLUMNS) for s in (0, 1)] for r in range(ROWS - 1)]
    mixed = [*QUADS[:700], *TRIANGLES[700 : len(QUADS)], *TRIANGLES[len(QUADS) + 700 :]]
    data = {
        "triangles": poly_data(POINTS, TRIANGLES),
        "mixed": poly_data(POINTS, mixed),
        "strips": poly_data(POINTS, TRIANGLES[:0], strips),
    }[content]
    words = vtkStringArray()
    words.SetName("Who wrote it")
    words.InsertNextValue("one\nof POLYGONS")
    data.GetFieldData().AddArray(words)
    numbers = numpy_to_vtk(np.arange(70.0))
    numbers.SetName("numbers")
    data.GetFieldData().AddArray(numbers)
    data.GetPointData().SetNormals(numpy_to_vtk(POINTS))
    writer = vtkPolyDataWriter()
    writer.SetFileVersion(version)
    writer.SetHeader("3D Slicer output. SPACE=RAS")
    (writer.SetFileTypeToBinary if binary else writer.SetFileTypeToASCII)()
    mesh = read_scan(vtk_write(writer, tmp_path / "sheet.vtk", data))
    assert mesh.coordinate_system == "RAS"
    if binary:
        assert_is_sheet(mesh)
    else:
        # VTK writes double precision with fewer digits than it has in ASCII.
        np.testing.assert_allclose(mesh.points, POINTS, rtol=1e-5)
        assert area(mesh) == pytest.approx(SHEET_AREA, rel=1e-3)


@pytest.mark.parametrize("mode", ["Ascii", "Binary", "Appended"])
@pytest.mark.parametrize("space", [None, "LPS", "RAS"])
def test_vtp(tmp_path: Path, mode: str, space: str | None) -> None:
    data = poly_data(POINTS, [*QUADS[:700], *TRIANGLES[700 : len(QUADS)], *TRIANGLES[len(QUADS) + 700 :]])
    if space:
        array = vtkStringArray()
        array.SetName("SPACE")
        array.InsertNextValue(space)
        data.GetFieldData().AddArray(array)
    writer = vtkXMLPolyDataWriter()
    getattr(writer, f"SetDataModeTo{mode}")()
    mesh = read_scan(vtk_write(writer, tmp_path / "sheet.vtp", data))
    assert_is_sheet(mesh)
    assert mesh.coordinate_system == (space or "LPS")


@pytest.mark.parametrize("kind", ["stl", "ply", "obj"])
def test_files_of_vtk_itself(tmp_path: Path, kind: str) -> None:
    writer = {"stl": vtkSTLWriter, "ply": vtkPLYWriter, "obj": vtkOBJWriter}[kind]()
    path = vtk_write(writer, tmp_path / f"sheet.{kind}", poly_data(POINTS.astype(np.float32), TRIANGLES))
    mesh = read_scan(path)
    assert len(mesh.points) == len(POINTS)
    np.testing.assert_allclose(
        mesh.points[np.lexsort(mesh.points.T)], SINGLE[np.lexsort(SINGLE.T)], atol=1e-3 if kind == "stl" else 1e-4
    )


def test_glb_applies_the_transforms_of_nested_nodes(tmp_path: Path) -> None:
    half = np.sqrt(0.5)
    nodes = [
        {"children": [1, 2], "translation": [1000.0, 0.0, 0.0], "scale": [2.0, 2.0, 2.0]},
        {"mesh": 0, "rotation": [0.0, 0.0, half, half]},  # 90 degrees about z
        {"mesh": 0, "matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, -1, 0, 0, 0, 500, 1]},  # mirrored, column by column
    ]
    mesh = read_scan(write(tmp_path / "scene.glb", glb_bytes(nodes)))
    turned = np.stack([-SINGLE[:, 1], SINGLE[:, 0], SINGLE[:, 2]], axis=1) * 2 + [1000, 0, 0]
    mirrored = (SINGLE * [1, 1, -1] + [0, 0, 500]) * 2 + [1000, 0, 0]
    expected = np.concatenate([turned, mirrored])
    assert len(mesh.points) == len(expected)
    np.testing.assert_allclose(mesh.points, expected, atol=1e-9)
    normals = mesh.triangle_areas_and_normals[1]
    assert np.all(normals[: len(TRIANGLES), 2] > 0)
    # A mirrored surface keeps its outside: what faced +z before faces -z now.
    assert np.all(normals[len(TRIANGLES) :, 2] < 0)


def test_gltf_strips_quantised_sparse_and_embedded(tmp_path: Path) -> None:
    strip: list[int] = []
    for row in range(ROWS - 1):
        run = [index for c in range(COLUMNS) for index in (row * COLUMNS + c, (row + 1) * COLUMNS + c)]
        # Rows are joined by repeated corners; the triangles in between have no area.
        strip += [*run[: 1 if strip else 0], *run, run[-1]]
    assert_is_sheet(read_scan(write(tmp_path / "strip.glb", glb_bytes(indices=np.array(strip), mode=5))), SINGLE)

    binary = POINTS.astype("<f4").tobytes() + TRIANGLES.astype("<u4").tobytes()
    moved = struct.pack("<H2x3f", 7, 1.0, 2.0, 3.0)
    document = gltf_document(binary + moved, TRIANGLES.size, [{"mesh": 0}])
    document["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(binary + moved).decode()
    document["bufferViews"] += [
        {"buffer": 0, "byteOffset": len(binary), "byteLength": 2},
        {"buffer": 0, "byteOffset": len(binary) + 4, "byteLength": 12},
    ]
    document["accessors"][0]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": 2, "componentType": 5123},
        "values": {"bufferView": 3},
    }
    mesh = read_scan(write(tmp_path / "sparse.gltf", json.dumps(document)))
    expected = SINGLE.copy()
    expected[7] = [1, 2, 3]
    np.testing.assert_array_equal(mesh.points, expected)

    steps = np.round(POINTS * 100).astype("<i2")
    rows = np.zeros((len(POINTS), 4), dtype="<i2")
    rows[:, :3] = steps
    binary = rows.tobytes() + TRIANGLES.astype("<u4").tobytes()
    document = gltf_document(binary, TRIANGLES.size, [{"mesh": 0, "scale": [327.67] * 3}])
    document["accessors"][0].update(componentType=5122, normalized=True)
    document["bufferViews"][0].update(byteStride=8, byteLength=rows.nbytes)
    document["bufferViews"][1]["byteOffset"] = rows.nbytes
    document["buffers"][0]["uri"] = "ganz%20weit/d%C3%A4ten.bin"
    (tmp_path / "ganz weit").mkdir()
    path = write(tmp_path / "quantised.gltf", json.dumps(document))
    with pytest.raises(UnreadableScanError, match=re.escape("needs the file 'ganz weit/däten.bin'")):
        read_scan(path)
    write(tmp_path / "ganz weit" / "däten.bin", binary)
    np.testing.assert_allclose(read_scan(path).points, steps / 100, atol=1e-9)


@pytest.mark.parametrize("suffix", SUPPORTED_SUFFIXES)
def test_names_outside_ascii(tmp_path: Path, suffix: str) -> None:
    path = good_file(tmp_path, suffix)
    folder = tmp_path / "Müller, Ağra 顔"
    folder.mkdir()
    mesh = read_scan(str(path.rename(folder / f"ñandú Ω{suffix.upper()}")))
    assert mesh.name == f"ñandú Ω{suffix.upper()}"
    assert len(mesh.points) == len(POINTS)
    assert mesh.coordinate_system == "LPS"


def good_file(folder: Path, suffix: str) -> Path:
    path = folder / f"good{suffix}"
    if suffix == ".vtk":
        writer = vtkPolyDataWriter()
        writer.SetFileTypeToBinary()
        return vtk_write(writer, path, poly_data(POINTS, QUADS))
    if suffix == ".vtp":
        return vtk_write(vtkXMLPolyDataWriter(), path, poly_data(POINTS, QUADS))
    binary = POINTS.astype("<f4").tobytes() + TRIANGLES.astype("<u4").tobytes()
    if suffix == ".gltf":
        document = gltf_document(binary, TRIANGLES.size, [{"mesh": 0}])
        document["buffers"][0]["uri"] = "data:;base64," + base64.b64encode(binary).decode()
        return write(path, json.dumps(document))
    return write(
        path,
        {
            ".obj": lambda: obj_text(POINTS, QUADS),
            ".ply": lambda: ply_bytes(POINTS, TRIANGLES),
            ".stl": lambda: stl_bytes(POINTS, TRIANGLES),
            ".off": lambda: off_text(POINTS, QUADS),
            ".glb": glb_bytes,
        }[suffix](),
    )


# ---------------------------------------------------------------------------------------------------------------------
# What is kept, what is not


@pytest.mark.parametrize("space", ["LPS", "RAS"])
def test_coordinate_system_of_slicer_headers(tmp_path: Path, space: str) -> None:
    mark = f"3D Slicer output. SPACE={space}"
    files = [
        write(tmp_path / "a.obj", obj_text(POINTS, QUADS, head=f"# {mark}\n")),
        write(tmp_path / "a.ply", ply_bytes(POINTS, QUADS, comment=f"comment VTK generated\ncomment SPACE={space}\n")),
        write(tmp_path / "a.stl", stl_bytes(POINTS, TRIANGLES, header=mark.encode())),
    ]
    for path in files:
        assert read_scan(path).coordinate_system == space


def test_large_offsets_lose_nothing(tmp_path: Path) -> None:
    points, quads = bumpy_sheet(offset=1e6)
    for path in (
        write(tmp_path / "far.obj", obj_text(points, quads)),
        write(tmp_path / "far.ply", ply_bytes(points, quads)),
        write(tmp_path / "far.off", off_text(points, quads)),
    ):
        mesh = read_scan(path)
        np.testing.assert_array_equal(mesh.points, points)
        assert len(mesh.triangles) == len(TRIANGLES)


def test_order_of_points_is_kept_and_only_what_is_useless_left_out(tmp_path: Path) -> None:
    extra = np.array([[1e3, 1e3, 1e3], [np.nan, 0, 0]])  # without triangles, so not part of the surface
    points = np.concatenate([extra[:1], POINTS[:10], POINTS[3:4], POINTS[10:], extra[1:]])
    new = np.concatenate([np.arange(1, 11), np.arange(12, 12 + len(POINTS) - 10)])
    triangles = new[TRIANGLES]
    triangles[triangles == 4] = np.where(np.arange(np.count_nonzero(triangles == 4)) % 2, 4, 11)  # the copy of point 3
    line = np.array([[1, 1, 2], [4, 11, 5], [7, 7, 7]])  # no area: corners that are the same, or have the same place
    path = write(tmp_path / "messy.ply", ply_bytes(points, np.concatenate([line, triangles])))
    mesh = read_scan(path)
    np.testing.assert_array_equal(mesh.points, POINTS)
    np.testing.assert_array_equal(mesh.triangles, TRIANGLES)


def test_triangles_on_a_line_are_dropped(tmp_path: Path) -> None:
    points = np.concatenate([POINTS, [[500.0, 0, 0], [501.0, 0, 0], [503.0, 0, 0]]])
    triangles = np.concatenate([TRIANGLES, [np.arange(3) + len(POINTS)]])
    assert_is_sheet(read_scan(write(tmp_path / "line.ply", ply_bytes(points, triangles))))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("back_first", [False, True])
def test_of_a_surface_for_both_sides_the_outer_is_kept(tmp_path: Path, mixed: bool, back_first: bool) -> None:
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 60), np.linspace(0.3, 2.8, 50))  # closed but for its poles
    points = np.stack([np.sin(v) * np.cos(u), np.sin(v) * np.sin(u), np.cos(v)], axis=-1).reshape(-1, 3) * 80
    i = np.arange(50 * 60).reshape(50, 60)[:-1, :-1].reshape(-1, 1)
    outer = np.concatenate([np.add(i, [0, 60, 1]), np.add(i, [1, 60, 61])])
    both = np.stack([outer[:, ::-1], outer] if back_first else [outer, outer[:, ::-1]])
    triangles = (both.swapaxes(0, 1) if mixed else both).reshape(-1, 3)
    mesh = read_scan(write(tmp_path / "both.ply", ply_bytes(points, triangles)))
    single = read_scan(write(tmp_path / "outer.ply", ply_bytes(points, outer)))
    assert len(mesh.triangles) == len(single.triangles)
    _, normals = mesh.triangle_areas_and_normals
    assert (np.einsum("ij,ij->i", normals, mesh.points[mesh.triangles].mean(axis=1)) > 0).all()


def test_minus_zero_is_zero_for_welding(tmp_path: Path) -> None:
    points = POINTS - POINTS[5]
    corners = points[TRIANGLES].reshape(-1, 3)
    corners[::2] = np.where(corners[::2] == 0, -0.0, corners[::2])
    mesh = read_scan(write(tmp_path / "zero.ply", ply_bytes(corners, np.arange(len(corners)).reshape(-1, 3))))
    assert len(mesh.points) == len(POINTS)


def test_reading_twice_gives_the_same_bits(tmp_path: Path) -> None:
    path = write(tmp_path / "twice.stl", stl_bytes(POINTS, TRIANGLES))
    first, second = read_scan(path), read_scan(path)
    assert first.points.tobytes() == second.points.tobytes()
    assert first.triangles.tobytes() == second.triangles.tobytes()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the data folder ../shared is not here")
def test_real_scans() -> None:
    sizes = {}
    for path in sorted((SHARED / "scans").glob("*.ply")):
        mesh = read_scan(path)
        sizes[path.stem] = (len(mesh.points), len(mesh.triangles))
        assert mesh.triangles.max() == len(mesh.points) - 1
        assert len(np.unique(mesh.points, axis=0)) == len(mesh.points)
    assert sizes["facefuns_f18"] == (30204, 59697)
    assert sizes["meshmonk_demo"][1] == 107843


def test_speed_of_100000_points(tmp_path: Path) -> None:
    side = 317
    u, v = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    points = np.stack([0.7 * u, 0.7 * v, np.sin(u / 9.0)], axis=-1).reshape(-1, 3)
    corner = (u[:-1, :-1] * side + v[:-1, :-1]).ravel()
    triangles = np.concatenate([corner[:, None] + [0, side, side + 1], corner[:, None] + [0, side + 1, 1]])
    for path in (
        write(tmp_path / "large.obj", obj_text(points, triangles, corner="{0}/{0}")),
        write(tmp_path / "large.ply", ply_bytes(points, triangles)),
    ):
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            assert len(read_scan(path).points) == side**2
            seconds.append(time.perf_counter() - start)
        assert min(seconds) < 1.0


# ---------------------------------------------------------------------------------------------------------------------
# Bad files


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableScanError) as caught:
        read_scan(path)
    text = str(caught.value)
    assert path.name in text, "the sentence names the file"
    assert text.endswith(".") and "\n" not in text and ";" in text, "one sentence with a remedy"
    return text


def test_missing_file_folder_empty_file_and_unknown_suffix(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere.obj")
    (tmp_path / "folder.obj").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.obj")
    for suffix in SUPPORTED_SUFFIXES:
        assert "is empty" in refusal(write(tmp_path / f"nothing{suffix}", b""))
    for name in ("scan.xyz", "scan", "scan.obj.gz"):
        text = refusal(write(tmp_path / name, b"something"))
        for suffix in SUPPORTED_SUFFIXES:
            assert suffix[1:].upper() in text


@pytest.mark.parametrize("suffix", SUPPORTED_SUFFIXES)
def test_other_content_under_a_mesh_suffix(tmp_path: Path, suffix: str) -> None:
    jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0" + np.random.default_rng(0).bytes(50_000)
    assert "a JPEG picture" in refusal(write(tmp_path / f"photo{suffix}", jpeg))
    refusal(write(tmp_path / f"noise{suffix}", np.random.default_rng(3).bytes(50_000)))
    refusal(write(tmp_path / f"zeros{suffix}", bytes(50_000)))
    refusal(write(tmp_path / f"letter{suffix}", "Dear colleague,\nplease find attached the scan.\n" * 50))
    refusal(write(tmp_path / f"blank{suffix}", b" \n" * 50))


def test_a_mesh_under_the_wrong_suffix(tmp_path: Path) -> None:
    assert "rename it to end in '.ply'" in refusal(write(tmp_path / "wrong.obj", ply_bytes(POINTS, QUADS)))
    assert "rename it to end in '.glb'" in refusal(write(tmp_path / "wrong.stl", glb_bytes()))


@pytest.mark.parametrize("suffix", [s for s in SUPPORTED_SUFFIXES if s != ".obj"])
@pytest.mark.parametrize("kept", [0.001, 0.3, 0.6, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, suffix: str, kept: float) -> None:
    data = good_file(tmp_path, suffix).read_bytes()
    text = refusal(write(tmp_path / f"cut{suffix}", data[: max(int(len(data) * kept), 1)]))
    assert re.search("truncated|damaged|cut short|not a|begins with|header", text)


def test_truncated_obj(tmp_path: Path) -> None:
    text = obj_text(POINTS, QUADS)
    cut = text.rindex("v ") + 9
    assert "no faces" in refusal(write(tmp_path / "points_only.obj", text[:cut]))
    # All points are there and most faces: a usable surface.
    whole = read_scan(write(tmp_path / "most.obj", text[: text.rindex("f ") + 3]))
    assert len(whole.triangles) == len(TRIANGLES) - 2
    # Faces before points, points cut off.
    turned = obj_text(POINTS[:0], QUADS) + obj_text(POINTS, QUADS[:0])
    assert "cut short" in refusal(write(tmp_path / "turned.obj", turned[: int(len(turned) * 0.9)]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".obj", ".ply", ".off"])
def test_coordinates_that_are_no_numbers(tmp_path: Path, value: float, suffix: str) -> None:
    points = POINTS.copy()
    points[100, 1] = value
    content = {".obj": obj_text, ".ply": ply_bytes, ".off": off_text}[suffix](points, QUADS)
    assert "coordinates are not finite numbers (NaN or infinite; 1 of them)" in refusal(
        write(tmp_path / f"bad{suffix}", content)
    )


def test_surfaces_that_are_none(tmp_path: Path) -> None:
    assert "no points" in refusal(write(tmp_path / "a.obj", "# nothing here\ng face\n"))
    assert "no points" in refusal(write(tmp_path / "a.ply", ply_bytes(POINTS[:0], QUADS[:0])))
    assert "no points" in refusal(write(tmp_path / "a.stl", stl_bytes(POINTS, TRIANGLES[:0])))
    assert "a text of another kind" in refusal(write(tmp_path / "b.stl", "Dear colleague, here is the scan.\n" * 9))
    assert "point cloud" in refusal(write(tmp_path / "b.obj", obj_text(POINTS, QUADS[:0])))
    assert "point cloud" in refusal(write(tmp_path / "b.ply", ply_bytes(POINTS, QUADS[:0])))
    assert "no face with an area" in refusal(write(tmp_path / "c.ply", ply_bytes(POINTS * [1, 0, 0], TRIANGLES)))
    few = refusal(write(tmp_path / "d.ply", ply_bytes(POINTS, QUADS[:980])))
    assert "only 1,050 points" in few and "2,000" in few
    assert "impossibly large" in refusal(write(tmp_path / "e.ply", ply_bytes(POINTS * 1e30, QUADS)))


def test_indices_out_of_range(tmp_path: Path) -> None:
    wrong = TRIANGLES.copy()
    for index in (-1, len(POINTS), 2**31 - 1):
        wrong[17, 1] = index
        for path, content in (("a.ply", ply_bytes(POINTS, wrong)), ("a.off", off_text(POINTS, wrong))):
            assert "beyond the 3,000" in refusal(write(tmp_path / path, content))
    refusal(write(tmp_path / "a.obj", obj_text(POINTS, wrong)))
    refusal(write(tmp_path / "b.obj", obj_text(POINTS, QUADS) + "f 0 1 2\n"))
    refusal(write(tmp_path / "c.obj", obj_text(POINTS, QUADS) + "f -1 -2 -3001\n"))


def test_numbers_that_are_none(tmp_path: Path) -> None:
    for old, new in (("v 3", "v 3,"), ("\nv ", "\nv x"), ("f 1 ", "f one "), ("f 1 ", "f 1.5 ")):
        text = obj_text(POINTS, QUADS)
        assert old in text
        assert "damaged" in refusal(write(tmp_path / "bad.obj", text.replace(old, new, 1)))


def test_headers_that_promise_the_impossible(tmp_path: Path) -> None:
    ply = ply_bytes(POINTS, QUADS)
    assert b"vertex 3000" in ply
    assert "truncated" in refusal(write(tmp_path / "a.ply", ply.replace(b"vertex 3000", b"vertex 4000000000000")))
    refusal(write(tmp_path / "b.ply", ply.replace(b"vertex 3000", b"vertex -3000")))
    refusal(write(tmp_path / "c.ply", ply.replace(b"double", b"quadruple")))
    refusal(write(tmp_path / "d.ply", ply.replace(b"double z", b"double w")))
    vtk = good_file(tmp_path, ".vtk").read_bytes()
    refusal(write(tmp_path / "a.vtk", vtk.replace(b"POINTS 3000", b"POINTS 9000000000000")))
    refusal(write(tmp_path / "b.vtk", vtk.replace(b"double", b"string")))
    off = off_text(POINTS, QUADS)
    assert "truncated" in refusal(write(tmp_path / "a.off", off.replace("3000 ", "3000000000 ")))


def test_other_kinds_of_vtk_data(tmp_path: Path) -> None:
    head = "# vtk DataFile Version 3.0\nvolume\nASCII\nDATASET "
    image = head + "STRUCTURED_POINTS\nDIMENSIONS 2 2 2\nORIGIN 0 0 0\nSPACING 1 1 1\n"
    assert "of the kind 'STRUCTURED_POINTS', not a surface" in refusal(write(tmp_path / "ct.vtk", image))
    assert "UNSTRUCTURED_GRID" in refusal(write(tmp_path / "grid.vtk", head + "UNSTRUCTURED_GRID\nPOINTS 0 float\n"))
    xml = '<?xml version="1.0"?><VTKFile type="ImageData" version="0.1"></VTKFile>'
    assert "holds a VTK ImageData, not a surface" in refusal(write(tmp_path / "ct.vtp", xml))


def test_compressed_and_old_gltf(tmp_path: Path) -> None:
    data = glb_bytes()
    assert "version" in refusal(write(tmp_path / "old.glb", data[:4] + struct.pack("<I", 1) + data[8:]))
    binary = b""
    document = gltf_document(binary, 3, [{"mesh": 0}])
    document["meshes"][0]["primitives"][0]["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0}}
    text = refusal(write(tmp_path / "draco.gltf", json.dumps(document)))
    assert "without mesh compression" in text
    cyclic = gltf_document(binary, 3, [{"children": [1]}, {"children": [0]}])
    assert "contains itself" in refusal(write(tmp_path / "cycle.gltf", json.dumps(cyclic)))


@pytest.mark.parametrize("suffix", SUPPORTED_SUFFIXES)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), cut=st.floats(0, 1), flips=st.integers(0, 5), early=st.booleans())
def test_damaged_files_never_raise_anything_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str, seed: int, cut: float, flips: int, early: bool
) -> None:
    path = tmp_path / f"good{suffix}"
    data = bytearray((path if path.exists() else good_file(tmp_path, suffix)).read_bytes())
    if cut < 0.7:
        del data[int(len(data) * cut / 0.7) + 1 :]
    rng = np.random.default_rng(seed)
    for _ in range(flips):
        data[rng.integers(min(len(data), 600) if early else len(data))] = rng.integers(256)
    try:
        mesh = read_scan(write(tmp_path / f"bad{suffix}", bytes(data)))
    except UnreadableScanError as error:
        assert f"bad{suffix}" in str(error)
    else:
        assert np.all(np.isfinite(mesh.points))
        assert mesh.triangles.min() >= 0
        assert mesh.triangles.max() < len(mesh.points)
    output = capfd.readouterr()
    assert output.out + output.err == "", "VTK prints nothing"
