"""Simulated cohorts on disk: what is written is read back; splits never share a subject; runs can be resumed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PALNetLandmarksLib.landmark_files import read_landmarks
from PALNetLandmarksLib.procrustes import fit_similarity
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.surface import SurfaceLocator
from scipy.spatial import cKDTree

pytest.importorskip("embreex", reason="cohorts are simulated with the training extra")
pytest.importorskip("numba", reason="cohorts are simulated with the training extra")
pytest.importorskip("fast_simplification", reason="cohorts are simulated with the training extra")

from training.cohort import PLANS, SPLITS, CohortPlan, draw_capture, load_simulator, main, make_cohort, make_subject
from training.prepared import load_prepared
from training.write_ply import write_ply

#: A plan like "any-device", with the cheapest device.
SMALL = replace(PLANS["any-device"], device="frontal", hair=0.5)


@pytest.fixture(scope="module")
def model_folder(shared: Path) -> Path:
    return shared / "face-model"


@pytest.fixture(scope="module")
def cohort(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one subject of the test split."""
    folder = tmp_path_factory.mktemp("cohort")
    assert make_subject(7, SMALL, "test", model_folder, folder) == "test-00007"
    return folder


class RecordingSimulator:
    """Stands in for the simulator: a "subject" is what the generator first gives, a "capture" what it gives next."""

    def __init__(self) -> None:
        self.model = self

    def draw_subject(self, rng: np.random.Generator, expressive: bool, unusual: bool) -> Any:
        return rng.random(4), (expressive, unusual)

    def capture(self, subject: Any, rng: np.random.Generator, device: str | None, hair: float) -> Any:
        return (*subject[0], rng.random(), *subject[1], device, hair)


def drawn(plan: CohortPlan, split: str, index: int) -> Any:
    return draw_capture(RecordingSimulator(), plan, split, index)[0]  # type: ignore[arg-type]


def test_no_subject_occurs_in_two_splits_or_cohorts() -> None:
    identities = {drawn(plan, split, index)[:4] for plan in PLANS.values() for split in SPLITS for index in range(100)}
    assert len(identities) == len(PLANS) * len(SPLITS) * 100


def test_a_subject_depends_on_plan_split_and_index_alone() -> None:
    for plan in PLANS.values():
        assert drawn(plan, "test", 3) == drawn(plan, "test", 3)
        assert drawn(plan, "test", 3)[-2:] == (plan.device, plan.hair)
        assert drawn(replace(plan, subjects=1), "test", 3) == drawn(plan, "test", 3)  # not on the cohort's length
    for name in ("facescape-sim", "facescape-registered"):
        assert drawn(PLANS[name], "train", 0)[5] is False  # neutral faces
    assert drawn(PLANS["lafas-sim"], "train", 0)[5] is True
    assert [name for name, plan in PLANS.items() if drawn(plan, "train", 0)[6]] == ["unusual"]


def test_identities_of_train_validation_and_test_are_different_people(model_folder: Path) -> None:
    model = load_simulator(model_folder, "lafas50").model
    faces = [
        model.draw_subject(np.random.default_rng([20260 + plan.number, SPLITS[split], 0])).landmarks
        for plan in (PLANS["pool"], PLANS["clinic"])
        for split in SPLITS
    ]
    for i, a in enumerate(faces):
        for b in faces[:i]:
            assert np.linalg.norm(fit_similarity(a, b).apply(a) - b, axis=1).mean() > 2.0


def test_the_cohorts_are_the_published_ones_in_size() -> None:
    assert (PLANS["lafas-sim"].subjects, PLANS["lafas-sim"].scheme) == (214, "lafas50")
    for name in ("facescape-sim", "facescape-registered"):
        assert (PLANS[name].subjects, PLANS[name].scheme) == (700, "multipie68")
    assert len({plan.number for plan in PLANS.values()}) == len(PLANS)


def test_registered_subjects_share_their_vertices_and_have_landmarks_there(model_folder: Path) -> None:
    simulator = load_simulator(model_folder, "multipie68")
    first, second = (draw_capture(simulator, PLANS["facescape-registered"], "train", index)[0] for index in (0, 1))
    np.testing.assert_array_equal(first.triangles, second.triangles)
    assert np.linalg.norm(first.points - second.points, axis=1).min() > 0, "two people"
    at = [cKDTree(capture.points).query(capture.landmarks) for capture in (first, second)]
    np.testing.assert_array_equal(at[0][1], at[1][1])
    assert max(distance.max() for distance, _ in at) == 0.0 and first.visible.all()


def test_a_written_subject_is_read_back_as_it_was_captured(cohort: Path, model_folder: Path) -> None:
    assert sorted(path.name for path in cohort.iterdir()) == ["test-00007.mrk.json", "test-00007.ply"]
    mesh = read_scan(cohort / "test-00007.ply")
    landmarks = read_landmarks(cohort / "test-00007.mrk.json")
    assert mesh.warnings == ()
    assert landmarks.coordinate_system == mesh.coordinate_system == "LPS"
    capture, _ = draw_capture(load_simulator(model_folder, "lafas50"), SMALL, "test", 7)
    assert landmarks.labels == capture.labels
    np.testing.assert_array_equal(landmarks.defined, capture.visible)
    # Corner by corner, as vertices that lie in one place are one vertex after reading.
    corners, captured = mesh.points[mesh.triangles].reshape(-1, 3), capture.points[capture.triangles].reshape(-1, 3)
    # The file is the capture in a pose of its own, in millimetres.
    pose = fit_similarity(captured, corners)
    assert pose.scale == pytest.approx(1.0, abs=1e-5)
    assert np.abs(pose.rotation - np.eye(3)).max() > 0.1
    np.testing.assert_allclose(corners, pose.apply(captured), atol=1e-3)
    found = landmarks.points[landmarks.defined]
    np.testing.assert_allclose(found, pose.apply(capture.landmarks[capture.visible]), atol=1e-3)
    _, distance = SurfaceLocator(mesh).nearest_on_surface(found)
    assert distance.max() < 1e-3
    assert distance.max() < 7.0


def test_annotator_noise_scatters_landmarks_by_the_published_figure(model_folder: Path, tmp_path: Path) -> None:
    noisy = replace(SMALL, annotator_noise=True, turned=False, name="noisy")
    make_subject(7, noisy, "test", model_folder, tmp_path)
    scattered = read_landmarks(tmp_path / "test-00007.mrk.json")
    capture, _ = draw_capture(load_simulator(model_folder, "lafas50"), noisy, "test", 7)
    moved = np.linalg.norm((scattered.points - capture.landmarks)[scattered.defined], axis=1)
    # Figures around 2.2 mm between two rounds: one round is off by 1 / sqrt(2) of that in the mean.
    assert 1.1 < moved.mean() < 2.1
    assert moved.min() > 0
    truth = read_landmarks(tmp_path / "truth" / "test-00007.mrk.json")
    assert np.array_equal(truth.defined, capture.visible)
    assert np.abs((truth.points - capture.landmarks)[truth.defined]).max() < 1e-3


def test_an_annotator_s_habit_moves_landmarks_up_on_the_skin(model_folder: Path, tmp_path: Path) -> None:
    plan = replace(SMALL, turned=False, name="habit")
    for kind in ("as-defined", "habit"):
        (tmp_path / kind).mkdir()
    make_subject(7, plan, "test", model_folder, tmp_path / "as-defined")
    habit = replace(plan, higher={"G": 4.0, "Pg": 3.0})
    make_subject(7, habit, "test", model_folder, tmp_path / "habit")
    before, after = (read_landmarks(tmp_path / kind / "test-00007.mrk.json") for kind in ("as-defined", "habit"))
    moved = after.points - before.points
    g, pg = before.labels.index("G"), before.labels.index("Pg")
    assert moved[g, 2] == pytest.approx(4, abs=1.2) and moved[pg, 2] == pytest.approx(3, abs=1.2)
    others = [i for i in range(len(moved)) if i not in (g, pg) and before.defined[i]]
    assert not moved[others].any()
    points = read_scan(tmp_path / "habit" / "test-00007.ply").points
    assert np.linalg.norm(points - after.points[g], axis=1).min() < 1e-3


def test_a_folder_without_the_head_model_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["cohort", "lafas-sim", "--model", str(tmp_path), "--output", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", arguments)
        main()
    assert ended.value.code == 2
    assert "lacks ict_head.npz and landmarks50.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_cohort_that_cannot_be_written_is_said(model_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("no folder")
    command = ["cohort", "clinic", "--model", str(model_folder), "--output", str(tmp_path / "file")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match=r"file' cannot hold results \(it is a file\); choose another --output"):
        main()


def test_existing_subjects_are_left_alone(cohort: Path, model_folder: Path) -> None:
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in cohort.iterdir()}
    make_subject(7, SMALL, "test", model_folder, cohort)
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in cohort.iterdir()} == before


def test_a_subject_broken_off_half_way_is_made_again(cohort: Path, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "test-00007.ply").write_bytes((cohort / "test-00007.ply").read_bytes()[:5000])
    make_subject(7, SMALL, "test", model_folder, tmp_path)
    for name in ("test-00007.ply", "test-00007.mrk.json"):
        assert (tmp_path / name).read_bytes() == (cohort / name).read_bytes()


def test_a_pool_holds_prepared_scans(model_folder: Path, tmp_path: Path) -> None:
    plan = replace(SMALL, meshes=False)
    make_subject(7, plan, "test", model_folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test-00007.prepared.npz"]
    scan = load_prepared(tmp_path / "test-00007.prepared.npz")
    reference = load_reference()
    assert 0 < np.linalg.norm(scan.landmarks - reference.landmarks, axis=1).mean() < 8
    capture, _ = draw_capture(load_simulator(model_folder, "lafas50"), plan, "test", 7)
    np.testing.assert_array_equal(scan.visible, capture.visible)
    size = 1.0 / fit_similarity(capture.landmarks, reference.landmarks).scale
    assert scan.size == pytest.approx(size, rel=1e-6)


def test_another_part_of_a_pool_begins_with_the_subject_asked_for(model_folder: Path, tmp_path: Path) -> None:
    make_cohort(PLANS["pool"], "train", 2, model_folder, tmp_path, 1, first=7)
    assert sorted(file.name for file in tmp_path.glob("*.npz")) == [f"train-0000{n}.prepared.npz" for n in (7, 8)]
    assert json.loads((tmp_path / "cohort.json").read_text(encoding="utf-8"))["first"] == 7


def test_a_finished_cohort_says_how_it_was_made(cohort: Path, tmp_path: Path) -> None:
    """Run with worker processes; all subjects are there already, so nothing is simulated."""
    for index in range(3):
        for suffix in (".ply", ".mrk.json"):
            (tmp_path / f"test-{index:05d}{suffix}").write_text("there already", encoding="utf-8")
    (tmp_path / "test-00002.mrk.json").rename(tmp_path / "test-00002.txt")
    make_cohort(SMALL, "test", 2, tmp_path / "no-model-needed", tmp_path, workers=1)
    make_subject(2, SMALL, "test", tmp_path / "no-model-needed", tmp_path, suffix=".txt")
    document = json.loads((tmp_path / "cohort.json").read_text(encoding="utf-8"))
    assert document["cohort"] == "any-device"
    assert document["split"] == "test"
    assert document["subjects"] == 2  # as made, not as the plan has it by default
    assert document["scheme"] == "lafas50"
    assert len(list(tmp_path.iterdir())) == 7
    assert all(path.read_text(encoding="utf-8") == "there already" for path in tmp_path.glob("test-*"))


def test_a_written_ply_is_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(0, 100, (3000, 3))
    triangles = np.concatenate([rng.permutation(3000).reshape(-1, 3) for _ in range(2)])
    write_ply(tmp_path / "soup.ply", points, triangles)
    mesh = read_scan(tmp_path / "soup.ply")
    np.testing.assert_allclose(mesh.points, points, atol=1e-4)
    np.testing.assert_array_equal(mesh.triangles, triangles)
