"""Slicer's ``.mrk.json``."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np

from ..landmark_set import LandmarkSet
from .fields import description_of, name_of, position_of

# Slicer accepts any host before the file name and any 1.x.y version; this is what it writes itself.
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
#: Beside the markups of a ``.mrk.json``: what only holds as long as nobody moved a point. Slicer does not know it and
#: leaves it out when it writes the file anew; with it stands by which positions it holds.
_AS_WRITTEN = "palnetLandmarks"


def write_markups_json(landmarks: LandmarkSet) -> str:
    """A document of Slicer's markups schema 1.0.3 with one list of points."""
    # The axes of a point's orientation are those of the RAS world, written in the file's coordinate system.
    flip = -1.0 if landmarks.coordinate_system == "LPS" else 1.0
    control_points = []
    for i, label in enumerate(landmarks.labels):
        point: dict[str, Any] = {
            "id": str(i + 1),
            "label": label,
            "description": description_of(landmarks, i),
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
        # Slicer knows no unit but mm, and takes the numbers of a scan in metres as they are.
        **({"unit": landmarks.unit} if landmarks.unit else {}),
        "standardDeviationMm": {label: value for label, value in known.items() if math.isfinite(value)},
        "corrected": [] if corrected is None else [label for label, yes in zip(landmarks.labels, corrected) if yes],
        "positions": _fingerprint(landmarks),
    }


def _fingerprint(landmarks: LandmarkSet) -> str:
    """Tells whether a position was changed since."""
    positions = np.where(landmarks.defined[:, None], landmarks.points, 0.0).astype("<f8")
    return hashlib.sha256(positions.tobytes()).hexdigest()


def read_markups_json(text: str) -> LandmarkSet:
    """All lists of points of a document as one; ValueError and the like where it is damaged."""
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
            position_of(point.get("position")) if state == "defined" else [math.nan] * 3
            for point, state in zip(points, status)
        ]
        sets.append(
            LandmarkSet(
                labels=tuple(str(point.get("label") or point.get("id") or "") for point in points),
                points=np.array(position).reshape(-1, 3) * (0.001 if units == "um" else 1.0),
                coordinate_system=markup.get("coordinateSystem", "LPS"),
                names=tuple(name_of(str(point.get("description") or "")) for point in points),
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
