"""The frame that a surface brings along."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.principal_frame import PrincipalFrame
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.resources import resource_path
from scipy.spatial.transform import Rotation

from training.benchmarks.repeatability import listed_otherwise


@pytest.fixture(scope="module")
def sample() -> TriangleMesh:
    return read_scan(resource_path("SampleScan.ply"))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), unit=st.sampled_from([0.001, 0.1, 1.0]))
def test_the_frame_comes_along(sample: TriangleMesh, seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    rotation, shift = Rotation.random(random_state=rng).as_matrix(), rng.normal(0, 1000, 3)
    frame = PrincipalFrame.of(sample)
    assert np.allclose(frame.axes @ frame.axes.T, np.eye(3)) and np.linalg.det(frame.axes) == pytest.approx(1)
    other = listed_otherwise(sample, rng)
    other = other.with_points((other.points @ rotation.T + shift) * unit)
    moved = PrincipalFrame.of(other)
    assert np.abs(moved.axes @ rotation - frame.axes).max() < 1e-9
    assert np.abs((moved.centre / unit - shift) @ rotation - frame.centre).max() < 1e-8
    for axis in range(3):
        placed = np.sort(moved.place(other.points)[:, axis])
        assert np.abs(placed / unit - np.sort(frame.place(sample.points)[:, axis])).max() < 1e-7


def test_a_finer_mesh_of_one_region_hardly_turns_it(sample: TriangleMesh) -> None:
    front = sample.points[sample.triangles].mean(axis=1)[:, 1] < np.median(sample.points[:, 1])
    a, b, c = (sample.points[corner] for corner in sample.triangles[front].T)
    middle = (a + b + c) / 3
    pieces = np.concatenate([np.stack(piece, axis=1) for piece in ((a, b, middle), (b, c, middle), (c, a, middle))])
    finer = np.arange(3 * len(pieces)).reshape(-1, 3) + len(sample.points)
    mesh = TriangleMesh(
        np.concatenate([sample.points, pieces.reshape(-1, 3)]), np.concatenate([sample.triangles[~front], finer])
    )
    before, after = PrincipalFrame.of(sample), PrincipalFrame.of(mesh)
    assert np.abs(before.centre - after.centre).max() < 1e-9
    assert np.abs(before.axes - after.axes).max() < 1e-4


@pytest.mark.parametrize(
    "points", [np.zeros((0, 3)), np.ones((3, 3)), np.eye(3) * 1e200, np.full((3, 3), np.nan)], ids=str
)
def test_what_has_no_area_of_any_use_stays_where_it_is(points: np.ndarray) -> None:
    triangles = np.arange(len(points)).reshape(-1, 3)
    with np.errstate(all="ignore"):
        frame = PrincipalFrame.of(TriangleMesh(points, triangles))
    assert np.array_equal(frame.axes, np.eye(3)) and not frame.centre.any()


def test_a_flat_surface_has_a_frame() -> None:
    flat = np.random.default_rng(0).normal(size=(60, 3)) * [3, 2, 0]
    frame = PrincipalFrame.of(TriangleMesh(flat, np.arange(60).reshape(-1, 3)))
    assert np.abs(frame.place(flat)[:, 0]).max() == pytest.approx(0, abs=1e-12)
    assert np.linalg.det(frame.axes) == pytest.approx(1)
