"""The template's landmarks on the scan."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PALNetLandmarksLib.initial_landmarks import place_initial_landmarks

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), landmarks=st.integers(1, 68), n=st.integers(1, 25_000))
def test_each_landmark_is_its_nearest_vertex_in_any_frame(seed, landmarks, n):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 3)) * 60
    template = rng.normal(size=(landmarks, 3)) * 70
    placed = place_initial_landmarks(template, points)
    assert placed.shape == (landmarks, 3)
    assert placed.dtype == np.float64
    for landmark, point in zip(template, placed):
        assert (points == point).all(axis=1).any()
        assert np.linalg.norm(point - landmark) == pytest.approx(np.linalg.norm(points - landmark, axis=1).min())
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    np.testing.assert_allclose(
        place_initial_landmarks(template @ rotation.T, points @ rotation.T), placed @ rotation.T, atol=1e-9
    )


def test_an_empty_scan_is_refused():
    with pytest.raises(ValueError, match="0 points"):
        place_initial_landmarks([[0.0, 0.0, 0.0]], np.zeros((0, 3)))


@pytest.mark.skipif(not (SHARED / "face-model").exists(), reason="../shared/face-model is not there")
def test_the_mean_face_puts_its_landmarks_near_those_of_another_subject():
    """On a head of another identity the projected template is a few mm off: what the network starts from."""
    model = np.load(SHARED / "face-model" / "ict_head.npz")
    entries = json.loads((SHARED / "face-model" / "landmarks50.json").read_text(encoding="utf-8"))["landmarks"]
    vertices = [entry["ict_vertices"] for entry in entries]

    def landmarks_of(head: np.ndarray) -> np.ndarray:
        return np.array([head[indices].mean(axis=0) for indices in vertices])

    mean = model["neutral"].astype(np.float64)
    weights = np.random.default_rng(5).normal(size=100)
    subject = mean + np.tensordot(weights, model["identity"].astype(np.float64), axes=1)
    placed = place_initial_landmarks(landmarks_of(mean), subject)
    assert placed.shape == (50, 3)
    errors = np.linalg.norm(placed - landmarks_of(subject), axis=1)
    assert 1.0 < errors.mean() < 9.0
    assert np.linalg.norm(landmarks_of(mean) - landmarks_of(subject), axis=1).mean() > errors.mean() - 0.5
