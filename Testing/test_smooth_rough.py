"""Rough surfaces: how they are told from smooth ones, and what smoothing does to them and to landmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PALNetLandmarksLib import region_of_interest
from PALNetLandmarksLib.align import align_to_reference, canonical_mesh
from PALNetLandmarksLib.detector import LandmarkDetector
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.region_of_interest import sample_region_of_interest
from PALNetLandmarksLib.sample_surface import sample_surface
from PALNetLandmarksLib.smooth_rough import EVEN, evenness, smoothed
from PALNetLandmarksLib.surface import SurfaceLocator
from scipy.spatial.transform import Rotation


def sheet(side: int = 40) -> TriangleMesh:
    """A flat square of 1 mm cells."""
    x, y = (axis.ravel().astype(float) for axis in np.meshgrid(np.arange(side), np.arange(side)))
    corner = np.arange(side * side).reshape(side, side)[:-1, :-1].ravel()
    triangles = [[corner, corner + 1, corner + side], [corner + 1, corner + side + 1, corner + side]]
    return TriangleMesh(np.stack([x, y, 0 * x], axis=1), np.concatenate([np.stack(t, axis=1) for t in triangles]))


def rough(mesh: TriangleMesh, noise_mm: float) -> TriangleMesh:
    return mesh.with_points(mesh.points + np.random.default_rng(3).normal(0, noise_mm, mesh.points.shape))


@pytest.fixture(scope="module")
def sample(resources: Path) -> TriangleMesh:
    return read_scan(resources / "SampleScan.ply")


def test_noise_goes_and_borders_stay() -> None:
    flat = sheet()
    found = smoothed(rough(flat, 0.3), np.arange(len(flat.triangles)))
    border = (flat.points[:, :2].min(axis=1) == 0) | (flat.points[:, :2].max(axis=1) == 39)
    assert np.array_equal(found.points[border], rough(flat, 0.3).points[border])
    inner = np.all((flat.points[:, :2] > 8) & (flat.points[:, :2] < 31), axis=1)
    assert found.points[inner, 2].std() < 0.4 * rough(flat, 0.3).points[inner, 2].std()


def test_triangles_that_are_not_chosen_stay() -> None:
    mesh = rough(sheet(), 0.3)
    left = np.flatnonzero(sheet().points[mesh.triangles, 0].max(axis=1) < 20)
    moved = np.any(smoothed(mesh, left).points != mesh.points, axis=1)
    assert moved.any() and not moved[sheet().points[:, 0] > 19].any()


def test_smoothing_does_not_depend_on_the_pose() -> None:
    mesh, everything = rough(sheet(), 0.3), np.arange(len(sheet().triangles))
    rotation, shift = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix(), np.array([300.0, -20.0, 7.0])
    turned = smoothed(mesh.with_points(mesh.points @ rotation.T + shift), everything).points
    assert np.abs(turned - (smoothed(mesh, everything).points @ rotation.T + shift)).max() < 1e-9


def test_a_smooth_face_hardly_changes() -> None:
    reference = load_reference()
    mesh = TriangleMesh(reference.points, reference.triangles)
    after = smoothed(mesh, np.arange(len(mesh.triangles)))
    nose = np.linalg.norm(reference.points, axis=1) < 25
    assert SurfaceLocator(mesh).nearest_on_surface(after.points[nose])[1].max() < 0.5


def test_a_sphere_keeps_its_size() -> None:
    reference = load_reference()
    directions = reference.points / np.linalg.norm(reference.points, axis=1, keepdims=True)
    ball = TriangleMesh(60 * directions, reference.triangles)
    radius = np.linalg.norm(smoothed(ball, np.arange(len(ball.triangles))).points, axis=1)
    assert abs(np.median(radius) - 60) < 0.05


def test_skin_is_even_and_noise_is_not(sample: TriangleMesh) -> None:
    reference = load_reference()
    found = align_to_reference(sample, reference)
    aligned = canonical_mesh(sample, found.transform, found.mm_per_unit, found.inside_out)
    aligned = aligned.with_points(aligned.points / found.face_scale)
    seen = [evenness(sample_surface(rough(aligned, noise))) for noise in (0.0, 0.2, 0.5, 1.0)]
    assert seen[0] > 0.97 and all(later < before for before, later in zip(seen, seen[1:]))
    assert seen[2] < EVEN
    # What a network sees of the rough one is nearly as even as the smooth one.
    assert evenness(sample_region_of_interest(rough(aligned, 0.5), reference)) > 0.97


def test_a_scan_without_the_middle_of_a_face_has_nothing_to_smooth() -> None:
    assert evenness(sample_surface(sheet().with_points(sheet().points + 200))) == 1.0
    facing = TriangleMesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 0, 1]]), np.array([[0, 1, 2]]))
    assert evenness(sample_surface(facing, 2)) == 1.0


def test_landmarks_of_a_noisy_scan_lie_where_they_do_without_noise(
    sample: TriangleMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, noisy = LandmarkDetector.load(device="cpu"), rough(sample, 1.0)
    wanted = detector.detect(sample)

    def off() -> float:
        found = detector.detect(noisy)
        shown = ~(found.missing | wanted.missing)
        on_surface = SurfaceLocator(noisy).nearest_on_surface(found.points[shown])[1]
        assert on_surface.max() < 1e-6  # on the scan as it is, not on the smoothed one
        return float(np.linalg.norm(found.points - wanted.points, axis=1)[shown].mean())

    smooth = off()
    monkeypatch.setattr(region_of_interest, "EVEN", 0.0)
    assert smooth < 0.8 and smooth < 0.7 * off()
