"""Named points on one scan: what landmark files hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .errors import UnreadableLandmarksError
from .known_points import known_points


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
        Both are read back from a ``.mrk.json`` alone, and only if it is as this library wrote it: another program may
        have moved the points.
    unit : length unit of ``points`` (one of ``align.UNITS``), for readers of a file; ``None`` where nobody said. It is
        not read back: the points may have been scaled since, and the size of the face tells.
    """

    labels: tuple[str, ...]
    points: NDArray[np.float64]
    coordinate_system: str = "LPS"
    names: tuple[str, ...] = ()
    standard_deviation_mm: NDArray[np.float64] | None = None
    corrected: NDArray[np.bool_] | None = None
    unit: str | None = None

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
        return known_points(self.points)

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
            unit=self.unit,
        )
