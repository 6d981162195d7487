"""Polygon file format (Stanford PLY): ASCII and binary of either byte order."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

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
from .text_lines import TokenizedLines, line_blocks

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
    **dict.fromkeys(("int64", "long"), "i8"),
    **dict.fromkeys(("uint64", "ulong"), "u8"),
}
_INDEX_LISTS = ("vertex_indices", "vertex_index")
_TRUNCATED = "is truncated: it ends before the {} its header promises; copy or export it again"


@dataclass(frozen=True)
class _Property:
    """A column of an element; ``count_type`` is set for lists."""

    name: str
    type: str
    count_type: str | None = None


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[_Property] = field(default_factory=list)

    def promise(self) -> str:
        return f"{self.count:,} {dict(vertex='points', face='faces').get(self.name, self.name)}"


@dataclass(frozen=True)
class _Header:
    byte_order: str | None  # None: ASCII
    elements: list[_Element]
    comments: bytes


def read_ply(path: Path) -> RawMesh:
    """Points and faces (or triangle strips) of a PLY file; all other elements and properties are skipped.

    Raises
    ------
    MeshFormatError
    """
    with path.open("rb") as stream:
        header = _read_header(stream)
        names = [element.name for element in header.elements]
        if "vertex" not in names:
            raise MeshFormatError("holds no points; export the scan again")
        if header.byte_order is None:
            points, polygons, strips = _read_ascii(stream, header)
        else:
            points, polygons, strips = _read_binary(stream.read(), header)
    triangles = np.concatenate([triangulate_polygons(*polygons), triangulate_strips(*_split_strips(strips))])
    check_indices(triangles, len(points))
    return RawMesh(points, triangles, coordinate_system_from_header(header.comments))


# ---------------------------------------------------------------------------------------------------------------------
# Header


def _read_header(stream: BinaryIO) -> _Header:
    if stream.readline(100).strip() != b"ply":
        raise MeshFormatError("is not a PLY mesh (a PLY file begins with 'ply'); export the scan again as PLY")
    byte_order: str | None = None
    form = ""
    elements: list[_Element] = []
    comments = []
    while True:
        line = stream.readline(100_000)
        words = line.decode("latin-1").split()
        if not line:
            raise MeshFormatError("is truncated: it ends within its header; copy or export it again")
        if not words:
            continue
        try:
            if words[0] in ("comment", "obj_info"):
                comments.append(line)
            elif words[0] == "format":
                form = words[1]
                byte_order = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}[form]
            elif words[0] == "element":
                elements.append(_Element(words[1], _natural_number(words[2])))
            elif words[0] == "property" and words[1] == "list":
                elements[-1].properties.append(_Property(words[4], _TYPES[words[3]], _TYPES[words[2]]))
            elif words[0] == "property":
                elements[-1].properties.append(_Property(words[2], _TYPES[words[1]]))
            elif words[0] == "end_header":
                break
        except (IndexError, KeyError, ValueError):
            text = quoted(line.decode("latin-1").strip())
            raise MeshFormatError(f"has a damaged header ({text}); export the scan again as PLY") from None
    if not form:
        raise MeshFormatError("has a damaged header (no 'format' line); export the scan again as PLY")
    return _Header(byte_order, elements, b"".join(comments))


def _natural_number(word: str) -> int:
    number = int(word)
    if number < 0:
        raise ValueError
    return number


def _coordinate_columns(element: _Element) -> list[int]:
    names = [None if p.count_type else p.name for p in element.properties]
    try:
        return [names.index(axis) for axis in "xyz"]
    except ValueError:
        raise MeshFormatError("has points without x, y and z; export the scan again as PLY") from None


_Lists = tuple[Integers, Integers]


def _no_lists() -> _Lists:
    return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)


def _split_strips(strips: _Lists) -> _Lists:
    """Strips written as one long list in which -1 begins a new one, as separate strips."""
    indices, counts = strips
    breaks = indices == -1
    list_of_index = np.repeat(np.arange(len(counts)), counts)
    strip_of_index = np.cumsum(breaks) + list_of_index
    kept = strip_of_index[~breaks]
    return indices[~breaks], np.bincount(kept) if len(kept) else np.empty(0, dtype=np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# ASCII


def _read_ascii(stream: BinaryIO, header: _Header) -> tuple[NDArray[np.float64], _Lists, _Lists]:
    vertices: list[NDArray[np.float64]] = []
    lists: dict[str, list[_Lists]] = {"face": [], "tristrips": []}
    queue = [element for element in header.elements if element.count]
    remaining = queue[0].count if queue else 0
    for block in line_blocks(stream):
        lines = TokenizedLines(block)
        done = 0
        while queue and done < len(lines):
            element = queue[0]
            rows = np.arange(done, min(done + remaining, len(lines)))
            if element.name == "vertex" and all(p.count_type is None for p in element.properties):
                columns = _coordinate_columns(element)
                vertices.append(lines.floats(rows, skip=0, columns=max(columns) + 1)[:, columns])
            elif element.name == "vertex":
                raise MeshFormatError("stores lists with its points; export the scan again as binary PLY or OBJ")
            elif element.name in lists:
                lists[element.name].append(_ascii_lists(lines, rows, element))
            done += len(rows)
            remaining -= len(rows)
            if remaining == 0:
                queue.pop(0)
                remaining = queue[0].count if queue else 0
        if not queue:
            break
    if queue:
        raise MeshFormatError(_TRUNCATED.format(queue[0].promise()))
    points = np.concatenate(vertices) if vertices else np.empty((0, 3))
    return points, _join_lists(lists["face"]), _join_lists(lists["tristrips"])


def _ascii_lists(lines: TokenizedLines, rows: Integers, element: _Element) -> _Lists:
    token = lines.first[rows].copy()
    end = token + lines.counts[rows]
    found: _Lists | None = None
    for prop in element.properties:
        if np.any(token >= end):
            raise MeshFormatError("is damaged: a face holds too few numbers; export or copy the scan again")
        if prop.count_type is None:
            token += 1
            continue
        counts = lines.integers(token)
        if np.any(counts < 0) or np.any(token + 1 + counts > end):
            raise MeshFormatError("is damaged: a face holds too few numbers; export or copy the scan again")
        if prop.name in _INDEX_LISTS:
            found = lines.integers(ragged_ranges(token + 1, counts)), counts
        token += 1 + counts
    return found or _no_lists()


def _join_lists(parts: list[_Lists]) -> _Lists:
    if not parts:
        return _no_lists()
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


# ---------------------------------------------------------------------------------------------------------------------
# Binary


def _read_binary(data: bytes, header: _Header) -> tuple[NDArray[Any], _Lists, _Lists]:
    order = header.byte_order or "<"
    points: NDArray[Any] = np.empty((0, 3))
    lists = {"face": _no_lists(), "tristrips": _no_lists()}
    position = 0
    for element in header.elements:
        if not element.count or not element.properties:
            continue
        if all(prop.count_type is None for prop in element.properties):
            record = np.dtype([(f"p{i}", order + prop.type) for i, prop in enumerate(element.properties)])
            end = position + element.count * record.itemsize
            if end > len(data):
                raise MeshFormatError(_TRUNCATED.format(element.promise()))
            if element.name == "vertex":
                rows = np.frombuffer(data, record, element.count, position)
                columns = [f"p{i}" for i in _coordinate_columns(element)]
                precision = np.result_type(*(record[name].newbyteorder("=") for name in columns), np.float32)
                points = np.empty((element.count, 3), dtype=precision)
                for axis, name in enumerate(columns):
                    points[:, axis] = rows[name]
            position = end
        elif element.name == "vertex":
            raise MeshFormatError("stores lists with its points; export the scan again as another PLY or as OBJ")
        else:
            found, position = _binary_lists(data, position, element, order)
            if element.name in lists:
                lists[element.name] = found
    return points, lists["face"], lists["tristrips"]


def _binary_lists(data: bytes, position: int, element: _Element, order: str) -> tuple[_Lists, int]:
    """Index lists of an element that has list properties, and where it ends.

    Rows are taken in runs of equal layout: a mesh of triangles is one run, read without a loop over its faces. Where
    triangles and quads take turns, runs are short, and the rows are walked one by one.
    """
    parts: list[_Lists] = []
    counts = [(prop.name, np.dtype(prop.count_type).kind) for prop in element.properties if prop.count_type]
    can_walk = all(kind in "iu" for _, kind in counts) and sum(name in _INDEX_LISTS for name, _ in counts) < 2
    done = runs = 0
    while done < element.count:
        if can_walk and runs > 64 and done < 64 * runs:  # until long runs could pay again
            count = min(element.count - done, 1 << 17)
            found, position = _walk_lists(data, position, element, order, count)
            parts += found
            done += count
            continue
        runs += 1
        lengths = _list_lengths(data, position, element, order)
        record = _row_type(element, order, lengths)
        # Runs are tried with a bounded number of rows so that many short runs do not look at the whole rest each time.
        available = min(element.count - done, (len(data) - position) // record.itemsize, 1 << 20)
        if available == 0:
            raise MeshFormatError(_TRUNCATED.format(element.promise()))
        rows = np.frombuffer(data, record, min(available, 16), position)
        run = _run_length(rows, lengths)
        if run == 16 < available:
            rows = np.frombuffer(data, record, available, position)
            run = _run_length(rows, lengths)
        for i, prop in enumerate(element.properties):
            if prop.name in _INDEX_LISTS and prop.count_type:
                indices = rows[f"p{i}"][:run].astype(np.int64).reshape(-1)
                parts.append((indices, np.full(run, lengths[i], dtype=np.int64)))
        position += run * record.itemsize
        done += run
    return _join_lists(parts), position


def _walk_lists(data: bytes, position: int, element: _Element, order: str, count: int) -> tuple[list[_Lists], int]:
    """The index lists of the next ``count`` rows, and where these end."""
    steps = []
    wanted: np.dtype[Any] | None = None
    for prop in element.properties:
        of_indices = prop.count_type is not None and prop.name in _INDEX_LISTS
        wanted = np.dtype(order + prop.type) if of_indices else wanted
        of_count = np.dtype(prop.count_type) if prop.count_type else None
        signed = of_count is not None and of_count.kind == "i"
        steps.append((of_count.itemsize if of_count else 0, signed, np.dtype(prop.type).itemsize, of_indices))
    first_byte: Literal["little", "big"] = "little" if order == "<" else "big"
    starts, lengths = [], []
    for _ in range(count):
        for count_size, signed, size, of_indices in steps:
            if not count_size:
                position += size
                continue
            length = int.from_bytes(data[position : position + count_size], first_byte, signed=signed)
            position += count_size
            if of_indices:
                starts.append(position)
                lengths.append(length)
            position += length * size
            if length < 0 or position > len(data):
                raise MeshFormatError(_TRUNCATED.format(element.promise()))
    if position > len(data):
        raise MeshFormatError(_TRUNCATED.format(element.promise()))
    if wanted is None:
        return [], position
    each = np.array(lengths, dtype=np.int64)
    picked = np.frombuffer(data, np.uint8)[ragged_ranges(np.array(starts, dtype=np.int64), each * wanted.itemsize)]
    return [(picked.view(wanted).astype(np.int64), each)], position


def _run_length(rows: NDArray[Any], lengths: dict[int, int]) -> int:
    """How many of the first ``rows`` have lists of the given lengths; at least 1."""
    different = np.zeros(len(rows), dtype=bool)
    for i, length in lengths.items():
        different |= rows[f"n{i}"] != length
    return int(np.argmax(different)) if different.any() else len(rows)


def _list_lengths(data: bytes, position: int, element: _Element, order: str) -> dict[int, int]:
    lengths = {}
    for i, prop in enumerate(element.properties):
        size = np.dtype(prop.type).itemsize
        if prop.count_type:
            count_size = np.dtype(prop.count_type).itemsize
            if position + count_size > len(data):
                raise MeshFormatError(_TRUNCATED.format(element.promise()))
            lengths[i] = int(np.frombuffer(data, order + prop.count_type, 1, position)[0])
            if not 0 <= lengths[i] * size <= len(data) - position:
                raise MeshFormatError(_TRUNCATED.format(element.promise()))
            position += count_size + lengths[i] * size
        else:
            position += size
    return lengths


def _row_type(element: _Element, order: str, lengths: dict[int, int]) -> np.dtype[Any]:
    fields: list[Any] = []
    for i, prop in enumerate(element.properties):
        if prop.count_type:
            fields.append((f"n{i}", order + prop.count_type))
            fields.append((f"p{i}", order + prop.type, (lengths[i],)))
        else:
            fields.append((f"p{i}", order + prop.type))
    return np.dtype(fields)
