"""Projection onto the surface: against brute force, on even, ragged and unwelded meshes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.surface import SurfaceLocator, closest_points_on_triangles, nearest_points, points_within


def wavy_ellipsoid(n: int) -> TriangleMesh:
    """A closed head-sized surface of about n vertices, in mm."""
    around = int(np.sqrt(n * 1.5))
    rings = n // around
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, around, endpoint=False), np.linspace(0.05, np.pi - 0.05, rings))
    r = 1 + 0.05 * np.sin(5 * u) * np.sin(3 * v)
    points = np.stack([75 * r * np.sin(v) * np.cos(u), 100 * r * np.sin(v) * np.sin(u), 110 * r * np.cos(v)], axis=-1)
    i = np.arange(around * (rings - 1)).reshape(rings - 1, around)
    j = np.roll(i, -1, axis=1)
    lower, upper = np.stack([i, j, i + around], axis=-1), np.stack([j, j + around, i + around], axis=-1)
    return TriangleMesh(points.reshape(-1, 3), np.concatenate([lower.reshape(-1, 3), upper.reshape(-1, 3)]))


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def distance_by_minimisation(point: np.ndarray, triangle: np.ndarray) -> float:
    """Distance to a triangle without any of the library's geometry: a fine grid, refined around its best point."""
    a, b, c = triangle
    centre, width = np.array([0.5, 0.5]), 0.5
    for _ in range(40):
        s, t = np.meshgrid(*(np.clip(np.linspace(m - width, m + width, 9), 0, 1) for m in centre))
        # (s, t) in the unit square covers the triangle as a + s (b - a) + (1 - s) t (c - a).
        candidates = a + s[..., None] * (b - a) + ((1 - s) * t)[..., None] * (c - a)
        best = np.linalg.norm(candidates - point, axis=-1)
        at = np.unravel_index(best.argmin(), best.shape)
        centre, width = np.array([s[at], t[at]]), width * 0.6
    return float(best.min())


def test_closest_point_on_a_triangle_in_all_regions():
    rng = np.random.default_rng(0)
    triangles = rng.normal(size=(60, 3, 3))
    triangles[:5, 2] = triangles[:5, 0] * 0.3 + triangles[:5, 1] * 0.7  # degenerate: a line
    triangles[5:8] = triangles[5:8, :1]  # degenerate: a point
    points = rng.normal(size=(60, 3)) * 2
    closest = closest_points_on_triangles(points, triangles)
    found = np.linalg.norm(closest - points, axis=1)
    expected = [distance_by_minimisation(p, t) for p, t in zip(points, triangles)]
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("size", [800, 30_000])
@pytest.mark.parametrize("scale", [0.3, 1.0, 1.01, 1.5])
def test_nearest_on_surface_is_exact(size, scale):
    rng = np.random.default_rng(1)
    mesh = wavy_ellipsoid(size)
    queries = mesh.points[rng.choice(len(mesh.points), 12)] * scale + rng.normal(size=(12, 3))
    points, distances = SurfaceLocator(mesh).nearest_on_surface(queries)
    corners = mesh.points[mesh.triangles]
    for query, point, distance in zip(queries, points, distances):
        everywhere = closest_points_on_triangles(np.broadcast_to(query, (len(corners), 3)), corners)
        assert distance == pytest.approx(np.linalg.norm(everywhere - query, axis=1).min(), abs=1e-10)
        assert np.linalg.norm(point - query) == pytest.approx(distance, abs=1e-10)


def test_a_few_huge_triangles_among_many_small_ones():
    """The nearest surface may be the middle of a long triangle whose corners are far off."""
    mesh = wavy_ellipsoid(30_000)
    n = len(mesh.points)
    plane = np.array([[-500.0, -130.0, -500.0], [500.0, -130.0, -500.0], [0.0, -130.0, 900.0]])
    both = TriangleMesh(np.vstack([mesh.points, plane]), np.vstack([mesh.triangles, [[n, n + 1, n + 2]]]))
    query = np.array([[3.0, -125.0, 2.0]])
    points, distances = SurfaceLocator(both).nearest_on_surface(query)
    np.testing.assert_allclose(points, [[3.0, -130.0, 2.0]], atol=1e-9)
    assert distances[0] == pytest.approx(5.0, abs=1e-9)


@pytest.mark.parametrize("thickness, side", [(1.0, 0.0), (12.0, -12.0)])
def test_of_a_thin_part_the_side_that_faces_outwards_is_taken(thickness, side):
    """A plate between z = 0, facing up, and z = -thickness, facing down; the query lies nearer to its back."""
    square = np.array([[-9.0, -9.0, 0.0], [9.0, -9.0, 0.0], [9.0, 9.0, 0.0], [-9.0, 9.0, 0.0]])
    back = square - np.array([0.0, 0.0, thickness])
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 6, 5], [4, 7, 6]])
    plate = SurfaceLocator(TriangleMesh(np.vstack([square, back]), triangles))
    query = np.array([[1.0, 2.0, -0.6 * thickness], [1.0, 2.0, -0.6 * thickness]])
    points, distances = plate.nearest_on_surface(query)
    np.testing.assert_allclose(points[:, 2], -thickness, atol=1e-12)
    up = np.array([[0.3, 0.0, 0.95], [0.0, 0.0, -1.0]])
    points, distances = plate.nearest_on_surface(query, up)
    np.testing.assert_allclose(points, [[1.0, 2.0, side], [1.0, 2.0, -thickness]], atol=1e-12)
    np.testing.assert_allclose(distances, np.abs(query - points).max(axis=1), atol=1e-12)


def test_rigid_motion_moves_the_result_with_the_mesh():
    rng = np.random.default_rng(2)
    mesh = wavy_ellipsoid(25_000)
    rotation, shift = random_rotation(rng), rng.normal(size=3) * 100
    queries = mesh.points[::500] * 1.02
    points, distances = SurfaceLocator(mesh).nearest_on_surface(queries)
    moved = SurfaceLocator(mesh.with_points(mesh.points @ rotation.T + shift))
    moved_points, moved_distances = moved.nearest_on_surface(queries @ rotation.T + shift)
    np.testing.assert_allclose(moved_points, points @ rotation.T + shift, atol=1e-8)
    np.testing.assert_allclose(moved_distances, distances, atol=1e-9)


def test_an_unwelded_shuffled_mesh_gives_the_same_surface():
    rng = np.random.default_rng(3)
    mesh = wavy_ellipsoid(3_000)
    order = rng.permutation(len(mesh.triangles))
    soup = TriangleMesh(
        mesh.points[mesh.triangles[order]].reshape(-1, 3), np.arange(3 * len(order), dtype=np.int64).reshape(-1, 3)
    )
    queries = mesh.points[::100] + rng.normal(size=(len(mesh.points[::100]), 3))
    for method in ("nearest_on_surface", "nearest_vertex"):
        expected, found = getattr(SurfaceLocator(mesh), method)(queries), getattr(SurfaceLocator(soup), method)(queries)
        np.testing.assert_allclose(found[0], expected[0], atol=1e-9)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-9)


def test_vertices_without_triangles_are_no_surface():
    mesh = wavy_ellipsoid(2_000)
    stray = np.array([[0.0, 0.0, 400.0]])
    with_stray = TriangleMesh(np.vstack([mesh.points, stray]), mesh.triangles)
    top = mesh.points[mesh.points[:, 2].argmax()]
    point, distance = SurfaceLocator(with_stray).nearest_vertex(stray)
    assert distance[0] > 250
    assert np.linalg.norm(point[0] - top) < 30


def test_centroid_of_nearest_vertices():
    mesh = wavy_ellipsoid(5_000)
    queries = mesh.points[[10, 2000, 4000]] + 0.3
    points, distances = SurfaceLocator(mesh).centroid_of_nearest_vertices(queries, 10)
    for query, point, distance in zip(queries, points, distances):
        nearest = np.argsort(np.linalg.norm(mesh.points - query, axis=1))[:10]
        np.testing.assert_allclose(point, mesh.points[nearest].mean(axis=0), atol=1e-9)
        assert distance == pytest.approx(np.linalg.norm(point - query))


def test_a_mesh_without_triangles_has_vertices_but_no_surface():
    cloud = TriangleMesh(np.eye(3), np.zeros((0, 3), dtype=np.int64))
    assert SurfaceLocator(cloud).nearest_vertex([[0.9, 0.1, 0.0]])[0].tolist() == [[1.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="triangles"):
        SurfaceLocator(cloud).nearest_on_surface([[0.0, 0.0, 0.0]])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.sampled_from([1, 7, 300]),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 50.0]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_nearest_points_are_those_of_brute_force(seed, count, spread, scale):
    """On clouds large enough to be cropped, with clusters, duplicates, outliers and queries far away."""
    rng = np.random.default_rng(seed)
    cluster = rng.normal(size=(3_000, 3)) * 0.01
    cloud = np.vstack([rng.normal(size=(18_000, 3)) * 60, cluster, np.repeat(cluster[:1], 500, axis=0), [[9e3, 0, 0]]])
    cloud = rng.permutation(cloud) * scale
    queries = (rng.normal(size=(4, 3)) * spread + rng.normal(size=3) * 30) * scale
    indices, distances = nearest_points(cloud, queries, count)
    expected = np.sort(np.linalg.norm(cloud[None] - queries[:, None], axis=2), axis=1)[:, :count]
    np.testing.assert_allclose(distances, expected, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(np.linalg.norm(cloud[indices] - queries[:, None], axis=2), distances, rtol=1e-9)
    assert all(len(set(row)) == count for row in indices.tolist())


@pytest.mark.parametrize("size", np.geomspace(0.5, 20, 16))
def test_a_point_in_the_corner_of_the_searched_box_does_not_hide_a_nearer_one(size):
    """The search looks in boxes that grow; a point along an axis may be nearer than one in the box's corner."""
    sphere = np.random.default_rng(0).normal(size=(30_000, 3))
    sphere *= 100 / np.linalg.norm(sphere, axis=1)[:, None]
    cloud = np.vstack([sphere, [[0.95 * size] * 3, [0.0, 1.2 * size, 0.0]]])
    indices, distances = nearest_points(cloud, [[0.0, 0.0, 0.0]])
    assert indices.tolist() == [[30_001]]
    assert distances[0, 0] == pytest.approx(1.2 * size)


def test_points_within_is_brute_force():
    mesh = wavy_ellipsoid(30_000)
    queries = np.vstack([mesh.points[[0, 9_000, 20_000]], [[0.0, 0.0, 900.0]]])
    for query, found in zip(queries, points_within(mesh.points, queries, 15.0)):
        expected = np.flatnonzero(np.linalg.norm(mesh.points - query, axis=1) <= 15.0)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_queries_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        nearest_points(np.eye(3), [[0.0, bad, 0.0]])


def test_asking_for_more_points_than_there_are_is_refused():
    with pytest.raises(ValueError, match="4 of 3"):
        nearest_points(np.eye(3), [[0.0, 0.0, 0.0]], 4)


def test_no_queries_give_no_points():
    mesh = wavy_ellipsoid(2_000)
    for method in ("nearest_vertex", "centroid_of_nearest_vertices", "nearest_on_surface"):
        points, distances = getattr(SurfaceLocator(mesh), method)(np.zeros((0, 3)))
        assert points.shape == (0, 3)
        assert distances.shape == (0,)
    assert points_within(mesh.points, [], 5.0) == []
