"""The peers of the comparison: what they see, how their heat maps become points, and that they learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from PALNetLandmarksLib.procrustes import SimilarityTransform
from PALNetLandmarksLib.reference import load_reference
from test_training import person

from training.augmentation import unpack
from training.experiments.peers.graph_heat_maps import HEAT_MM as GRAPH_HEAT_MM
from training.experiments.peers.graph_heat_maps import GraphTask, best_surface_points, thin_cloud
from training.experiments.peers.multi_view import (
    ASKED_VIEWS,
    PIXELS,
    MultiViewTask,
    find_peaks,
    intersect_lines,
    render_view,
    view_of,
)
from training.experiments.peers.placed_scans import mean_error_mm, predictor_of
from training.loop import Recipe, train
from training.prepared import PreparedScan, prepare_placed_scan

REFERENCE = load_reference()
SAME = SimilarityTransform(1.0, np.eye(3), np.zeros(3))


@pytest.fixture(scope="module")
def scans() -> list[PreparedScan]:
    """Three faces."""
    made = []
    for number in range(3):
        mesh, deform = person(number)
        seen = np.ones(len(REFERENCE.labels), dtype=bool)
        made.append(prepare_placed_scan(mesh, deform(REFERENCE.landmarks), seen, REFERENCE, SAME))
    return made


def ball(count: int = 60_000, radius: float = 80.0) -> tuple[np.ndarray, np.ndarray]:
    normals = np.random.default_rng(1).normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return (radius * normals).astype(np.float32), normals.astype(np.float32)


@pytest.mark.parametrize(("turn", "nod"), [(0, 0), (60, -20), (-30, 20)])
def test_a_ball_looks_the_same_from_everywhere(turn: float, nod: float) -> None:
    image = render_view(*ball(), view_of(turn, nod), np.zeros(3))
    middle = PIXELS // 2
    assert image[2, middle, middle] == pytest.approx(1.0, abs=0.01)  # faces the camera
    assert image[3, middle, middle] == pytest.approx(0.8, abs=0.01)  # 80 mm nearer than the centre
    assert image[4].sum() * 2.0**2 == pytest.approx(np.pi * 80**2, rel=0.03)
    inside = image[4] > 0
    assert np.linalg.norm(image[:3, inside], axis=0) == pytest.approx(1.0, abs=0.25)


def test_the_camera_turns_around_the_subject() -> None:
    """The nose goes to the picture's right when the head turns to the subject's left; up is up."""
    nose, crown, left = np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
    frontal = view_of(0, 0)
    assert np.allclose(frontal @ nose, [0, 0, 1]) and np.allclose(frontal @ crown, [0, 1, 0])
    assert np.allclose(frontal @ left, [1, 0, 0])
    assert (view_of(30, 0) @ nose)[0] == pytest.approx(0.5)
    assert np.linalg.det(view_of(37, 12)) == pytest.approx(1.0)


def test_lines_meet_where_the_landmark_is_even_if_some_views_are_wrong() -> None:
    rng = np.random.default_rng(2)
    landmarks = rng.normal(0, 60, (20, 3))
    places = np.einsum("vai,li->vla", ASKED_VIEWS[:, :2], landmarks)
    weights = np.ones(places.shape[:2])
    assert np.abs(intersect_lines(places, weights, ASKED_VIEWS) - landmarks).max() < 1e-3
    places[:3] += 30.0
    assert np.abs(intersect_lines(places, weights, ASKED_VIEWS) - landmarks).max() < 1.0
    weights[:3] = 0.0
    assert np.abs(intersect_lines(places, weights, ASKED_VIEWS) - landmarks).max() < 1e-3


def test_peaks_are_found_to_a_fraction_of_a_pixel_and_at_the_border() -> None:
    column, row = np.meshgrid(np.arange(64), np.arange(64))
    centres = np.array([(20.3, 40.8), (0.0, 63.0)])
    heat = np.array([[np.exp(-0.5 * ((column - x) ** 2 + (row - y) ** 2) / 1.25**2) for x, y in centres]])
    places, weights = find_peaks(heat.astype(np.float32))
    assert np.abs(places[0, 0] - centres[0]).max() < 0.1
    assert np.abs(places[0, 1] - centres[1]).max() < 1.0
    assert weights[0, 0] > weights[0, 1] > 0


def test_the_point_whose_ideal_heat_fits_is_found_between_the_points_of_the_cloud() -> None:
    points, normals = ball()
    cloud = 100.0 * thin_cloud(points, normals, np.random.default_rng(3)).features[:, :3].astype(np.float64)
    wanted = points[:10].astype(np.float64)
    distance = np.linalg.norm(wanted[:, None] - cloud[None], axis=2)
    heat = np.exp(-0.5 * (distance / GRAPH_HEAT_MM) ** 2)
    found = best_surface_points(heat / heat.sum(axis=1, keepdims=True), cloud, points.astype(np.float64))
    assert np.linalg.norm(found - wanted, axis=1).max() < 1e-6
    nearest = np.sort(distance, axis=1)[:, 0]
    assert nearest.mean() > 2.0  # the cloud alone could not tell


@pytest.mark.parametrize(("task", "steps", "rate"), [(MultiViewTask, 60, 3e-3), (GraphTask, 30, 1e-2)])
def test_peers_learn(scans: list[PreparedScan], tmp_path: Path, task: type, steps: int, rate: float) -> None:
    """From a random guess to a centimetre on the faces that they were shown, within some seconds."""
    made = task(scans, scans[:2], seed=0)
    recipe = Recipe(epochs=1, samples_per_epoch=4 * steps, batch_size=4, learning_rate=rate, schedule="cosine")
    torch.manual_seed(0)
    before = made.validate(made.build())["error_mm"]
    network, history = train(made, recipe, tmp_path, torch.device("cpu"))
    after = history[-1]["error_mm"]
    assert before > 20 and after < 12
    # The same through a whole mesh, where the library's alignment comes first.
    mesh, deform = person(0)
    found = predictor_of(lambda points, normals: made.place(network, points, normals))(mesh, None)
    assert np.linalg.norm(found.points - deform(REFERENCE.landmarks), axis=1).mean() < after + 3
    assert set(found.seconds) == {"align", "network", "surface"}


def test_errors_are_those_of_the_subject_and_of_what_it_shows(scans: list[PreparedScan]) -> None:
    scan = scans[0]
    hidden = scan.visible.copy()
    hidden[:5] = False
    large = PreparedScan(scan.points, scan.normals, scan.landmarks, hidden, size=1.5)

    def place(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        assert points.shape == normals.shape == unpack(scan)[0].shape
        off = np.zeros((len(scan.landmarks), 3))
        off[:, 0] = np.where(hidden, 2.0, 100.0)
        return scan.landmarks + off

    assert mean_error_mm(place, [large])["error_mm"] == pytest.approx(3.0, abs=1e-4)
