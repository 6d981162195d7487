"""Step 1: read a surface scan from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from .errors import UnreadableScanError
from .mesh import TriangleMesh
from .mesh_formats.gltf import read_gltf
from .mesh_formats.obj import read_obj
from .mesh_formats.off import read_off
from .mesh_formats.ply import read_ply
from .mesh_formats.raw_mesh import Integers, MeshFormatError, RawMesh
from .mesh_formats.stl import read_stl
from .mesh_formats.vtk_legacy import read_vtk
from .mesh_formats.vtp import read_vtp
from .triangle_corners import corners_in_pieces, crossed_edges, lengths

_READERS: dict[str, Callable[[Path], RawMesh]] = {
    ".obj": read_obj,
    ".ply": read_ply,
    ".stl": read_stl,
    ".vtp": read_vtp,
    ".vtk": read_vtk,
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".off": read_off,
}

SUPPORTED_SUFFIXES = tuple(_READERS)

MINIMUM_POINTS = 2000

# What a file may be instead, by its first bytes, and the suffixes that it should have if it is a mesh.
_OTHER_KINDS = (
    (b"\xff\xd8\xff", "a JPEG picture", ()),
    (b"\x89PNG", "a PNG picture", ()),
    (b"BM", "a BMP picture", ()),
    (b"II*\0", "a TIFF picture", ()),
    (b"%PDF", "a PDF document", ()),
    (b"PK\x03\x04", "a ZIP archive", ()),
    (b"\x1f\x8b", "a gzip archive", ()),
    (b"<!DOCTYPE", "a web page", ()),
    (b"<html", "a web page", ()),
    (b"ply\n", "a PLY mesh", (".ply",)),
    (b"ply\r", "a PLY mesh", (".ply",)),
    (b"glTF", "a GLB mesh", (".glb", ".gltf")),
    (b"# vtk DataFile", "a legacy VTK file", (".vtk",)),
    (b"OFF\n", "an OFF mesh", (".off",)),
)

# No scan is this many times larger than a millimetre: such numbers come from damaged binary files.
_LARGEST_COORDINATE = 1e12


def read_scan(path: Union[str, Path]) -> TriangleMesh:
    """Read a surface scan: OBJ, PLY, STL, VTP, VTK (legacy), GLB, glTF or OFF.

    All parts of the file become one mesh. Polygons and strips are cut into triangles; points with identical coordinates
    are welded; triangles without area, the backs of a surface that has one everywhere, and points without triangles
    are left out. The remaining points keep their order and their coordinates exactly as in the file.

    Parameters
    ----------
    path : the file; its suffix says the format.

    Returns
    -------
    TriangleMesh
        Points (n, 3) in the file's own coordinates and unit; ``coordinate_system`` is what 3D Slicer wrote into the
        header (``SPACE=LPS`` or ``SPACE=RAS``), and LPS, as Slicer assumes, where there is none.

    Raises
    ------
    UnreadableScanError
        If the file is missing, empty, truncated, damaged, of another kind, or holds no surface of at least 2,000 points
        with finite coordinates.
    """
    path = Path(path)
    _check_file(path)
    return _read(lambda: _READERS[path.suffix.lower()](path), path.name)


def clean_scan(
    points: NDArray[np.floating], triangles: Integers, name: str, coordinate_system: str = "LPS"
) -> TriangleMesh:
    """A scan from points (n, 3) and triangles (m, 3) in memory, checked and cleaned as ``read_scan`` does with a file.

    Raises
    ------
    UnreadableScanError
        If they are no surface of at least 2,000 points with finite coordinates.
    """
    return _read(lambda: RawMesh(points, triangles, coordinate_system), name)


def _read(source: Callable[[], RawMesh], name: str) -> TriangleMesh:
    try:
        raw = source()
        if len(raw.points) == 0:
            raise MeshFormatError("holds no points; export the scan again")
        if len(raw.triangles) == 0:
            raise MeshFormatError(
                "holds points but no faces; export the scan as a surface mesh instead of a point cloud"
            )
        points, triangles = _clean(raw.points, raw.triangles)
        if len(points) < MINIMUM_POINTS:
            raise MeshFormatError(
                f"has only {len(points):,} points on its surface, of which at least {MINIMUM_POINTS:,} are needed; "
                "export the scan at a higher resolution"
            )
    except MeshFormatError as error:
        raise UnreadableScanError(f"'{name}' {error}.") from error
    except MemoryError as error:
        raise UnreadableScanError(f"'{name}' does not fit the memory; reduce the number of its points.") from error
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise UnreadableScanError(f"'{name}' cannot be opened ({reason}); check that you may read it.") from error
    return TriangleMesh(
        points=points,
        triangles=triangles,
        name=name,
        coordinate_system=raw.coordinate_system or "LPS",
        warnings=raw.warnings,
    )


def _check_file(path: Path) -> None:
    """Refuse what cannot be a scan before any parser sees it."""
    supported = ", ".join(suffix[1:].upper() for suffix in SUPPORTED_SUFFIXES)
    try:
        if path.is_dir():
            raise UnreadableScanError(f"'{path}' is a folder; give the scan's file itself.")
        if not path.exists():
            raise UnreadableScanError(f"'{path}' does not exist; check the folder and the spelling of its name.")
        if path.suffix.lower() not in _READERS:
            kind = f"the suffix '{path.suffix}'" if path.suffix else "no suffix"
            raise UnreadableScanError(f"'{path.name}' has {kind}; save the scan as one of {supported}.")
        with path.open("rb") as stream:
            start = stream.read(64)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "unusable name"
        raise UnreadableScanError(f"'{path.name}' cannot be opened ({reason}); check that you may read it.") from error
    if not start:
        raise UnreadableScanError(f"'{path.name}' is empty (0 bytes); copy or export the scan again.")
    suffix = path.suffix.lower()
    for signature, kind, suffixes in _OTHER_KINDS:
        if start.startswith(signature) and suffix not in suffixes:
            remedy = f"rename it to end in '{suffixes[0]}'" if suffixes else f"save the scan as one of {supported}"
            raise UnreadableScanError(f"'{path.name}' is {kind}, whatever its suffix says; {remedy}.")


# ---------------------------------------------------------------------------------------------------------------------
# Cleaning


def _clean(points: NDArray[Any], triangles: Integers) -> tuple[NDArray[np.float64], Integers]:
    """Weld, drop what is degenerate or unused, and check the coordinates of what is left."""
    used = np.zeros(len(points), dtype=bool)
    used[triangles.ravel()] = True
    sound = np.logical_and.reduce([np.isfinite(points[:, axis]) for axis in range(3)])
    bad = int(np.count_nonzero(used & ~sound))
    if bad:
        raise MeshFormatError(
            f"has points whose coordinates are not finite numbers (NaN or infinite; {bad:,} of them); "
            "repair the mesh or export the scan again"
        )
    points, triangles = _keep(points, triangles, used)
    points, triangles = _weld(points, triangles)
    if np.abs(points).max(initial=0.0) > _LARGEST_COORDINATE:
        raise MeshFormatError("has impossibly large coordinates, so it is damaged; copy or export it again")
    points = np.ascontiguousarray(points, dtype=np.float64)
    proper = _has_area(points, triangles)
    # A surface has some two triangles for each point. One that has every triangle twice, turned both ways so that it is
    # seen from both sides, has four.
    if proper.sum() > 3 * len(points):
        proper &= _is_first(triangles)
        # Which of the two came first says nothing of the outside.
        if _volume(points, triangles[proper]) < 0:
            triangles = triangles[:, ::-1]
    if proper.all():
        return points, np.ascontiguousarray(triangles)
    triangles = triangles[proper]
    if len(triangles) == 0:
        raise MeshFormatError("has no face with an area; export the scan again as a surface mesh")
    used = np.zeros(len(points), dtype=bool)
    used[triangles.ravel()] = True
    return _keep(points, triangles, used)


def _keep(points: NDArray[Any], triangles: Integers, kept: NDArray[np.bool_]) -> tuple[NDArray[Any], Integers]:
    if kept.all():
        return points, triangles
    return points[kept], (np.cumsum(kept) - 1)[triangles]


def _weld(points: NDArray[Any], triangles: Integers) -> tuple[NDArray[Any], Integers]:
    """Make one of all points with identical coordinates; the first of each keeps its place in the order.

    Points are grouped by a 64-bit hash, which sorts several times faster than three coordinates. Should two different
    points ever share one (1 chance in a million for 5 million points), the slow way is taken.
    """
    points = points + points.dtype.type(0)  # -0.0 becomes 0.0
    representative = _first_of_group(_hash(points))
    if not np.array_equal(points[representative], points):
        representative = _first_of_group(np.unique(points, axis=0, return_inverse=True)[1].reshape(-1))
    kept = representative == np.arange(len(points))
    if kept.all():
        return points, triangles
    new_index = np.cumsum(kept) - 1
    return points[kept], new_index[representative][triangles]


def _hash(points: NDArray[Any]) -> NDArray[np.uint64]:
    """(n,) 64-bit hash of the coordinates' bits (multiply and xor-shift, constants of the SplitMix64 generator)."""
    word = np.uint32 if points.dtype.itemsize == 4 else np.uint64
    result = np.zeros(len(points), dtype=np.uint64)
    for axis in range(3):
        result ^= np.ascontiguousarray(points[:, axis]).view(word)
        result += np.uint64(0x9E3779B97F4A7C15)
        result ^= result >> np.uint64(30)
        result *= np.uint64(0xBF58476D1CE4E5B9)
        result ^= result >> np.uint64(27)
        result *= np.uint64(0x94D049BB133111EB)
        result ^= result >> np.uint64(31)
    return result


def _first_of_group(keys: NDArray[Any]) -> Integers:
    """For every element the smallest index with the same key."""
    ordered = np.sort(keys)  # much faster than argsort, and most meshes have nothing to weld
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if len(begins) == len(keys):
        return np.arange(len(keys))
    order = np.argsort(keys)
    result = np.empty(len(keys), dtype=np.int64)
    result[order] = np.repeat(np.minimum.reduceat(order, begins), np.diff(begins, append=len(keys)))
    return result


def _is_first(triangles: Integers) -> NDArray[np.bool_]:
    """(m,) bool: no triangle before has the same corners, whichever way round."""
    first = np.zeros(len(triangles), dtype=bool)
    first[np.unique(np.sort(triangles, axis=1), axis=0, return_index=True)[1]] = True
    return first


def _volume(points: NDArray[np.float64], triangles: Integers) -> float:
    """Six times what the surface encloses with the points' mean; positive if it is wound outwards."""
    first, second, third = (points - points.mean(axis=0))[triangles.T]
    return float(np.einsum("ij,ij->", np.cross(first, second), third))


def _has_area(points: NDArray[np.float64], triangles: Integers) -> NDArray[np.bool_]:
    """(m,) bool: the corners differ and do not lie on one line (to rounding)."""
    result = np.empty(len(triangles), dtype=bool)
    for piece, corners in corners_in_pieces(np.ascontiguousarray(points.T), triangles):
        longest = np.maximum(lengths(corners[1] - corners[0]), lengths(corners[2] - corners[0]))
        result[piece] = lengths(crossed_edges(corners)) > 1e-14 * longest**2
    return result
