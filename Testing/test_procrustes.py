"""Similarity and rigid transforms between landmark sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PALNetLandmarksLib.procrustes import SimilarityTransform, fit_similarity
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.scheme import load_scheme
from scipy.spatial.transform import Rotation

FACE = load_reference().landmarks
SETTINGS = settings(max_examples=25, deadline=None)


def transforms(scales: bool = True) -> st.SearchStrategy[SimilarityTransform]:
    """Any pose within a metre, any size from a tenth to ten times."""

    def build(seed: int, exponent: float) -> SimilarityTransform:
        rng = np.random.default_rng(seed)
        rotation = Rotation.random(random_state=rng).as_matrix()
        return SimilarityTransform(10.0**exponent if scales else 1.0, rotation, rng.uniform(-1000, 1000, 3))

    return st.builds(build, st.integers(0, 2**32 - 1), st.floats(-1, 1))


@SETTINGS
@given(transforms())
def test_a_similarity_is_recovered(transform: SimilarityTransform) -> None:
    fitted = fit_similarity(FACE, transform.apply(FACE))
    assert fitted.scale == pytest.approx(transform.scale, rel=1e-9)
    np.testing.assert_allclose(fitted.rotation, transform.rotation, atol=1e-9)
    np.testing.assert_allclose(fitted.translation, transform.translation, atol=1e-6)


@SETTINGS
@given(transforms(), st.integers(3, 50))
def test_few_points_are_enough(transform: SimilarityTransform, count: int) -> None:
    some = FACE[np.linspace(0, 49, count).astype(int)]
    fitted = fit_similarity(some, transform.apply(some))
    np.testing.assert_allclose(fitted.apply(FACE), transform.apply(FACE), atol=1e-5)


@SETTINGS
@given(transforms(), transforms())
def test_inverse_and_composition(first: SimilarityTransform, second: SimilarityTransform) -> None:
    np.testing.assert_allclose(first.inverse().apply(first.apply(FACE)), FACE, atol=1e-8)
    np.testing.assert_allclose(second.after(first).apply(FACE), second.apply(first.apply(FACE)), atol=1e-7)
    homogeneous = np.column_stack([FACE, np.ones(len(FACE))]) @ first.matrix().T
    np.testing.assert_allclose(homogeneous[:, :3], first.apply(FACE), atol=1e-9)


@SETTINGS
@given(transforms())
def test_directions_are_turned_and_neither_scaled_nor_shifted(transform: SimilarityTransform) -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 3))
    turned = transform.apply_to_vectors(vectors)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(vectors, axis=1))
    np.testing.assert_allclose(turned, (transform.apply(vectors) - transform.translation) / transform.scale, atol=1e-9)


@SETTINGS
@given(transforms())
def test_a_mirrored_face_is_never_reflected_back(transform: SimilarityTransform) -> None:
    mirrored = transform.apply(FACE * [-1, 1, 1])
    fitted = fit_similarity(FACE, mirrored)
    assert np.linalg.det(fitted.rotation) == pytest.approx(1.0)
    # Point by point, a right ear cannot be brought onto a left one: the misfit is of the order of half a face.
    residual = np.linalg.norm(fitted.apply(FACE) - mirrored, axis=1) / transform.scale
    assert residual.mean() > 15.0
    # With the sides named the other way round it is the same face: the mean one is symmetric.
    swapped = fit_similarity(FACE[list(load_scheme().mirrored)], mirrored)
    residual = np.linalg.norm(swapped.apply(FACE[list(load_scheme().mirrored)]) - mirrored, axis=1) / transform.scale
    assert residual.max() < 0.01


@given(transforms())
@SETTINGS
def test_points_in_a_plane_give_a_rotation_too(transform: SimilarityTransform) -> None:
    flat = FACE * [1, 0, 1]
    fitted = fit_similarity(flat, transform.apply(flat))
    assert np.linalg.det(fitted.rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(fitted.apply(flat), transform.apply(flat), atol=1e-6)


@SETTINGS
@given(transforms())
def test_without_scaling_the_transform_is_rigid(transform: SimilarityTransform) -> None:
    target = transform.apply(FACE)
    fitted = fit_similarity(FACE, target, scaling=False)
    assert fitted.scale == 1.0
    np.testing.assert_allclose(fitted.rotation, transform.rotation, atol=1e-9)
    np.testing.assert_allclose(fitted.apply(FACE.mean(axis=0)), target.mean(axis=0), atol=1e-7)


def test_a_point_without_weight_has_no_say() -> None:
    transform = SimilarityTransform(
        1.3, Rotation.from_rotvec([1.0, -2.0, 0.5]).as_matrix(), np.array([3.0, 50.0, -9.0])
    )
    target = transform.apply(FACE)
    target[7] += 500.0
    weights = np.ones(len(FACE))
    weights[7] = 0.0
    np.testing.assert_allclose(fit_similarity(FACE, target, weights).apply(FACE), transform.apply(FACE), atol=1e-8)
    assert np.abs(fit_similarity(FACE, target).apply(FACE) - transform.apply(FACE)).max() > 5


def test_a_weight_counts_like_repeated_points() -> None:
    rng = np.random.default_rng(2)
    target = FACE + rng.normal(0, 3, FACE.shape)
    weights = rng.integers(1, 5, len(FACE))
    weighted = fit_similarity(FACE, target, weights)
    repeated = fit_similarity(np.repeat(FACE, weights, axis=0), np.repeat(target, weights, axis=0))
    np.testing.assert_allclose(weighted.matrix(), repeated.matrix(), atol=1e-10)
    scaled = fit_similarity(FACE, target, 17.0 * weights)
    np.testing.assert_allclose(scaled.matrix(), weighted.matrix(), atol=1e-10)


@pytest.mark.parametrize("scaling", [True, False])
def test_no_neighbouring_transform_fits_better(scaling: bool) -> None:
    rng = np.random.default_rng(8)
    target = 1.1 * FACE @ Rotation.from_rotvec([0.2, 0.1, -0.4]).as_matrix().T + rng.normal(0, 4, FACE.shape)
    weights = rng.uniform(0.2, 1, len(FACE))
    best = fit_similarity(FACE, target, weights, scaling)

    def cost(transform: SimilarityTransform) -> float:
        return float(weights @ ((transform.apply(FACE) - target) ** 2).sum(axis=1))

    for _ in range(100):
        step = SimilarityTransform(
            float(np.exp(rng.normal(0, 1e-3))) if scaling else 1.0,
            Rotation.from_rotvec(rng.normal(0, 1e-3, 3)).as_matrix(),
            rng.normal(0, 0.05, 3),
        )
        assert cost(step.after(best)) > cost(best)
