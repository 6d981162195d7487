"""What clinicians read off the landmarks: inter-landmark distances and angles, with their standard deviations."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .align import UNITS
from .atomic_file import write_atomically
from .errors import OutputError, UnknownUnitError, UnreadableLandmarksError
from .known_points import known_points
from .landmark_set import LandmarkSet
from .procrustes import fit_similarity
from .reference import ReferenceFace
from .resources import resource_path
from .scheme import other_side

#: Landmarks that say how large a face is; fewer do not.
ENOUGH_FOR_A_UNIT = 4
#: Faces, infants' too, are at most this much larger or smaller than the reference face.
_MOST_SIZE_RATIO = 2.0
#: In the next likely unit the face must be this much farther from that size; an inch has 2.54 cm only.
_CLEARLY = 1.05

#: So far (mm of the reference face) from where the others suggest it, no landmark lies on any head: on 214 simulated
#: heads and 100 unusual ones they come to 32 mm, to 47 where there are seven landmarks only.
_NOWHERE_NEAR_MM = 60.0

#: Named rightly, landmarks fit the mean face to some millimetres, with the sides exchanged to some centimetres.
#: Four or five, all of one side, may fit by chance the other way.
_EXCHANGED_SIDES, _ENOUGH_FOR_SIDES = 0.5, 6

_CSV_COLUMNS = ("scan", "group", "measurement", "value", "standard_deviation", "unit")


@dataclass(frozen=True)
class Measurement:
    """A distance between two landmarks, or an angle at the second of three."""

    group: str
    landmarks: tuple[str, ...]

    @property
    def is_angle(self) -> bool:
        """Whether it is an angle rather than a distance."""
        return len(self.landmarks) == 3

    @property
    def name(self) -> str:
        """For example ``"Ex_R - Ex_L"``."""
        return " - ".join(self.landmarks)

    @property
    def unit(self) -> str:
        """``"mm"`` or ``"deg"``."""
        return "deg" if self.is_angle else "mm"

    def of(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Its values (...,) from the positions (..., 2 or 3, 3) of its landmarks."""
        return (angles if self.is_angle else distances)(points)


@dataclass(frozen=True)
class MeasuredValue:
    """``value`` in the measurement's unit, NaN where a landmark has no position; ``standard_deviation`` likewise, NaN
    where one of the landmarks has none stated, for example because the user corrected it."""

    measurement: Measurement
    value: float
    standard_deviation: float


@lru_cache(maxsize=1)
def load_measurements() -> tuple[Measurement, ...]:
    """The 20 linear distances and 9 angles of the PAL-Net paper (arXiv 2510.00910, Tables 4 and 5), in this order.

    Read once: the panel measures anew with every drag.
    """
    document = json.loads(resource_path("Measurements.json").read_text(encoding="utf-8"))
    entries = document["distances"] + document["angles"]
    return tuple(Measurement(entry["group"], tuple(entry["landmarks"])) for entry in entries)


def measure(
    points_mm: Mapping[str, NDArray[np.float64]], standard_deviation_mm: Mapping[str, float]
) -> tuple[MeasuredValue, ...]:
    """Take all measurements on one face.

    The standard deviations follow from those of the landmarks to first order, as if the landmarks erred independently
    of each other.

    Parameters
    ----------
    points_mm : position (3,) of each landmark in mm, in any frame, by label; absent or NaN where it has none.
    standard_deviation_mm : of each landmark, along each axis; absent or NaN where unknown.
    """
    nowhere = np.full(3, np.nan)
    taken = []
    for one in load_measurements():
        points = np.array([points_mm.get(label, nowhere) for label in one.landmarks], dtype=np.float64)
        deviations = np.array([standard_deviation_mm.get(label, np.nan) for label in one.landmarks])
        if not np.isfinite(points).all():
            taken.append(MeasuredValue(one, math.nan, math.nan))
            continue
        value = float(one.of(points))
        slopes = _angle_slopes(points) if one.is_angle else np.ones(2)
        taken.append(MeasuredValue(one, value, float(np.linalg.norm(slopes * deviations))))
    return tuple(taken)


def unit_of_landmarks(landmarks: LandmarkSet, reference: ReferenceFace, name: str, given: str | None = None) -> str:
    """The length unit, one of ``align.UNITS``, in which the landmarks' coordinates make a face.

    Parameters
    ----------
    name : of the file, for the message.
    given : the unit that the user says it is; taken unless the landmarks plainly make a face in another.

    Raises
    ------
    UnknownUnitError
        If they make one in no unit or are too few to tell, and none is given; or if they make one in another.
    """
    common, points = _of_reference(landmarks, reference)
    if len(common) < ENOUGH_FOR_A_UNIT:
        if given:
            return given
        raise UnknownUnitError(
            f"'{name}' has {len(common)} of the {len(reference.labels)} known landmarks, too few to tell its unit of "
            "length; say it (--unit), or in 3D Slicer detect landmarks on the scan before you load these."
        )
    scale = fit_similarity(points, reference.landmarks[common]).scale
    away = {unit: abs(math.log(scale / size)) if scale > 0 else math.inf for unit, size in UNITS.items()}
    best, second = sorted(away, key=lambda unit: away[unit])[:2]
    makes_a_face = away[best] <= math.log(_MOST_SIZE_RATIO) and away[second] >= away[best] + math.log(_CLEARLY)
    if given and (away[given] <= math.log(_MOST_SIZE_RATIO) or not makes_a_face):
        return given
    if given:
        raise UnknownUnitError(
            f"The landmarks of '{name}' make a face in {best}, not in {given}; leave out --unit or correct it."
        )
    if not makes_a_face:
        raise UnknownUnitError(
            f"The landmarks of '{name}' do not make a face in any of {', '.join(UNITS)}; check them, or say the unit "
            "(--unit)."
        )
    return best


def check_sides(landmarks: LandmarkSet, reference: ReferenceFace, name: str) -> None:
    """Refuse landmarks whose names have right and left exchanged: they make a face only the other way round.

    Parameters
    ----------
    name : of the file, for the message.

    Raises
    ------
    UnreadableLandmarksError
    """
    common, points = _of_reference(landmarks, reference)
    if len(common) < _ENOUGH_FOR_SIDES:
        return
    exchanged = [reference.labels.index(other_side(reference.labels[i])) for i in common]
    as_named, other_way = (
        np.linalg.norm(fit_similarity(means, points).apply(means) - points)
        for means in (reference.landmarks[common], reference.landmarks[exchanged])
    )
    if other_way < _EXCHANGED_SIDES * as_named:
        raise UnreadableLandmarksError(
            f"The landmarks of '{name}' make a face only with right and left exchanged; name them by the person's own "
            "sides."
        )


def doubts(landmarks: LandmarkSet, reference: ReferenceFace, name: str) -> list[str]:
    """Sentences on what is probably wrong with landmarks of a face: a point far from its place, a name mistyped.

    Parameters
    ----------
    name : of the file.
    """
    found = []
    unknown = [label for label in landmarks.labels if label not in reference.labels]
    if unknown and any(label not in landmarks.labels for label in reference.labels):
        found.append(f"'{name}' has names that are not known ({', '.join(unknown)}); correct those that were mistyped.")
    common, points = _of_reference(landmarks, reference)
    if len(common) <= _ENOUGH_FOR_SIDES:  # one of them to look at, the others to go by
        return found
    means = reference.landmarks[common]
    for i, label in enumerate(reference.labels[number] for number in common):
        others = np.arange(len(common)) != i
        fit = fit_similarity(points[others], means[others])
        far = float(np.linalg.norm(fit.apply(points[i]) - means[i]))
        if far > _NOWHERE_NEAR_MM:
            found.append(f"'{name}': {label} lies {far:.0f} mm from where the other landmarks suggest it; check it.")
    return found


def distances(ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances (...,) between pairs of points (..., 2, 3)."""
    return np.asarray(np.linalg.norm(ends[..., 0, :] - ends[..., 1, :], axis=-1))


def angles(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles (...,) in degrees at the second of three points (..., 3, 3)."""
    first, second = corners[..., 0, :] - corners[..., 1, :], corners[..., 2, :] - corners[..., 1, :]
    # The arc tangent is exact for flat and for sharp angles, where the arc cosine is not.
    across = np.linalg.norm(np.cross(first, second), axis=-1)
    return np.asarray(np.degrees(np.arctan2(across, (first * second).sum(axis=-1))))


def check_table_name(path: Path) -> None:
    """Refuse a file for measurements whose name does not end in ``.csv``.

    Raises
    ------
    OutputError
    """
    if path.suffix.lower() != ".csv":
        raise OutputError(f"The measurements cannot be written to '{path.name}'; choose a name that ends in .csv.")


def write_measurements(path: Path, faces: Sequence[tuple[str, Sequence[MeasuredValue]]]) -> None:
    """Write the values of one face or more, each with the name of its scan, as one CSV table.

    The folder is made if it is missing. An earlier table is replaced; a file of another kind, such as a table of
    corrected landmarks, is not.

    Raises
    ------
    OutputError
        If the name does not end in ``.csv``, another file is there, or it cannot be written.
    """
    check_table_name(path)
    if path.is_file() and not path.read_bytes().startswith(",".join(_CSV_COLUMNS).encode("ascii")):
        raise OutputError(f"'{path}' exists already and is no table of measurements; choose another name.")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for scan, values in faces:
        for one in values:
            numbers = [f"{x:.3f}" if math.isfinite(x) else "" for x in (one.value, one.standard_deviation)]
            writer.writerow([scan, one.measurement.group, one.measurement.name, *numbers, one.measurement.unit])
    with contextlib.suppress(OSError):  # said below, as other reasons are
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, stream.getvalue().encode("utf-8"))


def _of_reference(landmarks: LandmarkSet, reference: ReferenceFace) -> tuple[list[int], NDArray[np.float64]]:
    """Which landmarks of the reference have a position in the set, and these positions (k, 3)."""
    points = landmarks.ordered(reference.labels).points
    common = np.flatnonzero(known_points(points))
    return common.tolist(), points[common]


def _angle_slopes(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Length (3,) of the angle's gradient by each of three points (3, 3), in degrees per unit of length."""
    first, second = corners[0] - corners[1], corners[2] - corners[1]
    with np.errstate(invalid="ignore", divide="ignore"):  # arms in one line, or of no length: no slope, so NaN
        gradients = [_turn(first, second), _turn(second, first)]
    by_point = [gradients[0], -(gradients[0] + gradients[1]), gradients[1]]
    return np.degrees(np.linalg.norm(by_point, axis=1))


def _turn(arm: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gradient (3,) of the angle between two arms by the end of the first: away from the other, at right angles."""
    length = np.linalg.norm(arm)
    along = arm / length
    away = along * (other @ along) - other
    return np.asarray(away / (np.linalg.norm(away) * length))
