"""Alignment: from a scan of unknown pose, unit and extent to the canonical frame of the reference face."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .alignment_target import AlignmentTarget
from .coarse_alignment import (
    Array,
    CoarseSurface,
    Poses,
    build_coarse_surface,
    distinct,
    hypotheses,
    nose_candidates,
    refine,
    score,
)
from .errors import NotAFaceError, UnknownUnitError
from .face_evidence import FaceEvidence, face_evidence
from .icp import icp
from .inside_box import inside_box
from .mesh import TriangleMesh
from .outer_surface import outer_samples
from .principal_frame import PrincipalFrame
from .reference import ReferenceFace
from .sample_surface import SurfaceSamples, sample_surface
from .shape_icp import shape_icp
from .stepwise import finish

#: Millimetres per unit.
UNITS = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "inch": 25.4}
#: Diameters (mm) that a scan with a face on it may have: from a child's half face to a head with shoulders and chair.
SCAN_DIAMETER_MM = (80.0, 1200.0)
#: Least number of vertices inside the region of interest.
LEAST_VERTICES = 2000
#: Least fitness (see ``face_evidence``): above that of 10,587 wrong poses on simulated captures (0.50 at most) and of
#: 240 balls, eggs, feet, torsos, cubes and backs of heads (0.47 at most).
LEAST_FITNESS = 0.52
#: Faces far from the mean come to less, some as low as this. What lies between may be one of them or no face at all.
DOUBTFUL_FITNESS = 0.2
#: Least share of the middle of the face that must be there: a little less than half a face.
LEAST_COVERAGE = 0.35
#: Below this fitness the search goes on: with the borders of the scan, where half noses are, and then without what lies
#: inside the head.
_SURE_FITNESS = 0.7
#: From this fitness and coverage on a pose needs no comparison with others of the same face. (In a wrong unit a scrap
#: of surface may look like a face, but covers little of it.)
_CERTAIN_FITNESS, _CERTAIN_COVERAGE = 0.8, 0.6
#: A second face scores (see ``score``) more than this share of the first, as all but two of 109 did; 98 of 100 poses
#: away from the only face do not.
_RIVAL_SCORE = 0.85
#: Its fitness in the end is more than this share of the first's: 0.86 or more on 93 made pairs; places that are no face
#: came to 0.6 where the scan begins below the nose.
_SECOND_FITNESS = 0.7
#: Share of the samples that is seen from outside, below which there is something inside (single surfaces: 0.98 or more;
#: skin from CT: 0.43 to 0.76).
_ALL_OUTSIDE = 0.9
#: Noses of two faces are further apart than this.
_APART_MM = 70.0
_NEIGHBOURHOOD_MM = 190.0
_DENSE_SAMPLES = 40_000
_COARSE_SAMPLES = 10_000
#: Fewer are left where damaged triangles, which are not sampled, are most of the area.
_LEAST_SAMPLES = 1_000


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
    fitness : 0 to 1, how much the relief, the normals and the distances are those of a face.
    residual_mm : root mean square distance between scan and scaled reference over the middle of the face.
    coverage : share (0 to 1) of the middle of the face that the scan covers; about 0.5 for half faces.
    inside_out : the surface's normals point inward.
    warnings : sentences for the user.
    """

    transform: NDArray[np.float64]
    unit: str
    mm_per_unit: float
    unit_source: str
    face_scale: float
    fitness: float
    residual_mm: float
    coverage: float
    inside_out: bool
    warnings: tuple[str, ...]


def align_to_reference(
    mesh: TriangleMesh, reference: ReferenceFace, unit: str | None = None, least_fitness: float = LEAST_FITNESS
) -> Alignment:
    """``align_stepwise`` at one go; for a single scan, as the reference is made ready anew each time."""
    return finish(align_stepwise(mesh, AlignmentTarget.of(reference), unit, least_fitness))


def align_stepwise(
    mesh: TriangleMesh, target: AlignmentTarget, unit: str | None = None, least_fitness: float = LEAST_FITNESS
) -> Generator[None, None, Alignment]:
    """Find the rigid transform that brings the face on ``mesh`` to the reference face; the same on every run.

    The generator (see ``stepwise``) returns the alignment.

    Parameters
    ----------
    mesh : the scan in any pose.
    target : the reference face.
    unit : length unit of the scan, if known; otherwise that which makes a face of what is there.
    least_fitness : what is refused; ``DOUBTFUL_FITNESS`` for those who tell faces from others by further means.

    Raises
    ------
    NotAFaceError
        If nothing on the surface fits a face well enough, more than one thing does, or it is too coarse.
    UnknownUnitError
        If the size of the scan fits a face in no known unit.
    ValueError
        If ``unit`` is none of ``UNITS``.
    """
    frame = PrincipalFrame.of(mesh)
    yield
    samples = sample_surface(mesh.with_points(frame.place(mesh.points)), _DENSE_SAMPLES, area=frame.area)
    if not samples.area:
        raise NotAFaceError(f"'{mesh.name}' has no surface area; export the scan as a triangle mesh.")
    if len(samples.points) < _LEAST_SAMPLES:
        extent = float(np.ptp(mesh.points, axis=0).max())
        raise NotAFaceError(
            f"'{mesh.name}' stretches over {extent:.3g} length units, most of them empty; remove the points that lie "
            "far away from the face."
        )
    units = _plausible_units(samples.thinned(_COARSE_SAMPLES), mesh.name, unit)
    yield
    searched = yield from _search_units(samples, units, target)
    if _best_fitness(searched) < _SURE_FITNESS:
        yield
        outer = outer_samples(samples)
        if len(outer.points) < _ALL_OUTSIDE * len(samples.points):
            searched += yield from _search_units(outer, units, target)
    if _best_fitness(searched) < LEAST_FITNESS:
        # A search that just missed the face may find it on other samples.
        searched += yield from _search_units(samples.from_sample(_COARSE_SAMPLES), units, target)
    yield
    found = max(searched, key=lambda one: one.fitness)
    mm_per_unit = UNITS[found.unit]
    pose, evidence = _settle(found, target, 0)
    fitness = float(np.clip(evidence.fitness[0], 0, 1))
    coverage = float(evidence.coverage[0])
    if coverage < LEAST_COVERAGE and fitness >= LEAST_FITNESS:
        raise NotAFaceError(
            f"'{mesh.name}' shows too little of a face ({100 * coverage:.0f} % of its middle, less than the "
            f"{100 * LEAST_COVERAGE:.0f} % needed); export more of the scan."
        )
    if fitness < least_fitness or coverage < LEAST_COVERAGE:
        raise no_face_found(mesh.name, fitness, unit)
    yield
    _check_alone(found, pose, fitness, target, mesh.name)
    yield
    rotation = pose.axes[0].T @ frame.axes
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = -pose.axes[0].T @ pose.origins[0] - rotation @ frame.centre * mm_per_unit
    scale = float(pose.scales[0])
    _check_vertices(mesh, transform, mm_per_unit, target.region_of_interest * scale)
    inside_out = bool(evidence.orientation[0] < 0)
    warnings: tuple[str, ...] = ()
    if inside_out:
        warnings = ("The scan is wound inside-out: its surface normals point inward, so it may be mirrored.",)
    return Alignment(
        transform=transform,
        unit=found.unit,
        mm_per_unit=mm_per_unit,
        unit_source="given" if unit else "estimated",
        face_scale=scale,
        fitness=fitness,
        residual_mm=float(evidence.residual_mm[0]),
        coverage=coverage,
        inside_out=inside_out,
        warnings=warnings,
    )


def to_canonical(
    points: NDArray[np.float64], transform: NDArray[np.float64], mm_per_unit: float
) -> NDArray[np.float64]:
    """Points (n, 3) of a scan, in its own unit, in the canonical frame (LPS mm); see ``Alignment``."""
    placed = points @ (transform[:3, :3].T * mm_per_unit)
    placed += transform[:3, 3]  # in place: on the largest scans a copy takes half a second
    return placed


def canonical_mesh(
    mesh: TriangleMesh, transform: NDArray[np.float64], mm_per_unit: float, inside_out: bool
) -> TriangleMesh:
    """A scan in the canonical frame, wound outward."""
    triangles = mesh.triangles[:, ::-1] if inside_out else mesh.triangles
    return TriangleMesh(to_canonical(mesh.points, transform, mm_per_unit), triangles, mesh.name)


def no_face_found(name: str, fitness: float, unit: str | None) -> NotAFaceError:
    """The refusal of a scan; ``unit`` as the user gave it."""
    return NotAFaceError(
        f"No face was found on '{name}' (fitness {fitness:.2f} < {LEAST_FITNESS}); "
        f"check that the scan shows a face{f' and is in {unit}' if unit else ''}."
    )


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


@dataclass(frozen=True)
class _Found:
    """What the search in one unit came to: poses in order of their evidence, and the surface they lie on.

    ``even`` and ``dense`` are its samples, few and many, (k, 3) in mm.
    """

    unit: str
    poses: Poses
    evidence: FaceEvidence
    surface: CoarseSurface
    even: Array
    dense: Array

    @property
    def fitness(self) -> float:
        """Of the best pose."""
        return float(self.evidence.fitness[0])


def _search_units(
    samples: SurfaceSamples, units: list[str], target: AlignmentTarget
) -> Generator[None, None, list[_Found]]:
    """What is found in each unit; the borders of the scan are searched only if no face is seen within.

    A face fits in one unit alone, as the units differ by more than the sizes of faces.
    """
    searched: list[_Found] = []
    for unit in units:
        yield
        searched.append(_search(samples, unit, target))
        if _is_certain(searched[-1].evidence):
            break
    if _best_fitness(searched) < _SURE_FITNESS:
        for index, found in enumerate(searched):
            yield
            searched[index] = _search_borders(found, target)
    return searched


def _best_fitness(searched: list[_Found]) -> float:
    return max(found.fitness for found in searched)


def _search(samples: SurfaceSamples, unit: str, target: AlignmentTarget) -> _Found:
    """Candidate poses of the face, nearly settled, the best first."""
    coarse = samples.thinned(_COARSE_SAMPLES)
    dense, even = samples.points * UNITS[unit], coarse.points * UNITS[unit]
    surface = build_coarse_surface(even, coarse.normals)
    poses, evidence = _try(surface, target, even, borders=False)
    return _Found(unit, *_ordered(poses, evidence), surface, even, dense)


def _search_borders(found: _Found, target: AlignmentTarget) -> _Found:
    """Go on searching where the scan ends, for half faces and noses in tatters."""
    poses, evidence = _try(found.surface, target, found.even, borders=True)
    poses, evidence = _ordered(found.poses.joined(poses), found.evidence.joined(evidence))
    return replace(found, poses=poses, evidence=evidence)


def _tree(points: Array) -> cKDTree:
    """Built and searched in two thirds of the time that scipy's own settings take."""
    return cKDTree(points, leafsize=64, balanced_tree=False)


def _ordered(poses: Poses, evidence: FaceEvidence) -> tuple[Poses, FaceEvidence]:
    """The best first."""
    order = np.argsort(-evidence.fitness, kind="stable")
    return poses[order], evidence[order]


def _try(surface: CoarseSurface, target: AlignmentTarget, points: Array, borders: bool) -> tuple[Poses, FaceEvidence]:
    tips = nose_candidates(surface, 160 if borders else 80, borders)
    poses = score(hypotheses(*tips, target.rough), surface, target.rough, 9.0)
    poses = distinct(poses, 300 if borders else 60, 6, 20)
    poses = refine(poses, surface, target.rough, (16, 14, 12, 10, 9, 8, 8, 7))
    poses = refine(distinct(poses, 30 if borders else 16, 8, 15), surface, target.coarse, (7.0,) * 6)
    poses = distinct(poses, 20 if borders else 12, 8, 15)
    tree, normals = _tree(points), surface.normals[surface.lookup(points.T)]
    first, evidence = _weigh(poses[:1], target, tree, points, normals)
    rest = np.arange(1, len(poses))
    if _is_certain(evidence):
        # The face is found; the others matter only where a second one may be.
        apart = np.linalg.norm(poses.origins[rest] - first.origins[0], axis=1)
        rivals = poses.scores[rest] > _RIVAL_SCORE * first.scores[0]
        rest = rest[rivals & (apart > 0.7 * _APART_MM * first.scales[0])]
    others, theirs = _weigh(poses[rest], target, tree, points, normals)
    return first.joined(others), evidence.joined(theirs)


def _is_certain(evidence: FaceEvidence) -> bool:
    """Whether the first pose is a face's beyond doubt."""
    return bool(evidence.fitness[0] >= _CERTAIN_FITNESS and evidence.coverage[0] >= _CERTAIN_COVERAGE)


def _weigh(
    poses: Poses, target: AlignmentTarget, tree: cKDTree, points: Array, normals: Array
) -> tuple[Poses, FaceEvidence]:
    """The poses a few steps further, and what speaks for each."""
    poses = icp(poses, target.evidence, tree, points, normals)
    return poses, face_evidence(poses, target.evidence, tree, points, normals)


def _settle(found: _Found, target: AlignmentTarget, index: int) -> tuple[Poses, FaceEvidence]:
    """Fit one pose to the surface around it at full density."""
    pose = found.poses[np.array([index])]
    near = np.linalg.norm(found.dense - pose.origins[0], axis=1) < _NEIGHBOURHOOD_MM * pose.scales[0]
    points = found.dense[near]
    normals = found.surface.normals[found.surface.lookup(points.T)]
    tree = _tree(points)
    pose = shape_icp(pose, target.evidence, tree, points, normals)
    return pose, face_evidence(pose, target.evidence, tree, points, normals)


def _check_alone(found: _Found, pose: Poses, fitness: float, target: AlignmentTarget, name: str) -> None:
    """Refuse a scan with a second face away from the first, ``pose`` of ``fitness``."""
    away = np.linalg.norm(found.poses.origins - pose.origins[0], axis=1) > _APART_MM * pose.scales[0]
    others = np.flatnonzero(away & (found.evidence.fitness > LEAST_FITNESS - 0.3))
    for index in others[:3]:
        other, evidence = _settle(found, target, int(index))
        apart = float(np.linalg.norm(other.origins[0] - pose.origins[0]))
        if (
            apart > _APART_MM * pose.scales[0]
            and evidence.fitness[0] >= max(LEAST_FITNESS, _SECOND_FITNESS * fitness)
            and evidence.coverage[0] >= LEAST_COVERAGE
        ):
            if fitness < _CERTAIN_FITNESS:
                raise NotAFaceError(
                    f"'{name}' shows too little of a face to tell where it is (two places {apart:.0f} mm apart look "
                    "alike); export more of the scan."
                )
            raise NotAFaceError(
                f"'{name}' shows more than one face (fitness {evidence.fitness[0]:.2f} for another one {apart:.0f} mm "
                "away); cut out the one you mean."
            )


def _check_vertices(mesh: TriangleMesh, transform: NDArray[np.float64], mm_per_unit: float, region: Array) -> None:
    count = int(inside_box(to_canonical(mesh.points, transform, mm_per_unit), *region).sum())
    if count < LEAST_VERTICES:
        raise NotAFaceError(
            f"'{mesh.name}' has only {count} points on the face, fewer than the {LEAST_VERTICES} needed; "
            "export it with a finer mesh."
        )
