"""Wavefront OBJ."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .raw_mesh import (
    Integers,
    MeshFormatError,
    RawMesh,
    check_indices,
    coordinate_system_from_header,
    join_meshes,
    ragged_ranges,
    triangulate_polygons,
)
from .text_lines import TokenizedLines, line_blocks


def read_obj(path: Path) -> RawMesh:
    """All groups and objects of an OBJ file as one mesh; normals, texture, lines and materials are passed over.

    A last line that was cut off is left out with a warning, as the rest may still be a whole face.

    Raises
    ------
    MeshFormatError
    """
    points: list[NDArray[np.float64]] = []
    triangles: list[Integers] = []
    warnings: list[str] = []
    comments = b""
    number_of_points = 0
    with path.open("rb") as stream:
        for block in line_blocks(stream):
            if b"\0" in block:
                raise MeshFormatError("is not a text file, so it is no OBJ mesh; export the scan again as OBJ")
            text = block.removeprefix(b"\xef\xbb\xbf") if not points and not comments else block
            if b"#" in text:
                comments += b"\n".join(re.findall(rb"#.*SPACE=.*", text))
                text = re.sub(rb"#[^\n]*", b"", text)
            if b"\\" in text:
                # Only what goes on with a number is a continuation: a path in a name may end in a backslash too.
                text = re.sub(rb"\\[ \t]*\n+(?=[ \t]*[\d.+-])", b" ", text)
            lines = TokenizedLines(text)
            is_vertex, is_face = lines.starts_with(b"v"), lines.starts_with(b"f")
            if len(lines) and is_vertex[-1] and lines.counts[-1] < 4 and not block.endswith(b"\n"):
                warnings.append("The last line of the file is incomplete; the file may have been cut short.")
                is_vertex[-1] = False
            points.append(lines.floats(np.flatnonzero(is_vertex), skip=1, columns=3))
            triangles.append(_faces(lines, is_face, number_of_points + np.cumsum(is_vertex)))
            number_of_points += len(points[-1])
    all_points, all_triangles = join_meshes(points, triangles)
    check_indices(all_triangles, number_of_points)
    return RawMesh(all_points, all_triangles, coordinate_system_from_header(comments), tuple(warnings))


def _faces(lines: TokenizedLines, is_face: NDArray[np.bool_], points_so_far: Integers) -> Integers:
    """Triangles, counted from 0, of the face lines of a block; ``points_so_far`` (per line) is for negative indices."""
    if not is_face.any():
        return np.empty((0, 3), dtype=np.int64)
    corners = lines.counts[is_face] - 1
    indices = lines.integers(ragged_ranges(lines.first[is_face] + 1, corners), terminators=b"/")
    if (indices < 0).any():
        indices = np.where(indices < 0, np.repeat(points_so_far[is_face], corners) + indices + 1, indices)
    return triangulate_polygons(indices - 1, corners)
