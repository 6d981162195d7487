"""Similarity and rigid transforms that bring one set of landmarks onto another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SimilarityTransform:
    """``y = scale * rotation @ x + translation``; ``rotation`` (3, 3) proper, ``translation`` (3,)."""

    scale: float
    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]

    def apply(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Transform points (..., 3)."""
        return self.scale * (points @ self.rotation.T) + self.translation

    def apply_to_vectors(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Turn directions (..., 3); neither scaled nor shifted."""
        return vectors @ self.rotation.T

    def inverse(self) -> SimilarityTransform:
        """The transform back."""
        rotation = self.rotation.T
        return SimilarityTransform(1.0 / self.scale, rotation, -(rotation @ self.translation) / self.scale)

    def after(self, first: SimilarityTransform) -> SimilarityTransform:
        """The transform that applies ``first`` and then this one."""
        return SimilarityTransform(
            self.scale * first.scale, self.rotation @ first.rotation, self.apply(first.translation)
        )

    def matrix(self) -> NDArray[np.float64]:
        """Homogeneous (4, 4) matrix."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = self.translation
        return matrix


def fit_similarity(
    source: NDArray[np.floating],
    target: NDArray[np.floating],
    weights: NDArray[np.floating] | None = None,
    scaling: bool = True,
) -> SimilarityTransform:
    """Weighted least-squares similarity (or rigid, without ``scaling``) from ``source`` to ``target``, both (n, 3).

    Umeyama's solution (IEEE TPAMI 13(4), 1991): never a reflection.
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    share = np.full(len(source), 1.0) if weights is None else np.asarray(weights, dtype=np.float64)
    share = share / share.sum()
    source_mean, target_mean = share @ source, share @ target
    x, y = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(y.T @ (x * share[:, None]))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * sign) @ vt
    scale = float((singular * sign).sum() / (share @ (x**2).sum(axis=1))) if scaling else 1.0
    return SimilarityTransform(scale, rotation, target_mean - scale * (rotation @ source_mean))
