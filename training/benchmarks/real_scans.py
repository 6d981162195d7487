"""The real scans: against their annotators' points, and turned every way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PALNetLandmarksLib.align import UNITS
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.landmark_files import write_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.picture import render_detection
from PALNetLandmarksLib.procrustes import fit_similarity
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import load_reference
from PIL import Image

from ..few_colours import save_with_few_colours
from .metrics import RADIUS_95, axis_rotations, distances, summary
from .report import REAL_SCANS_PICTURE
from .row import Row, Settings
from .work import detector, spread_work

MEAN_TARGET_MM = 2.0
LARGEST_TARGET_MM = 7.0
AXIS_TARGET_MM = 1.0

#: How an annotation says that its points were placed on one head and taken from there to others.
CARRIED_OVER = "carried by vertex"


def measure_real_scans(settings: Settings) -> list[Row]:
    """Errors against the points that came with the scans; pictures go to ``OUTPUT/real-scans`` and, small, all together
    to ``OUTPUT/real-scans.png``."""
    folder = settings.output / "real-scans"
    folder.mkdir(parents=True, exist_ok=True)
    work = partial(compare_with_points, folder=folder, weights=settings.weights)
    scans = spread_work(work, scan_paths(settings.scans), settings.workers, "real scans")
    pictures = [folder / f"{scan['name']}.png" for scan in scans if "refused" not in scan]
    if pictures:
        save_with_few_colours(together(pictures), settings.output / REAL_SCANS_PICTURE)
    return [real_scans_row({scan["name"]: scan for scan in scans})]


def together(pictures: Sequence[Path], width: int = 760, columns: int = 2) -> Image.Image:
    """Pictures made ``width`` pixels wide, ``columns`` in a row."""
    small = []
    for path in pictures:
        with Image.open(path) as picture:
            size = (width, round(picture.height * width / picture.width))
            small.append(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    height = max(picture.height for picture in small)
    sheet = Image.new("RGB", (columns * width, -(-len(small) // columns) * height), "white")
    for number, picture in enumerate(small):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet


def real_scans_row(scans: dict[str, dict[str, Any]]) -> Row:
    """Mean over all points of all scans, and the largest; a refused scan misses the target."""
    refused = [name for name, scan in scans.items() if "refused" in scan]
    target = f"mean ≤ {MEAN_TARGET_MM} mm, none above {LARGEST_TARGET_MM:.0f} mm"
    errors = np.array([error for scan in scans.values() for error in scan.get("errors_mm", {}).values()])
    if not len(errors):
        return Row("real scans, against their points", target, "all refused", False, 0)
    figures = summary(errors)
    each = ", ".join(
        f"{name} refused" if name in refused else f"{name} {scan['mean_mm']:.2f}/{scan['max_mm']:.1f}"
        for name, scan in scans.items()
    )
    within = [inside for scan in scans.values() for inside in scan.get("within_95", {}).values()]
    shared = shared_offsets(scans)
    in_common = "".join(
        f"; {', '.join(group['scans'])} share one placement of the points: {group['shared_mm']:.2f} mm in the mean are "
        f"an offset common to all, {group['each_mm']:.2f} mm vary from scan to scan"
        for group in shared
    )
    met = figures["mean"] <= MEAN_TARGET_MM and figures["max"] <= LARGEST_TARGET_MM and not refused
    return Row(
        "real scans, against their points",
        target,
        f"mean {figures['mean']:.2f} mm, largest {figures['max']:.1f} mm over {len(errors)} points "
        f"(mean/largest: {each}{in_common}); {100 * np.mean(within):.0f} % of the points lie inside the stated 95 % "
        "region, which knows nothing of the annotators' own scatter",
        met,
        len(scans),
        {**figures, "scans": scans, "shared_offsets": shared, "within_95": float(np.mean(within))},
    )


def shared_offsets(scans: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What part of the errors is one offset, among scans that share a single placement of the points.

    An expert who places points on one head and carries them to others by vertex makes one error for all; so does a
    method whose idea of a landmark differs from the expert's. What changes from scan to scan is the method's own.

    Returns
    -------
    For each such group of scans: ``scans``; ``shared_mm``, the mean length over the landmarks of the mean offset; and
    ``each_mm``, the mean distance of the scans' offsets from it, corrected for the mean being their own.
    """
    groups: dict[str, list[str]] = {}
    for name, scan in scans.items():
        if CARRIED_OVER in scan.get("annotation", ""):
            groups.setdefault(scan["annotation"], []).append(name)
    found = []
    for names in groups.values():
        if len(names) < 2:
            continue
        each = [scans[name]["offsets_mm"] for name in names]
        labels = [label for label in each[0] if all(label in other for other in each)]
        offsets = np.array([[scan[label] for label in labels] for scan in each])
        common = offsets.mean(axis=0)
        own = distances(offsets, common).mean() * np.sqrt(len(names) / (len(names) - 1))
        found.append({"scans": names, "shared_mm": float(np.linalg.norm(common, axis=1).mean()), "each_mm": float(own)})
    return found


def compare_with_points(path: Path, folder: Path, weights: Optional[Path]) -> dict[str, Any]:  # noqa: UP045
    """Detect on one scan, draw it, and compare with ``<name>.landmarks.json`` beside it (the scan's frame)."""
    truth = points_of(path)
    try:
        mesh = read_scan(path)
        detection = detector(weights).detect(mesh)
    except LandmarkingError as error:
        return {"name": path.stem, "refused": str(error)}
    render_detection(mesh, detection, folder / f"{path.stem}.png")
    write_landmarks(
        folder / f"{path.stem}.mrk.json", LandmarkSet(detection.labels, detection.points, detection.coordinate_system)
    )
    points = dict(zip(detection.labels, detection.points * UNITS[detection.unit]))
    to_mm = UNITS[truth["units"]]
    labels = list(truth["landmarks"])
    places = np.array(list(truth["landmarks"].values())) * to_mm
    offsets = np.array([points[label] for label in labels]) - places
    errors = dict(zip(labels, np.linalg.norm(offsets, axis=1).tolist()))
    deviations = dict(zip(detection.labels, detection.standard_deviation_mm.tolist()))
    # Offsets of several heads can be compared only as seen from one pose.
    reference = load_reference()
    upright = fit_similarity(places, reference.landmarks[[reference.labels.index(label) for label in labels]])
    return {
        "name": path.stem,
        "annotation": truth["annotation"],
        "offsets_mm": dict(zip(labels, upright.apply_to_vectors(offsets).round(3).tolist())),
        "mean_mm": float(np.mean(list(errors.values()))),
        "max_mm": max(errors.values()),
        "errors_mm": errors,
        "within_95": {label: bool(error <= RADIUS_95 * deviations[label]) for label, error in errors.items()},
        "missing": [label for label, gone in zip(detection.labels, detection.missing) if gone],
        "fitness": detection.fitness,
        "face_scale": detection.face_scale,
        "unit": detection.unit,
    }


def measure_axis_rotations(settings: Settings) -> list[Row]:
    """Every scan turned by the 24 rotations that take axes to axes, against the scan as it is."""
    work = partial(turn_every_way, weights=settings.weights)
    scans = dict(spread_work(work, scan_paths(settings.scans), settings.workers, "axis rotations"))
    refused = sum(scan["refused"] for scan in scans.values())
    largest = max(scan["largest_mm"] for scan in scans.values())
    value = f"largest difference {largest:.3g} mm" + (f"; {refused} rotated scans refused" if refused else "")
    met = bool(largest <= AXIS_TARGET_MM) and not refused
    return [
        Row("all 24 axis rotations of every real scan", "agree within 1 mm per landmark", value, met, len(scans), scans)
    ]


def turn_every_way(path: Path, weights: Optional[Path]) -> tuple[str, dict[str, Any]]:  # noqa: UP045
    """Largest distance, over rotations and landmarks, from the landmarks of the unturned scan."""
    mesh = read_scan(path)
    found = []
    refused = 0
    for rotation in axis_rotations():
        try:
            detection = detector(weights).detect(mesh.with_points(mesh.points @ rotation.T))
        except LandmarkingError:
            refused += 1
            continue
        found.append(detection.points @ rotation * UNITS[detection.unit])
    differences = [distances(points, found[0]).max() for points in found]
    largest = float(max(differences)) if differences else float("inf")
    return path.stem, {"largest_mm": largest, "refused": refused, "each_mm": [float(value) for value in differences]}


def points_of(scan: Path) -> dict[str, Any]:
    """What ``<name>.landmarks.json`` beside a scan says."""
    document: dict[str, Any] = json.loads(scan.with_name(f"{scan.stem}.landmarks.json").read_text(encoding="utf-8"))
    return document


def scan_paths(folder: Path) -> list[Path]:
    """The scans of ``folder`` that come with points."""
    return sorted(path for path in folder.glob("*.ply") if path.with_name(f"{path.stem}.landmarks.json").exists())
