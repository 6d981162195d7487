"""What counts as a correction, and that moving a whole scan does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PALNetLandmarksLib.landmark_states import CORRECTED, DETECTED, MISSING, PlacedLandmarks
from PALNetLandmarksLib.reference import load_reference
from scipy.spatial.transform import Rotation

POINTS = load_reference().landmarks
UNLOCKED = np.zeros(len(POINTS), dtype=bool)


def test_untouched_landmarks_are_detected_or_missing() -> None:
    detected = POINTS.copy()
    detected[5] = np.nan
    states = PlacedLandmarks(detected, detected, UNLOCKED).states()
    assert states[5] == MISSING
    assert set(states[:5] + states[6:]) == {DETECTED}


def test_moved_placed_removed_and_locked_landmarks_are_corrected() -> None:
    detected, now, locked = POINTS.copy(), POINTS.copy(), UNLOCKED.copy()
    now[1, 2] += 0.02
    detected[2] = np.nan
    now[3] = np.nan
    locked[4] = True
    now[6, 0] += 0.005  # less than any user moves a point
    states = PlacedLandmarks(now, detected, locked).states()
    assert [i for i, state in enumerate(states) if state == CORRECTED] == [1, 2, 3, 4]


@given(st.integers(0, 10_000), st.integers(0, 20))
def test_what_moves_with_its_scan_is_not_corrected(seed: int, moved: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = Rotation.random(random_state=rng).as_matrix() * rng.uniform(0.5, 2, 3)
    now = POINTS @ matrix.T + rng.normal(0, 200, 3)
    chosen = rng.permutation(len(now))[:moved]
    now[chosen] += rng.choice([-1, 1], (moved, 3)) * rng.uniform(1, 9, (moved, 3))
    states = PlacedLandmarks(now, POINTS, UNLOCKED).states()
    assert sorted(np.flatnonzero(np.array(states) == CORRECTED)) == sorted(chosen)


def test_a_face_bent_out_of_shape_is_the_users_own() -> None:
    bent = POINTS + 0.002 * POINTS**2
    states = PlacedLandmarks(bent, POINTS, UNLOCKED).states()
    assert states.count(CORRECTED) > 40


@pytest.mark.parametrize("count", [0, 3])
def test_few_landmarks_are_compared_one_by_one(count: int) -> None:
    points = POINTS[:count]
    assert PlacedLandmarks(points + 1.0, points, UNLOCKED[:count]).states() == (CORRECTED,) * count


def test_a_scan_in_metres_is_corrected_by_millimetres() -> None:
    detected = POINTS / 1000.0
    now = detected.copy()
    now[7, 1] += 0.001
    states = PlacedLandmarks(now, detected, UNLOCKED, unit_mm=1000.0).states()
    assert [i for i, state in enumerate(states) if state == CORRECTED] == [7]


@pytest.mark.parametrize("unit_mm", [1.0, 1000.0])
def test_corrections_follow_a_scan_that_was_moved(unit_mm: float) -> None:
    rng = np.random.default_rng(1)
    detected, now = POINTS / unit_mm, POINTS / unit_mm
    now[7] += 6.0 / unit_mm
    now[8] = np.nan
    placed = PlacedLandmarks(now, detected, UNLOCKED, unit_mm)

    def moved(points: np.ndarray) -> np.ndarray:
        return points @ Rotation.from_rotvec([0.2, -1.0, 0.4]).as_matrix().T + 300.0 / unit_mm

    again = moved(detected + rng.normal(0, 0.1 / unit_mm, detected.shape))
    carried = placed.moved_with_scan(again, unit_mm)
    assert np.linalg.norm(carried[7] - moved(now)[7]) < 0.2 / unit_mm
    assert np.isnan(carried[8]).all()
    # Another detection in the same place, however different, moves nothing.
    np.testing.assert_array_equal(placed.moved_with_scan(detected + 1.0 / unit_mm, unit_mm), now)
    elsewhere = detected + rng.normal(0, 8.0 / unit_mm, detected.shape)
    np.testing.assert_array_equal(placed.moved_with_scan(elsewhere, unit_mm), now)


def test_with_the_same_weights_a_small_movement_of_the_scan_is_followed() -> None:
    rng = np.random.default_rng(2)
    now = POINTS.copy()
    now[7] += 6.0
    placed = PlacedLandmarks(now, POINTS, UNLOCKED)
    shift = np.array([1.5, -1.0, 0.8])
    again = POINTS + shift + rng.normal(0, 0.05, POINTS.shape)
    assert np.linalg.norm(placed.moved_with_scan(again, 1.0, same_weights=True)[7] - now[7] - shift) < 0.1
    # Other weights may well differ by that much on a scan that stands still.
    np.testing.assert_array_equal(placed.moved_with_scan(again, 1.0), now)
    # So may other points of the surface with the same weights, each its own way.
    vertices = POINTS + rng.normal(0, 0.5, POINTS.shape)
    np.testing.assert_array_equal(placed.moved_with_scan(vertices, 1.0, same_weights=True), now)
