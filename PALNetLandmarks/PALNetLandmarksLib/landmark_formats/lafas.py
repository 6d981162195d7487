"""LAFAS's ``.txt``: name, tab, (x,y,z) on every line."""

from __future__ import annotations

import re

import numpy as np

from ..landmark_set import LandmarkSet


def write_lafas(landmarks: LandmarkSet) -> str:
    """The landmarks that have a position."""
    return "".join(
        f"{label}\t({x:.4f},{y:.4f},{z:.4f})\n"
        for label, (x, y, z), defined in zip(landmarks.labels, landmarks.points, landmarks.defined)
        if defined
    )


def read_lafas(text: str) -> LandmarkSet:
    """Also (nan,nan,nan), as some exports list a landmark that could not be placed."""
    labels, points = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        found = re.match(r"\s*(.*?)\s*\t\s*\(([^()]*)\)\s*$", line)
        if found is None:
            raise ValueError(f"line {number} is not 'name, tab, (x,y,z)'")
        labels.append(found.group(1))
        points.append([float(coordinate) for coordinate in found.group(2).split(",")])
        if len(points[-1]) != 3:
            raise ValueError(f"line {number} does not hold three coordinates")
    return LandmarkSet(labels=tuple(labels), points=np.array(points).reshape(-1, 3))
