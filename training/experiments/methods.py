"""The methods that are compared: how each is trained on a fold, and what it says of a scan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.align import UNITS, align_to_reference, to_canonical
from PALNetLandmarksLib.detector import LandmarkDetector
from PALNetLandmarksLib.initial_landmarks import place_initial_landmarks
from PALNetLandmarksLib.known_points import known_points
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.palnet import PALNetConfig, published_variants
from PALNetLandmarksLib.patches import PatchConfig
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import load_reference

from ..aligned_scans import AlignedScan
from ..height_map_task import JOINT, MIXING
from ..training_scheme import mean_landmarks
from .landmark_shape_model import LandmarkShapeModel

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@dataclass(frozen=True)
class Prediction:
    """Landmarks (L, 3) and standard deviations (L,), NaN where unknown, in the scan's frame in millimetres;
    ``missing`` (L,); ``seconds`` of each step; ``mm_per_unit`` of the scan's own coordinates."""

    points: NDArray[np.float64]
    deviations: NDArray[np.float64]
    missing: NDArray[np.bool_]
    seconds: dict[str, float]
    mm_per_unit: float = 1.0


#: The second argument is the unit of the scan, None where it is to be found out.
Predict = Callable[[TriangleMesh, "str | None"], Prediction]


@dataclass(frozen=True)
class Budget:
    """What each run of a method may take. ``minutes`` 0: no limit of time; ``epochs`` None: as the recipe says."""

    minutes: float = 0.0
    epochs: int | None = None


@dataclass(frozen=True)
class Method:
    """``kind``: "network", "template", "shape-model", "peer" (a network of ``peers``), or "weights" for a file that no
    fold trains.

    ``config`` is a file of ``training/configs``; ``changes`` is what a variant has otherwise there. ``trained_as``: the
    method whose networks it takes, to use them in another way: with as many ``passes``, or with what ``afterwards``
    names, "mirror" or "shape-prior".
    """

    name: str
    title: str
    kind: str
    config: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    trained_as: str = ""
    passes: int = 0
    afterwards: str = ""

    @property
    def run(self) -> str:
        """The name of its trainings."""
        return self.trained_as or self.name

    def read_config(self) -> dict[str, Any]:
        """Its file of ``training/configs``, without the changes."""
        config: dict[str, Any] = json.loads((CONFIGS / self.config).read_text(encoding="utf-8"))
        return config


#: The method that starts from the bundled weights, unless it is told others.
FINE_TUNED = "fine-tuned"

#: Table 6, in its order: this program's names of the paper's rows.
_TABLE_6 = {
    "points-500": "patches 500 points",
    "points-1500": "patches 1500 points",
    "radius-10": "patches radius 10 mm",
    "radius-15": "patches radius 15 mm",
    "radius-20": "patches radius 20 mm",
    "coarse": "coarse mesh",
    "no-order": "no spatial ordering",
    "pal-net": "baseline 1000 points",
    "no-attention": "without attention",
    "top-k": "top-k attention k=10",
    "two-blocks": "two blocks",
}

ABLATIONS = tuple(_TABLE_6)


def _variants() -> list[Method]:
    """A method for each row of Table 6 but PAL-Net's own."""
    methods = []
    for name, row in _TABLE_6.items():
        if name != "pal-net":
            patches, network = published_variants()[row]
            changes = {
                "model": _differences(network, PALNetConfig(patch_size=patches.size)),
                "patches": _differences(patches, PatchConfig()),
            }
            methods.append(Method(name, row, "network", "palnet.json", changes))
    return methods


#: What the height-map network is without one of its parts, and with what it does not have.
_PARTS = (
    ("no-augmentation", "without augmentation", {"augmented": False}),
    ("no-normals", "without normals in the maps", {"with_normals": False}),
    (
        "fine-map-only",
        "without the coarse map",
        {"model": {"maps": {"pitch_mm": [1.25], "depth_mm": [14.0], "stride": [1]}}},
    ),
    ("no-attention-between", "without attention between landmarks", {"model": {"layers": 0}}),
    (
        "across",
        "with matrices across all landmarks",
        {"model": {"mixing": MIXING, "joint": JOINT}},
    ),
)
_USES = (
    ("one-pass", "one pass", {"passes": 1}),
    ("two-passes", "two passes", {"passes": 2}),
    ("five-passes", "five passes", {"passes": 5}),
    ("mirror-averaging", "mean with the mirrored scan", {"afterwards": "mirror"}),
    ("shape-prior", "Gaussian prior of the landmarks' shape", {"afterwards": "shape-prior"}),
)

PARTS = ("height-map-net", *(name for name, *_ in (*_USES, *_PARTS)))


def _parts() -> list[Method]:
    """A method for each row of the comparison of the height-map network's parts but its own."""
    config = "height-map-net.json"
    return [
        *(Method(name, title, "network", config, trained_as="height-map-net", **use) for name, title, use in _USES),
        *(Method(name, title, "network", config, changes) for name, title, changes in _PARTS),
    ]


def _differences(config: Any, default: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(config).items() if value != vars(default)[key]}


METHODS = {
    method.name: method
    for method in (
        Method("template", "Mean landmarks, projected", "template"),
        Method("shape-model", "Shape model, non-rigid fit", "shape-model"),
        Method("mvlm-style", "MVLM-style (multi-view)", "peer", "mvlm-style.json"),
        Method("sgcn-style", "2S-SGCN-style (graph)", "peer", "sgcn-style.json"),
        Method("pal-net", "PAL-Net as published", "network", "palnet.json"),
        Method("height-map-net", "Height-map network (ours)", "network", "height-map-net.json"),
        Method(FINE_TUNED, "Fine-tuned from the shipped weights", "network", "height-map-net.json"),
        Method("shipped", "Shipped weights (wider pool)", "weights"),
        *_variants(),
        *_parts(),
    )
}


def train_network(
    method: Method,
    folders: Mapping[str, Path],
    run: Path,
    alignments: Path,
    budget: Budget,
    device: str,
    threads: int,
    finetune: Path | None = None,
    unit: str | None = None,
) -> Path:
    """Train in a process of its own, or go on with a run that was interrupted; returns the weights.

    Raises
    ------
    subprocess.CalledProcessError
        If the training fails; it says why itself.
    """
    weights = run / "weights.safetensors"
    if weights.exists():
        return weights
    run.mkdir(parents=True, exist_ok=True)
    config = method.read_config()
    for key, change in method.changes.items():
        config[key] = {**config.get(key, {}), **change} if isinstance(change, dict) else change
    if budget.epochs is not None:
        config["recipe"]["epochs"] = budget.epochs
    (run / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    command = [sys.executable, "-m", "training.train", "--config", str(run / "config.json"), "--output", str(run)]
    for split, option in (("training", "--data"), ("validation", "--validation"), ("test", "--test")):
        command += [option, str(folders[split])]
    command += ["--alignments", str(alignments), "--device", device, "--version", method.run]
    command += ["--minutes", str(budget.minutes)] if budget.minutes else []
    command += ["--threads", str(threads)] if threads else []
    command += ["--finetune", str(finetune)] if finetune else []
    command += ["--unit", unit] if unit else []
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), str(root / "PALNetLandmarks"), os.environ.get("PYTHONPATH", "")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))})
    return weights


def predictor_of_weights(
    weights: Path | None, labels: tuple[str, ...], device: str = "cpu", surface: str = "triangle"
) -> Predict:
    """The library's whole pipeline with a weights file; the bundled one if ``None``. ``surface`` as for the detector.

    Gives the landmarks ``labels`` in that order, whatever the file's own are; unknown and missing where it lacks one.
    """
    detector = LandmarkDetector.load(weights, device, surface)
    row = {label: i for i, label in enumerate(detector.labels)}
    known = np.array([label in row for label in labels])
    rows = [row[label] for label in labels if label in row]

    def predict(mesh: TriangleMesh, unit: str | None) -> Prediction:
        detection = detector.detect(mesh, unit)
        points, deviations = np.full((len(labels), 3), np.nan), np.full(len(labels), np.nan)
        points[known] = detection.points[rows] * UNITS[detection.unit]
        deviations[known] = detection.standard_deviation_mm[rows]
        missing = ~known
        missing[known] = detection.missing[rows]
        return Prediction(points, deviations, missing, dict(detection.seconds), UNITS[detection.unit])

    return predict


def predictor_of_template(scans: list[AlignedScan]) -> Predict:
    """The training subjects' mean landmarks at the size of the face, on the nearest vertices."""
    template = mean_landmarks(scan.landmarks / scan.face_scale for scan in scans)
    known = known_points(template)

    return _after_alignment(known, lambda points, scale: place_initial_landmarks(template[known] * scale, points))


def predictor_of_shape_model(scans: list[AlignedScan]) -> Predict:
    """A statistical shape model of the landmarks, carried by a non-rigid fit of the reference face."""
    shapes = [scan.landmarks / scan.face_scale for scan in scans]
    known = known_points(mean_landmarks(shapes))
    model = LandmarkShapeModel.of([shape[known] for shape in shapes], load_reference())
    return _after_alignment(known, lambda points, scale: model.fit(points / scale) * scale)


def _after_alignment(
    known: NDArray[np.bool_], place: Callable[[NDArray[np.float64], float], NDArray[np.float64]]
) -> Predict:
    """``place`` takes canonical vertices (n, 3) and the size of the face, and gives the landmarks that are ``known``
    (L,) there; the others stay without a position."""
    reference = load_reference()

    def predict(mesh: TriangleMesh, unit: str | None) -> Prediction:
        begun = time.perf_counter()
        found = align_to_reference(mesh, reference, unit)
        aligned = time.perf_counter()
        rotation, shift = found.transform[:3, :3], found.transform[:3, 3]
        points = np.full((len(known), 3), np.nan)
        points[known] = place(to_canonical(mesh.points, found.transform, found.mm_per_unit), found.face_scale)
        seconds = {"align": aligned - begun, "landmarks": time.perf_counter() - aligned}
        unknown = np.full(len(points), np.nan)
        return Prediction((points - shift) @ rotation, unknown, np.zeros(len(points), dtype=bool), seconds)

    return predict


def read_mesh(path: Path) -> tuple[TriangleMesh, float]:
    """The scan and the seconds that reading took."""
    begun = time.perf_counter()
    mesh = read_scan(path)
    return mesh, time.perf_counter() - begun
