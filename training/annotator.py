"""The scatter of a human annotator, and habits of one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .simulation.head import LandmarkRule


def add_annotator_noise(
    landmarks: NDArray[np.float64],
    rules: tuple[LandmarkRule, ...],
    surface: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Scatter ``landmarks`` (L, 3) along ``surface`` (n, 3) as one round of an annotator would.

    The published intra-observer figure is the mean distance between two rounds. Two independent scatters that are
    isotropic in the tangent plane with standard deviation s per axis lie sqrt(pi) * s apart in the mean, so s is the
    figure over sqrt(pi).
    """
    tree = cKDTree(surface)
    scattered = landmarks.copy()
    for i, rule in enumerate(rules):
        near = surface[tree.query(landmarks[i], 30)[1]]
        _, _, axes = np.linalg.svd(near - near.mean(axis=0))
        scattered[i] += rng.normal(0, rule.intra_observer_mm / np.sqrt(np.pi), 2) @ axes[:2]
    return scattered


def put_higher(
    landmarks: NDArray[np.float64], labels: tuple[str, ...], surface: NDArray[np.float64], higher: Mapping[str, float]
) -> NDArray[np.float64]:
    """``landmarks`` (L, 3) of an upright head (LPS mm), those in ``higher`` so many mm further up on ``surface``."""
    tree = cKDTree(surface)
    moved = landmarks.copy()
    for label, millimetres in higher.items():
        i = labels.index(label)
        moved[i] = surface[tree.query(landmarks[i] + (0.0, 0.0, millimetres))[1]]
    return moved
