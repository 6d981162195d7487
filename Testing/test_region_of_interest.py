"""Cropping and sampling the part of an aligned scan that holds the face."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from PALNetLandmarksLib.region_of_interest import (
    SAMPLE_PITCH_MM,
    SAMPLES_AT_MOST,
    crop_to_region_of_interest,
    sample_region_of_interest,
)


@pytest.fixture(scope="module")
def reference() -> ReferenceFace:
    return load_reference()


@pytest.fixture(scope="module")
def head(make_head: Callable[..., TriangleMesh]) -> TriangleMesh:
    """An egg that reaches beyond the region behind and above."""
    egg = make_head(120, 180)
    return TriangleMesh(egg.points * [1.2, 1.2, 1.3], egg.triangles, "egg.ply", "RAS", ("a warning",))


def test_only_whole_triangles_inside_the_box_are_kept(head: TriangleMesh, reference: ReferenceFace) -> None:
    low, high = reference.region_of_interest
    cropped = crop_to_region_of_interest(head, reference)
    inside = ((head.points > low) & (head.points < high)).all(axis=1)
    assert 0.2 < inside.mean() < 0.98
    assert len(cropped.triangles) == inside[head.triangles].all(axis=1).sum()
    assert (cropped.points > low).all()
    assert (cropped.points < high).all()
    # The same triangles in the same order, no vertex without one.
    expected = head.points[head.triangles[inside[head.triangles].all(axis=1)]]
    np.testing.assert_array_equal(cropped.points[cropped.triangles], expected)
    np.testing.assert_array_equal(np.unique(cropped.triangles), np.arange(len(cropped.points)))


def test_name_frame_and_warnings_stay(head: TriangleMesh, reference: ReferenceFace) -> None:
    cropped = crop_to_region_of_interest(head, reference)
    assert (cropped.name, cropped.coordinate_system, cropped.warnings) == ("egg.ply", "RAS", ("a warning",))


@pytest.mark.parametrize("margin", [-10.0, 0.0, 10.0, 25.0])
def test_a_margin_widens_the_box_on_all_sides(margin: float, head: TriangleMesh, reference: ReferenceFace) -> None:
    cropped = crop_to_region_of_interest(head, reference, margin)
    low, high = reference.region_of_interest[0] - margin, reference.region_of_interest[1] + margin
    reached = np.minimum(cropped.points.min(axis=0) - low, high - cropped.points.max(axis=0))
    assert reached.min() > 0
    if margin <= 0:
        assert (high[1:] - cropped.points.max(axis=0)[1:]).max() < 6  # cut behind and above, within one triangle


def test_the_samples_are_those_of_the_cropped_mesh(head: TriangleMesh, reference: ReferenceFace) -> None:
    samples = sample_region_of_interest(head, reference)
    cropped = crop_to_region_of_interest(head, reference, 10.0)
    areas, _ = cropped.triangle_areas_and_normals
    assert len(samples.points) == pytest.approx(0.83 * samples.area / SAMPLE_PITCH_MM**2, rel=0.1)
    assert samples.area == pytest.approx(areas.sum(), rel=1e-9)
    chosen = head.triangles[samples.triangle_index]
    assert set(chosen.ravel()) <= set(
        np.flatnonzero(
            (head.points > reference.region_of_interest[0] - 10).all(axis=1)
            & (head.points < reference.region_of_interest[1] + 10).all(axis=1)
        )
    )
    # Each sample lies in the plane of its triangle.
    off = ((samples.points - head.points[chosen[:, 0]]) * samples.normals).sum(axis=1)
    assert np.abs(off).max() < 1e-9


def test_samples_are_even_and_the_same_every_time(head: TriangleMesh, reference: ReferenceFace) -> None:
    first, again = (sample_region_of_interest(head, reference) for _ in range(2))
    np.testing.assert_array_equal(first.points, again.points)
    np.testing.assert_array_equal(first.normals, again.normals)
    # Boxes of 20 mm on the front of the egg, which faces y, hold a sample for each square of the lattice, and those on
    # the sides of its nose besides.
    front = first.points[
        (np.abs(first.points[:, 0]) < 60) & (np.abs(first.points[:, 2]) < 60) & (first.points[:, 1] < 90)
    ]
    per_box, _, _ = np.histogram2d(front[:, 0], front[:, 2], bins=3, range=[[-30, 30]] * 2)
    assert 1.0 <= per_box.min() * SAMPLE_PITCH_MM**2 / 400 < per_box.max() * SAMPLE_PITCH_MM**2 / 400 < 1.4


def test_the_samples_are_dense_enough_for_the_fine_maps(reference: ReferenceFace) -> None:
    mesh = TriangleMesh(reference.points, reference.triangles)
    samples = sample_region_of_interest(mesh, reference)
    assert np.sqrt(samples.area / len(samples.points)) < 1.5  # mm between samples; pixels are 1.25 mm


def test_what_is_there_many_times_over_gives_no_more_samples_than_there_is_time_for(
    head: TriangleMesh, reference: ReferenceFace
) -> None:
    layers = TriangleMesh(head.points, np.tile(head.triangles, (20, 1)))
    once, often = (sample_region_of_interest(mesh, reference) for mesh in (head, layers))
    assert often.area == pytest.approx(20 * once.area)
    assert len(often.points) == pytest.approx(SAMPLES_AT_MOST, rel=0.3)


def test_a_scan_beside_the_face_has_no_samples(head: TriangleMesh, reference: ReferenceFace) -> None:
    far = head.with_points(head.points + np.array([1000.0, 0.0, 0.0]))
    assert len(sample_region_of_interest(far, reference).points) == 0
    cropped = crop_to_region_of_interest(far, reference)
    assert cropped.points.shape == (0, 3)
    assert cropped.triangles.shape == (0, 3)
