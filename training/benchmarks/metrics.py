"""The figures of the benchmark: pure functions of points and errors."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.certainty import UNCERTAIN_ABOVE_MM
from scipy.stats import chi2

Array = NDArray[np.float64]

#: An error that nobody would take for a measurement, in millimetres.
GROSS_MM = 10.0

#: Radius, in standard deviations per axis, of the ball that holds 95 % of an isotropic Gaussian in three dimensions.
RADIUS_95 = float(np.sqrt(chi2.ppf(0.95, 3)))

#: The same in one dimension, as for a length.
RADIUS_95_IN_ONE_DIMENSION = float(np.sqrt(chi2.ppf(0.95, 1)))


def rotation_angle(first: Array, second: Array) -> float:
    """Degrees between two rotation matrices (3, 3)."""
    # The chord is exact for small angles, where the arc cosine of the trace is not.
    half_chord = np.linalg.norm(np.asarray(first) - np.asarray(second)) / np.sqrt(8)
    return float(np.degrees(2 * np.arcsin(min(1.0, half_chord))))


def axis_rotations() -> Array:
    """The 24 rotations (24, 3, 3) that take the axes to axes, the identity first."""
    found = []
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            matrix = np.eye(3)[list(order)] * np.array(signs)[:, None]
            if np.linalg.det(matrix) > 0:
                found.append(matrix)
    return np.array(found)


def distances(points: Array, others: Array) -> Array:
    """Distances (..., ) between points (..., 3)."""
    return np.linalg.norm(np.asarray(points) - np.asarray(others), axis=-1)


def spread(points: Array) -> tuple[Array, Array]:
    """Scatter of points (k, L, 3) about their means: root mean square distance (L,) and largest distance (L,)."""
    away = distances(points, points.mean(axis=0))
    return np.sqrt((away**2).mean(axis=0)), away.max(axis=0)


def summary(errors: Array) -> dict[str, float]:
    """Mean, SD, median, 95 % quantile, maximum and share above ``GROSS_MM`` of errors (...), NaN left out."""
    known = np.asarray(errors)[np.isfinite(errors)]
    if not len(known):
        return dict.fromkeys(("mean", "sd", "median", "p95", "max", "share_above_10_mm"), float("nan")) | {"n": 0}
    return {
        "mean": float(known.mean()),
        "sd": float(known.std(ddof=1)) if len(known) > 1 else 0.0,
        "median": float(np.median(known)),
        "p95": float(np.quantile(known, 0.95)),
        "max": float(known.max()),
        "share_above_10_mm": float((known > GROSS_MM).mean()),
        "n": len(known),
    }


def missing_rates(visible: NDArray[np.bool_], missing: NDArray[np.bool_]) -> dict[str, float]:
    """Shares of hidden landmarks reported missing and of visible ones wrongly reported missing; arrays alike."""
    visible, missing = np.asarray(visible, dtype=bool), np.asarray(missing, dtype=bool)
    return {
        "hidden": int((~visible).sum()),
        "hidden_reported_missing": _share(missing, ~visible),
        "visible": int(visible.sum()),
        "visible_reported_missing": _share(missing, visible),
    }


def failures(errors: Array, missing: NDArray[np.bool_], deviations: Array) -> tuple[int, int]:
    """How many points are more than ``GROSS_MM`` off, and how many of these are silent: neither called missing nor
    uncertain. Arrays (n, L); errors NaN where unknown; deviations NaN where the method says none."""
    failed = np.nan_to_num(errors) > GROSS_MM
    warned = missing | (np.nan_to_num(deviations) > UNCERTAIN_ABOVE_MM)
    return int(failed.sum()), int((failed & ~warned).sum())


def calibration(errors: Array, deviations: Array) -> dict[str, float]:
    """How far predicted standard deviations per axis (...) tell the errors (...), NaN in either left out.

    ``within_95``: share of errors inside the 95 % ball; ``most_certain_mm`` and ``least_certain_mm``: mean error of the
    fifth with the smallest and the largest deviations; ``rank_correlation``: Spearman's.
    """
    known = np.isfinite(errors) & np.isfinite(deviations)
    error, deviation = np.asarray(errors)[known], np.asarray(deviations)[known]
    if len(error) < 5:
        return dict.fromkeys(("within_95", "most_certain_mm", "least_certain_mm", "rank_correlation"), float("nan"))
    order = np.argsort(deviation, kind="stable")
    fifth = len(order) // 5
    ranks = np.array([np.argsort(np.argsort(values, kind="stable")) for values in (error, deviation)])
    return {
        "within_95": float((error <= RADIUS_95 * deviation).mean()),
        "most_certain_mm": float(error[order[:fifth]].mean()),
        "least_certain_mm": float(error[order[-fifth:]].mean()),
        "rank_correlation": float(np.corrcoef(ranks)[0, 1]),
    }


def _share(what: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return float(what[among].mean()) if among.any() else float("nan")
