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


def sphere(radius: float = 50.0, columns: int = 60) -> TriangleMesh:
    longitude = np.linspace(0, 2 * np.pi, columns + 1)
    latitude = np.linspace(0, np.pi, columns // 2 + 1)
    u, v = np.meshgrid(longitude, latitude, indexing="ij")
    points = radius * np.stack([np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)], axis=2).reshape(-1, 3)
    rows = len(latitude)
    corner = (np.arange(columns)[:, None] * rows + np.arange(rows - 1)).ravel()
    triangles = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + rows + 1], axis=1),
            np.stack([corner, corner + rows + 1, corner + rows], axis=1),
        ]
    )
    return TriangleMesh(points, triangles)


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


@pytest.mark.parametrize("surplus", [1, 4])
@pytest.mark.parametrize("splits", [0, 1, 2, 3, 4])
def test_samples_are_more_even_than_random_ones(splits: int, surplus: int) -> None:
    mesh = sphere()
    for _ in range(splits):
        mesh = subdivide(mesh)
    samples = sample_surface(mesh, 4000 * surplus).thinned(4000).points
    random = np.random.default_rng(0).normal(size=(4000, 3))
    random *= 50 / np.linalg.norm(random, axis=1, keepdims=True)
    probes = 50 * Rotation.random(2000, random_state=1).as_matrix()[:, 0]
    counts, random_counts = (
        np.array([len(found) for found in cKDTree(points).query_ball_point(probes, 8.0)])
        for points in (samples, random)
    )
    assert counts.mean() == pytest.approx(random_counts.mean(), rel=0.03)
    # However the file lists its triangles, never less even than random ones.
    assert counts.std() < (1.1 if splits else 0.7) * random_counts.std()
    assert counts.min() > 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 400))
def test_every_triangle_gets_its_share_within_two_samples(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    mesh = TriangleMesh(rng.normal(size=(30, 3)), rng.integers(0, 30, (25, 3)))  # degenerate triangles among them
    samples = sample_surface(mesh, count)
    areas, _ = mesh.triangle_areas_and_normals
    got = np.bincount(samples.triangle_index, minlength=25)
    assert got.sum() == len(samples.points)
    assert np.abs(got - count * areas / areas.sum()).max() <= 2
    assert samples.area == pytest.approx(areas.sum())


@pytest.mark.parametrize("columns", [12, 60, 240])
@pytest.mark.parametrize("count", [5000, 40_000])
def test_there_are_as_many_as_asked_for_within_one_percent(columns: int, count: int) -> None:
    assert len(sample_surface(sphere(columns=columns), count).points) == pytest.approx(count, rel=0.01)


def changed(before: SurfaceSamples, after: SurfaceSamples, mm: float) -> float:
    """Share of the samples, in whatever order, that have no counterpart within ``mm`` on the other side."""
    return float(np.mean(cKDTree(after.points).query(before.points)[0] > mm))


def test_a_triangle_less_changes_samples_nearby_alone() -> None:
    mesh = sphere(columns=160)
    everything = np.arange(len(mesh.triangles))
    without = np.delete(everything, [11, 5000, 20_000])
    before, after = (sample_surface(mesh, 20_000, subset, 16) for subset in (everything, without))
    assert changed(before, after, 0.05) < 0.01
    # The same of the first part alone, which the coarse height maps draw.
    assert changed(before.thinned(4000), after.thinned(4000), 0.05) < 0.01


def test_rounding_changes_few_samples() -> None:
    mesh = sphere(columns=160)
    away = np.array([700.0, -900.0, 400.0])
    rounded = (mesh.points + away).astype(np.float32).astype(np.float64) - away
    before, after = (sample_surface(each, 20_000, None, 16) for each in (mesh, mesh.with_points(rounded)))
    assert changed(before, after, 0.01) < 0.003
    assert changed(before.thinned(4000), after.thinned(4000), 0.01) < 0.003


def test_a_moved_surface_gives_the_moved_samples() -> None:
    mesh = sphere()
    rotation, shift = Rotation.random(random_state=3).as_matrix(), np.array([100.0, -2000.0, 7.0])
    before = sample_surface(mesh, 2000)
    after = sample_surface(mesh.with_points(mesh.points @ rotation.T + shift), 2000)
    assert np.array_equal(before.triangle_index, after.triangle_index)
    assert np.abs(before.points @ rotation.T + shift - after.points).max() < 1e-9
    assert np.abs(before.normals @ rotation.T - after.normals).max() < 1e-9


def test_the_same_file_gives_the_same_bits_and_a_numbering_of_vertices_does_not_matter() -> None:
    mesh = sphere()
    order = np.random.default_rng(0).permutation(len(mesh.points))
    renumbered = TriangleMesh(mesh.points[order], np.argsort(order)[mesh.triangles])
    first = sample_surface(mesh, 1000)
    assert np.array_equal(first.points, sample_surface(mesh, 1000).points)
    assert np.array_equal(first.points, sample_surface(renumbered, 1000).points)


def test_a_subset_is_sampled_alone() -> None:
    mesh = sphere()
    upper = np.flatnonzero((mesh.points[mesh.triangles][:, :, 2] > 0).all(axis=1))
    samples = sample_surface(mesh, 500, upper)
    assert len(samples.points) == pytest.approx(500, rel=0.05)
    assert np.isin(samples.triangle_index, upper).all()
    assert samples.points[:, 2].min() > 0


@pytest.mark.parametrize("triangles", [np.zeros((0, 3), np.int64), np.array([[0, 0, 1], [2, 2, 2]])])
def test_no_area_gives_no_samples(triangles: np.ndarray) -> None:
    samples = sample_surface(TriangleMesh(np.eye(3), triangles), 100)
    assert samples.points.shape == (0, 3) and samples.area == 0


def test_later_samples_are_as_even_as_the_first() -> None:
    samples = sample_surface(sphere(), 4000)
    later = samples.from_sample(1000)
    assert np.array_equal(later.points[:3], samples.points[1000:1003])
    assert np.array_equal(later.points[-1], samples.points[999])
    assert np.array_equal(np.sort(later.triangle_index), np.sort(samples.triangle_index))
    gaps = [cKDTree(one.thinned(1000).points).query(samples.points)[0].max() for one in (samples, later)]
    assert gaps[1] < 1.3 * gaps[0]
