"""The outer surface: what lies inside a closed one goes, all of an open one stays."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.outer_surface import outer_samples
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.sample_surface import SurfaceSamples, sample_surface
from scipy.spatial.transform import Rotation
from test_align import moved, sphere, together


def nested() -> tuple[TriangleMesh, int]:
    """An egg as large as a head with twenty smaller ones inside, and how many triangles the large one has."""
    rng = np.random.default_rng(8)
    shell = sphere((75, 95, 115))
    inside = [
        moved(sphere((9, 12, 20), 40), turn, rng.uniform([-30, -40, -50], [30, 40, 50]))
        for turn in Rotation.random(20, random_state=rng).as_matrix()
    ]
    return together(shell, *inside), len(shell.triangles)


def test_what_lies_inside_goes() -> None:
    mesh, outer_triangles = nested()
    samples = sample_surface(mesh, 20_000)
    inside = samples.triangle_index >= outer_triangles
    assert 0.2 < inside.mean() < 0.4
    outer = outer_samples(samples)
    assert (outer.triangle_index < outer_triangles).all()
    assert len(outer.points) == (~inside).sum()
    assert np.array_equal(outer.points, samples.points[~inside])
    assert outer.area == samples.area * (1 - inside.mean())


def test_neither_pose_nor_unit_matters_much() -> None:
    mesh, outer_triangles = nested()
    turned = moved(mesh, Rotation.random(random_state=2).as_matrix(), np.array([9.0, -4.0, 0.3]), 0.001)
    outer = outer_samples(sample_surface(turned, 20_000))
    assert (outer.triangle_index < outer_triangles).all()
    assert len(outer.points) > 0.99 * len(outer_samples(sample_surface(mesh, 20_000)).points)


def test_a_face_scan_stays_as_it_is(resources: Path) -> None:
    samples = sample_surface(read_scan(resources / "SampleScan.ply"), 40_000)
    assert len(outer_samples(samples).points) > 0.97 * len(samples.points)


@pytest.mark.parametrize("away", [1e5, 1e12, 1e20])
def test_a_fragment_far_off_takes_no_more_memory_and_changes_nothing(away: float) -> None:
    mesh, outer_triangles = nested()
    samples = sample_surface(mesh, 20_000)
    far = np.array([[away, 0.0, 0.0]])
    more = SurfaceSamples(
        np.vstack([samples.points, far]),
        np.vstack([samples.normals, far / away]),
        np.append(samples.triangle_index, len(mesh.triangles)),
        samples.area,
    )
    tracemalloc.start()
    found = outer_samples(more)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6  # a picture of 100 m would have 200 million pixels
    alone = outer_samples(samples).triangle_index
    assert (found.triangle_index < outer_triangles).sum() == len(alone)
