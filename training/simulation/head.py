"""The statistical head model and the subjects drawn from it."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.mesh import TriangleMesh

from .noise import smooth_noise

#: The files of a head model.
MODEL_FILE, LANDMARKS_FILE = "ict_head.npz", "landmarks50.json"

#: A mean adult relative to the head model: between the means of LAFAS (0.916) and of the other laboratory whose
#: distances ``../shared/README.md`` quotes.
ADULT_SIZE = 0.93

#: Height (mm) over which the soft maximum of the extremum rules falls to 1/e.
EXTREMUM_SOFTNESS_MM = 0.15

#: How far a side's extremum must face that side (component of the normal): an ear's rim faces outwards to its ridge,
#: and with 0 postaurale lies 2 to 3 mm behind what a camera in front of the ear sees.
LEAST_LATERAL_NORMAL = 0.3


def to_lps(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """From the head model's frame (x left, y up, z forward) to LPS (x left, y back, z up); shape (..., 3)."""
    points = np.asarray(points, dtype=np.float64)
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1)


@dataclass(frozen=True)
class LandmarkRule:
    """How one landmark follows from the head model's vertices.

    ``direction`` (3,) and ``radius_mm``: the landmark is the point that goes furthest along ``direction`` within the
    radius of the vertex on the subject's neutral face; without them it is the mean of ``vertices``.
    """

    label: str
    vertices: tuple[int, ...]
    direction: tuple[float, float, float] | None = None
    radius_mm: float = 0.0
    intra_observer_mm: float = 0.0


@dataclass(frozen=True)
class Subject:
    """One simulated person in the head frame (LPS mm), before hair, clothes and camera.

    ``vertices`` (v, 3) and ``landmarks`` (L, 3) with expression; ``size`` relative to the head model.
    """

    vertices: NDArray[np.float64]
    landmarks: NDArray[np.float64]
    size: float
    eyes_shut: bool


def head_model_folder(text: str) -> Path:
    """The folder of a head model, as the type of an argument: a folder without its files is wrong usage."""
    folder = Path(text)
    lacking = [name for name in (MODEL_FILE, LANDMARKS_FILE) if not (folder / name).exists()]
    if lacking:
        raise argparse.ArgumentTypeError(
            f"'{folder}' lacks {' and '.join(lacking)}; see 'The head model' in training/README.md"
        )
    return folder


class HeadModel:
    """ICT-FaceKit's light head model with annotated landmarks.

    Parameters
    ----------
    folder : holds ``ict_head.npz`` and ``landmarks50.json``.
    scheme : ``"lafas50"`` or ``"multipie68"`` (the FaceScape-like scheme).
    """

    OUTER_SURFACE = ("face", "head_neck", "eyeballs")

    def __init__(self, folder: Path | str, scheme: str = "lafas50") -> None:
        folder = Path(folder)
        with np.load(folder / MODEL_FILE) as data:
            self.neutral = to_lps(data["neutral"])
            self.identity = to_lps(data["identity"]).astype(np.float32)
            self.expression = to_lps(data["expression"]).astype(np.float32)
            self.expression_names = [str(name) for name in data["expression_names"]]
            quads = data["quads"].astype(np.int64)
            self.parts = {key[5:]: tuple(int(i) for i in data[key]) for key in data if key.startswith("part_")}
        self.triangles = np.vstack([quads[:, :3], quads[quads[:, 3] >= 0][:, [0, 2, 3]]])
        self.rules = _read_rules(folder / LANDMARKS_FILE, scheme)
        self.skin_triangles = self.triangles_of("face", "head_neck")
        self.outer_triangles = self.triangles_of(*self.OUTER_SURFACE)
        self._neutral_mesh = TriangleMesh(self.neutral, self.skin_triangles)
        self._extremum_candidates = {rule.label: self._find_candidates(rule) for rule in self.rules if rule.direction}

    @property
    def labels(self) -> tuple[str, ...]:
        """Landmark labels in the scheme's order."""
        return tuple(rule.label for rule in self.rules)

    def triangles_of(self, *parts: str) -> NDArray[np.int64]:
        """Triangles (m, 3) all of whose vertices lie in one of ``parts``."""
        inside = np.zeros(len(self.neutral), dtype=bool)
        for part in parts:
            first, last = self.parts[part]
            inside[first:last] = True
        return self.triangles[inside[self.triangles].all(axis=1)]

    def draw_subject(self, rng: np.random.Generator, expressive: bool = True, unusual: bool = False) -> Subject:
        """Draw a person: identity, size, asymmetry, mild expression; see the issue's section 3.

        ``unusual``: much further from the mean head, as patients of a craniofacial clinic may be.
        """
        spread = rng.uniform(1.2, 1.9) if unusual else rng.uniform(0.8, 1.2)
        deformation, stretching = (2.0, 0.05) if unusual else (1.0, 0.02)
        weights = rng.normal(size=len(self.identity)) * spread
        neutral = self.neutral + np.tensordot(weights.astype(np.float32), self.identity, axes=1)
        # Broad and local deformations that the 100 modes cannot make: asymmetry, and people unlike the scanned ones.
        neutral = neutral + deformation * 1.3 * rng.uniform(0, 1.5) * smooth_noise(neutral, 140.0, rng, 24, 3)
        # The finer ones along the normal alone: skin that slides along itself shows nowhere but in the labels.
        normals = TriangleMesh(neutral, self.triangles).vertex_normals
        for wavelength, amplitude in ((60.0, 0.7), (30.0, 0.3)):
            height = deformation * amplitude * rng.uniform(0, 1.5) * smooth_noise(neutral, wavelength, rng)
            neutral = neutral + height[:, None] * normals
        change, eyes_shut = self._draw_expression(rng) if expressive else (np.zeros_like(neutral), False)
        vertices = neutral + change
        landmarks = np.array([self._landmark(rule, neutral, vertices) for rule in self.rules])
        # Most are adults; the rest reach down to small children.
        size = ADULT_SIZE * rng.normal(1.0, 0.05) if rng.random() < 0.8 else rng.uniform(0.66, 0.9)
        stretch = rng.normal(1, stretching, 3) * size
        return Subject(vertices * stretch, landmarks * stretch, size, eyes_shut)

    def mean_subject(self) -> Subject:
        """The neutral head at the size of a mean adult."""
        landmarks = np.array([self._landmark(rule, self.neutral, self.neutral) for rule in self.rules])
        return Subject(self.neutral * ADULT_SIZE, landmarks * ADULT_SIZE, ADULT_SIZE, False)

    def _draw_expression(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], bool]:
        weights = np.zeros(len(self.expression))

        def put(name: str, value: float, side_difference: float = 0.15) -> None:
            for suffix in ("", "_L", "_R"):
                if name + suffix in self.expression_names:
                    share = 1.0 if not suffix else 1 + side_difference * rng.normal()
                    weights[self.expression_names.index(name + suffix)] += max(0.0, value * share)

        eyes_shut = rng.random() < 0.2
        put("eyeBlink", rng.uniform(0.9, 1.0) if eyes_shut else rng.choice([0.0, rng.uniform(0, 0.5)]), 0.02)
        put("eyeWide", rng.uniform(0, 0.4) if rng.random() < 0.15 and not eyes_shut else 0.0)
        opening = rng.random()
        # Most patients keep the lips closed; the model's neutral mouth stands slightly open.
        put("mouthClose", rng.uniform(0.0, 0.06) if opening < 0.75 else 0.0)
        put("jawOpen", rng.uniform(0.05, 0.25) if opening > 0.85 else 0.0)
        for name, chance, most in (
            ("mouthSmile", 0.35, 0.5),
            ("browInnerUp", 0.2, 0.5),
            ("browOuterUp", 0.2, 0.5),
            ("browDown", 0.2, 0.5),
            ("mouthPucker", 0.1, 0.3),
            ("mouthFrown", 0.15, 0.4),
            ("mouthPress", 0.2, 0.4),
            ("mouthRollLower", 0.15, 0.4),
            ("mouthRollUpper", 0.15, 0.4),
            ("mouthShrugLower", 0.15, 0.4),
            ("cheekSquint", 0.15, 0.5),
            ("eyeSquint", 0.2, 0.5),
            ("noseSneer", 0.08, 0.4),
            ("mouthStretch", 0.1, 0.3),
            ("mouthDimple", 0.1, 0.4),
            ("cheekPuff", 0.05, 0.3),
            ("jawForward", 0.2, 0.5),
        ):
            if rng.random() < chance:
                put(name, rng.uniform(0, most))
        return np.tensordot(weights.astype(np.float32), self.expression, axes=1).astype(np.float64), bool(eyes_shut)

    def _landmark(
        self, rule: LandmarkRule, neutral: NDArray[np.float64], vertices: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        if rule.direction is None:
            return vertices[list(rule.vertices)].mean(axis=0)
        candidates = self._extremum_candidates[rule.label]
        offset = neutral[candidates] - neutral[list(rule.vertices)].mean(axis=0)
        near = np.linalg.norm(offset, axis=1) <= rule.radius_mm
        candidates, offset = candidates[near], offset[near]
        height = offset @ np.asarray(rule.direction)
        # A soft maximum: vertices stand 2 to 3 mm apart, the anatomical extremum does not jump; where the surface has
        # no summit (a flat brow) the point stays near its vertex instead of running to the edge of the search.
        doubt = (offset**2).sum(axis=1) / (2 * (0.5 * rule.radius_mm) ** 2)
        share = np.exp((height - height.max()) / EXTREMUM_SOFTNESS_MM - doubt)
        return (share[:, None] * vertices[candidates]).sum(axis=0) / share.sum()

    def _find_candidates(self, rule: LandmarkRule) -> NDArray[np.int64]:
        """Skin vertices that may be a landmark's extremum.

        Taken literally, the search within a radius puts midline points up to 6 mm beside the midline (the sulcus under
        the lip curves back to both sides) and points of the ear on the side that faces the skull, where no annotator
        sees them. Midline landmarks therefore stay on the midline, and those of a side on surfaces that face it.
        """
        skin = np.arange(self.parts["head_neck"][1])
        if rule.label[-2:] not in ("_R", "_L"):
            return skin[np.abs(self.neutral[skin, 0]) < 0.6]
        lateral = self._neutral_mesh.vertex_normals[skin, 0]
        return skin[lateral * (1 if rule.label.endswith("_L") else -1) > LEAST_LATERAL_NORMAL]


def _read_rules(path: Path, scheme: str) -> tuple[LandmarkRule, ...]:
    document = json.loads(path.read_text(encoding="utf-8"))
    if scheme == "multipie68":
        return tuple(LandmarkRule(f"P{i + 1:02d}", (v,)) for i, v in enumerate(document["multipie68_ict_vertices"]))
    rules = []
    for entry in document["landmarks"]:
        extremum = entry["extremum"]
        rules.append(
            LandmarkRule(
                label=entry["label"],
                vertices=tuple(entry["ict_vertices"]),
                direction=tuple(to_lps(extremum["direction"]).tolist()) if extremum else None,
                radius_mm=extremum["radius_mm"] if extremum else 0.0,
                intra_observer_mm=entry["lafas_intra_observer_mm"],
            )
        )
    return tuple(rules)
