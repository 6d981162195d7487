"""What fine-tuning on a few scans of an annotator is worth on another one: real heads, each left out in turn."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PALNetLandmarksLib.landmark_files import write_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.resources import resource_path

from .real_scans import CARRIED_OVER, compare_with_points, points_of, scan_paths
from .row import Row, Settings

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "height-map-net.json"


def measure_habits(settings: Settings) -> list[Row]:
    """Of the real scans that share one placement of the points, each after fine-tuning on the others."""
    groups: dict[str, list[Path]] = {}
    for path in scan_paths(settings.scans):
        annotation = points_of(path)["annotation"]
        if CARRIED_OVER in annotation:
            groups.setdefault(annotation, []).append(path)
    rows = []
    for scans in groups.values():
        # Three to learn from, and the one left out.
        if len(scans) >= 4:
            each = {path.stem: _leave_out(path, scans, settings.weights) for path in scans}
            rows.append(_row(each))
    return rows


def _leave_out(path: Path, scans: list[Path], weights: Path | None) -> dict[str, dict[str, float]]:
    """Errors (mm) on ``path`` by landmark, before and after fine-tuning without it."""
    from .. import train  # the one row that needs torch

    start = weights or resource_path("Weights.safetensors")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for split, chosen in (("data", [other for other in scans if other != path]), ("left-out", [path])):
            (folder / split).mkdir()
            for scan in chosen:
                _write_subject(scan, folder / split)
        arguments = ["--config", CONFIG, "--data", folder / "data", "--validation", folder / "left-out"]
        # Without an epoch, the scan for validation decides nothing about where landmarks are put.
        arguments += ["--output", folder / "run", "--finetune", start, "--set", "epochs=0", "--device", "cpu"]
        train.main([str(argument) for argument in arguments])
        before = compare_with_points(path, folder, weights)
        after = compare_with_points(path, folder, folder / "run" / "weights.safetensors")
    return {"before": before["errors_mm"], "after": after["errors_mm"]}


def _write_subject(scan: Path, folder: Path) -> None:
    """Link a scan and write its points, in its own frame, as the trainer reads them."""
    (folder / scan.name).symlink_to(scan.resolve())
    known = points_of(scan)["landmarks"]
    system = read_scan(scan).coordinate_system
    write_landmarks(folder / f"{scan.stem}.mrk.json", LandmarkSet(tuple(known), np.array(list(known.values())), system))


def _row(each: dict[str, dict[str, dict[str, float]]]) -> Row:
    errors = {when: np.array([list(scan[when].values()) for scan in each.values()]) for when in ("before", "after")}
    told = {when: f"mean {values.mean():.2f} mm, largest {values.max():.1f} mm" for when, values in errors.items()}
    return Row(
        "real scans, after fine-tuning on the others with points of the same annotator, each left out in turn",
        "better than before",
        f"{told['after']} (before: {told['before']}) over {errors['after'].size} points of {', '.join(each)}; "
        "these share one placement of the points, so that they scatter less from scan to scan than a clinic's would",
        bool(errors["after"].mean() < errors["before"].mean()),
        len(each),
        each,
    )
