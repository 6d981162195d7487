"""Closed surfaces made from formulas: unions of rods and ellipsoids, contoured and roughened."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PALNetLandmarksLib.mesh import TriangleMesh

from ..simulation.noise import smooth_noise
from ..simulation.surfaces import zero_surface
from .metrics import Array

#: Edge of the cells from which shapes are contoured, mm.
CELL_MM = 3.0


def ellipsoid_distance(centre: Sequence[float], half_axes: Array) -> Callable[[Array], Array]:
    """About the signed distance (...) of places (..., 3) from an ellipsoid."""

    def distance(places: Array) -> Array:
        return (np.linalg.norm((places - np.array(centre)) / half_axes, axis=-1) - 1) * half_axes.min()

    return distance


def capsule_distance(start: Sequence[float], end: Sequence[float], radius: float) -> Callable[[Array], Array]:
    """Signed distance (...) of places (..., 3) from a rod with round ends."""
    a, way = np.array(start, dtype=float), np.array(end, dtype=float) - np.array(start, dtype=float)

    def distance(places: Array) -> Array:
        share = np.clip((places - a) @ way / (way @ way), 0, 1)
        return np.linalg.norm(places - a - share[..., None] * way, axis=-1) - radius

    return distance


def solid(parts: Sequence[Callable[[Array], Array]], name: str, blend: float = 1.0) -> TriangleMesh:
    """The surface of the union of ``parts``, joined smoothly over about ``blend`` mm; wound outwards."""
    low, high = _box(parts, blend)
    places = _lattice(low, high, CELL_MM)
    return contour(_smooth_union(parts, places, blend), low, CELL_MM, name)


def contour(field: Array, corner: Array, cell: float, name: str) -> TriangleMesh:
    """The zero surface of a field (nx, ny, nz), negative inside."""
    points, triangles = zero_surface(field, corner.tolist(), cell)
    corners = points[triangles]
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum()
    return TriangleMesh(points, triangles if volume > 0 else triangles[:, ::-1].copy(), name)


def _smooth_union(parts: Sequence[Callable[[Array], Array]], places: Array, blend: float) -> Array:
    total = sum(np.exp(np.clip(-part(places) / blend, -50, 50)) for part in parts)
    return np.asarray(-blend * np.log(np.maximum(total, 1e-20)))


def _box(parts: Sequence[Callable[[Array], Array]], blend: float) -> tuple[Array, Array]:
    """Lower and upper corner of what the parts fill within a cube of 0.8 m, with some margin."""
    cell = 16.0
    places = _lattice(np.full(3, -400.0), np.full(3, 400.0), cell)
    filled = places[_smooth_union(parts, places, blend) < cell]
    return filled.min(axis=0) - cell, filled.max(axis=0) + cell


def _lattice(low: Array, high: Array, cell: float) -> Array:
    """Corners (nx, ny, nz, 3) of the cells between two places."""
    steps = [np.arange(a, b + cell, cell) for a, b in zip(low, high)]
    return np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)


def roughen(mesh: TriangleMesh, rng: np.random.Generator, amplitude_mm: float) -> TriangleMesh:
    """Dents and bumps along the normals, from a nose's size to a pore's."""
    height = sum(
        share * smooth_noise(mesh.points, wavelength, rng)
        for share, wavelength in ((1.0, 60.0), (0.5, 25.0), (0.2, 8.0))
    )
    return mesh.with_points(mesh.points + amplitude_mm * np.asarray(height)[:, None] * mesh.vertex_normals)
