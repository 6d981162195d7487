"""VTK's legacy format (``.vtk``), data set POLYDATA, file versions 1 to 5.1, ASCII and binary.

VTK's own reader fills what is missing from a truncated binary file with uninitialised memory and only prints a warning.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .raw_mesh import (
    Integers,
    MeshFormatError,
    RawMesh,
    check_indices,
    coordinate_system_from_header,
    quoted,
    ragged_ranges,
    triangulate_polygons,
    triangulate_strips,
)

_TYPES = {
    "unsigned_char": "u1",
    "char": "i1",
    "signed_char": "i1",
    "unsigned_short": "u2",
    "short": "i2",
    "unsigned_int": "u4",
    "int": "i4",
    "vtkidtype": "i4",
    # Written as 8 bytes on every system where VTK is used today but Windows, which writes vtktypeint64 instead.
    "unsigned_long": "u8",
    "long": "i8",
    "vtktypeint64": "i8",
    "vtktypeuint64": "u8",
    "float": "f4",
    "double": "f8",
}
_DAMAGED = "is truncated or damaged: {}; copy or export it again"


def read_vtk(path: Path) -> RawMesh:
    """Points, polygons and triangle strips of a legacy VTK file.

    Raises
    ------
    MeshFormatError
    """
    reader = _Reader(path.read_bytes())
    title = reader.read_header()
    points: NDArray[Any] = np.empty((0, 3))
    parts = [np.empty((0, 3), dtype=np.int64)]
    while True:
        words = reader.read_line()
        if words is None or words[0] in ("POINT_DATA", "CELL_DATA"):
            break
        keyword, arguments = words[0], words[1:]
        if keyword == "POINTS":
            points = reader.read_values(_number(arguments, 0) * 3, _text(arguments, 1)).reshape(-1, 3)
        elif keyword in ("VERTICES", "LINES", "POLYGONS", "TRIANGLE_STRIPS"):
            cells = reader.read_cells(_number(arguments, 0), _number(arguments, 1))
            if keyword == "POLYGONS":
                parts.append(triangulate_polygons(*cells))
            elif keyword == "TRIANGLE_STRIPS":
                parts.append(triangulate_strips(*cells))
        elif keyword == "FIELD":
            reader.skip_field(_number(arguments, 1))
        elif keyword == "METADATA":
            reader.skip_metadata()
        else:
            raise MeshFormatError(_DAMAGED.format(f"{quoted(keyword)} stands where a section should begin"))
    triangles = np.concatenate(parts)
    check_indices(triangles, len(points))
    return RawMesh(points, triangles, coordinate_system_from_header(title))


def _text(words: list[str], index: int) -> str:
    if index >= len(words):
        raise MeshFormatError(_DAMAGED.format("a section lacks its size"))
    return words[index]


def _number(words: list[str], index: int) -> int:
    word = _text(words, index)
    if not word.isdigit():
        raise MeshFormatError(_DAMAGED.format(f"{quoted(word)} stands where a number should be"))
    return int(word)


class _Reader:
    """A position in the file's bytes, moved on by every ``read_...``."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.binary = False
        self.version = 0

    def read_header(self) -> bytes:
        """Version, title (returned), encoding and kind of data set."""
        lines = [self._next_line() for _ in range(2)]
        version = re.match(rb"#\s*vtk DataFile Version\s+(\d+)", lines[0] or b"", re.IGNORECASE)
        if version is None:
            raise MeshFormatError(
                "is not a legacy VTK file (it would begin with '# vtk DataFile Version'); export the scan again as VTK"
            )
        self.version = int(version.group(1))
        words = self.read_line() or []
        self.binary = words[:1] == ["BINARY"]
        if words[:1] not in (["BINARY"], ["ASCII"]):
            raise MeshFormatError(_DAMAGED.format("its third line says neither ASCII nor BINARY"))
        words = self.read_line() or []
        if len(words) < 2 or words[0] != "DATASET":
            raise MeshFormatError(_DAMAGED.format("it does not say what it holds"))
        if words[1] != "POLYDATA":
            raise MeshFormatError(
                f"holds data of the kind {quoted(words[1])}, not a surface; save a surface model (polydata) instead"
            )
        return lines[1] or b""

    def _next_line(self) -> bytes | None:
        if self.position >= len(self.data):
            return None
        end = self.data.find(b"\n", self.position)
        end = len(self.data) if end < 0 else end
        line = self.data[self.position : end]
        self.position = end + 1
        return line

    def read_line(self) -> list[str] | None:
        """Words of the next line that has any; its first in capitals; ``None`` at the end of the file."""
        while True:
            line = self._next_line()
            if line is None:
                return None
            words = line[:1000].decode("latin-1").split()
            if words:
                return [words[0].upper(), *words[1:]]

    def read_values(self, count: int, type_name: str) -> NDArray[Any]:
        """The next ``count`` numbers, float for real types and int64 for whole ones."""
        code = _TYPES.get(type_name.lower())
        if code is None:
            raise MeshFormatError(_DAMAGED.format(f"{quoted(type_name)} is no type of number"))
        stored = np.dtype(">" + code)
        result = stored.newbyteorder("=") if stored.kind == "f" else np.dtype(np.int64)
        if self.binary:
            if self.position + count * stored.itemsize > len(self.data):
                raise MeshFormatError(_DAMAGED.format("it ends before all the numbers its header promises"))
            values = np.frombuffer(self.data, stored, count, self.position).astype(result)
            self.position += count * stored.itemsize
            return values
        return self._read_text_values(count).astype(result)

    def _read_text_values(self, count: int) -> NDArray[np.float64]:
        # Whole numbers survive as float64 up to 2**53, far above any index. The numbers end where the next section
        # begins with a capital letter at the beginning of a line.
        following = re.compile(rb"\n[ \t]*[A-MO-Z]").search(self.data, self.position)
        end = following.start() if following else len(self.data)
        text = self.data[self.position : end]
        self.position = end
        try:
            values = np.fromstring(text, sep=" ") if text.strip() else np.empty(0)
        except (ValueError, DeprecationWarning):
            values = np.empty(0)
        if len(values) != count:
            raise MeshFormatError(_DAMAGED.format("a section does not hold as many numbers as its header promises"))
        return values

    def read_cells(self, first: int, second: int) -> tuple[Integers, Integers]:
        """Point indices of all cells, one after the other, and the number of points of each."""
        if self.version >= 5:
            offsets = self._read_named_array("OFFSETS", first)
            indices = self._read_named_array("CONNECTIVITY", second)
            counts = np.diff(offsets)
            if np.any(counts < 0) or (len(offsets) and (offsets[0] != 0 or offsets[-1] != len(indices))):
                raise MeshFormatError(_DAMAGED.format("the corners of its faces do not add up"))
            return indices, counts
        values = self.read_values(second, "int")
        if first and second == 4 * first and np.all(values[::4] == 3):
            return values.reshape(-1, 4)[:, 1:].reshape(-1), np.full(first, 3, dtype=np.int64)
        starts = np.empty(first, dtype=np.int64)
        counts = np.empty(first, dtype=np.int64)
        position = 0
        for cell in range(first):
            if position >= second or values[position] < 0:
                raise MeshFormatError(_DAMAGED.format("the corners of its faces do not add up"))
            starts[cell] = position + 1
            counts[cell] = values[position]
            position += 1 + int(values[position])
        if position != second:
            raise MeshFormatError(_DAMAGED.format("the corners of its faces do not add up"))
        return values[ragged_ranges(starts, counts)], counts

    def _read_named_array(self, name: str, count: int) -> Integers:
        words = self.read_line() or [""]
        if words[0] != name:
            raise MeshFormatError(_DAMAGED.format(f"the {name.lower()} of its faces are missing"))
        return self.read_values(count, _text(words, 1))

    def skip_field(self, arrays: int) -> None:
        """Pass over ``arrays`` named arrays."""
        for _ in range(arrays):
            words = self.read_line() or []
            if words[:1] == ["METADATA"]:
                self.skip_metadata()
                words = self.read_line() or []
            count = _number(words, 1) * _number(words, 2)
            if _text(words, 3) == "string":
                for _ in range(count):
                    self._skip_string()
            elif not self.binary:
                self._skip_words(count)
            elif words[3] == "bit":
                self.position += (count + 7) // 8
            else:
                self.read_values(count, words[3])

    def _skip_words(self, count: int) -> None:
        for word in itertools.islice(re.compile(rb"\S+").finditer(self.data, self.position), count):
            self.position = word.end()

    def _skip_string(self) -> None:
        if not self.binary:
            self._next_line()
            return
        # The length comes first, in 1, 2, 4 or 8 bytes (big-endian) of which the first two bits say how many.
        if self.position >= len(self.data):
            raise MeshFormatError(_DAMAGED.format("it ends within its field data"))
        width = {3: 1, 2: 2, 1: 4, 0: 8}[self.data[self.position] >> 6]
        length = int.from_bytes(self.data[self.position : self.position + width], "big") & ((1 << (8 * width - 2)) - 1)
        self.position += width + length

    def skip_metadata(self) -> None:
        """Pass over a METADATA block, which ends with an empty line."""
        while True:
            line = self._next_line()
            if line is None or not line.strip():
                return
