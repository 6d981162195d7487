"""What a parser returns, and polygons turned into triangles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class MeshFormatError(Exception):
    """A file is not what its suffix promises.

    ``str(error)`` continues a sentence that begins with the file's name ("is truncated: ...") and ends with the remedy.
    """


@dataclass(frozen=True)
class RawMesh:
    """A mesh as the file has it: duplicated, unreferenced and non-finite points are still there.

    Attributes
    ----------
    points : (n, 3) float32 or float64.
    triangles : (m, 3) int64; every index lies in 0 ... n - 1.
    coordinate_system : ``"LPS"``, ``"RAS"``, or ``None`` where the file does not say.
    warnings : sentences for the user.
    """

    points: NDArray[Any]
    triangles: Integers
    coordinate_system: str | None = None
    warnings: tuple[str, ...] = ()


def coordinate_system_from_header(header: Union[bytes, str]) -> str | None:
    """Coordinate system that 3D Slicer wrote into a comment or title (``SPACE=LPS``, ``SPACE=RAS``), or ``None``.

    RAS wins where both occur, as in Slicer's own reader (vtkMRMLModelStorageNode).
    """
    text = header.decode("latin-1") if isinstance(header, bytes) else header
    found = set(re.findall(r"SPACE=(RAS|LPS)", text))
    return "RAS" if "RAS" in found else "LPS" if found else None


def quoted(text: str) -> str:
    """A piece of a file, shortened and without control characters, in quotes for a message."""
    return "'" + "".join(letter if letter.isprintable() else "?" for letter in text[:40]) + "'"


def ragged_ranges(first: Integers, counts: Integers) -> Integers:
    """``first[i], first[i] + 1, ...`` (``counts[i]`` of them) for every i, concatenated."""
    total = int(counts.sum())
    offset = np.cumsum(counts) - counts
    return np.arange(total, dtype=np.int64) + np.repeat(first - offset, counts)


def triangulate_polygons(indices: Integers, counts: Integers) -> Integers:
    """Cut polygons into fans of triangles around their first corner, keeping the winding.

    Parameters
    ----------
    indices : (sum of counts,) corners of all polygons, one after the other.
    counts : (k,) number of corners per polygon; polygons with fewer than three are left out.

    Returns
    -------
    (m, 3) int64.
    """
    if len(counts) and np.all(counts == 3):
        return indices.reshape(-1, 3)
    first = np.cumsum(counts) - counts
    fans = np.maximum(counts - 2, 0)
    apex = np.repeat(first, fans)
    second = ragged_ranges(first + 1, fans)
    return np.stack([indices[apex], indices[second], indices[second + 1]], axis=1)


def triangulate_strips(indices: Integers, counts: Integers) -> Integers:
    """Cut triangle strips into triangles; every second one is turned so that all wind alike."""
    number = np.maximum(counts - 2, 0)
    start = ragged_ranges(np.cumsum(counts) - counts, number)
    odd = (ragged_ranges(np.zeros_like(number), number) % 2).astype(np.int64)
    return np.stack([indices[start], indices[start + 1 + odd], indices[start + 2 - odd]], axis=1)


def check_indices(triangles: Integers, number_of_points: int) -> None:
    """Raise :class:`MeshFormatError` where a triangle names a point that the file does not hold."""
    if len(triangles) and (triangles.min() < 0 or triangles.max() >= number_of_points):
        raise MeshFormatError(
            f"is damaged or was cut short: its faces refer to points beyond the {number_of_points:,} it holds; "
            "export or copy it again"
        )


def join_meshes(points: list[NDArray[Any]], triangles: list[Integers]) -> tuple[NDArray[Any], Integers]:
    """Concatenate point arrays and triangle arrays, the latter already counting through all parts."""
    return (
        np.concatenate(points) if points else np.empty((0, 3)),
        np.concatenate(triangles) if triangles else np.empty((0, 3), dtype=np.int64),
    )
