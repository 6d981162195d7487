"""Landmark files: what the detector writes and 3D Slicer loads, and what the trainer learns from."""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import secrets
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from .errors import LandmarkingError, OutputError

# Slicer accepts any host before the file name and any 1.x.y version; this is what it writes itself.
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
_FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
_CSV_COLUMNS = ("label", "name", "x", "y", "z", "standard_deviation_mm", "state", "coordinate_system")
_NOT_ON_SCAN, _CORRECTED = "(not on the scan)", "(corrected)"
#: Beside the markups of a ``.mrk.json``: what only holds as long as nobody moved a point. Slicer does not know it and
#: leaves it out when it writes the file anew; with it stands by which positions it holds.
_AS_WRITTEN = "palnetLandmarks"


class UnreadableLandmarksError(LandmarkingError):
    """A landmark file is missing, damaged, or of an unknown kind."""


@dataclass(frozen=True, eq=False)
class LandmarkSet:
    """Named points on one scan.

    Attributes
    ----------
    labels : short names, one per point, each occurring once.
    points : (L, 3) float64 in the coordinates and unit of the scan's file; NaN where the landmark is not defined, for
        example because the scan has no surface there.
    coordinate_system : ``"LPS"`` or ``"RAS"``: how Slicer is to interpret ``points``; that of the scan.
    names : full names, one per point; empty if there are none.
    standard_deviation_mm : (L,) float64 uncertainty in millimetres, NaN where unknown; ``None`` if there is none.
    corrected : (L,) bool, the user moved, placed, removed or locked the landmark; ``None`` where nobody could have.
        Both are read back from a ``.mrk.json`` alone, and only if it is as this module wrote it: another program may
        have moved the points.
    """

    labels: tuple[str, ...]
    points: NDArray[np.float64]
    coordinate_system: str = "LPS"
    names: tuple[str, ...] = ()
    standard_deviation_mm: NDArray[np.float64] | None = None
    corrected: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        number = len(self.labels)
        points = np.array(self.points, dtype=np.float64).reshape(-1, 3)
        deviation = self.standard_deviation_mm
        if len(points) != number or (self.names and len(self.names) != number):
            raise ValueError("labels, points and names must have the same length")
        if deviation is not None and len(deviation) != number:
            raise ValueError("labels and standard_deviation_mm must have the same length")
        if self.corrected is not None and len(self.corrected) != number:
            raise ValueError("labels and corrected must have the same length")
        if len(set(self.labels)) != number:
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise ValueError(f"two points are called '{twice}'")
        if self.coordinate_system not in ("LPS", "RAS"):
            raise ValueError(f"unknown coordinate system {self.coordinate_system!r}")
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "points", points)
        if deviation is not None:
            object.__setattr__(self, "standard_deviation_mm", np.array(deviation, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def defined(self) -> NDArray[np.bool_]:
        """(L,) bool: the landmark has a position."""
        return np.all(np.isfinite(self.points), axis=1)

    def in_coordinate_system(self, coordinate_system: str) -> LandmarkSet:
        """The same points expressed in ``"LPS"`` or ``"RAS"`` (the first two axes change sign between them)."""
        if coordinate_system == self.coordinate_system:
            return self
        return replace(self, points=self.points * (-1.0, -1.0, 1.0), coordinate_system=coordinate_system)

    def known(self, labels: tuple[str, ...], name: str) -> LandmarkSet:
        """Those of the given labels that are in the set, in the given order.

        Raises
        ------
        UnreadableLandmarksError
            If none is; ``name`` is that of the file.
        """
        common = tuple(label for label in labels if label in self.labels)
        if not common:
            raise UnreadableLandmarksError(
                f"'{name}' has none of the {len(labels)} known landmarks; choose a file that this module wrote, or "
                f"name the points as it does ({', '.join(labels[:3])} ...)."
            )
        return self.ordered(common)

    def ordered(self, labels: tuple[str, ...]) -> LandmarkSet:
        """The points of the given labels, in that order; labels that are not in the set come out as not defined."""
        index = {label: i for i, label in enumerate(self.labels)}
        rows = [index.get(label, -1) for label in labels]
        points = np.vstack([self.points, np.full((1, 3), np.nan)])
        deviation = self.standard_deviation_mm
        return LandmarkSet(
            labels=tuple(labels),
            points=points[rows],
            coordinate_system=self.coordinate_system,
            names=tuple((*self.names, "")[row] for row in rows) if self.names else (),
            standard_deviation_mm=None if deviation is None else np.append(deviation, np.nan)[rows],
            corrected=None if self.corrected is None else np.append(self.corrected, False)[rows],
        )


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def write_landmarks(path: Union[str, Path], landmarks: LandmarkSet) -> None:
    """Write landmarks; the suffix says how: ``.mrk.json`` or ``.json``, ``.fcsv`` (both for Slicer), ``.csv``, or
    ``.txt`` as LAFAS has it.

    Slicer shows the points on top of the model whatever the model's unit, as it takes the numbers of both for
    millimetres. Landmarks that are not defined are listed without a position in ``.mrk.json`` and ``.csv`` and left out
    of ``.fcsv`` and ``.txt``, which know no such thing. The file appears whole or not at all.

    Raises
    ------
    OutputError
        If the file cannot be written.
    ValueError
        If the suffix is none of these.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        text = _markups_json(landmarks)
    elif suffix == ".fcsv":
        text = _fcsv(landmarks)
    elif suffix == ".csv":
        text = _csv(landmarks)
    elif suffix == ".txt":
        text = _lafas(landmarks)
    else:
        raise ValueError(f"'{path.name}' should end in .mrk.json, .fcsv, .csv or .txt")
    write_atomically(path, text.encode("utf-8"))


def write_atomically(path: Union[str, Path], data: bytes) -> None:
    """Write ``data`` to ``path`` so that the file is never seen half-written: an old one stays until the new is whole.

    Raises
    ------
    OutputError
        If the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"'{path}' cannot be written ({reason}); choose another folder or disk.") from error
    finally:
        # It exists only after a failure; where it cannot even be looked for, there is none.
        with contextlib.suppress(OSError):
            temporary.unlink()


def description(name: str, corrected: bool, defined: bool, standard_deviation_mm: float) -> str:
    """What is said of a landmark in its description: its name, and what is to be thought of its position.

    A corrected landmark is the user's, whose scatter nobody knows. ``standard_deviation_mm`` may be NaN.
    """
    note = f"± {standard_deviation_mm:.1f} mm" if math.isfinite(standard_deviation_mm) else ""
    if corrected:
        note = _CORRECTED
    elif not defined:
        note = _NOT_ON_SCAN
    return f"{name} {note}".strip()


def _description(landmarks: LandmarkSet, index: int) -> str:
    return description(
        landmarks.names[index] if landmarks.names else "",
        landmarks.corrected is not None and bool(landmarks.corrected[index]),
        bool(landmarks.defined[index]),
        math.nan if landmarks.standard_deviation_mm is None else float(landmarks.standard_deviation_mm[index]),
    )


def _markups_json(landmarks: LandmarkSet) -> str:
    """A document of Slicer's markups schema 1.0.3 with one list of points."""
    # The axes of a point's orientation are those of the RAS world, written in the file's coordinate system.
    flip = -1.0 if landmarks.coordinate_system == "LPS" else 1.0
    control_points = []
    for i, label in enumerate(landmarks.labels):
        point: dict[str, Any] = {
            "id": str(i + 1),
            "label": label,
            "description": _description(landmarks, i),
            "associatedNodeID": "",
        }
        # The schema knows no position but three numbers, so a landmark that has none goes without.
        if landmarks.defined[i]:
            point["position"] = [float(value) for value in landmarks.points[i]]
        point["orientation"] = [flip, 0.0, 0.0, 0.0, flip, 0.0, 0.0, 0.0, 1.0]
        point["selected"] = True
        point["locked"] = False
        point["visibility"] = True
        point["positionStatus"] = "defined" if landmarks.defined[i] else "undefined"
        control_points.append(point)
    markup = {
        "type": "Fiducial",
        "coordinateSystem": landmarks.coordinate_system,
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(landmarks),
        "controlPoints": control_points,
        "measurements": [],
        "display": {
            "visibility": True,
            "opacity": 1.0,
            "color": [0.4, 1.0, 1.0],
            "selectedColor": [1.0, 0.5, 0.5],
            "activeColor": [0.4, 1.0, 0.0],
            "propertiesLabelVisibility": False,
            "pointLabelsVisibility": True,
            "textScale": 2.0,
            "glyphType": "Sphere3D",
            # Relative to the window, hence right for scans in any unit.
            "useGlyphScale": True,
            "glyphScale": 1.0,
            "snapMode": "toVisibleSurface",
        },
    }
    document = {"@schema": _SCHEMA, "markups": [markup], _AS_WRITTEN: _as_written(landmarks)}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _as_written(landmarks: LandmarkSet) -> dict[str, Any]:
    deviation, corrected = landmarks.standard_deviation_mm, landmarks.corrected
    known = {} if deviation is None else dict(zip(landmarks.labels, np.round(deviation, 3).tolist()))
    return {
        "standardDeviationMm": {label: value for label, value in known.items() if math.isfinite(value)},
        "corrected": [] if corrected is None else [label for label, yes in zip(landmarks.labels, corrected) if yes],
        "positions": _fingerprint(landmarks),
    }


def _fingerprint(landmarks: LandmarkSet) -> str:
    """Tells whether a position was changed since."""
    positions = np.where(landmarks.defined[:, None], landmarks.points, 0.0).astype("<f8")
    return hashlib.sha256(positions.tobytes()).hexdigest()


def _fcsv(landmarks: LandmarkSet) -> str:
    stream = io.StringIO()
    stream.write("# Markups fiducial file version = 5.8\n")
    stream.write(f"# CoordinateSystem = {landmarks.coordinate_system}\n")
    stream.write(f"# columns = {_FCSV_COLUMNS}\n")
    writer = csv.writer(stream, lineterminator="\n")
    for i in np.flatnonzero(landmarks.defined).tolist():
        x, y, z = (repr(float(value)) for value in landmarks.points[i])
        text = [_one_line(landmarks.labels[i]), _one_line(_description(landmarks, i))]
        writer.writerow([i + 1, x, y, z, 0, 0, 0, 1, 1, 1, 0, *text, ""])
    return stream.getvalue()


def _csv(landmarks: LandmarkSet) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    deviation = landmarks.standard_deviation_mm
    for i, label in enumerate(landmarks.labels):
        defined = bool(landmarks.defined[i])
        position = [repr(float(value)) for value in landmarks.points[i]] if defined else [""] * 3
        known = defined and deviation is not None and math.isfinite(deviation[i])
        writer.writerow(
            [
                label,
                landmarks.names[i] if landmarks.names else "",
                *position,
                f"{deviation[i]:.3f}" if deviation is not None and known else "",
                _state(landmarks, i),
                landmarks.coordinate_system,
            ]
        )
    return stream.getvalue()


def _state(landmarks: LandmarkSet, index: int) -> str:
    if not landmarks.defined[index]:
        return "missing"
    return "corrected" if landmarks.corrected is not None and landmarks.corrected[index] else "defined"


def _lafas(landmarks: LandmarkSet) -> str:
    return "".join(
        f"{label}\t({x:.4f},{y:.4f},{z:.4f})\n"
        for label, (x, y, z), defined in zip(landmarks.labels, landmarks.points, landmarks.defined)
        if defined
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def read_landmarks(path: Union[str, Path]) -> LandmarkSet:
    """Read landmarks from Slicer's ``.mrk.json`` (or ``.json``) and ``.fcsv``, from this module's ``.csv`` (also as a
    spreadsheet saves it, with semicolons or tabs and decimal commas), or from LAFAS's tab-separated ``.txt``.

    The points stay in the coordinate system of the file, which the result names; use
    :meth:`LandmarkSet.in_coordinate_system` to bring them into that of the scan. LAFAS files (``name<TAB>(x,y,z)`` on
    every line) and older tables have none; their points are those of the scan's own file, taken as LPS like scans
    without a header.

    Raises
    ------
    UnreadableLandmarksError
        If the file is missing, damaged, of another kind, or holds no points.
    """
    path = Path(path)
    readers = {".json": _read_markups_json, ".fcsv": _read_fcsv, ".csv": _read_csv, ".txt": _read_lafas}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise UnreadableLandmarksError(
            f"'{path.name}' is no landmark file of a known kind; save the landmarks as .mrk.json, .fcsv, .csv or .txt."
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnreadableLandmarksError(f"'{path}' cannot be read ({reason}); check its name and folder.") from error
    try:
        landmarks = readers[suffix](_decode(data))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, csv.Error) as error:
        detail = str(error) if type(error) is ValueError else "its content is not of this form"
        raise UnreadableLandmarksError(
            f"'{path.name}' is damaged or not a {suffix[1:]} landmark file ({detail}); save the landmarks again."
        ) from error
    if len(landmarks) == 0:
        raise UnreadableLandmarksError(f"'{path.name}' holds no landmarks; place them and save the file again.")
    return landmarks


def _decode(data: bytes) -> str:
    """Text with line ends of one kind, in whatever encoding spreadsheets and editors write it."""
    encodings = ("utf-16",) if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ("utf-8-sig", "cp1252")
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    return data.decode("latin-1")


def _read_markups_json(text: str) -> LandmarkSet:
    document = json.loads(text)
    if "markups" not in document:
        raise ValueError("it has no list of markups")
    markups = [markup for markup in document["markups"] if markup.get("type", "Fiducial") == "Fiducial"]
    sets = []
    for markup in markups:
        units = markup.get("coordinateUnits", "mm")
        units = units[0] if isinstance(units, list) else units
        if units not in ("mm", "um"):
            raise ValueError(f"unknown unit '{units}'")
        points = markup.get("controlPoints", [])
        status = [point.get("positionStatus", "defined") for point in points]
        position = [
            _position(point.get("position")) if state == "defined" else [math.nan] * 3
            for point, state in zip(points, status)
        ]
        sets.append(
            LandmarkSet(
                labels=tuple(str(point.get("label") or point.get("id") or "") for point in points),
                points=np.array(position).reshape(-1, 3) * (0.001 if units == "um" else 1.0),
                coordinate_system=markup.get("coordinateSystem", "LPS"),
                names=tuple(_name(str(point.get("description") or "")) for point in points),
            )
        )
    landmarks = _joined(sets)
    return landmarks if _AS_WRITTEN not in document else _told(landmarks, document[_AS_WRITTEN])


def _told(landmarks: LandmarkSet, as_written: dict[str, Any]) -> LandmarkSet:
    if as_written["positions"] != _fingerprint(landmarks):
        return landmarks
    deviation = {str(label): float(value) for label, value in as_written["standardDeviationMm"].items()}
    corrected = set(as_written["corrected"])
    return replace(
        landmarks,
        standard_deviation_mm=np.array([deviation.get(label, math.nan) for label in landmarks.labels]),
        corrected=np.array([label in corrected for label in landmarks.labels], dtype=bool),
    )


def _position(value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError("a position is not three numbers")
    position = [float(coordinate) for coordinate in value]
    if not all(math.isfinite(coordinate) for coordinate in position):
        raise ValueError("a position is not three finite numbers")
    return position


def _joined(sets: list[LandmarkSet]) -> LandmarkSet:
    """Several lists of points as one, in the coordinate system of the first."""
    if not sets:
        return LandmarkSet((), np.empty((0, 3)))
    system = sets[0].coordinate_system
    return LandmarkSet(
        labels=tuple(label for part in sets for label in part.labels),
        points=np.concatenate([part.in_coordinate_system(system).points for part in sets]),
        coordinate_system=system,
        names=tuple(name for part in sets for name in part.names),
    )


def _name(description: str) -> str:
    """The landmark's full name: its description without what this module added to it."""
    return re.sub(rf"\s*(± [\d.]+ mm|{re.escape(_NOT_ON_SCAN)}|{re.escape(_CORRECTED)})$", "", description)


def _read_fcsv(text: str) -> LandmarkSet:
    """All versions of the format, with Slicer's own defaults: a file without version line is of Slicer 3 and in RAS."""
    system, columns = "RAS", ["label", "x", "y", "z", "sel", "vis"]
    lines = []
    for line in text.splitlines():
        header = re.match(r"#\s*([^=]+?)\s*=\s*(.*?)\s*$", line)
        if header is None:
            if line.strip() and not line.startswith("#"):
                lines.append(line)
        elif header.group(1) == "CoordinateSystem":
            # Up to Slicer 4.10 a number; 2 are voxel indices, meaningless without the image.
            found = {"0": "RAS", "RAS": "RAS", "1": "LPS", "LPS": "LPS"}.get(header.group(2))
            if found is None:
                raise ValueError(f"unknown coordinate system '{header.group(2)}'")
            system = found
        elif header.group(1) == "columns":
            columns = header.group(2).split(",")
        elif header.group(1) == "Markups fiducial file version":
            columns = _FCSV_COLUMNS.split(",")
            system = "LPS"
    # Slicer 5 appends to each line, without naming it as a column, the status of the position: 2 where it has one.
    rows = [dict(zip([*columns, "status"], row)) for row in csv.reader(lines)]
    positions = [
        _position([row["x"], row["y"], row["z"]]) if row.get("status", "2") == "2" else [math.nan] * 3 for row in rows
    ]
    return LandmarkSet(
        labels=tuple(row.get("label") or row.get("id") or "" for row in rows),
        points=np.array(positions).reshape(-1, 3),
        coordinate_system=system,
        names=tuple(_name(row.get("desc") or "") for row in rows),
    )


def _read_csv(text: str) -> LandmarkSet:
    """Also as spreadsheets save it: in countries with a decimal comma they part cells by semicolons, or by tabs."""
    lines = [line for line in text.split("\n") if line.strip() and not re.fullmatch(r"sep=.;*", line.strip())]
    header = lines[0] if lines else ""
    table = csv.reader(lines, delimiter=max(",;\t", key=header.count))
    cells = [[cell.strip() for cell in row] for row in table]
    columns = [column.casefold() for column in cells[0]] if cells else []
    if not {"label", "x", "y", "z"} <= set(columns):
        raise ValueError("its first line does not name the columns label, x, y and z")
    surplus = next((row for row in cells if any(row[len(columns) :])), None)
    if surplus:
        raise ValueError(f"the line of '{surplus[0]}' has more cells than the first line")
    rows = [dict(zip(columns, row)) for row in cells[1:] if any(row)]
    systems = {row.get("coordinate_system") or "LPS" for row in rows}
    if len(systems) > 1:
        raise ValueError("it has more than one coordinate system")
    return LandmarkSet(
        labels=tuple(row["label"] for row in rows),
        points=np.array([_cells([row[axis] for axis in "xyz"]) for row in rows]).reshape(-1, 3),
        coordinate_system=systems.pop() if systems else "LPS",
        names=tuple(row.get("name") or "" for row in rows),
    )


def _cells(cells: list[str]) -> list[float]:
    """The position in three cells of a table, which are empty where the landmark has none."""
    cells = [re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", cell) for cell in cells]
    return _position(cells) if any(cells) else [math.nan] * 3


def _read_lafas(text: str) -> LandmarkSet:
    labels, points = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        found = re.match(r"\s*(.*?)\s*\t\s*\(([^()]*)\)\s*$", line)
        if found is None:
            raise ValueError(f"line {number} is not 'name, tab, (x,y,z)'")
        labels.append(found.group(1))
        # Some exports list a landmark that could not be placed as (nan,nan,nan).
        points.append([float(coordinate) for coordinate in found.group(2).split(",")])
        if len(points[-1]) != 3:
            raise ValueError(f"line {number} does not hold three coordinates")
    return LandmarkSet(labels=tuple(labels), points=np.array(points).reshape(-1, 3))
