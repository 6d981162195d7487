"""This library's own ``.csv``."""

from __future__ import annotations

import csv
import io
import math
import re

import numpy as np

from ..landmark_set import LandmarkSet
from .fields import position_of

_COLUMNS = ("label", "name", "x", "y", "z", "standard_deviation_mm", "state", "coordinate_system", "unit")


def write_table(landmarks: LandmarkSet) -> str:
    """A line for each landmark, without numbers where it has no position."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
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
                landmarks.unit or "",
            ]
        )
    return stream.getvalue()


def _state(landmarks: LandmarkSet, index: int) -> str:
    if not landmarks.defined[index]:
        return "missing"
    return "corrected" if landmarks.corrected is not None and landmarks.corrected[index] else "defined"


def read_table(text: str) -> LandmarkSet:
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
    cells = [re.sub(r"^(-?\d+),(\d+)([eE][-+]?\d+)?$", r"\1.\2\3", cell) for cell in cells]
    return position_of(cells) if any(cells) else [math.nan] * 3
