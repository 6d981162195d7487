"""Other ways to use a trained network than the library's, for comparison: passes, mirror averaging, a shape prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.known_points import known_points
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.procrustes import fit_similarity
from PALNetLandmarksLib.surface import SurfaceLocator
from PALNetLandmarksLib.weights import load_weights, save_weights

from .methods import Predict, Prediction

Array = NDArray[np.float64]

_FLIP = np.array([-1.0, 1.0, 1.0])

#: Added to the variance (mm²) of each coordinate: few subjects span few shapes.
_LEFT_OUT_MM2 = 1.0
#: Fewer training subjects with all landmarks tell nothing of how these vary.
_LEAST_SUBJECTS = 3


def with_passes(weights: Path, passes: int) -> Path:
    """A copy of a weights file, beside it, that asks for so many passes."""
    copy, file = weights.with_name(f"{weights.stem}-{passes}-passes.safetensors"), load_weights(weights)
    save_weights(copy, file.arrays, {**file.metadata, "passes": passes}, "float16")
    return copy


def mean_with_mirrored(predict: Predict, mirrored: Sequence[int], surface: str) -> Predict:
    """Landmarks halfway between those of the scan and of its mirror image, on the surface.

    ``mirrored``: each landmark's counterpart, -1 where it has none: such a landmark stays as it is. What is missing
    and how certain it is, the scan itself says. ``surface`` as for the detector.
    """
    partner = np.array(mirrored)

    def both(mesh: TriangleMesh, unit: str | None) -> Prediction:
        found = predict(mesh, unit)
        image = TriangleMesh(mesh.points * _FLIP, mesh.triangles[:, ::-1], mesh.name, mesh.coordinate_system)
        other = np.where(partner[:, None] < 0, found.points, (predict(image, unit).points * _FLIP)[partner])
        return _on_surface(replace(found, points=(found.points + other) / 2), mesh, surface)

    return both


def with_shape_prior(predict: Predict, landmarks: Sequence[Array], surface: str) -> Predict:
    """The most probable landmarks if shapes were normally distributed like those of the training subjects.

    ``landmarks``: theirs, (L, 3) mm each. The mean face is brought onto what was found; each landmark counts by its
    standard deviation. A scan with unknown landmarks stays as it is. ``surface`` as for the detector.

    Raises
    ------
    ValueError
        If too few training subjects have all landmarks.
    """
    known = np.array([shape for shape in landmarks if np.isfinite(shape).all()])
    if len(known) < _LEAST_SUBJECTS:
        raise ValueError(
            f"Only {len(known)} training subjects have every landmark; the shape prior needs {_LEAST_SUBJECTS}; "
            "leave it out."
        )
    mean = known[0]
    for _ in range(3):
        aligned = np.array([fit_similarity(shape, mean).apply(shape) for shape in known])
        mean = aligned.mean(axis=0)
    flat = (aligned - mean).reshape(len(aligned), -1)
    covariance = flat.T @ flat / (len(flat) - 1) + _LEFT_OUT_MM2 * np.eye(flat.shape[1])

    def plausible(mesh: TriangleMesh, unit: str | None) -> Prediction:
        found = predict(mesh, unit)
        if not (np.isfinite(found.points).all() and np.isfinite(found.deviations).all()):
            return found
        pose = fit_similarity(found.points, mean, weights=found.deviations**-2)
        seen = pose.apply(found.points)
        noise = np.diag(np.repeat((pose.scale * found.deviations) ** 2, 3))
        drawn = mean + (covariance @ np.linalg.solve(covariance + noise, (seen - mean).ravel())).reshape(mean.shape)
        return _on_surface(replace(found, points=pose.inverse().apply(drawn)), mesh, surface)

    return plausible


def _on_surface(found: Prediction, mesh: TriangleMesh, surface: str) -> Prediction:
    """With what is not missing at the nearest place of the scan, whichever way the skin faces there."""
    shown = ~found.missing & known_points(found.points)
    points = found.points.copy()
    near, _ = SurfaceLocator(mesh).put(points[shown] / found.mm_per_unit, surface)
    points[shown] = near * found.mm_per_unit
    return replace(found, points=points)
