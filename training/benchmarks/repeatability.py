"""The same scan in many poses: how far the landmarks scatter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PALNetLandmarksLib.align import UNITS
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.resources import resource_path
from scipy.spatial.transform import Rotation

from .metrics import Array, spread
from .row import Row, Settings
from .work import detector, spread_work

TARGET_MM = 0.1


def measure_repeatability(settings: Settings) -> list[Row]:
    """Random poses of the bundled sample and, where there is one, of a real photogrammetry scan.

    Each as it is, in double precision, and as other software may store it: rounded to single precision in its new
    place, with its vertices, triangles and their corners in another order.
    """
    paths = [resource_path("SampleScan.ply"), settings.scans / "meshmonk_demo.ply"]
    rows = []
    for path in (path for path in paths if path.exists()):
        for anew, how in ((False, path.stem), (True, f"{path.stem}, listed anew in single precision in each pose")):
            work = partial(detect_in_pose, path=path, seed=settings.seed, weights=settings.weights, listed_anew=anew)
            found = spread_work(work, range(settings.poses), settings.workers, f"poses of {how}")
            rows.append(repeatability_row(how, [points for points in found if points is not None], len(found)))
    return rows


def repeatability_row(name: str, found: list[Array], poses: int) -> Row:
    """The spread of a landmark is its largest distance from its mean; the root mean square is given beside it."""
    what = f"{poses} random poses of one scan ({name})"
    target = f"spread of each landmark ≤ {TARGET_MM} mm"
    if not found:
        return Row(what, target, "every pose was refused", False, poses)
    labels = detector(None).labels
    rms, largest = spread(np.array(found))
    refused = poses - len(found)
    details: dict[str, Any] = {
        label: {"rms_mm": float(a), "largest_mm": float(b)} for label, a, b in zip(labels, rms, largest)
    }
    return Row(
        what,
        target,
        f"largest distance from the mean {largest.max():.3f} mm ({labels[int(largest.argmax())]}), largest root mean "
        f"square {rms.max():.3f} mm, median of the root mean squares {np.median(rms):.3f} mm"
        + (f"; {refused} refused" if refused else ""),
        bool(largest.max() <= TARGET_MM) and not refused,
        poses,
        {"landmarks": details, "refused": refused, "over_target": int((largest > TARGET_MM).sum())},
    )


def detect_in_pose(
    index: int,
    path: Path,
    seed: int,
    weights: Optional[Path],  # noqa: UP045
    listed_anew: bool = False,
) -> Optional[Array]:  # noqa: UP045
    """Landmarks (L, 3) of the scan in pose ``index``, brought back to the file's frame, mm; ``None`` if refused."""
    mesh = read_scan(path)
    rng = np.random.default_rng([seed, index])
    turned, rotation, shift = in_random_pose(mesh, rng)
    if listed_anew:
        turned = listed_otherwise(turned.with_points(turned.points.astype(np.float32).astype(np.float64)), rng)
    try:
        detection = detector(weights).detect(turned)
    except LandmarkingError:
        return None
    return ((detection.points - shift) @ rotation) * UNITS[detection.unit]


def in_random_pose(mesh: TriangleMesh, rng: np.random.Generator) -> tuple[TriangleMesh, Array, Array]:
    """A copy turned by a random rotation and shifted by up to a few head sizes, with both."""
    rotation = Rotation.random(random_state=rng).as_matrix()
    shift = rng.normal(0, 2, 3) * np.ptp(mesh.points, axis=0).max()
    return mesh.with_points(mesh.points @ rotation.T + shift), rotation, shift


def listed_otherwise(mesh: TriangleMesh, rng: np.random.Generator) -> TriangleMesh:
    """The same surface with other orders of its vertices, its triangles, and their corners."""
    order = rng.permutation(len(mesh.points))
    triangles = np.argsort(order)[mesh.triangles[rng.permutation(len(mesh.triangles))]]
    first = rng.integers(0, 3, (len(triangles), 1))
    return replace(
        mesh,
        points=mesh.points[order],
        triangles=np.take_along_axis(triangles, (first + np.arange(3)) % 3, axis=1),
    )
