"""The bundled reference face: its frame, its landmarks on its surface, its agreement with the head model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from PALNetLandmarksLib.scheme import load_scheme
from PALNetLandmarksLib.surface import SurfaceLocator
from scipy.spatial import cKDTree


@pytest.fixture(scope="module")
def reference() -> ReferenceFace:
    return load_reference()


def place(reference: ReferenceFace, label: str) -> np.ndarray:
    return reference.landmarks[reference.labels.index(label)]


def test_its_landmarks_are_those_of_the_scheme(reference: ReferenceFace) -> None:
    assert reference.labels == load_scheme().labels
    assert reference.landmarks.shape == reference.landmark_normals.shape == (50, 3)


def test_it_lies_in_the_canonical_frame(reference: ReferenceFace) -> None:
    np.testing.assert_array_equal(place(reference, "Prn"), 0.0)
    assert place(reference, "Ex_L")[0] > 35  # x to the subject's left
    assert place(reference, "Ex_R")[0] < -35
    assert place(reference, "T_L")[1] > 80  # y to the back
    assert place(reference, "Tr")[2] > 80  # z up
    assert place(reference, "Gn")[2] < -60


def test_the_nose_is_in_front_the_helix_above_the_lobe_the_mouth_under_the_nose(reference: ReferenceFace) -> None:
    assert reference.landmarks[:, 1].argmin() == reference.labels.index("Prn")
    # Nothing of the surface stands more than the width of a sample in front of the nose.
    assert reference.points[:, 1].min() > -1.0
    heights = [
        place(reference, label)[2] for label in ("Tr", "G", "N", "Prn", "Sn", "Ls", "Sto", "Li", "Sl", "Pg", "Gn")
    ]
    assert heights == sorted(heights, reverse=True)
    for side in ("_R", "_L"):
        ear = {name: place(reference, name + side) for name in ("T", "Pra", "Sa", "Pa", "Sba")}
        assert ear["Sa"][2] > max(ear[name][2] for name in ("T", "Pra", "Pa", "Sba"))
        assert ear["Sba"][2] < min(ear[name][2] for name in ("T", "Pra", "Pa", "Sa"))
        assert ear["Pa"][1] > max(ear[name][1] for name in ("T", "Pra", "Sa", "Sba"))


def test_it_is_symmetric(reference: ReferenceFace) -> None:
    mirrored = list(load_scheme().mirrored)
    np.testing.assert_allclose((reference.landmarks * [-1, 1, 1])[mirrored], reference.landmarks, atol=0.05)
    cosine = ((reference.landmark_normals * [-1, 1, 1])[mirrored] * reference.landmark_normals).sum(axis=1)
    assert cosine.min() > 0.98
    distance, _ = cKDTree(reference.points).query(reference.points * [-1, 1, 1])
    assert np.median(distance) < 0.8  # edges are 2.2 mm long
    assert np.quantile(distance, 0.95) < 2.2


def test_its_size_is_that_of_an_adult(reference: ReferenceFace) -> None:
    def distance(a: str, b: str) -> float:
        return float(np.linalg.norm(place(reference, a) - place(reference, b)))

    # Means of LAFAS (../shared/README.md, mm); the other laboratory's adults are larger.
    for a, b, published in (
        ("Ex_R", "Ex_L", 86.7),
        ("Zy_R", "Zy_L", 131.7),
        ("T_R", "T_L", 137.4),
        ("T_L", "N", 115.0),
        ("N", "Sn", 52.9),
        ("N", "Pg", 103.3),
        ("Go_R", "Go_L", 111.0),
    ):
        assert 0.97 * published < distance(a, b) < 1.07 * published, (a, b)


def test_its_landmarks_lie_on_its_surface(reference: ReferenceFace) -> None:
    mesh = TriangleMesh(reference.points, reference.triangles)
    _, off = SurfaceLocator(mesh).nearest_on_surface(reference.landmarks)
    assert off.max() < 1.5
    assert np.median(off) < 0.5


def test_its_normals_point_outwards(reference: ReferenceFace) -> None:
    np.testing.assert_allclose(np.linalg.norm(reference.normals, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(reference.landmark_normals, axis=1), 1, atol=1e-6)
    inside = np.array([0.0, 90.0, 10.0])
    outward = ((reference.landmarks - inside) * reference.landmark_normals).sum(axis=1)
    assert (outward > 0).all()
    away = reference.points - inside
    assert ((away * reference.normals).sum(axis=1) > 0).mean() > 0.9
    # Winding and stored normals say the same.
    computed = TriangleMesh(reference.points, reference.triangles).vertex_normals
    assert (computed * reference.normals).sum(axis=1).min() > 0.99


def test_the_region_of_interest_holds_landmarks_and_ears(reference: ReferenceFace) -> None:
    low, high = reference.region_of_interest
    assert (reference.landmarks - low).min() > 8
    assert (high - reference.landmarks).min() > 8
    inside = ((reference.points > low - 5.001) & (reference.points < high + 5.001)).all(axis=1)
    assert inside.all()


def test_it_is_the_mean_of_the_head_model(reference: ReferenceFace, shared: Path) -> None:
    head = pytest.importorskip("training.simulation.head")
    model = head.HeadModel(shared / "face-model")
    mean = model.mean_subject()
    nose = mean.landmarks[model.labels.index("Prn")]
    away = np.linalg.norm(reference.landmarks - (mean.landmarks - nose), axis=1)
    assert away.max() < 2e-3
    skin = SurfaceLocator(TriangleMesh(mean.vertices - nose, model.outer_triangles))
    _, distance = skin.nearest_on_surface(reference.points[::20])
    assert np.median(distance) < 0.2
    assert np.quantile(distance, 0.95) < 0.8


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_reference(tmp_path / "nothing.npz")
    np.savez(tmp_path / "foreign.npz", points=np.zeros((3, 3)))
    with pytest.raises(KeyError, match="normals"):
        load_reference(tmp_path / "foreign.npz")
    (tmp_path / "text.npz").write_text("no archive", encoding="utf-8")
    with pytest.raises(ValueError):
        load_reference(tmp_path / "text.npz")
