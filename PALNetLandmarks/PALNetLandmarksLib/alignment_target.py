"""What a scan is aligned to: the reference face, thinned for each step of the alignment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .coarse_alignment import Array, CoarseTarget, WeightedPoints, build_coarse_surface, protrusions
from .face_evidence import EvidenceTarget, evidence_weights, load_face_shape
from .reference import ReferenceFace


@dataclass(frozen=True)
class AlignmentTarget:
    """The reference face (canonical LPS mm), thinned for each step of the alignment; the same for all scans.

    Attributes
    ----------
    rough, coarse : few and more points for the search, with the nose.
    evidence : many points of the middle of the face, with how faces vary there.
    region_of_interest : (2, 3) the reference's own.
    """

    rough: CoarseTarget
    coarse: CoarseTarget
    evidence: EvidenceTarget
    region_of_interest: Array

    @staticmethod
    def of(reference: ReferenceFace) -> AlignmentTarget:
        """Make ``reference`` ready."""
        front = np.linalg.norm(reference.points, axis=1) < 60
        surface = build_coarse_surface(reference.points[front], reference.normals[front])
        standing_out = protrusions(surface.points, surface.normals)
        near = np.flatnonzero(np.linalg.norm(surface.points, axis=1) < 20)
        tip = near[np.argmax(standing_out.height[near])]
        nose = surface.points[tip], standing_out.direction[tip]
        points, normals = reference.points, reference.normals
        weights, forward = face_weights(points, normals), evidence_weights(points, normals)
        rough = thin_out(points, normals, weights, 20.0)
        coarse = thin_out(points, normals, weights, 12.0)
        even = thin_out(points, normals, forward, 6.5)
        return AlignmentTarget(
            CoarseTarget(rough.points, rough.normals, rough.weights, *nose),
            CoarseTarget(coarse.points, coarse.normals, coarse.weights, *nose),
            EvidenceTarget(even.points, even.normals, even.weights, load_face_shape().at(even.points)),
            reference.region_of_interest,
        )


def face_weights(points: Array, normals: Array) -> Array:
    """High in the middle of the face and on what faces forward; falls to nothing at ears, hair and throat: (n,)."""
    out = (points[:, 0] / 55.0) ** 2 + ((points[:, 2] - 8.0) / 60.0) ** 2
    return np.exp(-0.5 * out**2) * np.clip(0.3 - normals[:, 1], 0.05, 1.0)


def thin_out(points: Array, normals: Array, weights: Array, cell_mm: float) -> WeightedPoints:
    """One point for each occupied cell of a lattice, without those that hardly weigh."""
    cells = np.floor((points - points.min(axis=0)) / cell_mm).astype(np.int64)
    flat = (cells[:, 0] * 4096 + cells[:, 1]) * 4096 + cells[:, 2]
    chosen = np.sort(np.unique(flat, return_index=True)[1])
    chosen = chosen[weights[chosen] > 0.03]
    return WeightedPoints(points[chosen], normals[chosen], weights[chosen] / weights[chosen].sum())
