"""Point-wise error on clinic-like captures of test identities, without annotator noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.align import UNITS, to_canonical
from PALNetLandmarksLib.detection import Detection
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.initial_landmarks import place_initial_landmarks
from PALNetLandmarksLib.measurements import load_measurements, measure
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.procrustes import fit_similarity
from PALNetLandmarksLib.scheme import LandmarkScheme, load_scheme

from ..landmark_groups import ear_landmarks, inner_landmarks
from .alignment import why_hopeless
from .captures import TestCapture, make_captures
from .metrics import (
    GROSS_MM,
    RADIUS_95_IN_ONE_DIMENSION,
    Array,
    calibration,
    distances,
    failures,
    missing_rates,
    summary,
)
from .row import Row, Settings
from .work import detector, reference, spread_work

MEAN_TARGET_MM = 1.5
INNER_TARGET_MM = 1.0
WITHIN_95_TARGET = (0.93, 0.97)
FAILURES_TARGET = 0.002
#: Of the noisy captures.
NOISE_MM = 0.5


@dataclass(frozen=True)
class Measured:
    """One capture: errors (L,) of detector and projected template in mm, deviations (L,), or why it was refused.

    ``hopeless`` says why a capture had to be refused, or nothing. ``measurements`` (M, 2): signed errors and standard
    deviations of the library's distances and angles between landmarks that the scan shows, NaN for others.
    """

    capture: str
    visible: NDArray[np.bool_]
    hopeless: str = ""
    errors: Optional[Array] = None  # noqa: UP045
    template_errors: Optional[Array] = None  # noqa: UP045
    deviations: Optional[Array] = None  # noqa: UP045
    missing: Optional[NDArray[np.bool_]] = None  # noqa: UP045
    measurements: Optional[Array] = None  # noqa: UP045
    message: str = ""


def measure_accuracy(settings: Settings) -> list[Row]:
    """The shipped network, and the template alone."""
    return accuracy_rows(_measure_clinic(settings, settings.weights, "accuracy"), load_scheme())


def measure_palnet(settings: Settings) -> list[Row]:
    """PAL-Net as published on the same captures, from ``settings.palnet``."""
    return [palnet_row(_measure_clinic(settings, settings.palnet, "PAL-Net"), load_scheme())]


def measure_unusual(settings: Settings) -> list[Row]:
    """The shipped network on half as many heads that lie far from the mean."""
    captures = make_captures(
        "unusual", max(1, settings.clinic_captures // 2), settings.model, settings.cache, settings.workers
    )
    return [unusual_row(_measure_all(captures, settings.weights, settings.workers, "unusual heads"), load_scheme())]


def measure_noise(settings: Settings) -> list[Row]:
    """The shipped network on half of the clinic-like captures, as a depth camera's raw frames might show them."""
    captures = [replace(capture, noise_mm=NOISE_MM) for capture in _clinic_captures(settings)]
    captures = captures[: max(1, len(captures) // 2)]
    measured = _measure_all(captures, settings.weights, settings.workers, "noise")
    what = f"clinic-like captures with noise of {NOISE_MM:g} mm along each axis added to every vertex"
    return [_row_in_short(what, "—", measured, load_scheme())]


def accuracy_rows(measured: Sequence[Measured], scheme: LandmarkScheme) -> list[Row]:
    """Rows of the error over all and over the inner landmarks, the template, missing landmarks, and certainty."""
    done = [one for one in measured if one.errors is not None]
    if not done:
        return [Row("point-wise error", "≤ 1.5 mm", "every capture was refused", False, len(measured))]
    visible, missing = np.array([one.visible for one in done]), np.array([one.missing for one in done])
    raw = np.array([one.errors for one in done])
    errors = np.where(visible, raw, np.nan)
    template = np.where(visible, np.array([one.template_errors for one in done]), np.nan)
    deviations = np.array([one.deviations for one in done])
    inner = inner_landmarks(scheme)
    rates = missing_rates(visible, missing)
    not_done = [one for one in measured if one.errors is None]
    refused = [{"capture": one.capture, "message": one.message} for one in not_done if not one.hopeless]
    hopeless = [{"capture": one.capture, "why": one.hopeless} for one in not_done if one.hopeless]
    all_errors = summary(errors)
    what = "point-wise error, clinic-like captures of test identities, no annotator noise"
    return [
        Row(
            f"{what}: mean over 50",
            f"≤ {MEAN_TARGET_MM} mm",
            _in_words(all_errors) + _refused_in_words(len(refused), len(hopeless)),
            all_errors["mean"] <= MEAN_TARGET_MM and not refused,
            len(measured),
            {
                **all_errors,
                "refused": refused,
                "refused_with_reason": hopeless,
                "landmarks": per_landmark(errors, scheme),
                "worst": _worst(done, scheme),
            },
        ),
        _inner_row(what, errors[:, inner], refused),
        Row(
            "same, the projected template alone",
            "—",
            f"{_in_words(summary(template))}; inner {summary(template[:, inner])['mean']:.2f} mm",
            None,
            len(measured),
            {**summary(template), "inner": summary(template[:, inner]), "landmarks": per_landmark(template, scheme)},
        ),
        Row(
            "landmarks that the scan does not show",
            "—",
            f"{_percent(rates['hidden_reported_missing'])} of {rates['hidden']} hidden ones reported missing, "
            f"{100 * rates['visible_reported_missing']:.2f} % of {rates['visible']} visible ones wrongly",
            None,
            len(measured),
            rates,
        ),
        failures_row(errors, missing, deviations),
        measurements_row(np.array([one.measurements for one in done])),
        certainty_row(raw, visible, deviations, scheme),
    ]


def failures_row(errors: Array, missing: NDArray[np.bool_], deviations: Array) -> Row:
    """Points far off, and how many of them nothing warns of: neither called missing nor uncertain. Arrays (n, L)."""
    failed, silent = failures(errors, missing, deviations)
    share = float(failed / np.isfinite(errors).sum())
    return Row(
        f"failures: points that the scan shows, more than {GROSS_MM:.0f} mm off",
        f"≤ {100 * FAILURES_TARGET:.1f} %, none silent",
        f"{100 * share:.2f} % ({failed}), {silent} of them neither missing nor uncertain",
        share <= FAILURES_TARGET and not silent,
        len(errors),
        {"failures": failed, "silent": silent, "share": share},
    )


def measurements_row(measured: Array) -> Row:
    """How far distances and angles between the landmarks are off; ``measured`` (n, M, 2) as in ``Measured``."""
    angles = np.array([one.is_angle for one in load_measurements()])
    error = np.abs(measured[..., 0])
    inside = np.where(np.isfinite(error), error <= RADIUS_95_IN_ONE_DIMENSION * measured[..., 1], np.nan)
    told = {
        name: {"mean": float(np.nanmean(error[:, group])), "within_95": float(np.nanmean(inside[:, group]))}
        for name, group in (("distances", ~angles), ("angles", angles))
    }
    each = zip(load_measurements(), np.nanmean(error, axis=0), np.nanmean(inside, axis=0))
    return Row(
        f"{(~angles).sum()} distances and {angles.sum()} angles between landmarks that the scan shows",
        "—",
        f"mean error {told['distances']['mean']:.2f} mm and {told['angles']['mean']:.2f}°; within their 95 % intervals "
        f"{100 * told['distances']['within_95']:.1f} % of the distances, {100 * told['angles']['within_95']:.1f} % of "
        "the angles",
        None,
        len(measured),
        {**told, "each": {one.name: {"mean": float(mean), "within_95": float(share)} for one, mean, share in each}},
    )


def calibration_groups(
    errors: Array, visible: NDArray[np.bool_], deviations: Array, scheme: LandmarkScheme
) -> dict[str, dict[str, float]]:
    """``calibration`` over all landmarks that the scans show, over the hard ones of them, and over those that they do
    not show. Arrays (n, L)."""
    ears = [scheme.labels.index(label) for label in ear_landmarks()]
    trichion = [scheme.labels.index("Tr")]
    shown = np.where(visible, errors, np.nan)
    return {
        "all": calibration(shown, deviations),
        "ears": calibration(shown[:, ears], deviations[:, ears]),
        "trichion": calibration(shown[:, trichion], deviations[:, trichion]),
        "not on the scan": calibration(np.where(visible, np.nan, errors), deviations),
    }


def certainty_row(errors: Array, visible: NDArray[np.bool_], deviations: Array, scheme: LandmarkScheme) -> Row:
    """What the standard deviations are worth. Arrays (n, L); see ``calibration_groups``."""
    told = calibration_groups(errors, visible, deviations, scheme)
    low, high = WITHIN_95_TARGET
    met = all(low <= group["within_95"] <= high for group in told.values() if np.isfinite(group["within_95"]))
    spread = told["all"]["most_certain_mm"] <= 0.5 * told["all"]["least_certain_mm"]
    inside = ", ".join(f"{name} {100 * group['within_95']:.1f} %" for name, group in told.items())
    return Row(
        "standard deviations that go with the landmarks",
        f"truth within the 95 % region in {100 * low:.0f} to {100 * high:.0f} % of each group; error of the most "
        "certain fifth at most half of the least certain fifth's",
        f"within the 95 % region: {inside}; most certain fifth {told['all']['most_certain_mm']:.2f} mm, least certain "
        f"{told['all']['least_certain_mm']:.2f} mm",
        bool(met and spread),
        len(errors),
        told,
    )


def palnet_row(measured: Sequence[Measured], scheme: LandmarkScheme) -> Row:
    """The row of the published network; landmarks with no point count like any other."""
    return _row_in_short(
        "same, published PAL-Net trained on other subjects of the same pool", "reported beside it", measured, scheme
    )


def unusual_row(measured: Sequence[Measured], scheme: LandmarkScheme) -> Row:
    """The row of heads far from the mean."""
    what = "clinic-like captures of test identities far from the mean, as in a craniofacial clinic"
    return _row_in_short(what, "—", measured, scheme)


def _row_in_short(what: str, target: str, measured: Sequence[Measured], scheme: LandmarkScheme) -> Row:
    done = [one for one in measured if one.errors is not None]
    if not done:
        return Row(what, target, "every capture was refused", None, len(measured))
    errors = np.where([one.visible for one in done], np.array([one.errors for one in done]), np.nan)
    inner = summary(errors[:, inner_landmarks(scheme)])
    certainty = calibration(errors, np.array([one.deviations for one in done]))
    held = certainty["within_95"]
    return Row(
        what,
        target,
        f"{_in_words(summary(errors))}; inner {inner['mean']:.2f} mm; {len(measured) - len(done)} refused"
        + (f"; {100 * held:.1f} % within the 95 % region" if np.isfinite(held) else ""),
        None,
        len(measured),
        {**summary(errors), "inner": inner, "certainty": certainty, "landmarks": per_landmark(errors, scheme)},
    )


def per_landmark(errors: Array, scheme: LandmarkScheme) -> dict[str, dict[str, float]]:
    """``summary`` of each column of errors (n, L)."""
    return {label: summary(column) for label, column in zip(scheme.labels, errors.T)}


def measure_capture(capture: TestCapture, weights: Optional[Path]) -> Measured:  # noqa: UP045
    """Detect on one capture and compare with the truth."""
    hopeless = ""
    try:
        mesh = capture.read()
        hopeless = why_hopeless(mesh, capture, fit_similarity(capture.landmarks, reference().landmarks))
        detection = detector(weights).detect(mesh)
    except LandmarkingError as error:
        return Measured(capture.path.stem, capture.visible, hopeless, message=str(error))
    points = detection.points * UNITS[detection.unit]
    return Measured(
        capture.path.stem,
        capture.visible,
        hopeless,
        errors=distances(points, capture.landmarks),
        template_errors=distances(projected_template(mesh, detection), capture.landmarks),
        deviations=detection.standard_deviation_mm,
        missing=detection.missing,
        measurements=_measurement_errors(points, detection, capture),
    )


def _measurement_errors(points: Array, detection: Detection, capture: TestCapture) -> Array:
    shown = capture.visible & ~detection.missing
    found = measure(
        {label: point for label, point, there in zip(detection.labels, points, shown) if there},
        dict(zip(detection.labels, detection.standard_deviation_mm)),
    )
    true = measure(dict(zip(detection.labels, capture.landmarks)), {})
    return np.array([(a.value - b.value, a.standard_deviation) for a, b in zip(found, true)])


def projected_template(mesh: TriangleMesh, detection: Detection) -> Array:
    """Mean landmarks of the reference, at the size of the face, on their nearest vertices; scan's frame, mm."""
    rotation, translation = detection.rigid_transform[:3, :3], detection.rigid_transform[:3, 3]
    canonical = to_canonical(mesh.points, detection.rigid_transform, UNITS[detection.unit])
    return (place_initial_landmarks(reference().landmarks * detection.face_scale, canonical) - translation) @ rotation


def _measure_clinic(settings: Settings, weights: Optional[Path], title: str) -> list[Measured]:  # noqa: UP045
    return _measure_all(_clinic_captures(settings), weights, settings.workers, title)


def _clinic_captures(settings: Settings) -> list[TestCapture]:
    return make_captures("clinic", settings.clinic_captures, settings.model, settings.cache, settings.workers)


def _measure_all(
    captures: Sequence[TestCapture],
    weights: Optional[Path],  # noqa: UP045
    workers: int,
    description: str,
) -> list[Measured]:
    return spread_work(partial(measure_capture, weights=weights), captures, workers, description)


def _inner_row(what: str, errors: Array, refused: list[dict[str, str]]) -> Row:
    figures = summary(errors)
    return Row(
        f"{what}: eyes, nose, mouth and midline less Tr",
        f"≤ {INNER_TARGET_MM} mm",
        _in_words(figures),
        figures["mean"] <= INNER_TARGET_MM and not refused,
        len(errors) + len(refused),
        figures,
    )


def _in_words(figures: dict[str, float]) -> str:
    return (
        f"{figures['mean']:.2f} ± {figures['sd']:.2f} mm (median {figures['median']:.2f}, 95 % below "
        f"{figures['p95']:.2f}, {100 * figures['share_above_10_mm']:.2f} % above 10 mm)"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if np.isfinite(share) else "none"


def _refused_in_words(refused: int, hopeless: int) -> str:
    wrongly = f"; {refused} captures refused" if refused else ""
    return wrongly + (f"; {hopeless} more refused as they must be (too few points or landmarks)" if hopeless else "")


def _worst(done: Sequence[Measured], scheme: LandmarkScheme, most: int = 30) -> list[dict[str, Any]]:
    """The largest errors of visible landmarks, to look at."""
    found: list[dict[str, Any]] = [
        {"capture": one.capture, "label": label, "error_mm": float(error), "standard_deviation_mm": float(deviation)}
        for one in done
        for label, error, deviation, seen in zip(scheme.labels, one.errors, one.deviations, one.visible)  # type: ignore[arg-type]
        if seen
    ]
    return sorted(found, key=lambda entry: -entry["error_mm"])[:most]
