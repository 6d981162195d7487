"""What several test modules share: where the data lies, and a face-like surface made from formulas."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "PALNetLandmarks"))

from PALNetLandmarksLib.mesh import TriangleMesh  # noqa: E402


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the head model and the real scans; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "README.md").is_file():
        pytest.skip(f"the data folder {folder} is not on this machine")
    return folder


@pytest.fixture(scope="session")
def resources() -> Path:
    """The folder of what is bundled for run time."""
    return ROOT / "PALNetLandmarks" / "Resources"


@pytest.fixture(scope="session")
def make_head() -> Callable[..., TriangleMesh]:
    """``make_head(rows, columns)``: an egg with a nose in the canonical frame (LPS, mm; the nose points along -y).

    Its centre is (0, 90, 0), its half axes are 75, 70 and 110 mm, and the tip of its nose is the origin.
    """

    def make(rows: int = 60, columns: int = 90) -> TriangleMesh:
        latitude = np.linspace(-np.pi / 2, np.pi / 2, rows)
        longitude = np.linspace(0, 2 * np.pi, columns, endpoint=False)
        lat, lon = (grid.ravel() for grid in np.meshgrid(latitude, longitude, indexing="ij"))
        # Longitude 0 is the front, a quarter turn the subject's left.
        points = np.stack([75 * np.cos(lat) * np.sin(lon), 90 - 70 * np.cos(lat) * np.cos(lon), 110 * np.sin(lat)], 1)
        nose = np.exp(-((points[:, 0] / 10) ** 2) - (points[:, 2] / 14) ** 2) * (points[:, 1] < 90)
        points[:, 1] -= 20 * nose
        row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
        a = row * columns + column
        b = row * columns + (column + 1) % columns
        c, d = a + columns, b + columns
        triangles = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, d), (a, d, c))])
        return TriangleMesh(points, triangles.astype(np.int64), name="egg.ply")

    return make
