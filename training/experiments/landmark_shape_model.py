"""A classical peer: the reference face bent onto the scan carries the landmarks; a shape model keeps them plausible.

The bend is a smooth field of displacements: a Gaussian process with a squared-exponential kernel, as in coherent point
drift and Gaussian process morphable models (Lüthi et al., 2018), fitted to nearest neighbours in a few rounds from
stiff to soft. The landmarks then come from the principal modes that explain 95 % of the training subjects' variance
(Cootes et al., 1995), and lie on the scan's nearest vertex.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.procrustes import fit_similarity
from PALNetLandmarksLib.reference import ReferenceFace
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]

#: Points of the reference that are fitted, and those that carry the field.
FITTED, CARRIERS = 2500, 350
#: (kernel width mm, standard deviation of the displacement mm, noise mm, farthest partner mm) of each round.
ROUNDS = ((80.0, 8.0, 4.0, 25.0), (60.0, 8.0, 3.0, 15.0), (40.0, 6.0, 2.0, 10.0), (30.0, 5.0, 1.5, 7.0))
EXPLAINED = 0.95
#: Shapes further out than this many standard deviations are pulled back.
MOST_DEVIATIONS = 3.0


@dataclass(frozen=True, eq=False)
class LandmarkShapeModel:
    """Mean landmarks (L, 3) in the reference's frame and size, principal ``modes`` (k, L, 3) scaled by their standard
    deviations, and the reference's surface ``points`` (n, 3)."""

    mean: Array
    modes: Array
    points: Array

    @staticmethod
    def of(landmarks: list[Array], reference: ReferenceFace) -> LandmarkShapeModel:
        """Learn from training subjects' landmarks (L, 3), at the reference's size; NaN where undefined."""
        table = np.array(landmarks)
        mean = np.nanmean(table, axis=0)
        table = np.where(np.isfinite(table), table, mean)
        aligned = np.array([fit_similarity(shape, mean).apply(shape) for shape in table])
        centre = aligned.mean(axis=0)
        _, values, axes = np.linalg.svd((aligned - centre).reshape(len(aligned), -1), full_matrices=False)
        variance = values**2 / max(1, len(aligned) - 1)
        kept = int(np.searchsorted(np.cumsum(variance) / variance.sum(), EXPLAINED)) + 1
        modes = axes[:kept] * np.sqrt(variance[:kept])[:, None]
        chosen = np.linspace(0, len(reference.points) - 1, FITTED).astype(int)
        return LandmarkShapeModel(mean, modes.reshape(kept, *mean.shape), reference.points[chosen])

    def fit(self, scan: Array) -> Array:
        """Landmarks (L, 3) on a scan's vertices (n, 3), aligned and at the reference's size."""
        tree = cKDTree(scan)
        carriers = self.points[:: max(1, len(self.points) // CARRIERS)]
        bent, landmarks = self.points.copy(), self.mean.copy()
        moved_carriers = carriers.copy()
        for width, deviation, noise, farthest in ROUNDS:
            distance, nearest = tree.query(bent)
            near = distance < farthest
            field = _field(bent[near], scan[nearest[near]] - bent[near], moved_carriers, width, deviation, noise)
            bent, landmarks, moved_carriers = (
                bent + field(bent),
                landmarks + field(landmarks),
                moved_carriers + field(moved_carriers),
            )
        return scan[tree.query(self.plausible(landmarks))[1]]

    def plausible(self, landmarks: Array) -> Array:
        """The nearest shape (L, 3) that the model can take."""
        to_model = fit_similarity(landmarks, self.mean)
        offset = (to_model.apply(landmarks) - self.mean).ravel()
        modes = self.modes.reshape(len(self.modes), -1)
        coefficients = np.clip((modes @ offset) / (modes**2).sum(axis=1), -MOST_DEVIATIONS, MOST_DEVIATIONS)
        shape = self.mean + (coefficients @ modes).reshape(self.mean.shape)
        return fit_similarity(shape, landmarks).apply(shape)


def _field(places: Array, displacements: Array, carriers: Array, width: float, deviation: float, noise: float):  # type: ignore[no-untyped-def]
    """The most probable smooth field, as a function (n, 3) -> (n, 3); carried by inducing points (subset of
    regressors), so that the cost grows with their number alone."""

    def kernel(first: Array, second: Array) -> Array:
        return deviation**2 * np.exp(-0.5 * cdist(first, second, "sqeuclidean") / width**2)

    between = kernel(places, carriers)
    normal = between.T @ between / noise**2 + kernel(carriers, carriers) + 1e-6 * np.eye(len(carriers))
    weights = np.linalg.solve(normal, between.T @ displacements / noise**2)
    return lambda points: kernel(points, carriers) @ weights
