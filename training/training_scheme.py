"""The landmarks that a training is about: which the files name, and where a mean face has them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.known_points import known_points
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.reference import ReferenceFace
from PALNetLandmarksLib.scheme import Landmark, LandmarkScheme, load_scheme
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from .folder import TrainingDataError

#: A landmark that fewer training subjects have cannot be learnt.
LEAST_SUBJECTS = 3

#: Radius (mm) of the skin whose mean normal is a landmark's direction of view.
_NORMAL_RADIUS_MM = 9.0

#: Mean landmarks whose mirror image lies within this distance (mm) of another are its counterpart.
_COUNTERPART_MM = 8.0


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


def meant_by(label: str, known: Iterable[str]) -> str | None:
    """The label among ``known`` that somebody may mean by ``label``: spelt otherwise, or the landmark's whole name.

    Tr and T_R differ in nothing but the gap, so gaps are looked at first.
    """
    names = {landmark.label: (landmark.label, landmark.name) for landmark in load_scheme().landmarks}
    for gap in ("_", ""):
        alike = [one for one in known if _plain(label, gap) in (_plain(name, gap) for name in names.get(one, (one,)))]
        if len(alike) == 1:
            return alike[0]
    return None


def _plain(label: str, gap: str) -> str:
    return gap.join(re.findall(r"[^\W_]+", label.casefold()))


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


def mean_landmarks(landmarks: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean (L, 3) over subjects (L, 3) each, of every landmark over those that have it; NaN if none has."""
    table = np.array(list(landmarks))
    known = known_points(table)[..., None]
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


def sides_of(labels: Sequence[str], means: NDArray[np.float64]) -> dict[str, str]:
    """``"midline"``, ``"right"`` or ``"left"`` for each label: as the bundled scheme says, else from where the mean
    landmarks (L, 3; canonical frame) lie; labels whose mean is not known, NaN, are left out."""
    known = {landmark.label: landmark.side for landmark in load_scheme().landmarks}
    found = {}
    for i, (label, other) in enumerate(zip(labels, counterparts(means))):
        placed = "midline" if other == i else "right" if means[i, 0] < 0 else "left"
        if label in known or np.isfinite(means[i]).all():
            found[label] = known.get(label, placed)
    return found


def counterparts(means: NDArray[np.float64]) -> tuple[int, ...]:
    """For each mean landmark (L, 3; canonical frame) its left-right counterpart; itself on the midline, -1 for none, as
    for NaN.

    From where they lie, so that any labels will do: two landmarks are counterparts if each is nearest to the other's
    mirror image.
    """
    distance = np.nan_to_num(cdist(means * (-1.0, 1.0, 1.0), means), nan=np.inf)
    nearest = distance.argmin(axis=1)
    return tuple(int(j) if nearest[j] == i and distance[i, j] <= _COUNTERPART_MM else -1 for i, j in enumerate(nearest))
