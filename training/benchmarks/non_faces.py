"""Surfaces that are no face, or more than one: all must be refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.resources import resource_path

from ..simulation.head import HeadModel
from ..simulation.surfaces import compact, join
from .metrics import Array
from .repeatability import in_random_pose
from .row import Row, Settings
from .solids import capsule_distance, ellipsoid_distance, roughen, solid
from .speed import subdivide
from .work import detector, spread_work

#: How many of each kind are tried, each of other size, roughness and pose.
VARIANTS = 5


def measure_non_faces(settings: Settings) -> list[Row]:
    """Everything must be refused."""
    cases = [(kind, variant) for kind in KINDS for variant in range(VARIANTS)]
    work = partial(try_non_face, seed=settings.seed, model=settings.model, weights=settings.weights)
    tried = spread_work(work, cases, settings.workers, "no faces")
    accepted = [case for case in tried if "accepted" in case]
    kinds = {
        kind: f"{sum(case['kind'] == kind and 'accepted' not in case for case in tried)} of {VARIANTS}"
        for kind in KINDS
    }
    return [
        Row(
            "not one face: " + ", ".join(KINDS),
            "all refused",
            f"{len(tried) - len(accepted)} of {len(tried)} refused ("
            + ", ".join(f"{kind} {count}" for kind, count in kinds.items())
            + ")",
            not accepted,
            len(tried),
            {"accepted": accepted, "tried": tried},
        )
    ]


def try_non_face(case: tuple[str, int], seed: int, model: Path, weights: Optional[Path]) -> dict[str, Any]:  # noqa: UP045
    """Detect on one shape; says how it was refused, or that and how well it passed for a face."""
    kind, variant = case
    rng = np.random.default_rng([seed, list(KINDS).index(kind), variant])
    mesh, _, _ = in_random_pose(KINDS[kind](rng, model), rng)
    try:
        detection = detector(weights).detect(mesh)
    except LandmarkingError as error:
        return {"kind": kind, "variant": variant, "refused": f"{type(error).__name__}: {error}"}
    return {"kind": kind, "variant": variant, "accepted": detection.fitness, "unit": detection.unit}


def sphere(rng: np.random.Generator) -> TriangleMesh:
    """A ball of a head's size."""
    return solid([ellipsoid_distance((0, 0, 0), np.full(3, rng.uniform(70, 120)))], "sphere.ply")


def ellipsoid(rng: np.random.Generator) -> TriangleMesh:
    """An egg of a head's proportions."""
    return solid([ellipsoid_distance((0, 0, 0), np.array([72, 92, 112]) * rng.uniform(0.8, 1.2, 3))], "ellipsoid.ply")


def foot(rng: np.random.Generator) -> TriangleMesh:
    """Sole, instep, five toes and the lower leg."""
    size = rng.uniform(0.85, 1.15)
    parts = [
        capsule_distance((0, 60, 32), (5, -60, 30), 34 * size),
        capsule_distance((0, 60, 32), (0, 75, 300), 42 * size),
        capsule_distance((0, 20, 60), (5, -50, 30), 26 * size),
    ]
    parts += [
        capsule_distance((x, -60, 14), (x * 1.2, -112 + abs(x - 25) * 0.7, 11), 10) for x in (-32, -13, 4, 20, 36)
    ]
    return roughen(solid(parts, "foot.ply", blend=12.0), rng, 1.5)


def torso(rng: np.random.Generator) -> TriangleMesh:
    """Chest, belly, shoulders, breasts and the stump of a neck."""
    size = rng.uniform(0.8, 1.1)
    parts = [
        ellipsoid_distance((0, 0, 0), np.array([150, 95, 190]) * size),
        ellipsoid_distance((0, -5, -150), np.array([140, 100, 150]) * size),
        capsule_distance((-170, 0, 130), (170, 0, 130), 55 * size),
        capsule_distance((0, 10, 150), (0, 10, 260), 55 * size),
        ellipsoid_distance((-65, -75, 40), np.array([55, 35, 50]) * size),
        ellipsoid_distance((65, -75, 40), np.array([55, 35, 50]) * size),
    ]
    return roughen(solid(parts, "torso.ply", blend=25.0), rng, 2.0)


def noisy_cube(rng: np.random.Generator) -> TriangleMesh:
    """A box with rounded edges and dents of a face's size."""
    half = rng.uniform(60, 110, 3)

    def distance(places: Array) -> Array:
        beyond = np.abs(places) - half
        return np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(axis=-1), 0)

    return roughen(solid([distance], "cube.ply"), rng, 4.0)


def back_of_a_head(rng: np.random.Generator, model: Path) -> TriangleMesh:
    """The rear half of a simulated head, ears included at times."""
    head = HeadModel(model)
    subject = head.draw_subject(rng)
    points = subject.vertices
    tragi = subject.landmarks[[head.labels.index("T_R"), head.labels.index("T_L")]]
    rear = points[:, 1] > tragi[:, 1].mean() + rng.uniform(-5, 30) * subject.size
    points, triangles = compact(points, head.outer_triangles[rear[head.outer_triangles].all(axis=1)])
    # The model has few vertices there; a scan would have more.
    return roughen(subdivide(subdivide(TriangleMesh(points, triangles, "back.ply"))), rng, 1.0)


def two_faces(rng: np.random.Generator) -> TriangleMesh:
    """Two people in one file, side by side."""
    one = read_scan(resource_path("SampleScan.ply"))
    low, high = one.points.min(axis=0), one.points.max(axis=0)
    away = np.zeros(3)
    away[rng.integers(3)] = (high - low).max() * rng.uniform(1.05, 1.3)
    # Shorter or taller, so that neither is a copy of the other.
    other = (one.points - low) * rng.uniform(0.9, 1.1) + low + away
    return TriangleMesh(*join([(one.points, one.triangles), (other, one.triangles)]), "two.ply")


def _without_model(make: Callable[[np.random.Generator], TriangleMesh]) -> Callable[..., TriangleMesh]:
    return lambda rng, model: make(rng)


#: Name -> maker of a mesh in millimetres, given a generator and the folder of the head model.
KINDS: dict[str, Callable[..., TriangleMesh]] = {
    "sphere": _without_model(sphere),
    "ellipsoid": _without_model(ellipsoid),
    "foot": _without_model(foot),
    "torso": _without_model(torso),
    "back of a head": back_of_a_head,
    "noisy cube": _without_model(noisy_cube),
    "two faces": _without_model(two_faces),
}
