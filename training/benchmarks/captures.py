"""Simulated captures, mostly of test identities, in any pose and unit, on disk: made once, read by every row.

A capture is ``<name>.ply`` (what a user would have) and ``<name>.json``, which holds the truth.
"""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.align import UNITS
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.read_scan import read_scan
from rich.progress import track
from scipy.spatial.transform import Rotation

from ..cohort import PLANS, draw_capture
from ..simulation.capture import CaptureSimulator
from ..simulation.head import HeadModel
from ..write_ply import write_ply


@dataclass(frozen=True)
class TestCapture:
    """One capture and the truth about it.

    ``landmarks`` (L, 3) in the file's frame but in millimetres; ``visible`` (L,): the scan has a surface there.
    ``noise_mm``: standard deviation, along each axis, of what is added to every vertex.
    """

    __test__ = False  # not a test, whatever pytest thinks of the name

    path: Path
    landmarks: NDArray[np.float64]
    visible: NDArray[np.bool_]
    device: str
    unit: str
    noise_mm: float = 0.0

    def read(self) -> TriangleMesh:
        """The scan as any user's file is read, with noise; the same at every reading."""
        mesh = read_scan(self.path)
        if not self.noise_mm:
            return mesh
        rng = np.random.default_rng(list(self.path.stem.encode()))
        return mesh.with_points(mesh.points + rng.normal(0, self.noise_mm / UNITS[self.unit], mesh.points.shape))


def make_captures(
    plan: str, count: int, model: Path, cache: Path, workers: int, split: str = "test"
) -> list[TestCapture]:
    """The first ``count`` captures of a split of ``plan``; those that are not on disk yet are made."""
    folder = cache / plan
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [index for index in range(count) if not _paths(folder, split, index)[1].exists()]
    if wanted:
        with multiprocessing.get_context("spawn").Pool(min(workers, len(wanted))) as pool:
            work = partial(_make, plan=plan, split=split, model=model, folder=folder)
            for _ in track(pool.imap_unordered(work, wanted), total=len(wanted), description=f"captures {plan}"):
                pass
    return [_load(*_paths(folder, split, index)) for index in range(count)]


def _paths(folder: Path, split: str, index: int) -> tuple[Path, Path]:
    return folder / f"{split}-{index:05d}.ply", folder / f"{split}-{index:05d}.json"


@lru_cache(maxsize=1)
def _simulator(model: Path, scheme: str) -> CaptureSimulator:
    return CaptureSimulator(HeadModel(model, scheme))


def _make(index: int, plan: str, split: str, model: Path, folder: Path) -> None:
    """Write one capture; the file with the truth comes last, so its presence means that both are whole."""
    mesh_path, truth_path = _paths(folder, split, index)
    capture, rng = draw_capture(_simulator(model, PLANS[plan].scheme), PLANS[plan], split, index)
    rotation = Rotation.random(random_state=rng).as_matrix()
    shift = rng.normal(0, 150, 3)
    unit = str(rng.choice(list(UNITS)))
    partial_path = mesh_path.with_suffix(".partial")
    write_ply(partial_path, (capture.points @ rotation.T + shift) / UNITS[unit], capture.triangles)
    partial_path.replace(mesh_path)
    truth = {
        "landmarks_mm": (capture.landmarks @ rotation.T + shift).tolist(),
        "visible": capture.visible.tolist(),
        "labels": list(capture.labels),
        "device": capture.device,
        "unit": unit,
    }
    partial_path = truth_path.with_suffix(".partial")
    partial_path.write_text(json.dumps(truth), encoding="utf-8")
    partial_path.replace(truth_path)


def _load(mesh_path: Path, truth_path: Path) -> TestCapture:
    truth = json.loads(truth_path.read_text(encoding="utf-8"))
    return TestCapture(
        mesh_path,
        np.array(truth["landmarks_mm"]),
        np.array(truth["visible"], dtype=bool),
        truth["device"],
        truth["unit"],
    )
