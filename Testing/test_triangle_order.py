"""Triangles in the order of where they lie: the same for every way to list and to hold a surface."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PALNetLandmarksLib import triangle_order
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.principal_frame import PrincipalFrame
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.resources import resource_path
from PALNetLandmarksLib.triangle_order import in_order_of_place
from scipy.spatial.transform import Rotation

from training.benchmarks.repeatability import listed_otherwise


@pytest.fixture(scope="module")
def sample() -> TriangleMesh:
    return read_scan(resource_path("SampleScan.ply"))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), unit=st.sampled_from([0.001, 0.1, 1.0]))
def test_the_order_is_that_of_the_surface(sample: TriangleMesh, seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    rotation, shift = Rotation.random(random_state=rng).as_matrix(), rng.normal(0, 1000, 3)
    other = listed_otherwise(sample, rng)
    other = in_order_of_place(other.with_points((other.points @ rotation.T + shift) * unit))
    back = (other.points / unit - shift) @ rotation
    expected = in_order_of_place(sample)
    # Rounding carries a few centres over the border of a cell.
    same = np.abs(back[other.triangles] - expected.points[expected.triangles]).max(axis=(1, 2)) < 1e-6
    assert same.mean() > 0.999


def test_it_is_the_same_surface(sample: TriangleMesh) -> None:
    ordered = in_order_of_place(sample)
    assert ordered.points is sample.points and ordered.name == sample.name

    def rows(triangles: np.ndarray) -> np.ndarray:
        first = np.argmin(triangles, axis=1)[:, None]
        return np.unique(np.take_along_axis(triangles, (first + np.arange(3)) % 3, axis=1), axis=0)

    assert np.array_equal(rows(ordered.triangles), rows(sample.triangles))
    assert len(ordered.triangles) == len(sample.triangles)
    areas = [mesh.triangle_areas_and_normals[0].sum() for mesh in (sample, ordered)]
    assert areas[0] == pytest.approx(areas[1])


def test_neighbours_follow_each_other(sample: TriangleMesh) -> None:
    shuffled = listed_otherwise(sample, np.random.default_rng(2))

    def steps(mesh: TriangleMesh) -> np.ndarray:
        return np.linalg.norm(np.diff(mesh.points[mesh.triangles].mean(axis=1), axis=0), axis=1)

    assert np.median(steps(shuffled)) > 50
    assert np.median(steps(in_order_of_place(shuffled))) < 3


def test_both_sides_of_a_double_surface_keep_their_places(sample: TriangleMesh) -> None:
    double = TriangleMesh(sample.points, np.concatenate([sample.triangles, sample.triangles[:, ::-1]]))
    expected = in_order_of_place(double)
    assert np.array_equal(np.sort(expected.triangles[::2], axis=1), np.sort(expected.triangles[1::2], axis=1))
    for seed in range(3):
        other = in_order_of_place(listed_otherwise(double, np.random.default_rng(seed)))
        assert np.array_equal(other.points[other.triangles], expected.points[expected.triangles])


def test_vertices_without_triangles_do_not_count(sample: TriangleMesh) -> None:
    more = np.concatenate([[[500.0, 0, 0], [np.nan, 0, 0]], sample.points, [[0, 0, 900.0]]])
    other = in_order_of_place(TriangleMesh(more, sample.triangles + 2))
    assert np.array_equal(other.triangles - 2, in_order_of_place(sample).triangles)


def test_corners_of_a_symmetrical_surface_tie_nowhere() -> None:
    across, up = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(0, 3, 30), indexing="ij")
    points = np.stack([across, up**1.5, np.cos(2 * across) * up], axis=2).reshape(-1, 3) * 50
    corner = (np.arange(20)[:, None] * 30 + np.arange(29)).ravel()
    half = np.concatenate(
        [np.stack([corner, corner + 30, corner + 1], 1), np.stack([corner + 30, corner + 31, corner + 1], 1)]
    )
    mesh = TriangleMesh(points, half)
    expected = in_order_of_place(mesh)
    other = in_order_of_place(listed_otherwise(mesh, np.random.default_rng(3)))
    assert np.array_equal(other.points[other.triangles], expected.points[expected.triangles])


def test_the_largest_meshes_stay_as_they_are(sample: TriangleMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triangle_order, "MOST_TRIANGLES", len(sample.triangles) - 1)
    assert in_order_of_place(sample) is sample


def test_surfaces_without_extent() -> None:
    assert in_order_of_place(TriangleMesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64))).triangles.shape == (0, 3)
    point = TriangleMesh(np.ones((3, 3)), np.array([[0, 1, 2]]))
    assert np.array_equal(in_order_of_place(point).triangles, [[0, 1, 2]])
    huge = TriangleMesh(np.eye(3) * 1e200, np.array([[1, 2, 0]]))
    assert in_order_of_place(huge) is huge
    broken = TriangleMesh(np.full((3, 3), np.nan), np.array([[2, 1, 0]]))
    assert in_order_of_place(broken) is broken
    flat = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [3, 2, 0]])
    assert len(in_order_of_place(TriangleMesh(flat, np.array([[0, 1, 2], [1, 3, 2]]))).triangles) == 2


def test_the_frame_comes_along() -> None:
    rng = np.random.default_rng(1)
    points = rng.gamma(2.0, 1.0, (400, 3)) * (3, 2, 1)
    frame = PrincipalFrame.of(points)
    assert np.allclose(frame.axes @ frame.axes.T, np.eye(3)) and np.linalg.det(frame.axes) == pytest.approx(1)
    assert np.allclose((points - frame.centre) @ frame.axes.T, frame.points)
    rotation, shift = Rotation.random(random_state=rng).as_matrix(), rng.normal(0, 100, 3)
    moved = PrincipalFrame.of(points @ rotation.T + shift)
    assert np.allclose(moved.points, frame.points)
    assert np.allclose(moved.axes @ rotation, frame.axes)
