"""Patches: what they hold, in which order, for every variant of the paper's Table 6."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PALNetLandmarksLib.errors import UnreadableScanError
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.palnet import published_variants
from PALNetLandmarksLib.patches import PatchConfig, extract_patches, sample_cloud

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def face_like_cloud(n: int, seed: int = 0) -> np.ndarray:
    """Points on the front of a head-sized ellipsoid, origin at its nose tip, mm, LPS (y to the back)."""
    directions = np.random.default_rng(seed).normal(size=(n, 3))
    directions[:, 1] = -np.abs(directions[:, 1])
    return directions / np.linalg.norm(directions, axis=1)[:, None] * [75.0, 100.0, 110.0] + [0.0, 100.0, 0.0]


def rows(points: np.ndarray) -> set[tuple[float, ...]]:
    return set(map(tuple, points.tolist()))


@pytest.mark.parametrize("size", [100, 500, 1000, 1500])
@pytest.mark.parametrize("landmarks", [1, 50, 68])
def test_a_patch_holds_the_nearest_points_sorted_by_distance_from_the_origin(size, landmarks):
    cloud = face_like_cloud(30_000).astype(np.float32)
    centres = cloud[:landmarks].astype(np.float64)
    origin = np.array([0.0, 5.0, -10.0])
    patches = extract_patches(cloud, centres, PatchConfig(size=size), origin)
    assert patches.shape == (landmarks, size, 3)
    assert patches.dtype == np.float32
    from_origin = np.linalg.norm(patches.astype(np.float64) - origin, axis=2)
    assert (np.diff(from_origin, axis=1) >= 0).all()
    for centre, patch in list(zip(centres, patches))[::17]:
        nearest = np.argsort(np.linalg.norm(cloud - centre, axis=1), kind="stable")[:size]
        assert rows(patch) == rows(cloud[nearest])


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    config=st.sampled_from(
        [
            PatchConfig(size=200),
            PatchConfig(size=200, order="landmark"),
            PatchConfig(size=200, radius_mm=10.0),
            PatchConfig(size=200, radius_mm=20.0, order="landmark"),
        ]
    ),
    n=st.sampled_from([4_000, 30_000]),
)
def test_shuffled_vertices_give_the_same_patches(seed, config, n):
    cloud = face_like_cloud(n).round(0 if n == 4_000 else 3)  # rounded: many equal distances and duplicates
    shuffled = np.random.default_rng(seed).permutation(cloud)
    centres = cloud[:20] + 0.1234
    expected, found = (extract_patches(points, centres, config) for points in (cloud, shuffled))
    if n == 4_000 and config.radius_mm is None:
        # Where equally distant points compete for the last place in the patch, any of them may win.
        distances = [np.sort(np.linalg.norm(p - centres[:, None], axis=2), axis=1) for p in (expected, found)]
        np.testing.assert_allclose(distances[1], distances[0], atol=1e-4)
    else:
        np.testing.assert_array_equal(found, expected)


def test_equal_distances_from_the_origin_are_ordered_by_coordinates():
    corners = np.array([[x, y, z] for x in (1.0, -1) for y in (1.0, -1) for z in (1.0, -1)])
    patch = extract_patches(corners, [[0.0, 0, 0]], PatchConfig(size=8))[0]
    assert patch.tolist() == sorted(corners.tolist())


def test_ordering_can_be_switched_off():
    cloud = face_like_cloud(5_000)
    centre = cloud[:1]
    nearest = np.argsort(np.linalg.norm(cloud - centre, axis=1))[:300]
    as_they_lie = extract_patches(cloud, centre, PatchConfig(size=300, order="none"))[0]
    np.testing.assert_array_equal(as_they_lie, cloud[np.sort(nearest)].astype(np.float32))
    nearest_first = extract_patches(cloud, centre, PatchConfig(size=300, order="landmark"))[0]
    np.testing.assert_array_equal(nearest_first, cloud[nearest].astype(np.float32))


@pytest.mark.parametrize("radius", [10.0, 15.0, 20.0])
@pytest.mark.parametrize("n", [2_000, 60_000])
def test_all_points_within_a_radius_are_resampled_evenly(radius, n):
    cloud = face_like_cloud(n).astype(np.float32)
    centres = cloud[:5].astype(np.float64)
    patches = extract_patches(cloud, centres, PatchConfig(size=1000, radius_mm=radius))
    for centre, patch in zip(centres, patches):
        inside = cloud[np.linalg.norm(cloud - centre, axis=1) <= radius]
        kept, times = np.unique(patch, axis=0, return_counts=True)
        assert rows(kept) <= rows(inside)
        if len(inside) <= 1000:
            assert rows(kept) == rows(inside)
            assert times.max() - times.min() <= 1
        else:
            assert len(kept) == 1000
        assert (np.diff(np.linalg.norm(patch.astype(np.float64), axis=1)) >= -1e-6).all()


def test_turning_cloud_and_centres_about_the_origin_turns_the_patches():
    rng = np.random.default_rng(4)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    cloud = face_like_cloud(25_000)
    config = PatchConfig(size=500)
    expected = extract_patches(cloud, cloud[:10], config).astype(np.float64) @ rotation.T
    found = extract_patches(cloud @ rotation.T, cloud[:10] @ rotation.T, config)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_too_few_points_are_refused_by_name_and_number():
    with pytest.raises(UnreadableScanError, match=r"'müller\.ply' has only 800 points .* takes 1000; use"):
        extract_patches(face_like_cloud(800), [[0.0, 0, 0]], PatchConfig(), name="müller.ply")


def test_an_empty_ball_is_refused():
    with pytest.raises(UnreadableScanError, match=r"within 10 mm of landmark 2;"):
        extract_patches(face_like_cloud(5_000), [[0.0, 0, 0], [0, 0, 500]], PatchConfig(size=100, radius_mm=10.0))


@pytest.mark.parametrize("settings", [{"size": 0}, {"radius_mm": -1.0}, {"cloud_size": 0}, {"order": "random"}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=r"patch|cloud"):
        PatchConfig(**settings)


def test_cloud_is_sampled_on_the_surface_or_is_the_vertices():
    square = TriangleMesh(np.array([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]]), np.array([[0, 1, 2], [0, 2, 3]]))
    cloud = sample_cloud(square, PatchConfig(cloud_size=10_000))
    assert cloud.shape == (pytest.approx(10_000, rel=0.25), 3)
    counts, _, _ = np.histogram2d(cloud[:, 0], cloud[:, 1], bins=10, range=[[0, 2], [0, 2]])
    assert counts.min() > 70
    assert counts.max() < 130
    assert sample_cloud(square, PatchConfig(cloud_size=None)) is square.points
    flat = TriangleMesh(np.zeros((3, 3)), np.array([[0, 1, 2]]), name="flat.stl")
    with pytest.raises(UnreadableScanError, match=r"flat\.stl"):
        sample_cloud(flat, PatchConfig())


def test_every_row_of_table_6_can_be_configured():
    variants = published_variants()
    if (SHARED / "paper-tables.json").exists():
        table = json.loads((SHARED / "paper-tables.json").read_text(encoding="utf-8"))["table6_mm"]
        assert set(variants) == set(table)
    assert len({repr(variant) for variant in variants.values()}) == len(variants) == 11
    patch = {key: value[0] for key, value in variants.items()}
    assert [patch[f"patches {n} points"].size for n in (500, 1500)] == [500, 1500]
    assert [patch[f"patches radius {d} mm"].radius_mm for d in (10, 15, 20)] == [10, 15, 20]
    assert (patch["coarse mesh"].size, patch["coarse mesh"].cloud_size) == (100, 10_000)
    assert patch["no spatial ordering"].order != patch["baseline 1000 points"].order == "reference"
    for patch_config, network in variants.values():
        assert network.patch_size == patch_config.size
        assert network.lengths[-1] >= 1


@pytest.mark.skipif(not (SHARED / "face-model").exists(), reason="../shared/face-model is not there")
@pytest.mark.parametrize("variant", ["baseline 1000 points", "coarse mesh", "patches radius 15 mm"])
def test_patches_on_the_head_model(variant):
    """50 landmarks of a real head shape: 1,000 points of 100,000 and 100 of 10,000 cover about the same area."""
    model = np.load(SHARED / "face-model" / "ict_head.npz")
    quads = model["quads"]
    first, second = quads[:, [0, 1, 2]], quads[quads[:, 3] >= 0][:, [0, 2, 3]]
    mesh = TriangleMesh(model["neutral"].astype(np.float64), np.concatenate([first, second]).astype(np.int64))
    entries = json.loads((SHARED / "face-model" / "landmarks50.json").read_text(encoding="utf-8"))["landmarks"]
    centres = np.array([mesh.points[entry["ict_vertices"]].mean(axis=0) for entry in entries])
    config = published_variants()[variant][0]
    patches = extract_patches(sample_cloud(mesh, config), centres, config, centres.mean(axis=0))
    assert patches.shape == (50, config.size, 3)
    reach = np.linalg.norm(patches - centres[:, None], axis=2).max(axis=1)
    assert 8 < np.median(reach) < 30
