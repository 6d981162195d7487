"""Alignment: from a scan of unknown pose, unit and extent to the canonical frame of the reference face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .coarse_alignment import (
    Array,
    CoarseTarget,
    Poses,
    build_coarse_surface,
    distinct,
    hypotheses,
    nose_candidates,
    protrusions,
    refine,
    score,
)
from .errors import NotAFaceError, UnknownUnitError
from .face_evidence import EvidenceTarget, FaceEvidence, face_evidence
from .icp import icp
from .mesh import TriangleMesh
from .reference import ReferenceFace
from .sample_surface import SurfaceSamples, sample_surface

#: Millimetres per unit.
UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "inch": 25.4}
#: Diameters (mm) that a scan with a face on it may have: from a child's half face to a head with shoulders and chair.
SCAN_DIAMETER_MM = (80.0, 1200.0)
#: Least number of vertices inside the region of interest.
LEAST_VERTICES = 2000
#: Least correlation of the relief with a face's.
LEAST_FITNESS = 0.87
_LEAST_COVERAGE = 0.3
_DENSE_SAMPLES = 40_000
_COARSE_SAMPLES = 10_000


@dataclass(frozen=True)
class Alignment:
    """Where the face lies in a scan.

    Attributes
    ----------
    transform : (4, 4) float64 rigid: scan in millimetres -> canonical LPS millimetres (x left, y back, z up, origin
        at the tip of the nose). Multiply the file's coordinates by ``mm_per_unit`` first.
    unit, mm_per_unit : length unit of the scan's coordinates and its size.
    unit_source : ``"given"`` or ``"estimated"``.
    face_scale : size of the face relative to the reference: a point on the scan goes to ``face_scale`` times the
        corresponding point of the reference (about the origin, the tip of the nose).
    fitness : 0 to 1, correlation of the scan's facial relief with the reference's.
    residual_mm : root mean square distance between scan and scaled reference over the middle of the face.
    coverage : share (0 to 1) of the middle of the face that the scan covers; about 0.5 for half faces.
    inside_out : the surface's normals point inward.
    warnings : sentences for the user.
    """

    transform: Array
    unit: str
    mm_per_unit: float
    unit_source: str
    face_scale: float
    fitness: float
    residual_mm: float
    coverage: float
    inside_out: bool
    warnings: tuple[str, ...]


def align_to_reference(mesh: TriangleMesh, reference: ReferenceFace, unit: str | None = None) -> Alignment:
    """Find the rigid transform that brings the face on ``mesh`` to the reference face; the same on every run.

    Parameters
    ----------
    mesh : the scan as read, in any pose.
    reference : canonical LPS mm.
    unit : length unit of the scan, if known; otherwise that which makes a face of what is there.

    Raises
    ------
    NotAFaceError
        If nothing on the surface fits a face well enough, more than one thing does, or it is too coarse.
    UnknownUnitError
        If the size of the scan fits a face in no known unit.
    ValueError
        If ``unit`` is none of ``UNITS``.
    """
    samples = sample_surface(mesh, _DENSE_SAMPLES)
    if not len(samples.points):
        raise NotAFaceError(f"'{mesh.name}' has no surface area; export the scan as a triangle mesh.")
    units = _plausible_units(samples, mesh.name, unit)
    target = _Target.of(reference)
    found = [_search(samples, UNITS[name], target) for name in units]
    best = max(range(len(units)), key=lambda index: found[index][1].relief[0])
    poses, evidence, cloud = found[best]
    mm_per_unit = UNITS[units[best]]
    if evidence.relief[0] < LEAST_FITNESS or evidence.coverage[0] < _LEAST_COVERAGE:
        raise NotAFaceError(
            f"No face was found on '{mesh.name}' (fitness {max(evidence.relief[0], 0):.2f} < {LEAST_FITNESS}); "
            "check that the scan shows a face."
        )
    pose = poses[np.array([0])]
    rotation = pose.axes[0].T
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = -rotation @ pose.origins[0]
    scale = float(pose.scales[0])
    _check_vertices(mesh, transform, mm_per_unit, scale, reference)
    inside_out = bool(evidence.orientation[0] < 0)
    warnings: tuple[str, ...] = ()
    if inside_out:
        warnings = ("The scan is wound inside-out: its surface normals point inward, so it may be mirrored.",)
    return Alignment(
        transform=transform,
        unit=units[best],
        mm_per_unit=mm_per_unit,
        unit_source="given" if unit else "estimated",
        face_scale=scale,
        fitness=float(np.clip(evidence.relief[0], 0, 1)),
        residual_mm=float(evidence.residual_mm[0]),
        coverage=float(evidence.coverage[0]),
        inside_out=inside_out,
        warnings=warnings,
    )


@dataclass(frozen=True)
class _Target:
    """The reference, thinned for each step."""

    rough: CoarseTarget
    coarse: CoarseTarget
    evidence: EvidenceTarget
    fine: EvidenceTarget

    @staticmethod
    def of(reference: ReferenceFace) -> _Target:
        surface = build_coarse_surface(SurfaceSamples(reference.points, reference.normals, np.zeros(0, np.int64), 0.0))
        height, direction, _ = protrusions(surface.points, surface.normals)
        near = np.flatnonzero(np.linalg.norm(surface.points, axis=1) < 20)
        tip = near[np.argmax(height[near])]
        nose = surface.points[tip], direction[tip]
        weights = _face_weights(reference.points, reference.normals, 55.0, 60.0)
        inner = _face_weights(reference.points, reference.normals, 50.0, 58.0)
        inner[reference.normals[:, 1] > -0.2] = 0

        def thin(cell: float, all_weights: Array) -> tuple[Array, Array, Array]:
            chosen = _thin(reference.points, cell)
            chosen = chosen[all_weights[chosen] > 0.03]
            picked = all_weights[chosen]
            return reference.points[chosen], reference.normals[chosen], picked / picked.sum()

        return _Target(
            CoarseTarget(*thin(20.0, weights), *nose),
            CoarseTarget(*thin(12.0, weights), *nose),
            EvidenceTarget(*thin(6.5, inner)),
            EvidenceTarget(*thin(4.0, weights)),
        )


def _face_weights(points: Array, normals: Array, half_width: float, half_height: float) -> Array:
    """High in the middle of the face and on what faces forward; falls to nothing at ears, hair and throat."""
    out = (points[:, 0] / half_width) ** 2 + ((points[:, 2] - 8.0) / half_height) ** 2
    return np.exp(-0.5 * out**2) * np.clip(0.3 - normals[:, 1], 0.05, 1.0)


def _thin(points: Array, cell: float) -> NDArray[np.int64]:
    """Indices of one point for each occupied cell of a lattice."""
    cells = np.floor((points - points.min(axis=0)) / cell).astype(np.int64)
    flat = (cells[:, 0] * 4096 + cells[:, 1]) * 4096 + cells[:, 2]
    return np.sort(np.unique(flat, return_index=True)[1])


def _plausible_units(samples: SurfaceSamples, name: str, unit: str | None) -> list[str]:
    if unit is not None:
        if unit not in UNITS:
            raise ValueError(f"Unknown unit '{unit}'; known are {', '.join(UNITS)}.")
        return [unit]
    distance = np.linalg.norm(samples.points - np.median(samples.points, axis=0), axis=1)
    diameter = 2 * float(np.quantile(distance, 0.98))
    low, high = SCAN_DIAMETER_MM
    units = [key for key, factor in UNITS.items() if low <= diameter * factor <= high]
    if not units:
        raise UnknownUnitError(
            f"'{name}' measures {diameter:.4g} length units across, which fits a face in none of {', '.join(UNITS)}; "
            "say which unit it has or rescale it."
        )
    return units


def _search(samples: SurfaceSamples, mm_per_unit: float, target: _Target) -> tuple[Poses, FaceEvidence, SurfaceSamples]:
    """The best poses of the face, finely fitted, the best first."""
    dense = SurfaceSamples(samples.points * mm_per_unit, samples.normals, samples.triangle_index, samples.area)
    stride = max(1, len(dense.points) // _COARSE_SAMPLES)
    even = SurfaceSamples(dense.points[::stride], dense.normals[::stride], dense.triangle_index[::stride], dense.area)
    surface = build_coarse_surface(even)
    poses = score(hypotheses(*nose_candidates(surface), target.rough), surface, target.rough, 9.0)
    poses = refine(distinct(poses, 60, 6, 20), surface, target.rough, (16, 14, 12, 10, 9, 8, 8, 7))
    poses = refine(distinct(poses, 16, 8, 15), surface, target.coarse, (7.0,) * 6)
    poses = distinct(poses, 12, 8, 15)
    smooth = surface.normals[surface.lookup(even.points)]
    tree = cKDTree(even.points)
    poses = icp(poses, target.evidence, tree, even.points, smooth, to_the_end=False)
    evidence = face_evidence(poses, target.evidence, tree, even.points, smooth)
    best = np.argsort(-evidence.relief, kind="stable")[:1]
    pose = poses[best]
    # Only the neighbourhood of the face, at full density, matters from here on.
    near = np.linalg.norm(dense.points - pose.origins[0], axis=1) < 190 * pose.scales[0]
    points = dense.points[near]
    smooth = surface.normals[surface.lookup(points)]
    tree = cKDTree(points)
    pose = icp(pose, target.fine, tree, points, smooth)
    return pose, face_evidence(pose, target.evidence, tree, points, smooth), dense


def _check_vertices(
    mesh: TriangleMesh, transform: Array, mm_per_unit: float, scale: float, reference: ReferenceFace
) -> None:
    low, high = reference.region_of_interest * scale
    canonical = mesh.points @ (transform[:3, :3].T * mm_per_unit) + transform[:3, 3]
    count = int(np.all((canonical >= low) & (canonical <= high), axis=1).sum())
    if count < LEAST_VERTICES:
        raise NotAFaceError(
            f"'{mesh.name}' has only {count} points on the face, fewer than the {LEAST_VERTICES} needed; "
            "export it with a finer mesh."
        )
