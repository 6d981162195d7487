"""Alignment of captures of test identities from any pose and unit."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PALNetLandmarksLib.align import LEAST_VERTICES, UNITS, Alignment, align_to_reference
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.inside_box import inside_box
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.procrustes import SimilarityTransform, fit_similarity

from .captures import TestCapture, make_captures
from .metrics import Array, distances, rotation_angle
from .row import Row, Settings
from .work import detector, reference, spread_work

RIGHT_WITHIN_DEGREES = 10.0
RIGHT_WITHIN_MM = 15.0

#: A capture aligned wrongly is returned wrongly if its landmarks are further off than this in the mean, mm: the
#: later passes re-align by the landmarks and can make a wrong start good.
RETURNED_WRONG_BEYOND_MM = 5.0

#: With fewer landmarks in view than this nobody could say where the face lies.
LEAST_VISIBLE = 15

#: The middle of the face: without half of these there is nothing to align by.
MIDDLE = ("N", "Prn", "C", "Sn", "Ls", "Sto", "En_R", "En_L", "Ac_R", "Ac_L")


@dataclass(frozen=True)
class Outcome:
    """What became of one capture.

    ``verdict`` is "right", "refused" or "wrong"; ``hopeless`` says why nobody could align the capture, or nothing;
    ``returned_mm``: where the whole pipeline returned landmarks in spite of a wrong alignment, their mean error over
    what is visible (that of the template for the published registration, which refuses nothing).
    """

    capture: str
    device: str
    unit: str
    visible: int
    verdict: str
    hopeless: str
    returned_mm: Optional[float] = None  # noqa: UP045
    degrees: Optional[float] = None  # noqa: UP045
    template_mm: Optional[float] = None  # noqa: UP045
    fitness: Optional[float] = None  # noqa: UP045
    message: str = ""


def measure_alignment(settings: Settings) -> list[Row]:
    """The row for the registration that ``settings`` name."""
    captures = make_captures("any-device", settings.captures, settings.model, settings.cache, settings.workers)
    work = partial(align_capture, registration=settings.registration, weights=settings.weights)
    return [alignment_row(spread_work(work, captures, settings.workers, "alignment"), settings.registration)]


def alignment_row(outcomes: list[Outcome], registration: str) -> Row:
    """Count verdicts; captures that nobody could align are reported, but do not count as failures if refused."""
    possible = [outcome for outcome in outcomes if not outcome.hopeless]
    hopeless = [outcome for outcome in outcomes if outcome.hopeless]
    counts = Counter(outcome.verdict for outcome in possible)
    wrong = [outcome for outcome in outcomes if outcome.verdict == "wrong"]
    errors = [outcome.returned_mm for outcome in wrong if outcome.returned_mm is not None]
    returned = sum(error > RETURNED_WRONG_BEYOND_MM for error in errors)
    right = counts["right"] / max(len(possible), 1)
    value = (
        f"{100 * right:.1f} % right ({counts['right']} of {len(possible)}; {counts['refused']} refused, "
        f"{counts['wrong']} wrong)"
    )
    if errors:
        value += (
            f"; {len(errors)} wrong ones returned by the pipeline, with landmarks "
            + ", ".join(f"{error:.1f}" for error in sorted(errors)[:10])
            + " mm off in the mean"
        )
    if hopeless:
        kinds = Counter(outcome.verdict for outcome in hopeless)
        value += f"; besides {len(hopeless)} that nobody could align: " + ", ".join(
            f"{number} {verdict}" for verdict, number in sorted(kinds.items())
        )
    by_device = {
        device: dict(Counter(outcome.verdict for outcome in possible if outcome.device == device))
        for device in sorted({outcome.device for outcome in possible})
    }
    return Row(
        what="alignment from random SO(3) start, simulated captures of test identities"
        + ("" if registration == "own" else f" ({registration})"),
        target="≥ 99.5 % right; wrong ones refused",
        value=value,
        met=right >= 0.995 and returned == 0 if registration == "own" else None,
        n=len(outcomes),
        details={
            "right": counts["right"],
            "refused": counts["refused"],
            "wrong": counts["wrong"],
            "possible": len(possible),
            "wrong_and_returned": returned,
            "by_device": by_device,
            "hopeless": [asdict(outcome) for outcome in hopeless],
            "not_right": [asdict(outcome) for outcome in possible if outcome.verdict != "right"],
        },
    )


def align_capture(capture: TestCapture, registration: str, weights: Optional[Path]) -> Outcome:  # noqa: UP045
    """Align one capture and compare with the transform that its true landmarks give."""
    # Landmarks that the scan does not show are known all the same.
    truth = fit_similarity(capture.landmarks, reference().landmarks)
    facts: dict[str, Any] = {
        "capture": capture.path.stem,
        "device": capture.device,
        "unit": capture.unit,
        "visible": int(capture.visible.sum()),
    }
    try:
        mesh = capture.read()
        facts["hopeless"] = why_hopeless(mesh, capture, truth)
        alignment = _register(mesh, capture, registration)
    except LandmarkingError as error:
        return Outcome(**{"hopeless": "unreadable", **facts}, verdict="refused", message=str(error))
    degrees = rotation_angle(alignment.transform[:3, :3], truth.rotation)
    placed = initial_template(alignment)
    template_mm = float(distances(placed, capture.landmarks).mean())
    returned_mm = None
    right = degrees <= RIGHT_WITHIN_DEGREES and template_mm <= RIGHT_WITHIN_MM
    if not right:
        returned_mm = template_mm if registration != "own" else _returned_error(mesh, capture, weights)
    return Outcome(
        **facts,
        verdict="right" if right else "wrong",
        returned_mm=returned_mm,
        degrees=degrees,
        template_mm=template_mm,
        fitness=alignment.fitness,
        message=f"taken for {alignment.unit}" if alignment.unit != capture.unit else "",
    )


def why_hopeless(mesh: TriangleMesh, capture: TestCapture, truth: SimilarityTransform) -> str:
    """Why nobody could align this capture; nothing if one could."""
    visible = int(capture.visible.sum())
    if visible < LEAST_VISIBLE:
        return f"only {visible} landmarks in view"
    middle = np.isin(reference().labels, MIDDLE)
    if capture.visible[middle].mean() < 0.5:
        return "the middle of the face is missing"
    canonical = truth.apply(mesh.points * UNITS[capture.unit])
    on_face = int(inside_box(canonical, *reference().region_of_interest).sum())
    if on_face < LEAST_VERTICES:
        return f"only {on_face} points on the face"
    return ""


def initial_template(alignment: Alignment) -> Array:
    """The mean landmarks (L, 3) where the alignment puts them, in the scan's frame in millimetres."""
    rotation, translation = alignment.transform[:3, :3], alignment.transform[:3, 3]
    return (reference().landmarks * alignment.face_scale - translation) @ rotation


def _register(mesh: TriangleMesh, capture: TestCapture, registration: str) -> Alignment:
    if registration == "own":
        return align_to_reference(mesh, reference())
    from ..fpfh_ransac import align_fpfh_ransac

    # The published way has no means of finding the unit.
    return align_fpfh_ransac(mesh, reference(), capture.unit)


def _returned_error(mesh: TriangleMesh, capture: TestCapture, weights: Optional[Path]) -> Optional[float]:  # noqa: UP045
    """Mean error (mm) over the visible landmarks that the whole pipeline returns; nothing if it refuses."""
    try:
        detection = detector(weights).detect(mesh)
    except LandmarkingError:
        return None
    points = detection.points * UNITS[detection.unit]
    return float(distances(points, capture.landmarks)[capture.visible].mean())
