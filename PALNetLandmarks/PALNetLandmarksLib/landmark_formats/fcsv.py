"""Slicer's ``.fcsv``."""

from __future__ import annotations

import csv
import io
import math
import re

import numpy as np

from ..landmark_set import LandmarkSet
from .fields import description_of, name_of, position_of

_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


def write_fcsv(landmarks: LandmarkSet) -> str:
    """Version 5.8 of the format, which knows no point without a position."""
    stream = io.StringIO()
    stream.write("# Markups fiducial file version = 5.8\n")
    stream.write(f"# CoordinateSystem = {landmarks.coordinate_system}\n")
    stream.write(f"# columns = {_COLUMNS}\n")
    writer = csv.writer(stream, lineterminator="\n")
    for i in np.flatnonzero(landmarks.defined).tolist():
        x, y, z = (repr(float(value)) for value in landmarks.points[i])
        text = [_one_line(landmarks.labels[i]), _one_line(description_of(landmarks, i))]
        writer.writerow([i + 1, x, y, z, 0, 0, 0, 1, 1, 1, 0, *text, ""])
    return stream.getvalue()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def read_fcsv(text: str) -> LandmarkSet:
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
            columns = _COLUMNS.split(",")
            system = "LPS"
    # Slicer 5 appends to each line, without naming it as a column, the status of the position: 2 where it has one.
    rows = [dict(zip([*columns, "status"], row)) for row in csv.reader(lines)]
    positions = [
        position_of([row["x"], row["y"], row["z"]]) if row.get("status", "2") == "2" else [math.nan] * 3 for row in rows
    ]
    return LandmarkSet(
        labels=tuple(row.get("label") or row.get("id") or "" for row in rows),
        points=np.array(positions).reshape(-1, 3),
        coordinate_system=system,
        names=tuple(name_of(row.get("desc") or "") for row in rows),
    )
