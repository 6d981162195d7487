"""How much a surface at a given pose looks like a face: the figure by which poses are compared, kept or refused.

Distances alone cannot tell: an ellipsoid comes within 4 mm of most of a face. What makes a face is its relief: nose,
eye hollows, lips and chin standing out of the broad curvature of the head. So both surfaces, the reference and the scan
seen along the reference's normals, are rid of their best quadratic, and the rest is correlated; likewise their normals,
which say more about small forms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .coarse_alignment import Array, Poses

#: A reference point has no counterpart if the nearest surface is further away than this and not straight below it.
_MISSING_MM = 4.0
_FARTHEST_MM = 20.0


@dataclass(frozen=True)
class EvidenceTarget:
    """Even reference points (n, 3) on the front of the face with normals (n, 3), and weights (n,) that sum to one."""

    points: Array
    normals: Array
    weights: Array


@dataclass(frozen=True)
class FaceEvidence:
    """For each of ``h`` poses, over the weighted reference points that have a counterpart.

    Attributes
    ----------
    relief : (h,) correlation of the scan's relief with the reference's, -1 to 1.
    normal_relief : (h,) the same for the sideways components of the normals.
    coverage : (h,) share of the weight that has a counterpart.
    residual_mm : (h,) root mean square distance, each distance counted as 20 mm at most.
    orientation : (h,) weighted mean cosine between the normals: near 1, or near -1 if the scan is wound inside-out.
    fitness : (h,) 0 to 1, all of it in one figure: 0.9 is typical of faces, 0.1 of anything else.
    """

    relief: Array
    normal_relief: Array
    coverage: Array
    residual_mm: Array
    orientation: Array
    fitness: Array

    def __getitem__(self, chosen: NDArray[np.int64]) -> FaceEvidence:
        return FaceEvidence(*(values[chosen] for values in vars(self).values()))

    def joined(self, other: FaceEvidence) -> FaceEvidence:
        """The evidence of these poses and then of the others."""
        return FaceEvidence(*(np.concatenate(pair) for pair in zip(vars(self).values(), vars(other).values())))


def face_evidence(poses: Poses, target: EvidenceTarget, tree: cKDTree, points: Array, normals: Array) -> FaceEvidence:
    """Compare the surface with the reference at every pose.

    Parameters
    ----------
    poses : h poses of the reference in the scan.
    tree, points, normals : the scan's samples, mm, with smooth normals (k, 3).
    """
    places, planes = poses.place(target.points), poses.turn(target.normals)
    distance, nearest = tree.query(places.reshape(-1, 3))
    distance = distance.reshape(places.shape[:2])
    nearest = nearest.reshape(distance.shape)
    offset, surface_normals = points[nearest] - places, normals[nearest]
    covered = is_covered(distance, offset, surface_normals)
    signed = np.clip(np.einsum("hni,hni->hn", offset, planes), -_FARTHEST_MM, _FARTHEST_MM)
    cosine = np.einsum("hni,hni->hn", surface_normals, planes)
    weights = target.weights * covered + 1e-12
    coverage = weights.sum(axis=1)
    weights = weights / coverage[:, None]
    orientation = np.sum(weights * cosine, axis=1)
    seen = target.points + (signed / poses.scales[:, None])[..., None] * target.normals
    relief = _correlation(
        _less_quadratic(np.broadcast_to(target.points, seen.shape), target.points[:, 1, None], weights),
        _less_quadratic(seen, seen[..., 1, None], weights),
        weights,
    )
    sideways = [0, 2]
    local = np.matmul(surface_normals, poses.axes) * np.where(orientation < 0, -1.0, 1.0)[:, None, None]
    normal_relief = _correlation(
        *np.split(
            _less_quadratic(
                np.broadcast_to(target.points, seen.shape),
                np.concatenate(
                    [np.broadcast_to(target.normals[:, sideways], (*seen.shape[:2], 2)), local[..., sideways]], axis=2
                ),
                weights,
            ),
            2,
            axis=2,
        ),
        weights,
    )
    residual = np.sqrt(np.sum(weights * signed**2, axis=1))
    return FaceEvidence(
        relief=relief,
        normal_relief=normal_relief,
        coverage=coverage,
        residual_mm=residual,
        orientation=orientation,
        fitness=_fitness(relief, normal_relief, residual / poses.scales),
    )


def _fitness(relief: Array, normal_relief: Array, residual: Array) -> Array:
    """Logistic regression of right (440) against wrong poses (2068) on simulated captures, made less steep.

    Of the right poses 99 % came to more than 0.7, of the wrong ones none to more than 0.63.
    """
    evidence = 20.7 * relief + 18.1 * normal_relief - 1.06 * residual - 21.4
    return 1 / (1 + np.exp(-evidence / 3))


def is_covered(distance: Array, offset: Array, surface_normals: Array) -> NDArray[np.bool_]:
    """Whether the nearest surface lies close or straight above or below, not sideways beyond a border of the scan."""
    along = np.abs(np.einsum("hni,hni->hn", offset, surface_normals))
    return (distance < _MISSING_MM) | (along > 0.8 * distance)


def _less_quadratic(points: Array, values: Array, weights: Array) -> Array:
    """``values`` (h, n, c) less their weighted least-squares quadratic in canonical x and z of ``points`` (h, n, 3)."""
    x, z = points[..., 0] / 60.0, points[..., 2] / 60.0
    basis = np.stack([np.ones_like(x), x, z, x * x, x * z, z * z], axis=2)
    weighted = (basis * weights[..., None]).transpose(0, 2, 1)
    coefficients = np.linalg.solve(np.matmul(weighted, basis) + 1e-7 * np.eye(6), np.matmul(weighted, values))
    return values - np.matmul(basis, coefficients)


def _correlation(first: Array, second: Array, weights: Array) -> Array:
    energy = np.sum(weights * np.sum(first**2, axis=2), axis=1) * np.sum(weights * np.sum(second**2, axis=2), axis=1)
    return np.sum(weights * np.sum(first * second, axis=2), axis=1) / np.sqrt(np.maximum(energy, 1e-12))
