"""Check a folder of scans with landmarks before training on it: what cannot be used, and which points to look at.

    python -m training.check_data --data DIR

DIR as for ``training.train``. The bundled weights place their landmarks on every scan. Where a laboratory puts a
landmark elsewhere on all scans, that is its habit and said once; a point that lies far from there on one scan is named,
as it may have slipped, or carry another's name. Nothing is changed. Exit status: 0 nothing to look at, 1 something
(habits do not count).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.align import UNITS
from PALNetLandmarksLib.detector import LandmarkDetector
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import load_reference
from rich.console import Console
from rich.progress import track

from .aligned_scans import align_scans, as_in_scan
from .arguments import add_unit, at_least_one, command_parser
from .finetuning import habits
from .folder import Subject, find_subjects, read_landmark_files, twins
from .messages import say_note, say_reasons
from .training_scheme import meant_by, scheme_of

#: A point is odd this far (mm) from where its landmark is expected, as many times as far as on the median scan, and as
#: many standard deviations that the weights state for it.
_ODD_MM, _ODD_RATIO, _ODD_DEVIATIONS = 7.0, 4.0, 4.0

#: Two points are exchanged if both, with their names changed, lie nearer by this factor to where they are expected, and
#: as many times as far as on the median scan before.
_EXCHANGED, _EXCHANGED_RATIO = 1 / 3, 2.0

#: Where this share of a subject's points is odd, they are another's.
_OTHERS = 0.3

#: Fewer subjects have no median to compare with; a habit smaller than this (mm) is not worth saying.
_LEAST_SUBJECTS, _HABIT_MM = 3, 2.0


@dataclass(frozen=True)
class Expected:
    """Where one subject's landmarks stand and where they are expected: ``annotated`` and ``detected`` (L, 3) in the
    canonical frame, mm of the subject, NaN where there is none; ``deviation`` (L,) of the detected ones, mm."""

    subject: str
    annotated: NDArray[np.float64]
    detected: NDArray[np.float64]
    deviation: NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see ``python -m training.check_data --help``."""
    parser = command_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of scans with landmarks")
    parser.add_argument("--weights", type=Path, help="weights to expect the landmarks by, instead of the bundled ones")
    add_unit(parser)
    parser.add_argument("--workers", type=at_least_one, default=2, help="scans looked at at once")
    a = parser.parse_args(arguments)
    try:
        odd = check(a.data, a.weights, a.unit, a.workers, Console(), Console(stderr=True))
    except LandmarkingError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; nothing is kept.")
    sys.exit(1 if odd else 0)


def check(
    data: Path, weights: Path | None, unit: str | None, workers: int, console: Console, progress: Console
) -> bool:
    """Say on ``console`` what there is to look at in the folder ``data``; whether there is anything.

    Raises
    ------
    TrainingDataError, WeightsError
        If the folder has no pair of files, or the weights cannot be used.
    """
    subjects, left_out = find_subjects(data)
    sets, unreadable = read_landmark_files(subjects)
    subjects = [subject for subject in subjects if subject.name in sets]
    detector = LandmarkDetector.load(weights)
    named = scheme_of(sets.values(), data.name).labels
    with tempfile.TemporaryDirectory() as cache:
        aligned, refused = align_scans(subjects, sets, named, load_reference(), Path(cache), unit, workers)
    usable = {scan.subject.name for scan in aligned}
    subjects = [subject for subject in subjects if subject.name in usable]
    with ThreadPoolExecutor(workers) as executor:
        looked = executor.map(lambda subject: _look(subject, sets[subject.name], detector, unit), subjects)
        results = list(track(looked, "landmarks", len(subjects), console=progress, transient=True))
    faces = [result for result in results if isinstance(result, Expected)]
    reasons = {**left_out, **unreadable, **{name: str(error) for name, error in refused.items()}}
    say_reasons(console, "Left out", dict(sorted(reasons.items())))
    unchecked = {s.name: str(result) for s, result in zip(subjects, results) if isinstance(result, LandmarkingError)}
    say_reasons(console, "Not checked", unchecked)
    unknown = [label for label in named if label not in detector.labels]
    for label in unknown:
        say_note(console, _unknown(label, sets, detector.labels))
    same = twins(sets)
    for first, second in same:
        say_note(console, f"{first} and {second} have the same points: one person, or one file too many.")
    odd = odd_landmarks(faces, detector.labels)
    for label, moved in habits_of(faces, detector.labels).items():
        say_note(console, f"{label} lies {moved:.1f} mm from where the weights put it, on these scans alike.")
    say_reasons(console, "Look at", odd)
    said = {"can be used": len(usable), "left out": len(reasons), "not checked": len(unchecked)}
    counts = ", ".join(f"{what} {count}" for what, count in {**said, "with points to look at": len(odd)}.items())
    console.print(f"Scans: {counts}.", highlight=False)
    return bool(odd or reasons or unchecked or unknown or same)


def odd_landmarks(faces: Sequence[Expected], labels: Sequence[str]) -> dict[str, str]:
    """For each subject with landmarks that lie oddly, which ones and how far from where they are expected (mm).

    Expected is where the weights put a landmark, moved as on the median of the subjects.
    """
    found = {}
    for face, distance, usual, expected in _compared(faces):
        exchanged = _exchanged(face.annotated, expected, usual)
        told = [
            f"{labels[i]} and {labels[j]} seem to be exchanged ({distance[i]:.1f} and {distance[j]:.1f} mm away)"
            for i, j in exchanged
        ]
        mentioned = {i for pair in exchanged for i in pair}
        odd = [i for i in np.flatnonzero(_is_odd(face, distance, usual)).tolist() if i not in mentioned]
        told += [f"{labels[i]} lies {distance[i]:.1f} mm away (on the median scan {usual[i]:.1f} mm)" for i in odd]
        if len(odd) + len(mentioned) > max(3, _OTHERS * np.isfinite(distance).sum()):
            half = np.nanmedian(distance)
            told = [f"its landmarks lie {half:.0f} mm away (median), so they may be another subject's"]
        if told:
            found[face.subject] = "; ".join(told)
    return found


def habits_of(faces: Sequence[Expected], labels: Sequence[str]) -> dict[str, float]:
    """How far (mm) from the weights' place each landmark lies in the mean, as far as that exceeds chance; small habits
    left out. Odd points do not count."""
    offsets = [
        np.where(_is_odd(face, distance, usual)[:, None], np.nan, face.annotated - face.detected)
        for face, distance, usual, _ in _compared(faces)
    ]
    if len(offsets) < _LEAST_SUBJECTS:
        return {}
    moved = np.linalg.norm(habits(np.array(offsets), range(len(labels))), axis=1)
    return {label: float(far) for label, far in zip(labels, moved) if far >= _HABIT_MM}


def _compared(
    faces: Sequence[Expected],
) -> Iterator[tuple[Expected, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """Each face with, for its landmarks, the distance (L,) from where they are expected, that distance on the median
    scan (L,), and where they are expected (L, 3)."""
    if not faces:
        return
    off = np.array([face.annotated - face.detected for face in faces])
    enough = len(faces) >= _LEAST_SUBJECTS
    habit = _median(off) if enough else np.zeros(off.shape[1:])
    distances = np.linalg.norm(off - habit, axis=2)
    usual = np.nan_to_num(_median(distances)) if enough else np.zeros(distances.shape[1:])
    for face, distance in zip(faces, distances):
        yield face, distance, usual, face.detected + habit


def _is_odd(face: Expected, distance: NDArray[np.float64], usual: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which landmarks (L,) lie further away than slips of the hand or of the weights take them."""
    limit = np.fmax(np.maximum(_ODD_MM, _ODD_RATIO * usual), _ODD_DEVIATIONS * face.deviation)
    return np.asarray(np.nan_to_num(distance) > limit)


def _look(
    subject: Subject, landmarks: LandmarkSet, detector: LandmarkDetector, unit: str | None
) -> Expected | LandmarkingError:
    """The landmarks of one subject, annotated and detected."""
    try:
        mesh = read_scan(subject.scan)
        detection = detector.detect(mesh, unit)
    except LandmarkingError as error:
        return error.with_traceback(None)
    rotation = detection.rigid_transform[:3, :3]
    annotated = as_in_scan(landmarks, subject.landmarks, mesh).ordered(detection.labels).points
    found = np.where(detection.missing[:, None], np.nan, detection.points)
    annotated, found = ((points * UNITS[detection.unit]) @ rotation.T for points in (annotated, found))
    return Expected(subject.name, annotated, found, detection.standard_deviation_mm)


def _exchanged(
    annotated: NDArray[np.float64], expected: NDArray[np.float64], usual: NDArray[np.float64]
) -> list[tuple[int, int]]:
    """Pairs of landmarks of one subject of which each lies where the other is expected."""
    between = np.linalg.norm(annotated[:, None] - expected[None], axis=2)
    own = np.diag(between)
    with np.errstate(invalid="ignore"):
        nearer = (between <= _EXCHANGED * own[:, None]) & (own > _EXCHANGED_RATIO * usual)[:, None]
    return [(int(i), int(j)) for i, j in np.argwhere(nearer & nearer.T) if i < j]


def _median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over the first axis of what is known; NaN where nothing is."""
    known = np.isfinite(values).any(axis=0)
    return np.where(known, np.nanmedian(np.where(known, values, 0.0), axis=0), np.nan)


def _unknown(label: str, sets: Mapping[str, LandmarkSet], known: Sequence[str]) -> str:
    """Whose files name a landmark that the weights do not know, and what may be meant by it."""
    files = [name for name, landmarks in sets.items() if label in landmarks.labels]
    where = files[0] if len(files) == 1 else f"{len(files)} files, {files[0]} the first"
    alike = meant_by(label, known)
    meant = f"; '{alike}' may be meant" if alike else ""
    return f"'{label}' ({where}) is not known to the weights, so it is not checked{meant}."


if __name__ == "__main__":
    main()
