"""A laboratory's folder of scans: which files belong together, which landmarks there are, who is in which split, and
where each scan lies in the reference frame.

The folder holds ``<subject>.<mesh suffix>`` (any format the library reads) and ``<subject>.mrk.json``, ``.json``,
``.fcsv``, ``.csv`` (the extension's own table) or ``.txt`` (LAFAS: ``name<TAB>(x,y,z)``) for each subject. Whatever
cannot be used is named with the reason, never dropped silently.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.align import DOUBTFUL_FITNESS, LEAST_FITNESS, align_stepwise, no_face_found
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.landmark_files import LandmarkSet, read_landmarks
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.procrustes import fit_similarity
from PALNetLandmarksLib.read_scan import SUPPORTED_SUFFIXES, read_scan
from PALNetLandmarksLib.reference import ReferenceFace
from PALNetLandmarksLib.scheme import Landmark, LandmarkScheme, load_scheme
from PALNetLandmarksLib.stepwise import finish
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

LANDMARK_SUFFIXES = (".mrk.json", ".json", ".fcsv", ".csv", ".txt")

#: Median distance (mm) of landmarks from their scan that says: not placed on it, or in another frame or unit.
FAR_FROM_SCAN_MM = 10.0

#: Median distance (mm of the reference) of landmarks from where the mean face has those of their names, that says: left
#: and right are swapped, or names stand at the wrong points.
_FAR_FROM_NAMES_MM = 15.0

#: An unusual face's pose is taken where this many of the bundled landmarks lie like the reference's, turned and moved
#: by no more than this.
_VOUCHING, _VOUCHED_DEGREES, _VOUCHED_MM = 5, 20.0, 20.0

#: A landmark that fewer training subjects have cannot be learnt.
LEAST_SUBJECTS = 3

#: Radius (mm) of the skin whose mean normal is a landmark's direction of view.
_NORMAL_RADIUS_MM = 9.0

#: Mean landmarks whose mirror image lies within this distance (mm) of another are its counterpart.
_COUNTERPART_MM = 8.0


class TrainingDataError(LandmarkingError):
    """A folder cannot be trained on."""


@dataclass(frozen=True)
class Subject:
    """One scan and its landmark file."""

    name: str
    scan: Path
    landmarks: Path


@dataclass(frozen=True)
class AlignedScan:
    """Where the face lies in a subject's scan, as the library's alignment finds it, and its landmarks there.

    ``transform`` (4, 4) rigid, from the file's coordinates times ``mm_per_unit`` to the canonical frame (LPS mm);
    ``landmarks`` (L, 3) canonical, mm of the subject, NaN where undefined; ``face_scale`` as in ``Alignment``.
    """

    subject: Subject
    transform: NDArray[np.float64]
    mm_per_unit: float
    inside_out: bool
    face_scale: float
    landmarks: NDArray[np.float64]

    def mesh(self) -> TriangleMesh:
        """The scan in the canonical frame, mm of the subject; read again from its file."""
        return _placed(read_scan(self.subject.scan), self.transform, self.mm_per_unit, self.inside_out)


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
    if not folder.is_dir():
        raise TrainingDataError(f"'{folder}' is no folder; give the folder with the scans.")
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
        if any(path.name.lower().endswith((".mrk.json", ".fcsv")) or _has_landmarks(path) for path in files):
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


def _has_landmarks(path: Path) -> bool:
    try:
        return len(read_landmarks(path)) > 0
    except LandmarkingError:
        return False


def check_apart(output: Path, *folders: Path | None) -> None:
    """Refuse to write among the scans, where results would be taken for subjects.

    Raises
    ------
    TrainingDataError
        If ``output`` is one of ``folders``.
    """
    if output.resolve() in {folder.resolve() for folder in folders if folder}:
        raise TrainingDataError(f"'{output}' is the folder of the scans; choose another --output.")


def shared_subjects(first: Mapping[str, LandmarkSet], second: Mapping[str, LandmarkSet]) -> list[str]:
    """Names in ``second`` whose landmarks are, number by number, those of somebody in ``first``."""
    known = {landmarks.points.tobytes() for landmarks in first.values()}
    return [name for name, landmarks in second.items() if landmarks.points.tobytes() in known]


def read_landmark_files(subjects: Iterable[Subject]) -> tuple[dict[str, LandmarkSet], dict[str, str]]:
    """The landmarks of every subject, as in the files; and the subjects whose file cannot be read, with the reason."""
    sets, left_out = {}, {}
    for subject in subjects:
        try:
            sets[subject.name] = read_landmarks(subject.landmarks)
        except LandmarkingError as error:
            left_out[subject.name] = str(error)
    return sets, left_out


def read_scheme(path: Path) -> LandmarkScheme:
    """Read a landmark scheme like the bundled one; of each landmark, only ``label`` must be there.

    Raises
    ------
    TrainingDataError
        If the file is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        entries = [entry if isinstance(entry, dict) else {"label": str(entry)} for entry in document["landmarks"]]
        labels = [str(entry["label"]) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingDataError(f"'{path}' is no landmark scheme ({error}); see LandmarkScheme.json.") from error
    if not labels or len(set(labels)) < len(labels):
        raise TrainingDataError(f"The landmark scheme '{path}' has no labels or has one twice; give each its own.")
    fields = ("name", "side", "region", "definition")
    return LandmarkScheme(
        name=str(document.get("name", path.stem)),
        landmarks=tuple(
            Landmark(label=label, **{field: str(entry.get(field, "")) for field in fields})
            for label, entry in zip(labels, entries)
        ),
    )


def scheme_of(sets: Iterable[LandmarkSet], name: str) -> LandmarkScheme:
    """The landmarks that the training files name: the bundled scheme's in its order, then others as they come."""
    named = dict.fromkeys(label for landmarks in sets for label in landmarks.labels)
    bundled = load_scheme()
    known = tuple(landmark for landmark in bundled.landmarks if landmark.label in named)
    others = tuple(Landmark(label, label, "", "", "") for label in named if label not in bundled.labels)
    if known == bundled.landmarks and not others:
        return bundled
    return LandmarkScheme(name=name, landmarks=known + others)


def without_rare(
    scheme: LandmarkScheme, sets: Collection[LandmarkSet], warn: Callable[[str], None], least: int | None = None
) -> LandmarkScheme:
    """``scheme`` without the landmarks that fewer than ``least`` of ``sets`` define; says which.

    By default that is three, and half of the sets where they are so few.

    Raises
    ------
    TrainingDataError
        If none is left.
    """
    if least is None:
        least = min(LEAST_SUBJECTS, max(1, len(sets) // 2))
    counts = Counter(label for landmarks in sets for label, there in zip(landmarks.labels, landmarks.defined) if there)
    kept = tuple(landmark for landmark in scheme.landmarks if counts[landmark.label] >= least)
    rare: dict[int, list[str]] = {}
    for landmark in scheme.landmarks:
        if counts[landmark.label] < least:
            rare.setdefault(counts[landmark.label], []).append(f"'{landmark.label}'")
    for count, those in sorted(rare.items()):
        what, are, they = ("Landmark", "is", "it is") if len(those) == 1 else ("Landmarks", "are", "they are")
        warn(
            f"{what} {', '.join(those)} {are} left out: {they} defined on {count or 'none'} of {len(sets)} subjects to "
            f"train on; if there should be more, check how {they} spelt in the files."
        )
    if not kept:
        raise TrainingDataError(f"No landmark is defined on {least} training subjects or more; add subjects.")
    return scheme if len(kept) == len(scheme) else replace(scheme, landmarks=kept)


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
        raise TrainingDataError(f"{len(names)} subjects are too few to train, validate and test on; add some.")
    first, second = counts[0], sum(counts)
    return {
        "training": sorted(order[second:]),
        "validation": sorted(order[:first]),
        "test": sorted(order[first:second]),
    }


def align_scans(
    subjects: Sequence[Subject],
    sets: dict[str, LandmarkSet],
    labels: tuple[str, ...],
    reference: ReferenceFace,
    cache: Path,
    unit: str | None = None,
    workers: int = 1,
    done: Callable[[str], None] = lambda name: None,
) -> tuple[list[AlignedScan], dict[str, LandmarkingError]]:
    """Align every scan by the library's own step; what it finds is kept in ``cache`` for the next run.

    Returns the aligned scans and, for those refused, the reason: a ``TrainingDataError`` where it is the landmark file.
    """
    cache.mkdir(parents=True, exist_ok=True)

    def attempt(subject: Subject) -> AlignedScan | LandmarkingError:
        try:
            return _align(subject, sets[subject.name].ordered(labels), reference, cache, unit)
        except LandmarkingError as error:
            return error.with_traceback(None)  # which would keep the scan in memory
        finally:
            done(subject.name)

    with ThreadPoolExecutor(workers) as executor:
        results = list(executor.map(attempt, subjects))
    aligned = [result for result in results if isinstance(result, AlignedScan)]
    refused = {s.name: result for s, result in zip(subjects, results) if isinstance(result, LandmarkingError)}
    return aligned, refused


def as_in_scan(landmarks: LandmarkSet, file: Path, mesh: TriangleMesh) -> LandmarkSet:
    """Landmarks of ``file`` in the coordinates that the scan has in its own file."""
    # LAFAS's points are the numbers of the scan's own file.
    return landmarks if file.suffix.lower() == ".txt" else landmarks.in_coordinate_system(mesh.coordinate_system)


def mean_landmarks(landmarks: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean (L, 3) over subjects (L, 3) each, of every landmark over those that have it; NaN if none has."""
    table = np.array(list(landmarks))
    known = np.isfinite(table).all(axis=2, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.where(known, table, 0).sum(axis=0) / known.sum(axis=0)


def reference_with(reference: ReferenceFace, labels: tuple[str, ...], means: NDArray[np.float64]) -> ReferenceFace:
    """The reference face with other mean landmarks (L, 3), and the mean normals of its skin around them."""
    tree = cKDTree(reference.points)
    normals = []
    for point in means:
        near = tree.query_ball_point(point, _NORMAL_RADIUS_MM) or tree.query(point, 30)[1]
        normal = reference.normals[near].mean(axis=0)
        normals.append(normal / np.linalg.norm(normal))
    return replace(reference, labels=labels, landmarks=means, landmark_normals=np.array(normals))


def counterparts(means: NDArray[np.float64]) -> tuple[int, ...]:
    """For each mean landmark (L, 3; canonical frame) its left-right counterpart; itself on the midline, -1 for none.

    From where they lie, so that any labels will do: two landmarks are counterparts if each is nearest to the other's
    mirror image.
    """
    distance = cdist(means * (-1.0, 1.0, 1.0), means)
    nearest = distance.argmin(axis=1)
    return tuple(int(j) if nearest[j] == i and distance[i, j] <= _COUNTERPART_MM else -1 for i, j in enumerate(nearest))


def reference_digest(reference: ReferenceFace) -> str:
    """Short hash of the surface that scans are aligned to."""
    content = reference.points.tobytes() + reference.region_of_interest.tobytes()
    return hashlib.sha256(content).hexdigest()[:12]


def _align(
    subject: Subject, landmarks: LandmarkSet, reference: ReferenceFace, cache: Path, unit: str | None
) -> AlignedScan:
    note = cache / f"{subject.name}.json"
    stat = subject.scan.stat()
    key = [subject.scan.name, stat.st_size, stat.st_mtime_ns, unit, reference_digest(reference)]
    mesh = read_scan(subject.scan)
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    if found.get("key") != key:
        alignment = finish(align_stepwise(mesh, reference, unit, DOUBTFUL_FITNESS))
        if alignment.fitness < LEAST_FITNESS:
            known = as_in_scan(landmarks, subject.landmarks, mesh)
            placed = replace(known, points=_apply(known.points, alignment.transform, alignment.mm_per_unit))
            if not _vouch(*_like_reference(placed, reference, alignment.face_scale)):
                raise no_face_found(mesh.name, alignment.fitness, unit)
        found = {
            "key": key,
            "transform": alignment.transform.tolist(),
            "mm_per_unit": alignment.mm_per_unit,
            "inside_out": alignment.inside_out,
            "face_scale": alignment.face_scale,
        }
        note.write_text(json.dumps(found), encoding="utf-8")
    transform, mm_per_unit = np.array(found["transform"]), float(found["mm_per_unit"])
    landmarks = as_in_scan(landmarks, subject.landmarks, mesh)
    points = _apply(landmarks.points, transform, mm_per_unit)
    if not landmarks.defined.any():
        raise TrainingDataError(f"'{subject.landmarks.name}' defines none of the landmarks; place them or remove it.")
    placed = _placed(mesh, transform, mm_per_unit, found["inside_out"])
    distance = float(np.median(cKDTree(placed.points).query(points[landmarks.defined])[0]))
    if distance > FAR_FROM_SCAN_MM:
        raise TrainingDataError(
            f"The landmarks in '{subject.landmarks.name}' do not lie on '{subject.scan.name}' (median distance "
            f"{distance:.0f} mm); check that they belong to this scan and have its coordinate system and unit."
        )
    named, means = _like_reference(replace(landmarks, points=points), reference, float(found["face_scale"]))
    off = float(np.median(np.linalg.norm(named - means, axis=1))) if len(named) >= _VOUCHING else 0.0
    if off > _FAR_FROM_NAMES_MM:
        raise TrainingDataError(
            f"The landmarks in '{subject.landmarks.name}' lie {off:.0f} mm (median) from where a face has those of "
            "their names; check that left is the person's left and each name stands at its point."
        )
    return AlignedScan(subject, transform, mm_per_unit, found["inside_out"], float(found["face_scale"]), points)


def _like_reference(
    landmarks: LandmarkSet, reference: ReferenceFace, face_scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the landmarks (canonical frame) that the reference has, too: (k, 3) at its size, and the reference's own."""
    shared = tuple(label for label in reference.labels if label in landmarks.labels)
    points = landmarks.ordered(shared).points / face_scale
    means = reference.landmarks[[reference.labels.index(label) for label in shared]]
    known = np.isfinite(points).all(axis=1)
    return points[known], means[known]


def _vouch(points: NDArray[np.float64], means: NDArray[np.float64]) -> bool:
    """Whether annotated landmarks, in the frame of an alignment that is in doubt, lie there as on a face."""
    if len(points) < _VOUCHING:
        return False
    degrees = np.degrees(Rotation.from_matrix(fit_similarity(means, points).rotation).magnitude())
    moved = np.linalg.norm(points.mean(axis=0) - means.mean(axis=0))
    return bool(degrees <= _VOUCHED_DEGREES and moved <= _VOUCHED_MM)


def _placed(mesh: TriangleMesh, transform: NDArray[np.float64], mm_per_unit: float, inside_out: bool) -> TriangleMesh:
    triangles = mesh.triangles[:, ::-1] if inside_out else mesh.triangles
    return TriangleMesh(_apply(mesh.points, transform, mm_per_unit), triangles, mesh.name)


def _apply(points: NDArray[np.float64], transform: NDArray[np.float64], mm_per_unit: float) -> NDArray[np.float64]:
    return (points * mm_per_unit) @ transform[:3, :3].T + transform[:3, 3]
