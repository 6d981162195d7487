"""How much a surface at a given pose looks like a face: the figure by which poses are compared, kept or refused.

Distances alone cannot tell: an ellipsoid comes within 4 mm of most of a face. What makes a face is its relief: nose,
eye hollows, lips and chin standing out of the broad curvature of the head. So both surfaces, the reference and the scan
seen along the reference's normals, are rid of their best quadratic, and the rest is correlated.
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
    coverage : (h,) share of the weight that has a counterpart.
    residual_mm : (h,) root mean square distance, each distance counted as 20 mm at most.
    orientation : (h,) weighted mean cosine between the normals: near 1, or near -1 if the scan is wound inside-out.
    likeness : (h,) weighted mean absolute cosine between the normals.
    """

    relief: Array
    coverage: Array
    residual_mm: Array
    orientation: Array
    likeness: Array


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
    seen = target.points + (signed / poses.scales[:, None])[..., None] * target.normals
    expected = _relief(np.broadcast_to(target.points, seen.shape), weights)
    observed = _relief(seen, weights)
    energy = np.sum(weights * expected**2, axis=1) * np.sum(weights * observed**2, axis=1)
    relief = np.sum(weights * expected * observed, axis=1) / np.sqrt(np.maximum(energy, 1e-12))
    return FaceEvidence(
        relief=relief,
        coverage=coverage,
        residual_mm=np.sqrt(np.sum(weights * signed**2, axis=1)),
        orientation=np.sum(weights * cosine, axis=1),
        likeness=np.sum(weights * np.abs(cosine), axis=1),
    )


def is_covered(distance: Array, offset: Array, surface_normals: Array) -> NDArray[np.bool_]:
    """Whether the nearest surface lies close or straight above or below, not sideways beyond a border of the scan."""
    along = np.abs(np.einsum("hni,hni->hn", offset, surface_normals))
    return (distance < _MISSING_MM) | (along > 0.8 * distance)


def _relief(points: Array, weights: Array) -> Array:
    """Depth (h, n) along the canonical y axis less its weighted least-squares quadratic in x and z."""
    x, depth, z = points[..., 0] / 60.0, points[..., 1], points[..., 2] / 60.0
    basis = np.stack([np.ones_like(x), x, z, x * x, x * z, z * z], axis=2)
    weighted = basis * weights[..., None]
    normal_matrix = np.matmul(weighted.transpose(0, 2, 1), basis) + 1e-9 * np.eye(6)
    coefficients = np.linalg.solve(normal_matrix, np.matmul(weighted.transpose(0, 2, 1), depth[..., None]))
    return depth - np.matmul(basis, coefficients)[..., 0]
