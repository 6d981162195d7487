"""STL, ASCII and binary."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .raw_mesh import MeshFormatError, RawMesh, coordinate_system_from_header
from .text_lines import TokenizedLines, line_blocks

_RECORD = np.dtype([("normal", "<f4", (3,)), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_HEADER_BYTES = 84


def read_stl(path: Path) -> RawMesh:
    """All triangles of an STL file (every triangle has three points of its own).

    Raises
    ------
    MeshFormatError
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(1024)
        count = int(np.frombuffer(start[80:84], "<u4")[0]) if len(start) >= _HEADER_BYTES else 0
        # Many binary files begin with 'solid' too; their length gives them away.
        is_text = start.lstrip()[:5].lower() == b"solid" and b"\0" not in start
        if is_text and size != _HEADER_BYTES + count * _RECORD.itemsize:
            stream.seek(0)
            return _read_ascii(path)
        if len(start) < _HEADER_BYTES or size < _HEADER_BYTES + count * _RECORD.itemsize:
            if b"\0" not in start:
                raise MeshFormatError("is no STL mesh but a text of another kind; export the scan again as STL")
            raise MeshFormatError(
                f"is truncated or not an STL mesh: its header promises {count:,} triangles, which do not fit "
                f"{size:,} bytes; copy it again or export the scan again as STL"
            )
        stream.seek(_HEADER_BYTES)
        records = np.frombuffer(stream.read(count * _RECORD.itemsize), _RECORD)
    points = records["corners"].reshape(-1, 3).astype(np.float32)
    triangles = np.arange(len(points), dtype=np.int64).reshape(-1, 3)
    return RawMesh(points, triangles, coordinate_system_from_header(start[:80]))


def _read_ascii(path: Path) -> RawMesh:
    points: list[NDArray[np.float64]] = []
    header = b""
    closed = False
    with path.open("rb") as stream:
        for block in line_blocks(stream):
            lines = TokenizedLines(block)
            is_vertex = lines.starts_with(b"vertex") | lines.starts_with(b"VERTEX")
            if not points:
                header = block[:512].split(b"\n", 1)[0]
            points.append(lines.floats(np.flatnonzero(is_vertex), skip=1, columns=3))
            ends = lines.starts_with(b"endsolid") | lines.starts_with(b"ENDSOLID") | lines.starts_with(b"end")
            closed = bool(ends[-1]) if len(lines) else closed
    corners = np.concatenate(points) if points else np.empty((0, 3))
    if len(corners) % 3:
        raise MeshFormatError("is truncated: it ends within a triangle; copy or export it again")
    warnings = () if closed else ("The STL file has no end mark; it may have been cut short.",)
    triangles = np.arange(len(corners), dtype=np.int64).reshape(-1, 3)
    return RawMesh(corners, triangles, coordinate_system_from_header(header), warnings)
