"""Passes of refinement: with a network that knows the answer, what remains is the bookkeeping of frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PALNetLandmarksLib.height_maps import HeightMapConfig, landmark_frames
from PALNetLandmarksLib.procrustes import SimilarityTransform
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.refine import RefinedLandmarks, refine_landmarks
from PALNetLandmarksLib.scheme import load_scheme
from scipy.spatial.transform import Rotation

REFERENCE = load_reference()
FRAMES = landmark_frames(REFERENCE.landmark_normals, load_scheme().mirrored)
MEAN = REFERENCE.landmarks


class KnowingNetwork:
    """Takes the place of height maps and network: the samples are the true landmarks themselves, so that the "maps"
    hold where they are in the frame of the pass; answers ``share`` of what remains, and ``deviation``.
    """

    def __init__(self, share: float = 1.0, deviation: NDArray[np.float64] | float = 1.0) -> None:
        self.share = share
        self.deviation = np.broadcast_to(np.asarray(deviation, dtype=np.float32), len(MEAN))
        self.wrong = np.zeros((len(MEAN), 3))
        self.seen: list[NDArray[np.float64]] = []
        self.seen_normals: list[NDArray[np.float64]] = []

    def cut(self, points: Any, normals: Any, centres: Any, frames: Any, config: HeightMapConfig) -> NDArray[np.float32]:
        assert points.dtype == normals.dtype == centres.dtype == np.float32
        np.testing.assert_array_equal(frames, FRAMES)
        self.seen.append(points)
        self.seen_normals.append(normals)
        self._centres = centres
        return np.asarray(points)

    def forward(self, maps: Any, relative: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        centres = MEAN + np.einsum("lij,li->lj", FRAMES, relative)
        np.testing.assert_allclose(centres, self._centres, atol=1e-3)  # the network is told where its maps are
        remaining = self.share * (maps - centres) + self.wrong
        return np.einsum("lij,lj->li", FRAMES, remaining).astype(np.float32), self.deviation


def refine(
    truth: NDArray[np.float64], initial: NDArray[np.float64], network: KnowingNetwork, passes: int = 3
) -> RefinedLandmarks:
    return refine_landmarks(
        truth.astype(np.float32),
        REFERENCE.landmark_normals.astype(np.float32),
        initial,
        MEAN,
        FRAMES,
        network.forward,
        HeightMapConfig(),
        passes,
        network.cut,
    )


def a_face(seed: int, spread: float = 3.0) -> NDArray[np.float64]:
    """Landmarks of some face, a few millimetres from the mean ones."""
    return MEAN + np.random.default_rng(seed).normal(0, spread, MEAN.shape)


def small_similarity(seed: int) -> SimilarityTransform:
    """What an alignment leaves: some degrees, millimetres and per cent."""
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(rng.normal(0, 0.1, 3)).as_matrix()
    return SimilarityTransform(float(np.exp(rng.normal(0, 0.08))), rotation, rng.normal(0, 5, 3))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_an_exact_network_is_followed_in_the_frame_of_the_samples(seed: int, passes: int) -> None:
    truth = small_similarity(seed).apply(a_face(seed))
    result = refine(truth, MEAN.copy(), KnowingNetwork(), passes)
    np.testing.assert_allclose(result.points, truth, atol=1e-3)
    if passes > 1:
        assert result.shift.max() < 1e-3


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_half_steps_halve_the_error_in_every_pass(seed: int) -> None:
    truth = small_similarity(seed).apply(a_face(seed))
    initial = truth + np.random.default_rng(seed).normal(0, 4, truth.shape)
    for passes in (1, 2, 3, 5):
        result = refine(truth, initial, KnowingNetwork(share=0.5), passes)
        np.testing.assert_allclose(result.points - truth, (initial - truth) * 0.5**passes, atol=2e-3)
        np.testing.assert_allclose(result.shift, np.linalg.norm(initial - truth, axis=1) * 0.5**passes, atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_the_result_moves_with_the_face(seed: int) -> None:
    """Once a pass has found the landmarks, the next looks from the same place whatever the alignment left."""
    transform, truth = small_similarity(seed), a_face(seed)
    still, moved = KnowingNetwork(), KnowingNetwork()
    here = refine(truth, truth, still, passes=2)
    there = refine(transform.apply(truth), transform.apply(truth), moved, passes=2)
    np.testing.assert_allclose(there.points, transform.apply(here.points), atol=2e-3)
    np.testing.assert_allclose(moved.seen[1], still.seen[1], atol=2e-3)
    turned_back = there.to_reference.rotation @ transform.rotation
    np.testing.assert_allclose(turned_back, here.to_reference.rotation, atol=1e-4)


def test_the_second_pass_looks_from_the_mean_face() -> None:
    transform = small_similarity(3)
    network = KnowingNetwork()
    result = refine(transform.apply(MEAN), transform.apply(MEAN) + 2.0, network, passes=2)
    np.testing.assert_allclose(network.seen[0], transform.apply(MEAN), atol=1e-3)  # the first takes the alignment as is
    np.testing.assert_allclose(network.seen[1], MEAN, atol=1e-3)
    np.testing.assert_allclose(result.to_reference.matrix(), transform.inverse().matrix(), atol=1e-4)
    turned = REFERENCE.landmark_normals @ transform.rotation  # the inverse rotation, applied to rows
    np.testing.assert_allclose(network.seen_normals[1], turned, atol=1e-4)


def test_the_deviation_is_in_millimetres_of_the_samples() -> None:
    transform = SimilarityTransform(1.25, np.eye(3), np.zeros(3))  # a face a quarter larger than the reference
    truth = transform.apply(MEAN)
    result = refine(truth, truth, KnowingNetwork(deviation=2.0), passes=2)
    np.testing.assert_allclose(result.standard_deviation, 2.5, rtol=1e-5)
    once = refine(truth, truth, KnowingNetwork(deviation=2.0), passes=1)  # no re-alignment yet
    np.testing.assert_allclose(once.standard_deviation, 2.0, rtol=1e-6)


@pytest.mark.parametrize(("deviation", "least", "most"), [(50.0, 0.0, 0.02), (1.0, 0.3, 5.0)])
def test_uncertain_landmarks_hardly_move_the_face(deviation: float, least: float, most: float) -> None:
    """One landmark goes 30 mm astray; the frame of the next pass follows it only if the network is sure of it."""
    deviations = np.full(len(MEAN), 1.0)
    deviations[12] = deviation
    network = KnowingNetwork(deviation=deviations)
    network.wrong[12] = [30.0, 0.0, 0.0]
    result = refine(MEAN, MEAN, network, passes=2)
    others = np.arange(len(MEAN)) != 12
    moved = np.linalg.norm(result.to_reference.apply(MEAN) - MEAN, axis=1)[others]
    assert least <= moved.mean() <= most


def test_the_initial_landmarks_are_left_alone() -> None:
    initial = a_face(1)
    before = initial.copy()
    refine(a_face(2), initial, KnowingNetwork())
    np.testing.assert_array_equal(initial, before)
