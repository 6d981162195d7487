"""A laboratory's folder of scans: which files belong together, and who is in which split.

The folder holds ``<subject>.<mesh suffix>`` (any format the library reads) and ``<subject>.mrk.json``, ``.json``,
``.fcsv``, ``.csv`` (the extension's own table) or ``.txt`` (LAFAS: ``name<TAB>(x,y,z)``) for each subject. Whatever
cannot be used is named with the reason, never dropped silently.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.landmark_files import holds_landmarks, read_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.read_scan import SUPPORTED_SUFFIXES

LANDMARK_SUFFIXES = (".mrk.json", ".json", ".fcsv", ".csv", ".txt")


class TrainingDataError(LandmarkingError):
    """A folder cannot be trained on."""


@dataclass(frozen=True)
class Subject:
    """One scan and its landmark file."""

    name: str
    scan: Path
    landmarks: Path


def find_subjects(folder: Path) -> tuple[list[Subject], dict[str, str]]:
    """Pair the files of ``folder`` by name; returns the subjects and, for what is left out, the reason.

    Names that differ in case or in the form of accented letters alone go together where no other scan is meant. A
    ``.csv`` or plain ``.json`` beside another landmark file is not read: the command line leaves such tables, cameras
    leave notes. One without a scan, or a ``.txt``, is named only if it holds landmarks: it may be a list of patients.

    Raises
    ------
    TrainingDataError
        If the folder has no pair.
    """
    scans: dict[str, list[Path]] = {}
    landmarks: dict[str, list[Path]] = {}
    left_out: dict[str, str] = {}
    _check_there(folder)
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if name.startswith("."):
            continue
        if path.is_dir():
            if any(inner.suffix.lower() in SUPPORTED_SUFFIXES for inner in path.iterdir()):
                left_out[f"{path.name}/"] = "folders within the folder are not read; move its files up"
            continue
        suffix = next((suffix for suffix in LANDMARK_SUFFIXES if name.endswith(suffix)), None)
        if suffix:
            landmarks.setdefault(path.name[: -len(suffix)], []).append(path)
        if path.suffix.lower() in SUPPORTED_SUFFIXES:
            scans.setdefault(path.stem, []).append(path)
    landmarks = _by_scan(landmarks, scans)
    subjects = []
    for name in sorted(scans):
        found = landmarks.pop(name, [])
        if len(found) > 1:
            found = [path for path in found if path.name.lower().endswith((".mrk.json", ".fcsv", ".txt"))] or found
        if len(scans[name]) > 1:
            left_out[name] = f"there are {len(scans[name])} scans of that name; keep one"
        elif not found:
            left_out[name] = "it has no landmark file"
        elif len(found) > 1:
            left_out[name] = f"it has {len(found)} landmark files; keep one"
        else:
            subjects.append(Subject(name, scans[name][0], found[0]))
    for name, files in sorted(landmarks.items()):
        if any(path.name.lower().endswith((".mrk.json", ".fcsv")) or holds_landmarks(path) for path in files):
            left_out[name] = "its landmark file has no scan"
    if not subjects:
        raise TrainingDataError(
            f"'{folder}' holds no scan with a landmark file of the same name; put <subject>.ply and <subject>.mrk.json "
            "there, or other kinds of meshes and .fcsv, .csv or .txt."
        )
    return subjects, left_out


def _by_scan(landmarks: dict[str, list[Path]], scans: Collection[str]) -> dict[str, list[Path]]:
    """``landmarks`` by the name of the scan, where they have one that is written alike and no other is."""
    alike: dict[str, list[str]] = {}
    for name in scans:
        alike.setdefault(_plain(name), []).append(name)
    by_scan: dict[str, list[Path]] = {}
    for name, files in landmarks.items():
        candidates = [name] if name in scans else alike.get(_plain(name), [])
        by_scan.setdefault(candidates[0] if len(candidates) == 1 else name, []).extend(files)
    return by_scan


def _plain(name: str) -> str:
    """``name`` as macOS and Windows would compare it."""
    return unicodedata.normalize("NFC", name).casefold()


def _check_there(folder: Path) -> None:
    if not folder.is_dir():
        raise TrainingDataError(f"'{folder}' is no folder; give the folder with the scans.")


def check_apart(output: Path, *folders: Path | None) -> None:
    """Refuse folders of scans that are not there, and to write among the scans, where results would be taken for
    subjects.

    Raises
    ------
    TrainingDataError
        If one of ``folders`` is none, or is ``output``.
    """
    for folder in filter(None, folders):
        _check_there(folder)
    if output.resolve() in {folder.resolve() for folder in folders if folder}:
        raise TrainingDataError(f"'{output}' is the folder of the scans; choose another --output.")


def make_folder(folder: Path) -> None:
    """Make a folder for results, and those that it lies in.

    Raises
    ------
    TrainingDataError
        If that cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise TrainingDataError(f"'{folder}' cannot hold results ({reason}); choose another --output.") from error


def twins(sets: Mapping[str, LandmarkSet]) -> list[tuple[str, str]]:
    """Pairs of names whose landmarks are, number by number, the same: somebody is there twice, or has another's file.

    Each name is paired with the first of its kind; files without any point have none.
    """
    first: dict[frozenset[tuple[float, ...]], str] = {}
    placed = {name: _places(landmarks) for name, landmarks in sets.items() if landmarks.defined.any()}
    pairs = [(first.setdefault(places, name), name) for name, places in placed.items()]
    return [(one, other) for one, other in pairs if one != other]


def _places(landmarks: LandmarkSet) -> frozenset[tuple[float, ...]]:
    """The points that are defined, whatever their order, names and coordinate system."""
    return frozenset(map(tuple, landmarks.in_coordinate_system("LPS").points[landmarks.defined].tolist()))


def shared_subjects(first: Mapping[str, LandmarkSet], second: Mapping[str, LandmarkSet]) -> list[str]:
    """Names in ``second`` whose landmarks are, number by number, those of somebody in ``first``."""
    known = {_places(landmarks) for landmarks in first.values()}
    return [name for name, landmarks in second.items() if landmarks.defined.any() and _places(landmarks) in known]


def read_landmark_files(subjects: Iterable[Subject]) -> tuple[dict[str, LandmarkSet], dict[str, str]]:
    """The landmarks of every subject, as in the files; and the subjects whose file cannot be used, with the reason.

    Landmarks that a detection left and nobody corrected are no annotation: learnt from, they would repeat the weights,
    and tested against, they would make these seem perfect. They are known by their standard deviations, which PAL-Net's
    weights do not state and which only a ``.mrk.json`` of this module keeps.

    Raises
    ------
    TrainingDataError
        If no file is left.
    """
    sets, left_out = {}, {}
    for subject in subjects:
        try:
            found = read_landmarks(subject.landmarks)
        except LandmarkingError as error:
            left_out[subject.name] = str(error)
            continue
        if _as_detected(found):
            left_out[subject.name] = (
                "its landmarks are as this module detected them, none corrected; check them in the panel, and put "
                "them there as .fcsv instead if all are right"
            )
        else:
            sets[subject.name] = found
    if left_out and not sets:
        name, reason = next(iter(left_out.items()))
        raise TrainingDataError(f"No landmark file can be used. The first, of '{name}': {reason}")
    return sets, left_out


def _as_detected(landmarks: LandmarkSet) -> bool:
    """Whether no point was corrected, nor lost the standard deviation that the detection gave it."""
    deviation, defined = landmarks.standard_deviation_mm, landmarks.defined
    if deviation is None or not defined.any() or (landmarks.corrected is not None and np.any(landmarks.corrected)):
        return False
    return bool(np.isfinite(deviation[defined]).all())


def digest_of(subjects: Iterable[Subject], sets: Mapping[str, LandmarkSet]) -> str:
    """What tells whether landmarks, or samples of the scans' bytes, are others than before; copies are the same."""
    content = hashlib.sha256()
    for subject in sorted(subjects, key=lambda one: one.name):
        landmarks = sets[subject.name]
        content.update(json.dumps([subject.scan.name, landmarks.labels, landmarks.coordinate_system]).encode())
        content.update(np.ascontiguousarray(landmarks.points).tobytes())
        content.update(_sample_of(subject.scan))
    return content.hexdigest()[:12]


def _sample_of(path: Path, blocks: int = 16, size: int = 1 << 16) -> bytes:
    """The length of a file and as many of its bytes as a change of its mesh can hardly miss; nothing if it is gone."""
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            parts = [str(length).encode()]
            for start in dict.fromkeys(max(0, (length - size) * i // (blocks - 1)) for i in range(blocks)):
                file.seek(start)
                parts.append(file.read(size))
    except OSError:
        return b""
    return b"".join(parts)


def split_names(names: Sequence[str], validation: float, test: float, seed: int) -> dict[str, list[str]]:
    """Cut ``names`` into training, validation and test by a seeded shuffle.

    Parameters
    ----------
    validation, test : shares (0 to 1); a share above 0 gives at least one name.

    Raises
    ------
    TrainingDataError
        If nothing is left to train on.
    """
    order = [sorted(names)[i] for i in np.random.default_rng([seed, 1]).permutation(len(names))]
    counts = [max(1, round(share * len(names))) if share > 0 else 0 for share in (validation, test)]
    if len(names) - sum(counts) < 1:
        raise TrainingDataError(f"Subjects are too few ({len(names)}) to train, validate and test on; add some.")
    first, second = counts[0], sum(counts)
    return {
        "training": sorted(order[second:]),
        "validation": sorted(order[:first]),
        "test": sorted(order[first:second]),
    }
