"""Prepared scans, the views that augmentation draws from them, and the scatter of an annotator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PALNetLandmarksLib.errors import UnreadableScanError
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.procrustes import SimilarityTransform, fit_similarity
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from PALNetLandmarksLib.refine import REACH_MM
from PALNetLandmarksLib.scheme import load_scheme
from PALNetLandmarksLib.surface import SurfaceLocator
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from training.annotator import add_annotator_noise
from training.augmentation import FIRST_PASS, LATER_PASS, LEAST_SHOWN, PoseError, TrainingView, draw_view, unpack
from training.prepared import STEP_MM, PreparedScan, load_prepared, prepare_scan, save_prepared
from training.simulation.head import LandmarkRule

MIRRORED = load_scheme().mirrored
#: A person a tenth larger than the reference, somewhere in the room.
PLACE = SimilarityTransform(1.1, Rotation.from_rotvec([0.5, -1.0, 2.0]).as_matrix(), np.array([120.0, -40.0, 900.0]))


@pytest.fixture(scope="module")
def reference() -> ReferenceFace:
    return load_reference()


@pytest.fixture(scope="module")
def scan(reference: ReferenceFace) -> PreparedScan:
    """The reference face itself, captured in the room."""
    mesh = TriangleMesh(PLACE.apply(reference.points), reference.triangles, "reference.ply")
    return prepare_scan(mesh, PLACE.apply(reference.landmarks), np.ones(50, dtype=bool), reference)


@pytest.fixture(scope="module")
def views(scan: PreparedScan, reference: ReferenceFace) -> list[TrainingView]:
    return [draw_view(scan, reference.landmarks, MIRRORED, np.random.default_rng(seed)) for seed in range(40)]


# --- prepared scans


def test_a_prepared_scan_is_in_the_frame_and_size_of_the_reference(
    scan: PreparedScan, reference: ReferenceFace
) -> None:
    assert scan.size == pytest.approx(1.1)
    np.testing.assert_allclose(scan.landmarks, reference.landmarks, atol=1e-4)
    assert (scan.points.dtype, scan.normals.dtype) == (np.int16, np.int8)
    points, normals = unpack(scan)
    low, high = reference.region_of_interest
    assert (points > low - 10.01).all()
    assert (points < high + 10.01).all()
    assert np.abs(np.linalg.norm(normals, axis=1) - 1).max() < 0.012  # 1/127 per axis
    surface = SurfaceLocator(TriangleMesh(reference.points, reference.triangles))
    _, distance = surface.nearest_on_surface(points[::50])
    assert distance.max() < STEP_MM
    _, nearest = cKDTree(reference.points).query(points)
    assert ((normals * reference.normals[nearest]).sum(axis=1) > 0.5).mean() > 0.98


def test_preparing_does_not_depend_on_where_the_scan_lies(scan: PreparedScan, reference: ReferenceFace) -> None:
    mesh = TriangleMesh(reference.points, reference.triangles, "reference.ply")
    here = prepare_scan(mesh, reference.landmarks, np.ones(50, dtype=bool), reference)
    difference = here.points.astype(int) - scan.points.astype(int)
    assert (np.abs(difference).max(axis=1) <= 1).mean() > 0.999  # rounding, to 0.006 mm


def test_the_samples_of_each_scan_lie_another_way(scan: PreparedScan, reference: ReferenceFace) -> None:
    mesh = TriangleMesh(reference.points, reference.triangles, "another.ply")
    other = prepare_scan(mesh, reference.landmarks, np.ones(50, dtype=bool), reference)
    # Points of one lattice lie a pitch apart; what two lattices have in common is chance.
    distance = cKDTree(other.points.astype(float)).query(scan.points.astype(float))[0] * STEP_MM
    assert (distance < 0.05).mean() < 0.02 and np.median(distance) > 0.3


def test_positions_are_kept_within_half_a_step(reference: ReferenceFace) -> None:
    # The farthest corner of what is sampled still fits into 16 bits.
    farthest = np.abs(reference.region_of_interest).max() + 10
    assert farthest < 32767 * STEP_MM


def test_undefined_landmarks_stay_undefined_and_invisible(reference: ReferenceFace) -> None:
    mesh = TriangleMesh(reference.points, reference.triangles)
    landmarks, visible = reference.landmarks.copy(), np.ones(50, dtype=bool)
    landmarks[[3, 20]] = np.nan
    visible[5] = False
    prepared = prepare_scan(mesh, landmarks, visible, reference)
    assert set(np.flatnonzero(~prepared.visible)) == {3, 5, 20}
    assert np.isnan(prepared.landmarks[[3, 20]]).all()
    np.testing.assert_allclose(prepared.landmarks[visible & prepared.visible], landmarks[prepared.visible], atol=1e-4)


def test_what_cannot_be_prepared_is_refused(reference: ReferenceFace) -> None:
    mesh = TriangleMesh(reference.points, reference.triangles, "mine.ply")
    two = np.full((50, 3), np.nan)
    two[:2] = reference.landmarks[:2]
    with pytest.raises(ValueError, match=r"'mine\.ply' has 2 of the landmarks; place three or more"):
        prepare_scan(mesh, two, np.ones(50, dtype=bool), reference)
    with pytest.raises(ValueError, match=r"'mine\.ply' has no surface around its landmarks"):
        prepare_scan(mesh, reference.landmarks + 5000.0, np.ones(50, dtype=bool), reference)


def test_a_prepared_scan_is_read_back_bit_for_bit(scan: PreparedScan, tmp_path: Path) -> None:
    path = tmp_path / "train-00001.prepared.npz"
    save_prepared(path, scan)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]  # nothing half-written stays
    back = load_prepared(path)
    for name, value in vars(scan).items():
        np.testing.assert_array_equal(getattr(back, name), value)


def test_a_scan_prepared_by_an_older_version_is_refused(scan: PreparedScan, tmp_path: Path) -> None:
    """Its samples come in the order of the file: the coarse maps would draw a part of the face alone."""
    path = tmp_path / "train-00001.prepared.npz"
    np.savez(path, **vars(scan))
    with pytest.raises(UnreadableScanError, match=r"'train-00001\.prepared\.npz' was prepared by another version"):
        load_prepared(path)


# --- pose errors


@pytest.mark.parametrize("error", [FIRST_PASS, LATER_PASS])
def test_pose_errors_have_their_deviations(error: PoseError) -> None:
    rng = np.random.default_rng(0)
    drawn = [error.draw(rng) for _ in range(1500)]
    angles = np.degrees([Rotation.from_matrix(each.rotation).as_rotvec() for each in drawn])
    np.testing.assert_allclose(angles.std(axis=0), error.degrees, rtol=0.08)
    np.testing.assert_allclose(np.std([each.translation for each in drawn], axis=0), error.shift_mm, rtol=0.08)
    assert np.log([each.scale for each in drawn]).std() == pytest.approx(error.scale, rel=0.08)


# --- views


def test_a_view_depends_on_its_seed_alone(scan: PreparedScan, reference: ReferenceFace) -> None:
    before = scan.points.copy(), scan.landmarks.copy(), scan.visible.copy()
    first, again, other = (
        draw_view(scan, reference.landmarks, MIRRORED, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    for name, value in vars(first).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    assert np.abs(first.landmarks - other.landmarks).max() > 0.1
    np.testing.assert_array_equal(scan.points, before[0])
    np.testing.assert_array_equal(scan.landmarks, before[1])
    np.testing.assert_array_equal(scan.visible, before[2])


def test_landmarks_stay_on_the_surface_and_keep_their_side(views: list[TrainingView]) -> None:
    labels = load_scheme().labels
    right = [i for i, label in enumerate(labels) if label.endswith("_R")]
    left = [i for i, label in enumerate(labels) if label.endswith("_L")]
    for view in views:
        assert view.points.dtype == view.normals.dtype == np.float32
        assert view.landmarks.shape == view.centres.shape == (50, 3)
        np.testing.assert_allclose(np.linalg.norm(view.normals, axis=1), 1, atol=0.02)
        # Also where the view is mirrored, the subject's right is where the reference has it.
        assert view.landmarks[right, 0].mean() < -20
        assert view.landmarks[left, 0].mean() > 20
        distance, _ = cKDTree(view.points).query(view.landmarks[view.visible])
        assert np.median(distance) < 1.5
        assert distance.max() < 6.0


def test_normals_follow_the_surface(views: list[TrainingView]) -> None:
    """The nose sticks out forwards in every view, mirrored or not; cheeks face their own side."""
    right, left = load_scheme().labels.index("Zy_R"), load_scheme().labels.index("Zy_L")
    for view in views:
        for index, sign in ((right, -1), (left, 1)):
            near = np.linalg.norm(view.points - view.landmarks[index], axis=1) < 6
            if near.sum() > 5:
                assert view.normals[near].mean(axis=0)[0] * sign > 0.3


def test_half_the_views_are_mirrored(scan: PreparedScan, reference: ReferenceFace) -> None:
    """A scar on the right side shows on the left in about half of the views, and never without counterparts."""
    scarred = scan.points.copy()
    scarred[:, 0] = np.where(scan.points[:, 0] > 0, scan.points[:, 0], 0)  # the right half is flat
    lopsided = replace(scan, points=scarred)

    def mirrored(mapping: tuple[int, ...] | None, seed: int) -> bool:
        view = draw_view(lopsided, reference.landmarks, mapping, np.random.default_rng(seed))
        return bool(np.median(view.points[:, 0]) < 0 and view.points[:, 0].min() < -50)

    share = np.mean([mirrored(MIRRORED, seed) for seed in range(30)])
    assert 0.25 < share < 0.75
    assert not any(mirrored(None, seed) for seed in range(10))


def test_first_guesses_are_those_of_either_pass(views: list[TrainingView], reference: ReferenceFace) -> None:
    template = reference.landmarks
    first = []
    for view in views:
        distance, nearest = cKDTree(view.points).query(template)
        projected = np.where(distance[:, None] <= REACH_MM, view.points[nearest], template)
        # Where two samples are as near, either may be it.
        first.append(bool(np.quantile(np.abs(projected - view.centres).max(axis=1), 0.9) < 1e-4))
    assert 0.2 < np.mean(first) < 0.6
    error = np.array([np.linalg.norm(view.centres - view.landmarks, axis=1)[view.visible].mean() for view in views])
    first_errors, later_errors = error[first], error[~np.array(first)]
    assert 2.0 < np.mean(first_errors) < 10.0  # a registration's
    # Scatter of 1.0 to 3.5 mm per axis, evenly: mean distances of 1.6 to 5.6 mm, 3.6 mm in the median of many views;
    # that of some 25 views has a standard error of 0.3 mm.
    assert later_errors.min() > 1.3 and later_errors.max() < 6.5
    assert 2.7 < np.median(later_errors) < 4.5


def test_poses_stay_near_the_reference(views: list[TrainingView], reference: ReferenceFace) -> None:
    turned = []
    for view in views:
        fitted = fit_similarity(view.landmarks, reference.landmarks)
        turned.append(np.degrees(Rotation.from_matrix(fitted.rotation).magnitude()))
        assert 0.75 < fitted.scale < 1.35
    assert 0.5 < np.median(turned) < 8.0
    assert max(turned) < 30


def test_a_hole_takes_its_landmarks_visibility(views: list[TrainingView]) -> None:
    holed = [view for view in views if not view.visible.all()]
    assert 0.15 < len(holed) / len(views) < 0.55  # a quarter gets a hole, some are cut; not all lose a landmark
    for view in holed:
        distance, _ = cKDTree(view.points).query(view.landmarks)
        assert distance[~view.visible].min() > 0.3  # more than 1 mm inside the hole, less noise


def test_some_views_lack_a_whole_part_of_the_face(scan: PreparedScan, reference: ReferenceFace) -> None:
    views = [draw_view(scan, reference.landmarks, MIRRORED, np.random.default_rng(seed)) for seed in range(100, 180)]
    lacking = [view for view in views if (~view.visible).sum() >= 6]
    assert 0.06 < len(lacking) / len(views) < 0.4
    assert min(view.visible.sum() for view in views) >= LEAST_SHOWN - 3  # a hole may take some more
    for view in lacking:
        distance, _ = cKDTree(view.points).query(view.landmarks)
        assert np.median(distance[~view.visible]) > 5.0 > 1.5 > np.median(distance[view.visible])


def test_some_first_guesses_of_lacking_landmarks_lie_at_the_edge_of_what_is_left(
    scan: PreparedScan, reference: ReferenceFace
) -> None:
    at_edge = []
    for seed in range(100, 180):
        view = draw_view(scan, reference.landmarks, MIRRORED, np.random.default_rng(seed))
        surface = cKDTree(view.points)
        far = ~view.visible & (surface.query(view.landmarks)[0] > 15.0)
        at_edge.extend(surface.query(view.centres[far])[0] < 5.0)
    assert len(at_edge) > 50
    assert 0.15 < np.mean(at_edge) < 0.7


def test_unknown_landmarks_never_count_as_known(scan: PreparedScan, reference: ReferenceFace) -> None:
    landmarks = scan.landmarks.copy()
    landmarks[[0, 15]] = np.nan  # Tr and Pa_R
    partial = replace(scan, landmarks=landmarks, visible=scan.visible & np.isfinite(landmarks).all(axis=1))
    mirrored_pa = MIRRORED[15]
    unknown = []
    for seed in range(12):
        view = draw_view(partial, reference.landmarks, MIRRORED, np.random.default_rng(seed))
        assert np.isfinite(view.landmarks).all()
        assert not (view.visible & ~view.known).any()
        unknown.append(frozenset(np.flatnonzero(~view.known)))
    assert set(unknown) == {frozenset({0, 15}), frozenset({0, mirrored_pa})}  # mirrored views miss the other ear's


# --- annotator noise


def sphere_samples(radius: float = 80.0, count: int = 40_000) -> NDArray[np.float64]:
    """Even points on a sphere, about as dense as a scan's vertices."""
    height = 1 - (2 * np.arange(count) + 1) / count
    around = np.pi * (1 + np.sqrt(5)) * np.arange(count)
    flat = np.sqrt(1 - height**2)
    return radius * np.stack([flat * np.cos(around), flat * np.sin(around), height], axis=1)


def test_two_rounds_differ_by_the_published_figure() -> None:
    """Mean distance of two rounds per landmark within 3 % of its figure, for the whole range of published figures."""
    figures = (1.749, 2.229, 3.58)
    draws = 3000
    surface = sphere_samples()
    spots = 80.0 * np.array([[1.0, 0.0, 0.0], [0.0, -0.6, 0.8], [0.577, 0.577, 0.577]])
    # Many rounds at once: every spot as if it were so many landmarks.
    rules = tuple(
        LandmarkRule(f"{i}", (0,), intra_observer_mm=figure) for i, figure in enumerate(figures) for _ in range(draws)
    )
    landmarks = np.repeat(spots, draws, axis=0)
    rng = np.random.default_rng(0)
    first, second = (add_annotator_noise(landmarks, rules, surface, rng) for _ in range(2))
    distance = np.linalg.norm(first - second, axis=1).reshape(len(figures), draws).mean(axis=1)
    np.testing.assert_allclose(distance, figures, rtol=0.03)
    # The scatter is along the surface, in no preferred direction.
    outward = landmarks / np.linalg.norm(landmarks, axis=1, keepdims=True)
    off = ((first - landmarks) * outward).sum(axis=1)
    assert np.abs(off).max() < 0.5
    np.testing.assert_allclose((first - landmarks).reshape(len(figures), draws, 3).mean(axis=1), 0, atol=0.15)


def test_the_figures_are_the_published_ones(shared: Path) -> None:
    head = pytest.importorskip("training.simulation.head")
    rules = head.HeadModel(shared / "face-model").rules
    figures = {rule.label: rule.intra_observer_mm for rule in rules}
    assert (figures["Tr"], figures["Sto"], figures["Pra_L"]) == (1.928, 1.749, 3.58)
    assert min(figures.values()) > 1.7
    assert max(figures.values()) < 3.6


def test_a_landmark_without_figure_stays_where_it_is() -> None:
    spots = 80.0 * np.eye(3)
    rules = tuple(LandmarkRule(label, (0,)) for label in "abc")
    np.testing.assert_array_equal(
        add_annotator_noise(spots, rules, sphere_samples(count=2000), np.random.default_rng(0)), spots
    )
