"""The landmark scheme: which points are placed, in which order, and how they are named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .resources import resource_path


@dataclass(frozen=True)
class Landmark:
    """One anatomical point (Farkas abbreviation; ``_R``/``_L`` is the subject's side)."""

    label: str
    name: str
    side: str
    region: str
    definition: str


@dataclass(frozen=True)
class LandmarkScheme:
    """An ordered list of landmarks; the order is that of every (L, 3) array in this library."""

    name: str
    landmarks: tuple[Landmark, ...]

    def __len__(self) -> int:
        return len(self.landmarks)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels in order, for example ``("Tr", "G", "N", ...)``."""
        return tuple(landmark.label for landmark in self.landmarks)

    @cached_property
    def mirrored(self) -> tuple[int, ...]:
        """For each landmark the index of its left-right counterpart; itself on the midline."""
        return tuple(self.labels.index(other_side(label)) for label in self.labels)


def other_side(label: str) -> str:
    """The label of the counterpart on the other side of the face; on the midline, the same."""
    return label[:-2] + {"_R": "_L", "_L": "_R"}.get(label[-2:], label[-2:])


def load_scheme(path: Path | str | None = None) -> LandmarkScheme:
    """Read a landmark scheme from JSON; the bundled 50 landmarks of the LAFAS protocol by default."""
    document = json.loads(Path(path or resource_path("LandmarkScheme.json")).read_text(encoding="utf-8"))
    fields = ("label", "name", "side", "region", "definition")
    landmarks = tuple(Landmark(**{key: entry[key] for key in fields}) for entry in document["landmarks"])
    return LandmarkScheme(name=document["name"], landmarks=landmarks)
