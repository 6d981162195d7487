"""What a row of the benchmark is, and what every row is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional


@dataclass(frozen=True)
class Settings:
    """Where things lie and how many there are of each.

    Attributes
    ----------
    model, scans : folders of the head model and of the real scans.
    output : folder of the results; ``cache`` folder of the simulated captures.
    captures, clinic_captures : numbers of captures for alignment and for point-wise error.
    poses, heads, repetitions : numbers of random poses, of heads of another model, and of runs whose median is a time.
    weights, palnet : weights files; the bundled ones by default, and none.
    makehuman : folder of MakeHuman's data; ``None`` leaves its rows out.
    registration : ``"own"`` or ``"fpfh-ransac"`` (open3d), for the alignment row.
    workers : processes; rows that measure time use one whatever it says.
    seed : of random poses; simulated captures have seeds of their own.
    """

    model: Path
    scans: Path
    output: Path
    cache: Path
    captures: int = 1000
    clinic_captures: int = 200
    poses: int = 100
    heads: int = 200
    repetitions: int = 11
    weights: Optional[Path] = None  # noqa: UP045
    palnet: Optional[Path] = None  # noqa: UP045
    makehuman: Optional[Path] = None  # noqa: UP045
    registration: str = "own"
    workers: int = 2
    seed: int = 7


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    what, target, value : text for people.
    met : whether the target is met; ``None`` where there is none.
    n : on how many scans, poses or runs the value rests.
    details : every number behind the value, fit for JSON.
    """

    what: str
    target: str
    value: str
    met: Optional[bool]  # noqa: UP045
    n: int
    details: dict[str, Any] = field(default_factory=dict)
