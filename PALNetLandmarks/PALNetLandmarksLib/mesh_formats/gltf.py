"""glTF 2.0, binary (``.glb``) and JSON (``.gltf``)."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from .raw_mesh import Integers, MeshFormatError, RawMesh, check_indices, join_meshes, triangulate_strips

_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
_WIDTHS = {"SCALAR": 1, "VEC3": 3}
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_DAMAGED = "is damaged: {}; export the scan again"


def read_gltf(path: Path) -> RawMesh:
    """All triangles of the default scene as one mesh, placed by the transforms of their nodes.

    Points keep the file's axes and unit (y up and metres by the specification, often neither in practice). Skins and
    morph targets are not applied: the mesh is read in its rest pose.

    Raises
    ------
    MeshFormatError
    """
    data = path.read_bytes()
    if path.suffix.lower() == ".glb" or data[:4] == b"glTF":
        document, binary = _split_container(data)
    else:
        document, binary = _parse_json(data), None
    try:
        _check_version(document)
        file = _Document(document, binary, path.parent)
        points: list[NDArray[Any]] = []
        triangles: list[Integers] = []
        total = 0
        for mesh, transform in file.placed_meshes():
            for part_points, part_triangles in file.primitives(mesh):
                check_indices(part_triangles, len(part_points))
                placed = part_points if transform is None else part_points @ transform[:3, :3].T + transform[:3, 3]
                mirrored = transform is not None and np.linalg.det(transform[:3, :3]) < 0
                points.append(placed)
                triangles.append((part_triangles[:, ::-1] if mirrored else part_triangles) + total)
                total += len(part_points)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise MeshFormatError(_DAMAGED.format("its description of the scene is inconsistent")) from error
    return RawMesh(*join_meshes(points, triangles))


def _split_container(data: bytes) -> tuple[dict[str, Any], bytes | None]:
    """JSON document and binary chunk of a GLB file."""
    if data[:4] != b"glTF":
        raise MeshFormatError("is not a GLB mesh (a GLB file begins with 'glTF'); export the scan again as GLB")
    if len(data) < 20 or struct.unpack_from("<I", data, 8)[0] > len(data):
        raise MeshFormatError("is truncated: it is shorter than its header says; copy or export it again")
    if struct.unpack_from("<I", data, 4)[0] != 2:
        raise MeshFormatError("is glTF of another version than 2.0; export the scan as glTF 2.0, PLY or OBJ")
    document, binary = None, None
    position = 12
    while position + 8 <= len(data):
        length, kind = struct.unpack_from("<II", data, position)
        chunk = data[position + 8 : position + 8 + length]
        if len(chunk) < length:
            raise MeshFormatError("is truncated: it is shorter than its header says; copy or export it again")
        if kind == _JSON_CHUNK and document is None:
            document = _parse_json(chunk)
        elif kind == _BINARY_CHUNK and binary is None:
            binary = chunk
        position += 8 + length
    if document is None:
        raise MeshFormatError(_DAMAGED.format("its description of the scene is missing"))
    return document, binary


def _parse_json(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise MeshFormatError("is truncated or not a glTF mesh: it holds no valid JSON; export the scan again")
    return document


def _check_version(document: dict[str, Any]) -> None:
    version = str(document["asset"]["version"]) if "asset" in document else "unknown"
    if not version.startswith("2."):
        raise MeshFormatError(f"is glTF of version {version}, not 2.0; export the scan as glTF 2.0, PLY or OBJ")


def _refuse_compression(part: dict[str, Any]) -> None:
    """Draco and meshopt replace the plain numbers of a primitive or buffer view."""
    for name in part.get("extensions", {}):
        if "compression" in name:
            raise MeshFormatError(f"is compressed ({name}); export the scan again without mesh compression")


class _Document:
    """A glTF document with its buffers."""

    def __init__(self, document: dict[str, Any], binary: bytes | None, folder: Path) -> None:
        self.document = document
        self.binary = binary
        self.folder = folder
        self._buffers: dict[int, bytes] = {}

    def placed_meshes(self) -> Iterator[tuple[dict[str, Any], NDArray[np.float64] | None]]:
        """Every mesh of the default scene with its (4, 4) transform; ``None`` where there is none to apply."""
        nodes = self.document.get("nodes", [])
        meshes = self.document.get("meshes", [])
        scenes = self.document.get("scenes", [])
        if not nodes:
            yield from ((mesh, None) for mesh in meshes)
            return
        if scenes:
            roots = scenes[self.document.get("scene", 0)].get("nodes", [])
        else:
            children = {child for node in nodes for child in node.get("children", [])}
            roots = [index for index in range(len(nodes)) if index not in children]
        pending: list[tuple[int, NDArray[np.float64] | None, int]] = [(root, None, 0) for root in reversed(roots)]
        while pending:
            index, parent, depth = pending.pop()
            if depth > len(nodes):
                raise MeshFormatError(_DAMAGED.format("its scene contains itself"))
            node = nodes[index]
            transform = _combine(parent, _node_transform(node))
            if "mesh" in node:
                yield meshes[node["mesh"]], transform
            pending.extend((child, transform, depth + 1) for child in reversed(node.get("children", [])))

    def primitives(self, mesh: dict[str, Any]) -> Iterator[tuple[NDArray[np.float64], Integers]]:
        """Points (n, 3) and triangles (m, 3) of every part of ``mesh`` that consists of triangles."""
        for primitive in mesh["primitives"]:
            _refuse_compression(primitive)
            mode = primitive.get("mode", _TRIANGLES)
            if mode not in (_TRIANGLES, _STRIP, _FAN) or "POSITION" not in primitive["attributes"]:
                continue
            points = self.accessor(primitive["attributes"]["POSITION"]).astype(np.float64)
            if "indices" in primitive:
                corners = self.accessor(primitive["indices"]).astype(np.int64).reshape(-1)
            else:
                corners = np.arange(len(points), dtype=np.int64)
            if mode == _TRIANGLES:
                triangles = corners[: len(corners) // 3 * 3].reshape(-1, 3)
            elif mode == _STRIP:
                triangles = triangulate_strips(corners, np.array([len(corners)]))
            else:
                rim = np.arange(1, max(len(corners) - 1, 1))
                triangles = corners[np.stack([np.zeros_like(rim), rim, rim + 1], axis=1)]
            yield points, triangles

    def accessor(self, index: int) -> NDArray[Any]:
        """Values of an accessor, (count, width), with normalisation and sparse replacements applied."""
        accessor = self.document["accessors"][index]
        component = np.dtype("<" + _COMPONENTS[accessor["componentType"]])
        width = _WIDTHS[accessor["type"]]
        count = accessor["count"]
        if "bufferView" in accessor:
            values = self._view(accessor["bufferView"], accessor.get("byteOffset", 0), component, count, width)
        else:
            values = np.zeros((count, width), dtype=component)
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            at, new = sparse["indices"], sparse["values"]
            at_type = np.dtype("<" + _COMPONENTS[at["componentType"]])
            rows = self._view(at["bufferView"], at.get("byteOffset", 0), at_type, sparse["count"], 1)[:, 0]
            values = values.copy()
            values[rows] = self._view(new["bufferView"], new.get("byteOffset", 0), component, sparse["count"], width)
        if accessor.get("normalized") and component.kind in "iu":
            return np.maximum(values / float(np.iinfo(component).max), -1.0)
        return values

    def _view(self, index: int, offset: int, component: np.dtype[Any], count: int, width: int) -> NDArray[Any]:
        view = self.document["bufferViews"][index]
        _refuse_compression(view)
        buffer = self._buffer(view["buffer"])
        start = view.get("byteOffset", 0) + offset
        row = component.itemsize * width
        stride = view.get("byteStride", row)
        if min(start, offset, count) < 0 or stride < row:
            raise ValueError("negative offset or overlapping rows")
        if count and start + stride * (count - 1) + row > len(buffer):
            raise MeshFormatError("is truncated: its data end before all its points and faces; copy or export it again")
        return np.ndarray((count, width), component, buffer, start, (stride, component.itemsize))

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            self._buffers[index] = self._load_buffer(index)
        return self._buffers[index]

    def _load_buffer(self, index: int) -> bytes:
        uri = self.document["buffers"][index].get("uri")
        if uri is None:
            if self.binary is None or index != 0:
                raise MeshFormatError(_DAMAGED.format("its binary part is missing"))
            return self.binary
        if uri.startswith("data:"):
            try:
                return base64.b64decode(uri.split(",", 1)[1])
            except (binascii.Error, IndexError):
                raise MeshFormatError(_DAMAGED.format("its embedded data cannot be decoded")) from None
        name = unquote(uri)
        try:
            return (self.folder / name).read_bytes()
        except (OSError, ValueError):
            raise MeshFormatError(
                f"needs the file '{name}' beside it, which cannot be read; keep both together or export the scan as GLB"
            ) from None


def _node_transform(node: dict[str, Any]) -> NDArray[np.float64] | None:
    """The node's own (4, 4) transform, or ``None`` for the identity."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    if not {"translation", "rotation", "scale"} & node.keys():
        return None
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), dtype=np.float64)
    norm = x * x + y * y + z * z + w * w
    transform = np.eye(4)
    if norm > 0:
        transform[:3, :3] -= (2 / norm) * np.array(
            [
                [y * y + z * z, w * z - x * y, -w * y - x * z],
                [-w * z - x * y, x * x + z * z, w * x - y * z],
                [w * y - x * z, -w * x - y * z, x * x + y * y],
            ]
        )
    transform[:3, :3] *= np.array(node.get("scale", (1, 1, 1)), dtype=np.float64)
    transform[:3, 3] = np.array(node.get("translation", (0, 0, 0)), dtype=np.float64)
    return transform


def _combine(outer: NDArray[np.float64] | None, inner: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    if outer is None or inner is None:
        return inner if outer is None else outer
    return outer @ inner
