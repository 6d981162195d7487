"""Simulated captures beside real scans, shaded without colour, from the front and from one side.

    python -m training.compare_pictures --model ../shared/face-model --scans ../shared/scans --output comparison.png

As long as one can tell at a glance which is which, so can a network. Every scan is brought to the size and pose of the
reference face by its landmarks; real ones need a ``<scan>.landmarks.json`` beside the ``<scan>.ply``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.procrustes import fit_similarity
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from PIL import Image, ImageDraw

from .arguments import command_parser
from .simulation.cameras import Scene
from .simulation.capture import CaptureSimulator
from .simulation.head import HeadModel, head_model_folder

#: What is drawn, around the tip of the nose of the reference face: lower and upper corner (LPS mm).
BOX = np.array([[-130.0, -40.0, -165.0], [130.0, 220.0, 140.0]])
#: Image axes (right, up) and the direction of view of each picture.
VIEWS = {
    "front": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]),
    "left side": np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]]),
}
#: The simulated captures' devices, in turn: mostly what clinics have.
DEVICES = ("stereo", "stereo", "handheld", "stereo", "frontal", "tomography")
BACKGROUND = 255
CAPTION_PIXELS = 18


@dataclass(frozen=True)
class Shown:
    """One scan in the reference frame (LPS mm, at the reference's size), and what is written under it."""

    mesh: TriangleMesh
    caption: str


def shade(mesh: TriangleMesh, axes: NDArray[np.float64], pixels_per_mm: float = 1.2) -> NDArray[np.uint8]:
    """Grey picture (h, w) of ``mesh`` within ``BOX`` along ``axes`` (3, 3), each triangle flat under a headlight.

    Triangles seen from inside are dark.
    """
    corners = np.array(np.meshgrid(*BOX.T)).reshape(3, -1).T @ axes.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    width, height = np.ceil((high - low)[:2] * pixels_per_mm).astype(int).tolist()
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    right, up = low[0] + (column + 0.5) / pixels_per_mm, high[1] - (row + 0.5) / pixels_per_mm
    starts = np.stack([right, up, np.full(right.shape, low[2])], axis=-1).reshape(-1, 3) @ axes
    scene = Scene(mesh.points, mesh.triangles, np.zeros(len(mesh.triangles), dtype=bool))
    _, hit = scene.cast(starts.astype(np.float32), axes[2].astype(np.float32))
    facing = np.where(hit >= 0, -scene.normals[hit] @ axes[2], 0.0)
    grey = np.where(facing > 0, 40 + 190 * facing, 25.0)
    return np.where(hit >= 0, grey, BACKGROUND).astype(np.uint8).reshape(height, width)


def load_real_scan(path: Path, reference: ReferenceFace) -> Shown:
    """Read a scan and bring it to the reference by the landmarks of the ``.landmarks.json`` beside it.

    Raises
    ------
    FileNotFoundError, UnreadableScanError
        If either file is missing or cannot be read.
    """
    document = json.loads(path.with_suffix(".landmarks.json").read_text(encoding="utf-8"))
    known = {label: point for label, point in document["landmarks"].items() if label in reference.labels}
    target = np.array([reference.landmarks[reference.labels.index(label)] for label in known])
    mesh = read_scan(path)
    placed = mesh.with_points(fit_similarity(np.array(list(known.values())), target).apply(mesh.points))
    return Shown(placed, f"{path.stem} (real), {len(mesh.points)} vertices")


def simulate_scan(simulator: CaptureSimulator, index: int, reference: ReferenceFace) -> Shown:
    """Capture number ``index``, of an identity that no cohort uses, with the devices in turn."""
    device = DEVICES[index % len(DEVICES)]
    rng = np.random.default_rng([20250, index])
    capture = simulator.capture(simulator.model.draw_subject(rng), rng, device, 0.8)
    placed = fit_similarity(capture.landmarks, reference.landmarks).apply(capture.points)
    return Shown(
        TriangleMesh(placed, capture.triangles, device), f"simulated {index}, {device}, {len(placed)} vertices"
    )


def compose(scans: list[Shown], columns: int = 3) -> Image.Image:
    """All pictures on one page: ``columns`` scans in a row, each from the front and the side."""
    panels = []
    for scan in scans:
        picture = np.hstack([shade(scan.mesh, axes) for axes in VIEWS.values()])
        panel = Image.new("L", (picture.shape[1] + 10, picture.shape[0] + CAPTION_PIXELS), BACKGROUND)
        panel.paste(Image.fromarray(picture), (0, 0))
        ImageDraw.Draw(panel).text((8, picture.shape[0] + 2), scan.caption, fill=0)
        panels.append(panel)
    width, height = panels[0].size
    rows = -(-len(panels) // columns)
    page = Image.new("L", (columns * width, rows * height), BACKGROUND)
    for i, panel in enumerate(panels):
        page.paste(panel, (i % columns * width, i // columns * height))
    return page


def main() -> None:
    parser = command_parser(__doc__.splitlines()[0])
    parser.add_argument("--model", type=head_model_folder, required=True, help="folder of the head model")
    parser.add_argument("--scans", type=Path, required=True, help="folder with <scan>.ply and <scan>.landmarks.json")
    parser.add_argument("--simulated", type=int, default=9, help="how many captures to simulate")
    parser.add_argument("--output", type=Path, required=True, help="picture to write (.png or .jpg)")
    a = parser.parse_args()
    reference = load_reference()
    scans = [load_real_scan(path, reference) for path in sorted(a.scans.glob("*.ply"))]
    simulator = CaptureSimulator(HeadModel(a.model))
    scans += [simulate_scan(simulator, index, reference) for index in range(a.simulated)]
    compose(scans).save(a.output)
    print(f"{a.output}: {len(scans)} scans")


if __name__ == "__main__":
    main()
