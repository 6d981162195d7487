"""Coarse global alignment: where on a scan of unknown pose a face might lie.

Candidate nose tips are the places where a coarse copy of the surface protrudes most (like the integral invariants of
Manay et al., 2004). Each gives a pose but for the turn about the nose, which is tried in steps; every hypothesis is
scored against the reference by look-ups in a lattice that knows the nearest surface, and the best are refined together
by a few point-to-plane ICP steps. Nothing is random and nothing depends on the direction of the normals, so that
surfaces wound inside-out are found as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

#: Double precision, but for what is tried on many poses at once.
Array = NDArray[np.floating]

#: Radius of the ball in which protrusion is measured: a nose is about this high and wide.
PROTRUSION_RADIUS_MM = 28.0
#: Mean and standard deviation of the size of faces relative to the reference, children included: a weak prior against
#: shrinking onto the scan.
LIKELY_SCALE = (0.95, 0.12)
_SCALE_RANGE = (0.62, 1.35)
_VOXEL_MM = 7.0
_MOST_VOXELS = 220_000
_NOSE_SPACING_MM = 11.0
#: Poses scored at once, as many as stay in the processor's cache.
_POSES_AT_ONCE = 64


@dataclass(frozen=True)
class Poses:
    """``h`` similarity poses of the reference in the scan: ``x_scan = scale * axes @ x_reference + origin``.

    Attributes
    ----------
    axes : (h, 3, 3) rotation matrices; the columns are the canonical axes seen in the scan.
    origins : (h, 3) the canonical origin in the scan, mm.
    scales : (h,) size of the face relative to the reference.
    scores : (h,) share of the reference's weight that has fitting surface nearby, 0 to 1.
    """

    axes: Array
    origins: Array
    scales: Array
    scores: Array

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: NDArray[np.int64] | slice) -> Poses:
        return Poses(self.axes[chosen], self.origins[chosen], self.scales[chosen], self.scores[chosen])

    def joined(self, other: Poses) -> Poses:
        """These poses and then the others."""
        return Poses(*(np.concatenate(pair) for pair in zip(vars(self).values(), vars(other).values())))

    def single(self) -> Poses:
        """The poses in single precision."""
        return Poses(*(values.astype(np.float32) for values in vars(self).values()))

    def place(self, points: Array) -> Array:
        """Reference points (n, 3) in the scan for each pose: (3, h, n)."""
        placed = _turned(self.axes * self.scales[:, None, None], points)
        placed += self.origins.T[:, :, None]
        return placed

    def turn(self, normals: Array) -> Array:
        """Reference normals (n, 3) in the scan for each pose: (3, h, n)."""
        return _turned(self.axes, normals)


def _turned(matrices: Array, vectors: Array) -> Array:
    """Matrices (h, 3, 3) times vectors (n, 3): (3, h, n), so that what follows runs along whole rows."""
    return (matrices.transpose(1, 0, 2).reshape(-1, 3) @ vectors.T).reshape(3, len(matrices), len(vectors))


def dot(first: Array, second: Array) -> Array:
    """Scalar products (...) of vectors (3, ...)."""
    total: Array = first[0] * second[0]
    total += first[1] * second[1]
    total += first[2] * second[2]
    return total


@dataclass(frozen=True)
class CoarseSurface:
    """Even cloud of surface points with a lattice that says which of them is nearest to any place.

    Attributes
    ----------
    points, normals : (v, 3) mean position (mm) and mean unit normal of the samples in each occupied cell.
    nearest : (nx, ny, nz) index into ``points`` of about the nearest for every lattice cell.
    corner, cell : lower corner of the lattice and edge of its cells, mm.
    """

    points: Array
    normals: Array
    nearest: NDArray[np.int32]
    corner: Array
    cell: float

    @cached_property
    def columns(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Points and normals (3, v) in single precision."""
        points, normals = (np.ascontiguousarray(values.T, dtype=np.float32) for values in (self.points, self.normals))
        return points, normals

    def lookup(self, places: Array) -> NDArray[np.int32]:
        """Index of about the nearest point for ``places`` (3, ...)."""
        flat = np.zeros(places.shape[1:], dtype=np.int32)
        for along, low, count in zip(places, self.corner.tolist(), self.nearest.shape):
            cells = ((along - low) * (1.0 / self.cell)).astype(np.int32)
            flat *= count
            flat += np.clip(cells, 0, count - 1, out=cells)
        return np.take(self.nearest.ravel(), flat)


def build_coarse_surface(points: Array, normals: Array, cell_mm: float = _VOXEL_MM) -> CoarseSurface:
    """Average surface samples (n, 3), mm, in cells of a lattice and find the nearest occupied cell of each cell."""
    distance = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    kept = distance <= 1.6 * np.quantile(distance, 0.97)  # far fragments would blow up the lattice
    points, normals = points[kept], normals[kept]
    extent = np.ptp(points, axis=0) + 3 * cell_mm
    cell = max(cell_mm, float(np.cbrt(np.prod(extent) / _MOST_VOXELS)))
    # Many of the outermost samples lie in one plane: in the middle of a cell, where rounding moves them to no other.
    corner = points.min(axis=0) - 1.5 * cell
    shape = tuple(np.floor((points.max(axis=0) - corner) / cell).astype(int) + 2)
    cells = np.floor((points - corner) / cell).astype(np.int64)
    flat = np.ravel_multi_index((cells[:, 0], cells[:, 1], cells[:, 2]), shape)
    occupied, member = np.unique(flat, return_inverse=True)
    counts = np.bincount(member)
    mean_points = _sum_by(member, points) / counts[:, None]
    mean_normals = _smooth_normals(mean_points, _sum_by(member, normals), 2 * cell)
    number = np.full(int(np.prod(shape)), -1, dtype=np.int32)
    number[occupied] = np.arange(len(occupied), dtype=np.int32)
    number = number.reshape(shape)
    i, j, k = distance_transform_edt(number < 0, return_distances=False, return_indices=True)
    return CoarseSurface(mean_points, mean_normals, number[i, j, k], corner, cell)


@dataclass(frozen=True)
class Protrusions:
    """How far the points of an even cloud stand out of their surroundings.

    Attributes
    ----------
    height : (n,) distance of the point above the mean of the ball around it, mm.
    sideways : (n,) distance of the point from that mean along the surface, mm; large at the borders of a scan.
    direction : (n, 3) unit vectors pointing out: the mean of the normal and of the way from the mean to the point. At a
        border the normal leans away from what is missing and that way leans towards it; on half a nose they make up
        for each other (25 degrees off in the median for the normal alone, 18 for both).
    neighbours : (k, 2) pairs of points closer than ``_NOSE_SPACING_MM``.
    """

    height: Array
    sideways: Array
    direction: Array
    neighbours: NDArray[np.int64]


def protrusions(points: Array, normals: Array, radius: float = PROTRUSION_RADIUS_MM) -> Protrusions:
    """Measure protrusion on an even cloud (n, 3), mm; ``normals`` may point either way if neighbours agree."""
    pairs = cKDTree(points).query_pairs(radius, output_type="ndarray")
    first, second = pairs[:, 0], pairs[:, 1]
    both, other = np.concatenate([first, second]), np.concatenate([second, first])
    count = np.bincount(both, minlength=len(points)) + 1.0
    around, normals_around = (_sum_by(both, values.take(other, axis=0), len(points)) for values in (points, normals))
    out = points - (around + points) / count[:, None]
    mean_normal = _unit(normals_around + normals)
    above = np.einsum("ij,ij->i", out, mean_normal)
    outward = mean_normal * np.where(above < 0, -1.0, 1.0)[:, None]
    height = np.abs(above)
    sideways = np.sqrt(np.maximum(np.einsum("ij,ij->i", out, out) - height**2, 0))
    apart = points.take(first, axis=0) - points.take(second, axis=0)
    close = np.einsum("ij,ij->i", apart, apart) < _NOSE_SPACING_MM**2
    return Protrusions(height, sideways, _unit(outward + _unit(out)), pairs[close])


def nose_candidates(surface: CoarseSurface, most: int = 80, borders: bool = False) -> tuple[Array, Array]:
    """Places that protrude like a nose: points (c, 3) and outward directions (c, 3), the most prominent first.

    With ``borders`` the points at borders of the scan count as protruding too: half a nose is one.
    """
    found = protrusions(surface.points, surface.normals)
    height = found.height + 0.5 * found.sideways if borders else found.height
    first, second = found.neighbours.T
    is_peak = np.ones(len(height), dtype=bool)
    first_lower = height[first] < height[second]
    is_peak[np.where(first_lower, first, second)] = False
    peaks = np.flatnonzero(is_peak)
    peaks = peaks[np.argsort(-height[peaks], kind="stable")][:most]
    return surface.points[peaks], found.direction[peaks]


@dataclass(frozen=True)
class WeightedPoints:
    """Even points (n, 3) of the reference (canonical LPS mm), unit normals (n, 3) and weights (n,) that sum to one."""

    points: Array
    normals: Array
    weights: Array

    def single(self) -> WeightedPoints:
        """The same in single precision."""
        return WeightedPoints(*(values.astype(np.float32) for values in (self.points, self.normals, self.weights)))


@dataclass(frozen=True)
class CoarseTarget(WeightedPoints):
    """With the reference's own nose (3,) and its direction (3,), measured like the candidates on the scan."""

    nose_tip: Array
    nose_direction: Array


def hypotheses(tips: Array, directions: Array, target: CoarseTarget, turns: int = 20, scale: float = 0.95) -> Poses:
    """Every candidate nose tip with every turn about it: ``len(tips) * turns`` poses with no score yet."""
    from_reference = _frames(target.nose_direction[None])[0]
    angles = np.arange(turns) * (2 * np.pi / turns)
    cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros(turns)
    roll = np.stack([[cos, -sin, zero], [sin, cos, zero], [zero, zero, zero + 1]]).transpose(2, 0, 1)
    axes = np.einsum("cij,rjk,lk->cril", _frames(directions), roll, from_reference).reshape(-1, 3, 3)
    origins = np.repeat(tips, turns, axis=0) - scale * axes @ target.nose_tip
    return Poses(axes, origins, np.full(len(axes), scale), np.zeros(len(axes)))


def score(poses: Poses, surface: CoarseSurface, target: CoarseTarget, tolerance_mm: float) -> Poses:
    """The poses with their scores: weight of reference points with like-oriented surface within the tolerance.

    Reference points beyond a border of the scan (the nearest surface lies sideways) count half: a half face must be
    able to win against a whole shoulder, and a scrap of surface that fits by chance must not win against a face.
    """
    tried, single = poses.single(), target.single()
    pieces = range(0, max(len(poses), 1), _POSES_AT_ONCE)
    scores = [_scores(tried[start : start + _POSES_AT_ONCE], surface, single, tolerance_mm) for start in pieces]
    return Poses(poses.axes, poses.origins, poses.scales, np.concatenate(scores).astype(np.float64))


def _beside(poses: Poses, surface: CoarseSurface, target: WeightedPoints) -> tuple[Array, Array, Array, Array]:
    """Reference points and normals at each pose, the way to about the nearest surface, its normals: (3, h, n) each."""
    places, planes = poses.place(target.points), poses.turn(target.normals)
    nearest = surface.lookup(places)
    points, normals = (values.take(nearest, axis=1) for values in surface.columns)
    return places, planes, points - places, normals


def _scores(poses: Poses, surface: CoarseSurface, target: WeightedPoints, tolerance_mm: float) -> Array:
    _, planes, offset, normals = _beside(poses, surface, target)
    squared = dot(offset, offset)
    along = np.minimum(np.abs(dot(normals, offset)), np.abs(dot(planes, offset)))
    covered = (squared < tolerance_mm**2) | (along**2 > 0.55 * squared)
    fitting = (np.exp(squared * (-0.5 / tolerance_mm**2)) * dot(normals, planes) ** 2) @ target.weights
    scores: Array = fitting / np.sqrt(np.maximum(covered @ target.weights, 0.05))
    return scores


def refine(poses: Poses, surface: CoarseSurface, target: CoarseTarget, tolerances_mm: tuple[float, ...]) -> Poses:
    """A point-to-plane ICP step per tolerance on all poses at once, the size of the face included; then scores."""
    single = target.single()
    for tolerance in tolerances_mm:
        places, planes, offset, normals = _beside(poses.single(), surface, single)
        weights = single.weights * dot(normals, planes) ** 2 / (1 + dot(offset, offset) / tolerance**2) ** 2
        poses = similarity_step(poses, places, planes, offset, weights)
    return score(poses, surface, target, tolerances_mm[-1])


def similarity_step(poses: Poses, places: Array, planes: Array, offset: Array, weights: Array) -> Poses:
    """One Gauss-Newton step of point-to-plane ICP for ``h`` poses at once; the scores stay.

    Parameters
    ----------
    places, planes, offset : (3, h, n) reference points and normals in the scan, and the way to their partners.
    weights : (h, n)
    """
    arm = places - poses.origins.T.astype(places.dtype)[:, :, None]
    (x, y, z), (u, v, w) = arm, planes
    # Unknowns: turn (radian), shift (mm), relative growth.
    rows = np.stack([y * w - z * v, z * u - x * w, x * v - y * u, *planes, dot(arm, planes)], axis=1)  # (h, 7, n)
    weighted = rows * weights[:, None]
    normal_matrix = np.matmul(weighted, rows.transpose(0, 2, 1)).astype(np.float64)
    right = np.matmul(weighted, dot(offset, planes)[..., None])[..., 0].astype(np.float64)
    axes, origins, scales = poses.axes, poses.origins, poses.scales
    total = weights.sum(axis=1, dtype=np.float64) + 1e-9
    mean, deviation = LIKELY_SCALE
    # The prior weighs like a hundredth of all points seen with 3 mm of noise each; damping keeps steps from flying off.
    damping = total[:, None] * np.array([4.0, 4.0, 4.0, 2e-3, 2e-3, 2e-3, 0.0])
    growth_weight = total * 0.01 * (3.0 / deviation) ** 2
    damping[:, 6] = growth_weight
    right[:, 6] += growth_weight * (mean / scales - 1)
    normal_matrix[:, np.arange(7), np.arange(7)] += damping
    step = np.linalg.solve(normal_matrix, right[..., None])[..., 0]
    angle = np.linalg.norm(step[:, :3], axis=1, keepdims=True)
    step[:, :3] *= np.minimum(1.0, 0.35 / np.maximum(angle, 1e-12))
    growth = np.clip(1 + step[:, 6], 0.9, 1.1)
    return Poses(
        np.matmul(rotations(step[:, :3]), axes),
        origins + step[:, 3:6],
        np.clip(scales * growth, *_SCALE_RANGE),
        poses.scores,
    )


def rotations(vectors: Array) -> Array:
    """Rotation matrices (h, 3, 3) of rotation vectors (h, 3), by Rodrigues' formula."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    skew = np.stack([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    small = np.maximum(angle, 1e-12)
    return np.eye(3) + np.sin(small) / small * skew + (1 - np.cos(small)) / small**2 * (skew @ skew)


def distinct(poses: Poses, most: int, apart_mm: float, apart_degrees: float) -> Poses:
    """The best-scored poses, none nearly the same as a better one."""
    order = np.argsort(-poses.scores, kind="stable")
    chosen: list[int] = []
    least_trace = 1 + 2 * np.cos(np.radians(apart_degrees))
    for index in order:
        if len(chosen) == most:
            break
        if chosen:
            near = np.sum((poses.origins[chosen] - poses.origins[index]) ** 2, axis=1) < apart_mm**2
            alike = np.einsum("hij,ij->h", poses.axes[chosen], poses.axes[index]) > least_trace
            if np.any(near & alike):
                continue
        chosen.append(int(index))
    return poses[np.array(chosen, dtype=np.int64)]


def _frames(directions: Array) -> Array:
    """Right-handed frames (n, 3, 3) with the directions (n, 3) as third column."""
    helper = np.where(np.abs(directions[:, :1]) < 0.8, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    first = _unit(np.cross(helper, directions))
    return np.stack([first, np.cross(directions, first), directions], axis=2)


def _smooth_normals(points: Array, rough: Array, radius: float) -> Array:
    """Normals (n, 3) of the planes through the points around each point, on the side of the ``rough`` normals.

    Triangles of a noisy fine mesh point everywhere and may be folded; the points still lie on the surface.
    """
    pairs = cKDTree(points).query_pairs(radius, output_type="ndarray")
    both, other = np.concatenate([pairs[:, 0], pairs[:, 1]]), np.concatenate([pairs[:, 1], pairs[:, 0]])
    away = np.ascontiguousarray((points.take(other, axis=0) - points.take(both, axis=0)).T)
    weights = np.exp(np.einsum("ij,ij->j", away, away) * (-2.0 / radius**2))
    total = np.bincount(both, weights, len(points)) + 1.0
    weighted = weights * away
    mean = np.stack([np.bincount(both, values, len(points)) for values in weighted]) / total
    spread = np.empty((len(points), 3, 3))
    for i in range(3):
        for j in range(i + 1):
            moment = np.bincount(both, weighted[i] * away[j], len(points)) / total
            spread[:, i, j] = spread[:, j, i] = moment - mean[i] * mean[j]
    normals = np.linalg.eigh(spread)[1][:, :, 0]
    return normals * np.where(np.einsum("ij,ij->i", normals, rough) < 0, -1.0, 1.0)[:, None]


def _sum_by(index: NDArray[np.int64], values: Array, length: int = 0) -> Array:
    return np.stack([np.bincount(index, values[:, axis], minlength=length) for axis in range(3)], axis=1)


def _unit(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.finfo(float).tiny)
