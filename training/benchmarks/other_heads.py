"""Heads of a model that no training used: how consistently the landmarks are placed on them.

Nobody has annotated these heads, but they share one topology. What is found on each is carried to all others along
with the skin; what does not lie at the same place of the skin is an error of the detector, or of its makers' idea of
what corresponds to what. A habit that all heads share does not show.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Optional

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.known_points import known_points
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.scheme import load_scheme
from vtkmodules.vtkCommonCore import mutable
from vtkmodules.vtkCommonDataModel import vtkStaticCellLocator

from ..landmark_groups import inner_landmarks
from ..simulation.makehuman import MakeHumanHeads
from ..simulation.surfaces import to_vtk
from .metrics import Array, calibration, distances, summary
from .row import Row, Settings
from .work import detector, spread_work

#: How far features go, relative to MakeHuman's targets: as among people, and as in caricatures.
SPREADS = {"ordinary": 0.15, "extreme": 0.35}


def measure_other_heads(settings: Settings) -> list[Row]:
    """A row for ordinary heads, and one for extreme ones."""
    assert settings.makehuman is not None  # the benchmark leaves these rows out otherwise
    rows = []
    for kind, feature_spread in SPREADS.items():
        work = partial(
            detect_on_head,
            folder=settings.makehuman,
            spread=feature_spread,
            seed=settings.seed,
            weights=settings.weights,
        )
        found = spread_work(work, range(settings.heads), settings.workers, f"{kind} heads")
        rows.append(other_heads_row(kind, found, _heads(settings.makehuman).triangles))
    return rows


def detect_on_head(
    index: int,
    folder: Path,
    spread: float,
    seed: int,
    weights: Optional[Path],  # noqa: UP045
) -> tuple[Array, Optional[Array], Optional[Array]]:  # noqa: UP045
    """Vertices (v, 3) of one head in mm, and landmarks (L, 3) and standard deviations (L,) found on it.

    Landmarks called missing are NaN; both are ``None`` if the head was refused.
    """
    heads = _heads(folder)
    vertices = heads.draw(np.random.default_rng([seed, index]), spread)
    try:
        detection = detector(weights).detect(TriangleMesh(vertices, heads.triangles, f"head {index}"), "mm")
    except LandmarkingError:
        return vertices, None, None
    points = np.where(detection.missing[:, None], np.nan, detection.points)
    return vertices, points, detection.standard_deviation_mm


def other_heads_row(
    kind: str,
    found: list[tuple[Array, Optional[Array], Optional[Array]]],  # noqa: UP045
    triangles: NDArray[np.int64],
) -> Row:
    """Distances of the landmarks from where their median over all heads lies on each."""
    what = f"{kind} heads of MakeHuman, a model that no training used: away from the place on the skin common to all"
    done = [(vertices, points, stated) for vertices, points, stated in found if points is not None]
    if len(done) < 2:
        return Row(what, "—", "all refused", None, len(found))
    vertices, points, stated = (np.array(values) for values in zip(*done))
    errors = distances(points, common_places(vertices, points, triangles))
    scheme = load_scheme()
    inner, all_of_them = summary(errors[:, inner_landmarks(scheme)]), summary(errors)
    held = calibration(errors, stated)["within_95"]
    refused = len(found) - len(done)
    return Row(
        what,
        "—",
        f"{all_of_them['mean']:.2f} mm in the mean (95 % below {all_of_them['p95']:.2f}, "
        f"{100 * all_of_them['share_above_10_mm']:.2f} % above 10 mm), inner landmarks {inner['mean']:.2f} mm; "
        f"{100 * held:.1f} % within the 95 % region; {100 * np.isnan(errors).mean():.1f} % called missing"
        + (f"; {refused} refused" if refused else ""),
        None,
        len(found),
        {
            **all_of_them,
            "inner": inner,
            "within_95": held,
            "refused": refused,
            "landmarks": {label: summary(errors[:, i]) for i, label in enumerate(scheme.labels)},
        },
    )


def common_places(vertices: Array, points: Array, triangles: NDArray[np.int64]) -> Array:
    """Where the median of the ``points`` (h, L, 3), carried along with the skin, lies on each of the heads.

    ``vertices`` (h, v, 3) of heads with the same ``triangles``; points that are NaN do not count. Returns (h, L, 3).
    """
    mean = vertices.mean(axis=0)
    carried = np.full(points.shape, np.nan)
    for head, (own_vertices, own_points) in enumerate(zip(vertices, points)):
        known = known_points(own_points)
        corners, shares = _places(own_vertices, triangles, own_points[known])
        carried[head, known] = (mean[corners] * shares[..., None]).sum(axis=1)
    common = np.nanmedian(carried, axis=0)
    corners, shares = _places(mean, triangles, common)
    return np.einsum("hlck,lc->hlk", vertices[:, corners], shares)


def _places(vertices: Array, triangles: NDArray[np.int64], points: Array) -> tuple[NDArray[np.int64], Array]:
    """Corners (L, 3) of the triangles nearest to ``points`` (L, 3), and their shares (L, 3) of the nearest places."""
    locator = vtkStaticCellLocator()
    locator.SetDataSet(to_vtk(vertices, triangles))
    locator.BuildLocator()
    closest, cell, part, away = [0.0, 0.0, 0.0], mutable(0), mutable(0), mutable(0.0)
    corners, shares = [], []
    for point in points:
        locator.FindClosestPoint(point, closest, cell, part, away)  # type: ignore[call-overload]  # references
        corners.append(triangles[int(cell)])
        edges = np.vstack([vertices[corners[-1]].T, np.ones(3)])
        shares.append(np.linalg.lstsq(edges, np.append(closest, 1.0), rcond=None)[0])
    return np.array(corners), np.array(shares)


@lru_cache(maxsize=1)
def _heads(folder: Path) -> MakeHumanHeads:
    """The model, read once per process."""
    return MakeHumanHeads(folder)
