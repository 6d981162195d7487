"""Object file format (Geomview OFF), ASCII."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from .raw_mesh import MeshFormatError, RawMesh, check_indices, join_meshes, ragged_ranges, triangulate_polygons
from .text_lines import TokenizedLines, line_blocks

_HEADER = re.compile(rb"\s*(?:ST)?C?N?(4?n?)OFF(\s+BINARY)?(?:\s+(\d+)\s+(\d+)(?:[ \t]+\d+)?[ \t]*(?:\n|$))?")


def read_off(path: Path) -> RawMesh:
    """Points and polygons of an OFF file; colours, normals and texture coordinates (COFF, NOFF, STOFF) are skipped.

    Raises
    ------
    MeshFormatError
    """
    points, triangles = [], []
    promised: list[int] = []
    with path.open("rb") as stream:
        for block in line_blocks(stream):
            text = re.sub(rb"#[^\n]*", b"", block) if b"#" in block else block
            if not promised:
                if not text.strip():
                    continue
                promised, text = _read_header(text.removeprefix(b"\xef\xbb\xbf"))
                points_left, faces_left = promised
            lines = TokenizedLines(text)
            point_rows = np.arange(min(points_left, len(lines)))
            points.append(lines.floats(point_rows, skip=0, columns=3))
            points_left -= len(point_rows)
            rows = np.arange(len(point_rows), min(len(point_rows) + faces_left, len(lines)))
            faces_left -= len(rows)
            corners = lines.integers(lines.first[rows])
            if np.any(corners < 0) or np.any(corners >= lines.counts[rows]):
                raise MeshFormatError("is damaged: a face holds too few numbers; export or copy the scan again")
            indices = lines.integers(ragged_ranges(lines.first[rows] + 1, corners))
            triangles.append(triangulate_polygons(indices, corners))
    if not promised:
        _read_header(b"")
    if points_left or faces_left:
        raise MeshFormatError(
            f"is truncated: it ends before the {promised[0]:,} points and {promised[1]:,} faces its header promises; "
            "copy or export it again"
        )
    all_points, all_triangles = join_meshes(points, triangles)
    check_indices(all_triangles, len(all_points))
    return RawMesh(all_points, all_triangles)


def _read_header(text: bytes) -> tuple[list[int], bytes]:
    """Numbers of points and of faces, and the text that follows them."""
    header = _HEADER.match(text)
    if header is None:
        raise MeshFormatError("is not an OFF mesh (an OFF file begins with 'OFF'); export the scan again as OFF")
    if header.group(1) or header.group(2):
        raise MeshFormatError("is a binary or four-dimensional OFF file; export the scan as plain OFF, PLY or OBJ")
    if header.group(3) is None:
        raise MeshFormatError("has a damaged header; export the scan again as OFF")
    return [int(header.group(3)), int(header.group(4))], text[header.end() :]
