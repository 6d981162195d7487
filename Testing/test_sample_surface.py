"""Samples of a surface: on it, even, and moving with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.sample_surface import SurfaceSamples, sample_surface
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from training.benchmarks.repeatability import listed_otherwise


def sphere(radius: float = 50.0, columns: int = 60) -> TriangleMesh:
    longitude = np.linspace(0, 2 * np.pi, columns + 1)
    latitude = np.linspace(0, np.pi, columns // 2 + 1)
    u, v = np.meshgrid(longitude, latitude, indexing="ij")
    return grid(radius * np.stack([np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)], axis=2))


def grid(points: np.ndarray) -> TriangleMesh:
    """Of points (rows, columns, 3), each square cut from its first corner to the opposite one."""
    rows, columns = points.shape[:2]
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    opposite = corner + columns + 1
    triangles = np.concatenate(
        [np.stack([corner, corner + 1, opposite], axis=1), np.stack([corner, opposite, corner + columns], axis=1)]
    )
    return TriangleMesh(points.reshape(-1, 3), triangles)


def test_samples_lie_on_their_triangles_with_their_normals() -> None:
    mesh = sphere()
    samples = sample_surface(mesh, 3000)
    corners = mesh.points[mesh.triangles[samples.triangle_index]]
    edges = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], axis=2)
    local, *_ = zip(*(np.linalg.lstsq(e, p, rcond=None) for e, p in zip(edges, samples.points - corners[:, 0])))
    u, v = np.array(local).T
    assert u.min() >= -1e-9 and v.min() >= -1e-9 and (u + v).max() <= 1 + 1e-9
    assert np.abs(np.einsum("ij,ij->i", samples.points - corners[:, 0], samples.normals)).max() < 1e-9
    outward = np.einsum("ij,ij->i", samples.points, samples.normals) / np.linalg.norm(samples.points, axis=1)
    assert outward.min() > 0.95  # counter-clockwise seen from outside
    assert samples.area == pytest.approx(4 * np.pi * 50**2, rel=5e-3)


def subdivide(mesh: TriangleMesh) -> TriangleMesh:
    """Each triangle in four; the pieces of one kind one after the other, as subdivision filters list them."""
    a, b, c = (mesh.points[mesh.triangles[:, corner]] for corner in range(3))
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    pieces = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    points = np.concatenate([np.stack(piece, axis=1).reshape(-1, 3) for piece in pieces])
    return TriangleMesh(points, np.arange(len(points)).reshape(-1, 3))


@pytest.mark.parametrize("first", [4000, 16_000])
@pytest.mark.parametrize("splits", [0, 2, 4])
def test_samples_are_more_even_than_random_ones(splits: int, first: int) -> None:
    mesh = sphere()
    for _ in range(splits):
        mesh = subdivide(mesh)
    samples = sample_surface(mesh, first).thinned(4000).points
    random = np.random.default_rng(0).normal(size=(len(samples), 3))
    random *= 50 / np.linalg.norm(random, axis=1, keepdims=True)
    probes = 50 * Rotation.random(2000, random_state=1).as_matrix()[:, 0]
    counts, random_counts = (
        np.array([len(found) for found in cKDTree(points).query_ball_point(probes, 8.0)])
        for points in (samples, random)
    )
    # What the slant makes of the density, the same for all orders of triangles, and little besides.
    density = np.abs(probes).max(axis=1) / 50
    assert np.corrcoef(density, counts)[0, 1] > 0.8
    left = counts / density
    assert left.std() / left.mean() < 0.6 * random_counts.std() / random_counts.mean()
    assert counts.min() > 0.4 * random_counts.mean()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(50, 400))
def test_they_are_where_lines_of_a_lattice_meet_the_surface(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    mesh = TriangleMesh(rng.normal(size=(30, 3)), rng.integers(0, 30, (25, 3)))  # degenerate triangles among them
    areas, normals = mesh.triangle_areas_and_normals
    samples = sample_surface(mesh, count)
    pitch = np.sqrt(0.83 * areas.sum() / count)
    axis = np.abs(normals[samples.triangle_index]).argmax(axis=1)
    across, along = (axis + 1) % 3, (axis + 2) % 3
    number = np.arange(len(axis))
    on_lines = np.stack([samples.points[number, across], samples.points[number, along]]) / pitch - 0.5
    assert np.abs(on_lines - np.round(on_lines)).max() < 1e-9
    # As many as lines pass through the triangle, give or take its border.
    got = np.bincount(samples.triangle_index, minlength=25)
    expected = areas * np.abs(normals).max(axis=1) / pitch**2
    corners = mesh.points[mesh.triangles]
    border = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).sum(axis=1) / pitch
    assert (np.abs(got - expected) <= 1 + border).all()
    assert samples.area == pytest.approx(areas.sum())


def test_a_line_through_an_edge_meets_one_of_its_triangles() -> None:
    steps = np.arange(9.0) + 0.5
    x, y = np.meshgrid(steps, steps, indexing="ij")
    mesh = grid(np.stack([x, y, 0.25 * x], axis=2))
    samples = sample_surface(mesh, 10**6, None, 1.0)
    assert np.array_equal(np.unique(samples.points, axis=0), samples.points[np.lexsort(samples.points.T[::-1])])
    assert len(samples.points) == 64  # each square of the lattice has one of its corners


@pytest.mark.parametrize("columns", [12, 60, 240])
@pytest.mark.parametrize("count", [5000, 40_000])
def test_a_surface_that_faces_every_way_gives_as_many_as_asked_for(columns: int, count: int) -> None:
    turn = Rotation.random(random_state=columns).as_matrix()
    mesh = sphere(columns=columns)
    assert len(sample_surface(mesh.with_points(mesh.points @ turn.T), count).points) == pytest.approx(count, rel=0.03)


def test_the_lattice_is_no_finer_than_allowed() -> None:
    mesh = sphere()
    fine, coarse = (sample_surface(mesh, 40_000, None, pitch) for pitch in (0.0, 2.0))
    assert len(coarse.points) == pytest.approx(0.83 * coarse.area / 4, rel=0.03)
    assert len(fine.points) > 4 * len(coarse.points)


def test_neither_the_order_of_the_file_nor_doubles_change_anything() -> None:
    turn = Rotation.random(random_state=4).as_matrix()
    mesh = sphere(columns=100)
    mesh = mesh.with_points(mesh.points @ turn.T)
    first = sample_surface(mesh, 5000)
    rng = np.random.default_rng(0)
    other = sample_surface(listed_otherwise(mesh, rng), 5000)
    assert np.abs(first.points - other.points).max() < 1e-9 and np.abs(first.normals - other.normals).max() < 1e-9
    double = TriangleMesh(mesh.points, np.concatenate([mesh.triangles, mesh.triangles[:300]]))
    more = sample_surface(double, 10**6, None, 1.5)
    assert np.array_equal(
        np.unique(more.points, axis=0), np.unique(sample_surface(mesh, 10**6, None, 1.5).points, axis=0)
    )


def changed(before: SurfaceSamples, after: SurfaceSamples, mm: float) -> float:
    """Share of the samples, in whatever order, that have no counterpart within ``mm`` on the other side."""
    return float(np.mean(cKDTree(after.points).query(before.points)[0] > mm))


def test_a_triangle_less_changes_its_own_samples_alone() -> None:
    mesh = sphere(columns=160)
    everything = np.arange(len(mesh.triangles))
    gone = [11, 5000, 20_000]
    before, after = (sample_surface(mesh, 10**6, subset, 0.5) for subset in (everything, np.delete(everything, gone)))
    kept = ~np.isin(before.triangle_index, gone)
    assert 0 < (~kept).sum() < 100
    assert np.array_equal(before.points[kept], after.points)


def test_rounding_moves_samples_no_further() -> None:
    mesh = sphere(columns=160)
    away = np.array([700.0, -900.0, 400.0])
    rounded = (mesh.points + away).astype(np.float32).astype(np.float64) - away
    before, after = (sample_surface(each, 20_000, None, 1.0) for each in (mesh, mesh.with_points(rounded)))
    assert changed(before, after, 0.001) < 0.001
    assert changed(before.thinned(4000), after.thinned(4000), 0.001) < 0.001


def test_a_subset_is_sampled_alone() -> None:
    mesh = sphere()
    upper = np.flatnonzero((mesh.points[mesh.triangles][:, :, 2] > 0).all(axis=1))
    samples = sample_surface(mesh, 500, upper)
    assert len(samples.points) == pytest.approx(500, rel=0.1)
    assert np.isin(samples.triangle_index, upper).all()
    assert samples.points[:, 2].min() > 0


@pytest.mark.parametrize("triangles", [np.zeros((0, 3), np.int64), np.array([[0, 0, 1], [2, 2, 2]])])
def test_no_area_gives_no_samples(triangles: np.ndarray) -> None:
    samples = sample_surface(TriangleMesh(np.eye(3), triangles), 100)
    assert samples.points.shape == (0, 3) and samples.area == 0


@pytest.mark.parametrize("far", [1e7, 1e12, 1e30, 1e100])
@pytest.mark.parametrize("axes", [[0], [1], [2], [0, 1, 2]])
def test_a_damaged_corner_takes_neither_memory_nor_time(far: float, axes: list[int]) -> None:
    mesh = sphere()
    damaged = int(np.argmax(mesh.points[:, 0]))  # on planes that lines pass through
    points = mesh.points.copy()
    points[damaged, axes] = far
    spoiled = np.flatnonzero((mesh.triangles == damaged).any(axis=1))
    assert 3 <= len(spoiled) <= 6
    with np.errstate(over="ignore"):
        assert len(sample_surface(mesh.with_points(points), 40_000).points) < 100_000
        samples = sample_surface(mesh.with_points(points), 10_000, None, 1.0)
    assert not (len(samples.points) and far > 1e12 and np.isin(samples.triangle_index, spoiled).any())


def test_long_triangles_are_sampled_all_over() -> None:
    corners = np.array([[0.0, 0, 0], [1000, 0, 30], [0, 1000, 60], [1000, 1000, 90]])
    samples = sample_surface(TriangleMesh(corners, np.array([[0, 1, 2], [1, 3, 2]])), 10**7, None, 1.0)
    assert len(samples.points) == pytest.approx(1000**2, rel=0.001)
    counts, _, _ = np.histogram2d(*samples.points[:, :2].T, bins=10)
    assert counts.min() > 9800


@pytest.mark.parametrize("axis", range(3))
def test_a_symmetrical_surface_gives_symmetrical_samples(axis: int) -> None:
    mesh = sphere()  # with vertices on the middle plane
    wider = mesh.with_points(mesh.points * [1.0, 1.3, 1.1])
    points = sample_surface(wider, 10_000).points
    mirrored = points * (1 - 2 * np.eye(3)[axis])
    assert cKDTree(points).query(mirrored)[0].max() < 1e-9


@pytest.mark.parametrize("turns", range(3))
def test_triangles_that_face_two_axes_alike(turns: int) -> None:
    # Planes x + y = const., listed from each corner and rounded in each way.
    rng = np.random.default_rng(turns)
    across, up = np.meshgrid(np.linspace(0, 9, 12) + 1 / 3, np.linspace(0, 7, 9) + 1 / 7, indexing="ij")
    mesh = grid(np.roll(np.stack([across, 10 - across, up], axis=2), turns, axis=2))
    found = [sample_surface(each, 10**6, None, 0.3).points for each in (mesh, listed_otherwise(mesh, rng))]
    assert found[0].shape == found[1].shape and np.abs(found[0] - found[1]).max() < 1e-9


def test_no_line_slips_through_between_two_triangles() -> None:
    # Squares cut along diagonals that lines of the lattice pass through, with corners that are no whole numbers.
    steps = np.arange(31) * 0.7 + 0.1
    x, y = np.meshgrid(steps, steps, indexing="ij")
    mesh = grid(np.stack([x, y, 0.1 * x], axis=2))
    places = sample_surface(mesh, 10**6, None, 0.05).points[:, :2] / 0.05 - 0.5
    assert np.abs(places - np.round(places)).max() < 1e-6
    lines = np.unique(np.round(places).astype(int), axis=0)
    assert len(lines) == len(places)
    assert len(lines) == np.ptp(lines[:, 0] + 1) * np.ptp(lines[:, 1] + 1) + sum(np.ptp(lines, axis=0)) + 1


def test_later_samples_are_as_even_as_the_first() -> None:
    samples = sample_surface(sphere(), 4000)
    later = samples.from_sample(1000)
    assert np.array_equal(later.points[:3], samples.points[1000:1003])
    assert np.array_equal(later.points[-1], samples.points[999])
    assert np.array_equal(later.normals[:3], samples.normals[1000:1003])
    assert np.array_equal(np.sort(later.triangle_index), np.sort(samples.triangle_index))
    gaps = [cKDTree(one.thinned(1000).points).query(samples.points)[0].max() for one in (samples, later)]
    assert gaps[1] < 1.3 * gaps[0]
