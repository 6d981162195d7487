"""The reference face: what scans are aligned to, and the mean landmarks placed on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .resources import resource_path


@dataclass(frozen=True)
class ReferenceFace:
    """The mean face in the canonical frame: LPS, millimetres, origin at the tip of the nose.

    Attributes
    ----------
    points, normals : (n, 3) float64; the front of the head with ears and upper neck, outward unit normals.
    triangles : (m, 3) int64.
    landmarks : (L, 3) float64, the mean landmarks (the template of the initial landmarks).
    landmark_normals : (L, 3) float64, unit normals of the skin around each landmark.
    labels : the landmarks' labels, in order.
    region_of_interest : (2, 3) lower and upper corner of the box that holds the face and both ears.
    """

    points: NDArray[np.float64]
    normals: NDArray[np.float64]
    triangles: NDArray[np.int64]
    landmarks: NDArray[np.float64]
    landmark_normals: NDArray[np.float64]
    labels: tuple[str, ...]
    region_of_interest: NDArray[np.float64]


def load_reference(path: Path | str | None = None) -> ReferenceFace:
    """Read a reference face written by ``training.build_reference``; the bundled one by default.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        If the file is missing or not a reference face.
    """
    with Path(path or resource_path("ReferenceFace.npz")).open("rb") as stream, np.load(stream) as data:
        return ReferenceFace(
            points=data["points"].astype(np.float64),
            normals=data["normals"].astype(np.float64),
            triangles=data["triangles"].astype(np.int64),
            landmarks=data["landmarks"].astype(np.float64),
            landmark_normals=data["landmark_normals"].astype(np.float64),
            labels=tuple(str(label) for label in data["labels"]),
            region_of_interest=data["region_of_interest"].astype(np.float64),
        )
