"""What a method says of the test subjects of one fold, kept on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.align import UNITS
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.landmark_files import read_landmarks
from rich.progress import track

from ..aligned_scans import as_in_scan
from ..cohort import TRUTH
from ..folder import Subject
from .methods import Predict, Prediction, read_mesh

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """Of n subjects: ``points``, ``annotated`` and ``truth`` (n, L, 3), mm in the scans' frames, NaN where unknown.

    ``annotated`` is what the folder's files say; ``truth`` the same without an annotator's scatter where the cohort
    knows it, else ``annotated``. ``deviations`` (n, L), ``missing`` (n, L) bool, ``seconds`` one dict for each subject,
    ``refused`` reason by name (their points are NaN).
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    points: Array
    annotated: Array
    truth: Array
    deviations: Array
    missing: NDArray[np.bool_]
    seconds: tuple[dict[str, float], ...]
    refused: dict[str, str]

    def save(self, path: Path) -> None:
        """Write to an ``.npz`` file, which appears whole or not at all."""
        facts = {"seconds": list(self.seconds), "refused": self.refused}
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(
            partial,
            names=np.array(self.names),
            labels=np.array(self.labels),
            # To a micrometre: reports keep these files.
            points=np.round(self.points, 3).astype(np.float32),
            annotated=np.round(self.annotated, 3).astype(np.float32),
            truth=np.round(self.truth, 3).astype(np.float32),
            deviations=np.round(self.deviations, 3).astype(np.float32),
            missing=self.missing,
            facts=np.array(json.dumps(facts)),
        )
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> Predictions:
        """Read what ``save`` wrote."""
        with np.load(path) as data:
            facts = json.loads(str(data["facts"]))
            return Predictions(
                tuple(str(name) for name in data["names"]),
                tuple(str(label) for label in data["labels"]),
                data["points"].astype(np.float64),
                data["annotated"].astype(np.float64),
                data["truth"].astype(np.float64),
                data["deviations"].astype(np.float64),
                data["missing"],
                tuple(facts["seconds"]),
                dict(facts["refused"]),
            )


def predict_subjects(
    predict: Predict,
    subjects: Sequence[Subject],
    labels: tuple[str, ...],
    title: str,
    mm_per_unit: Mapping[str, float],
    unit: str | None = None,
) -> Predictions:
    """Run a method on the scans of ``subjects``, one after the other, as each scan lies in its file (in mm).

    ``mm_per_unit``: of each scan's file by name, as far as it is known. ``unit``: of all scans, if it was given.
    """
    count = len(labels)
    points, annotated, truth, deviations, missing, seconds = [], [], [], [], [], []
    refused = {}
    for subject in track(subjects, description=title):
        mesh, known = None, np.full((count, 3), np.nan)
        placed = Prediction(known, np.full(count, np.nan), np.ones(count, dtype=bool), {})
        try:
            mesh, reading = read_mesh(subject.scan)
            placed = predict(mesh, unit)
            placed = replace(placed, seconds={**placed.seconds, "read": reading})
        except LandmarkingError as error:
            refused[subject.name] = str(error)
        exact = known
        if mesh is not None:
            # Folds hold links; the truth lies beside the original.
            kept = subject.landmarks.resolve().parent / TRUTH / f"{subject.name}.mrk.json"
            known, exact = (
                as_in_scan(read_landmarks(file).ordered(labels), file, mesh).points
                * mm_per_unit.get(subject.name, UNITS[unit] if unit else placed.mm_per_unit)
                for file in (subject.landmarks, kept if kept.exists() else subject.landmarks)
            )
        annotated.append(known)
        truth.append(exact)
        points.append(placed.points)
        deviations.append(placed.deviations)
        missing.append(placed.missing)
        seconds.append(placed.seconds)
    return Predictions(
        tuple(subject.name for subject in subjects),
        labels,
        np.array(points),
        np.array(annotated),
        np.array(truth),
        np.array(deviations),
        np.array(missing),
        tuple(seconds),
        refused,
    )
