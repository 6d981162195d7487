"""Cross-validation: folds, the shape-model peer, tables, and the whole command on a small laboratory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
from hypothesis import given, settings
from hypothesis import strategies as st
from PALNetLandmarksLib.landmark_files import read_landmarks, write_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.resources import resource_path
from PALNetLandmarksLib.scheme import load_scheme
from PALNetLandmarksLib.weights import load_weights
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from test_training import person

from training import cross_validate, epoch_speed
from training.aligned_scans import AlignedScan
from training.experiments import report, tables
from training.experiments.folds import Fold, link_fold, make_folds
from training.experiments.landmark_shape_model import LandmarkShapeModel
from training.experiments.methods import Prediction, predictor_of_shape_model, predictor_of_weights
from training.experiments.predictions import Predictions
from training.experiments.tables import Results
from training.experiments.uses import mean_with_mirrored, with_passes, with_shape_prior
from training.folder import Subject
from training.write_ply import write_ply

LABELS = load_reference().labels

#: How far the annotations are off the truth, mm.
SCATTER = np.array([1.0, 0.0, 0.0])


# ---------------------------------------------------------------------------------------------------------------------
# Folds


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 80), st.integers(2, 5), st.sampled_from(["strict", "paper"]), st.integers(0, 1000))
def test_every_subject_is_tested_once_and_never_on_both_sides(count: int, folds: int, protocol: str, seed: int) -> None:
    names = [f"S{i}" for i in range(count)]
    made = make_folds(names, folds, protocol, seed)
    assert sorted(name for fold in made for name in fold.test) == sorted(names)
    for fold in made:
        assert not set(fold.training) & set(fold.test)
        assert abs(len(fold.test) - count / folds) < 1
        if protocol == "paper":
            assert fold.validation == fold.test
            assert len(fold.training) + len(fold.test) == count
        else:
            assert not set(fold.validation) & {*fold.training, *fold.test}
            assert len(fold.training) + len(fold.validation) + len(fold.test) == count
    assert made == make_folds(names[::-1], folds, protocol, seed)


def test_scans_without_a_face_are_tested_but_teach_nothing() -> None:
    names = [f"S{i}" for i in range(12)]
    for protocol in ("strict", "paper"):
        whole = make_folds(names, 3, protocol, 0)
        fold = whole[0]
        faceless = {fold.validation[0], fold.training[0], *(fold.validation if protocol == "strict" else ())}
        made = make_folds(names, 3, protocol, 0, faceless)
        assert [fold.test for fold in made] == [fold.test for fold in whole]
        for fold in made:
            assert fold.training and fold.validation
            assert not faceless & {*fold.training, *fold.validation}
    with pytest.raises(ValueError, match="Too few scans are usable for training"):
        make_folds(names, 3, "strict", 0, names[:11])


def test_too_few_subjects_are_said() -> None:
    with pytest.raises(ValueError, match="3 subjects are too few for 5 folds of two or more; give fewer --folds"):
        make_folds(["a", "b", "c"], 5, "strict", 0)


# ---------------------------------------------------------------------------------------------------------------------
# The shape model


def test_the_shape_model_follows_a_face_better_than_the_mean_does() -> None:
    reference = load_reference()
    model = LandmarkShapeModel.of([person(i)[1](reference.landmarks) for i in range(12)], reference)
    errors, before = [], []
    for number in range(20, 24):
        mesh, deform = person(number)
        truth = deform(reference.landmarks)
        placed = model.fit(mesh.points)
        errors.append(np.linalg.norm(placed - truth, axis=1).mean())
        before.append(np.linalg.norm(model.mean - truth, axis=1).mean())
        vertices = {tuple(point) for point in np.round(mesh.points, 6)}
        assert all(tuple(point) in vertices for point in np.round(placed, 6))
    assert np.mean(errors) < 0.75 * np.mean(before)


def test_the_shape_model_keeps_what_it_knows_and_pulls_back_what_no_face_is() -> None:
    reference = load_reference()
    shapes = [person(i)[1](reference.landmarks) for i in range(12)]
    model = LandmarkShapeModel.of(shapes, reference)
    for shape in shapes[:3]:
        assert np.linalg.norm(model.plausible(shape) - shape, axis=1).mean() < 1.0
    wild = shapes[0].copy()
    wild[3] += (0.0, -60.0, 0.0)
    assert np.linalg.norm(model.plausible(wild)[3] - wild[3]) > 30


def test_the_shape_model_leaves_out_what_no_training_subject_has() -> None:
    reference = load_reference()
    folk = []
    for number in range(6):
        mesh, deform = person(number)
        landmarks = deform(reference.landmarks)
        landmarks[7] = np.nan
        folk.append(AlignedScan(Subject(f"S{number}", Path(), Path()), np.eye(4), 1.0, False, 1.0, landmarks))
    placed = predictor_of_shape_model(folk)(mesh, "mm").points
    assert np.flatnonzero(np.isnan(placed).any(axis=1)).tolist() == [7]
    assert np.nanmedian(np.linalg.norm(placed - landmarks, axis=1)) < 4


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def results_with(offsets: np.ndarray, method: str = "pal-net", folds: int = 2) -> Results:
    """Six subjects in each fold, predicted with ``offsets`` (L, 3) from the truth."""
    rng = np.random.default_rng(5)
    made = []
    for number in range(folds):
        truth = load_reference().landmarks + rng.normal(0, 2, (6, len(LABELS), 3))
        made.append(
            Predictions(
                tuple(f"{number}-{i}" for i in range(6)),
                LABELS,
                truth + offsets,
                truth,
                truth,
                np.full(truth.shape[:2], 1.0),
                np.zeros(truth.shape[:2], dtype=bool),
                tuple({"align": 0.2, "network": 0.1, "surface": 0.05, "read": 0.3} for _ in range(6)),
                {},
            )
        )
    return Results(method, tuple(made), tuple(range(folds)))


def test_a_shift_of_all_landmarks_is_a_point_error_and_no_distance_error(tmp_path: Path) -> None:
    table = tables.table_1({"pal-net": results_with(np.array([3.0, 4.0, 0.0]))}, tmp_path).iloc[0]
    assert table["point mm"] == "5.000 ± 0.000"
    assert table["distance mm"] == "0.000 ± 0.000"
    assert (table["subjects"], table["folds"], table["above 10 mm %"]) == (12, 2, "0.00")


def test_one_landmark_moved_shows_in_its_row_its_distances_and_its_angle(tmp_path: Path) -> None:
    offsets = np.zeros((len(LABELS), 3))
    offsets[LABELS.index("Pg")] = (0.0, 0.0, -12.0)
    results = {"pal-net": results_with(offsets)}
    by_label = tables.table_3(results).set_index("landmark")["PAL-Net as published"]
    assert by_label["Pg"] == "12.00 ± 0.00"
    assert by_label["N"] == "0.00 ± 0.00"
    distances = tables.table_4(results).set_index("measure")
    assert float(distances.loc["N - Pg", "PAL-Net as published mm"]) > 10
    assert float(distances.loc["Ex_R - Ex_L", "PAL-Net as published mm"]) == 0
    assert len(distances) == 21
    angles = tables.table_5(results).set_index("measure")
    assert float(angles.loc["N - Sn - Pg", "PAL-Net as published deg"]) > 1
    assert float(angles.loc["T_R - N - T_L", "PAL-Net as published deg"]) == 0
    assert len(angles) == 10
    assert tables.table_1(results, tmp_path).iloc[0]["above 10 mm %"] == "2.00"  # 1 of 50


@pytest.mark.filterwarnings("error")
def test_a_method_whose_faces_are_all_refused_does_not_stop_the_report(tmp_path: Path) -> None:
    for name, offset in (("template", 1.0), ("pal-net", np.nan)):
        for number, fold in enumerate(results_with(np.full((len(LABELS), 3), offset), name).predictions):
            if name == "template" and number == 1:
                fold = replace(fold, points=fold.points * np.nan, refused=dict.fromkeys(fold.names, "no face"))
            (tmp_path / name).mkdir(exist_ok=True)
            fold.save(tmp_path / name / f"fold-{number}.npz")
    facts = {"data": "d", "subjects": 12, "folds": 2, "protocol": "strict", "seed": 0, "commit": "c", "command": "x"}
    report.write_report(tmp_path, tmp_path / "report", facts)
    text = (tmp_path / "report" / "tables.md").read_text(encoding="utf-8")
    assert "PAL-Net as published placed none of these landmarks" in text
    row = json.loads((tmp_path / "report" / "tables.json").read_text(encoding="utf-8"))["table_1"][0]
    assert (row["method"], row["point mm"], row["refused"]) == ("Mean landmarks, projected", "1.732 ± 0.000", 6)
    assert (tmp_path / "report" / "figure-6.png").exists()
    assert "Refused by at least one method:" in text
    # Another method that refuses nobody is measured on more subjects.
    for number, fold in enumerate(results_with(np.full((len(LABELS), 3), 1.0), "shape-model").predictions):
        (tmp_path / "shape-model").mkdir(exist_ok=True)
        fold.save(tmp_path / "shape-model" / f"fold-{number}.npz")
    report.write_report(tmp_path, tmp_path / "report", facts)
    text = (tmp_path / "report" / "tables.md").read_text(encoding="utf-8")
    assert "Refused by at least one method (their figures are without them, so not of the same subjects):" in text


def test_a_report_speaks_of_a_truth_only_where_one_is_known(tmp_path: Path) -> None:
    facts = {"data": "d", "subjects": 12, "folds": 2, "protocol": "strict", "seed": 0, "commit": "c", "command": "x"}
    for name, scatter in (("files", 0.0), ("truth", 1.0)):
        for number, fold in enumerate(results_with(np.array([3.0, 4.0, 0.0])).predictions):
            (tmp_path / name / "pal-net").mkdir(parents=True, exist_ok=True)
            replace(fold, annotated=fold.truth + scatter).save(tmp_path / name / "pal-net" / f"fold-{number}.npz")
        report.write_report(tmp_path / name, tmp_path / name, facts)
        text = (tmp_path / name / "tables.md").read_text(encoding="utf-8")
        assert ("truth" in text) == (name == "truth")
        assert ("against annotations mm" in text) == (name == "truth")
    assert "against the landmark files" in (tmp_path / "files" / "tables.md").read_text(encoding="utf-8")


def test_weights_are_compared_by_the_names_of_their_landmarks(resources: Path) -> None:
    scan = read_scan(resources / "SampleScan.ply")
    whole = predictor_of_weights(None, LABELS)(scan, None)
    some = predictor_of_weights(None, ("Pg", "Wart", "Tr"))(scan, "mm")
    assert np.array_equal(some.points[[0, 2]], whole.points[[LABELS.index("Pg"), LABELS.index("Tr")]])
    assert np.array_equal(some.deviations[[0, 2]], whole.deviations[[LABELS.index("Pg"), LABELS.index("Tr")]])
    assert np.isnan(some.points[1]).all() and some.missing.tolist() == [False, True, False]


def test_table_7_leaves_the_rims_of_the_ears_out(tmp_path: Path) -> None:
    offsets = np.zeros((len(LABELS), 3))
    offsets[[LABELS.index(label) for label in tables.ear_landmarks()]] = 9.0
    results = {"pal-net": results_with(offsets)}
    assert tables.table_1(results, tmp_path).iloc[0]["point mm"] != "0.000 ± 0.000"
    assert tables.table_7(results, tmp_path).iloc[0]["point mm"] == "0.000 ± 0.000"


def test_what_is_hard_is_compared_with_pal_net() -> None:
    offsets = np.zeros((len(LABELS), 3))
    offsets[:, 0] = 2.0
    offsets[LABELS.index("Tr"), 0] = 8.0
    results = {
        "pal-net": results_with(offsets),
        "height-map-net": results_with(offsets * 0.25, "height-map-net"),
    }
    ours = tables.hard_table(results).set_index("method").iloc[1]
    assert (ours["ears mm"], ours["trichion mm"], ours["gonion mm"]) == ("0.50", "2.00", "0.50")
    assert {ours[f"{name}, ratio to PAL-Net as published"] for name in ("ears", "trichion", "gonion")} == {"0.25"}
    assert len(tables.hard_table({"height-map-net": results["height-map-net"]}).columns) == 4


def test_failures_that_a_method_warns_of_are_not_silent(tmp_path: Path) -> None:
    offsets = np.zeros((len(LABELS), 3))
    offsets[[3, 4]] = (0.0, 12.0, 0.0)
    results = results_with(offsets, "height-map-net", folds=1)
    assert tables.table_1({"height-map-net": results}, tmp_path).iloc[0]["of them silent"] == "12 of 12"
    results.predictions[0].missing[:, 3] = True
    results.predictions[0].deviations[0, 4] = 3.5
    assert tables.table_1({"height-map-net": results}, tmp_path).iloc[0]["of them silent"] == "5 of 12"
    results.predictions[0].deviations[:] = np.nan
    assert tables.table_1({"height-map-net": results}, tmp_path).iloc[0]["of them silent"] == "states no doubt"


def test_seconds_are_counted_by_stage() -> None:
    row = tables.table_2({"pal-net": results_with(np.zeros(3))}).iloc[0]
    assert (row["input"], row["inference"], row["final"], row["total"]) == ("0.500", "0.100", "0.050", "0.650")


def test_variants_are_compared_on_the_folds_that_all_have(tmp_path: Path) -> None:
    results = {
        "pal-net": results_with(np.array([3.0, 4.0, 0.0]), folds=2),
        "coarse": results_with(np.array([6.0, 8.0, 0.0]), "coarse", folds=1),
    }
    table = tables.table_6(results, tmp_path)
    assert list(table["folds"]) == [1, 1]
    assert list(table["method"]) == ["coarse mesh", "PAL-Net as published"]
    assert list(table["more than the baseline, mm ± SEM"]) == ["+5.000 ± 0.000", "baseline"]
    assert tables.table_6({"template": results["coarse"], "pal-net": results["pal-net"]}, tmp_path) is None


def test_parts_are_compared_with_the_whole_on_what_both_place(tmp_path: Path) -> None:
    whole, part = results_with(np.zeros(3), "height-map-net", 1), results_with(np.zeros(3), "no-normals", 1)
    worse = np.array([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
    part.predictions[0].points[:] += worse[:, None, None] * (0.0, 0.6, 0.8)
    part.predictions[0].points[0, 0] = np.nan
    results = {"height-map-net": whole, "no-normals": part, "pal-net": results_with(np.ones(3), folds=1)}
    table = tables.parts_table(results, tmp_path)
    # Standard error of the mean of six differences, three of 1 and three of 3 mm: sqrt(1.2) / sqrt(6).
    assert list(table["more than the baseline, mm ± SEM"]) == ["baseline", "+2.000 ± 0.447"]
    assert set(tables.without_variants(results)) == {"height-map-net", "pal-net"}


def test_predictions_survive_the_disk(tmp_path: Path) -> None:
    (before, *_) = results_with(np.ones(3)).predictions
    before.save(tmp_path / "fold-0.npz")
    after = Predictions.load(tmp_path / "fold-0.npz")
    assert (after.names, after.labels, after.seconds, after.refused) == (
        before.names,
        before.labels,
        before.seconds,
        before.refused,
    )
    assert np.array_equal(after.missing, before.missing)
    for kept in ("points", "truth", "annotated", "deviations"):
        assert np.abs(getattr(after, kept) - getattr(before, kept)).max() < 6e-4  # a micrometre


def test_methods_on_fewer_folds_do_not_cut_the_others_short(tmp_path: Path) -> None:
    for method, folds in (("pal-net", 3), ("template", 3), ("mvlm-style", 1), ("coarse", 1)):
        (tmp_path / method).mkdir()
        for number, predictions in enumerate(results_with(np.ones(3), method, folds).predictions):
            predictions.save(tmp_path / method / f"fold-{number}.npz")
    facts = {"data": "lab", "subjects": 18, "folds": 3, "protocol": "strict", "seed": 0, "commit": "x", "command": "y"}
    report.write_report(tmp_path, tmp_path / "report", facts)
    document = json.loads((tmp_path / "report" / "tables.json").read_text(encoding="utf-8"))
    assert document["folds"] == {"template": [0, 1, 2], "pal-net": [0, 1, 2]}
    assert [row["folds"] for row in document["table_1"]] == [3, 3]
    assert [row["folds"] for row in document["table_1_all"]] == [1, 1, 1]
    assert [row["method"] for row in document["table_6"]] == [
        "Mean landmarks, projected",
        "coarse mesh",
        "PAL-Net as published",
    ]


def test_the_papers_own_figures_stand_beside_ours(tmp_path: Path) -> None:
    (tmp_path / "pal-net").mkdir()
    results_with(np.ones(3)).predictions[0].save(tmp_path / "pal-net" / "fold-0.npz")
    paper = {
        "table1": {
            name: {"PAL-Net": {"point": [1, 2], "distance": [3, 4], "epoch": "5 s"}} for name in ("lafas", "facescape")
        },
        "table2_seconds": {"Manual": {"total": "6-7 min"}, "PAL-Net": {"input": 0.207, "total": 0.304}},
        "table4_distances": [{"from": "Tr", "to": "N", "intra_mm": 0.6, "error_mm": 5.6, "error_percent": 9.0}],
        "table4_mean": {"intra_mm": 0.5, "error_mm": 2.9, "error_percent": 4.1},
        "table5_angles": [
            {"from": "T_R", "vertex": "N", "to": "T_L", "intra_deg": 0.1, "error_deg": 1.2, "error_percent": 1.3}
        ],
        "table5_mean": {"intra_deg": 0.6, "error_deg": 1.3, "error_percent": 2.2},
        "table7_mm_without_ears": {"PAL-Net": {"point": 3.276, "distance": 2.57}, "excluded": ["Sa_R"]},
    }
    (tmp_path / "paper.json").write_text(json.dumps(paper), encoding="utf-8")
    (tmp_path / "commits.json").write_text('{"pal-net/fold-0.npz": "abc", "pal-net/fold-1.npz": "def"}')
    facts = {"data": "lab", "subjects": 18, "folds": 3, "protocol": "strict", "seed": 0, "commit": "x", "command": "y"}
    report.write_report(tmp_path, tmp_path / "report", facts, tmp_path / "paper.json")
    lines = (tmp_path / "report" / "tables.md").read_text(encoding="utf-8").splitlines()
    for row in (
        "| PAL-Net | lafas | 1.000 ± 2.000 | 3.000 ± 4.000 | 5 s |",
        "| Manual |  |  |  | 6-7 min |",
        "| Tr | 6.41 ± 4.61 |",
        "| Tr-N | 0.6 | 5.6 | 9.0 |",
        "| mean | 0.5 | 2.9 | 4.1 |",
        "| T_R-N-T_L | 0.1 | 1.2 | 1.3 |",
        "| PAL-Net | 3.276 | 2.570 |",
        "- PAL-Net as published: abc, def",
    ):
        assert row in lines


# ---------------------------------------------------------------------------------------------------------------------
# Other ways to use a network


def predict_off_by(shift: np.ndarray) -> Callable[[TriangleMesh, str | None], Prediction]:
    """A method that is off the reference's landmarks, wherever the reference face lies mirrored or not."""
    landmarks, mirrored = load_reference().landmarks, list(load_scheme().mirrored)

    def predict(mesh: TriangleMesh, unit: str | None) -> Prediction:
        flipped = np.abs(1000 * mesh.points[0, 0] + load_reference().points[0, 0]) < 1e-9
        here = (landmarks * (-1.0, 1.0, 1.0))[mirrored] if flipped else landmarks
        return Prediction(here + shift, np.ones(len(here)), np.zeros(len(here), dtype=bool), {}, 1000.0)

    return predict


def test_the_mean_with_the_mirror_image_cancels_what_leans_to_one_side() -> None:
    reference = load_reference()
    mesh = TriangleMesh(reference.points / 1000, reference.triangles)  # in metres
    predict = predict_off_by(np.array([2.0, 0.0, 0.0]))
    found = mean_with_mirrored(predict, load_scheme().mirrored, "triangle")(mesh, None)
    assert np.linalg.norm(found.points - reference.landmarks, axis=1).mean() < 0.5
    alone = mean_with_mirrored(predict, [-1] * len(LABELS), "vertex")(mesh, None)
    assert np.linalg.norm(alone.points - reference.landmarks, axis=1).mean() > 1.0
    vertices = cKDTree(reference.points)
    assert vertices.query(alone.points)[0].max() < 1e-9 < vertices.query(found.points)[0].mean()


def test_the_shape_prior_pulls_back_what_is_uncertain_alone() -> None:
    reference = load_reference()
    mesh = TriangleMesh(reference.points, reference.triangles)
    shapes = [person(i)[1](reference.landmarks) for i in range(12)]

    def predict(mesh: TriangleMesh, unit: str | None) -> Prediction:
        points, deviations = reference.landmarks.copy(), np.full(len(LABELS), 0.5)
        points[19] += (0.0, 0.0, 15.0)
        deviations[19] = 15.0
        return Prediction(points, deviations, np.zeros(len(points), dtype=bool), {})

    before, after = predict(mesh, None), with_shape_prior(predict, shapes, "triangle")(mesh, None)
    off = np.linalg.norm(after.points - reference.landmarks, axis=1)
    assert off[19] < 0.5 * np.linalg.norm(before.points[19] - reference.landmarks[19])
    assert np.delete(off, 19).mean() < 1.0
    incomplete = [np.where(np.arange(len(LABELS))[:, None] == 3, np.nan, shape) for shape in shapes]
    with pytest.raises(ValueError, match="Only 2 training subjects have every landmark"):
        with_shape_prior(predict, [*incomplete, *shapes[:2]], "triangle")


def test_weights_with_other_passes_are_otherwise_the_same(tmp_path: Path) -> None:
    shutil.copy(resource_path("Weights.safetensors"), tmp_path / "weights.safetensors")
    before, after = (
        load_weights(file)
        for file in (tmp_path / "weights.safetensors", with_passes(tmp_path / "weights.safetensors", 2))
    )
    assert (before.fact("passes"), after.fact("passes")) == (4, 2)
    assert all(np.array_equal(array, after.arrays[name]) for name, array in before.arrays.items())


# ---------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight faces in poses of their own; the landmarks are off by 1 mm, the truth is kept beside."""
    folder = tmp_path_factory.mktemp("laboratory")
    (folder / "truth").mkdir()
    for number in range(8):
        rng = np.random.default_rng([9, number])
        rotation, shift = Rotation.from_rotvec(rng.normal(0, 0.6, 3)).as_matrix(), rng.normal(0, 100, 3)
        mesh, deform = person(number)
        write_ply(folder / f"S{number}.ply", mesh.points @ rotation.T + shift, mesh.triangles)
        truth = deform(load_reference().landmarks) @ rotation.T + shift
        write_landmarks(folder / "truth" / f"S{number}.mrk.json", LandmarkSet(LABELS, truth))
        write_landmarks(folder / f"S{number}.mrk.json", LandmarkSet(LABELS, truth + SCATTER))
    return folder


def test_what_is_kept_has_its_facts_before_the_first_result(tmp_path: Path) -> None:
    runs, kept = tmp_path / "runs", tmp_path / "report" / "predictions"
    runs.mkdir()
    (runs / "commits.json").write_text('{"template/fold-0.npz": "abc"}', encoding="utf-8")
    report.keep_predictions(runs, {"subjects": 3}, kept)
    assert json.loads((kept / "facts.json").read_text(encoding="utf-8")) == {"subjects": 3}
    # Going on from what is kept, a report still knows which commit made it.
    assert json.loads((kept / "commits.json").read_text(encoding="utf-8")) == {"template/fold-0.npz": "abc"}


def test_the_command_makes_tables_and_figures_and_goes_on_where_it_stopped(
    laboratory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data", str(laboratory), "--output", str(tmp_path), "--folds", "2", "--device", "cpu"]
    methods = ["--methods", "template", "shape-model", "coarse"]
    cross_validate.main([*command, "--epochs", "1", "--threads", "1", "--folds-run", "0", *methods])
    document = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))
    assert document["folds"] == {"template": [0], "shape-model": [0]}
    rows = {row["method"]: row for row in document["table_1"]}
    template, shape = rows["Mean landmarks, projected"], rows["Shape model, non-rigid fit"]
    assert 0.5 < float(template["point mm"].split()[0]) < 8
    assert float(shape["point mm"].split()[0]) < float(template["point mm"].split()[0])
    stamp = (tmp_path / "template" / "fold-0.npz").stat().st_mtime_ns
    assert (tmp_path / "runs" / "coarse-0" / "weights.safetensors").exists()

    cross_validate.main([*command, "--epochs", "1", "--methods", "template"])
    assert (tmp_path / "template" / "fold-0.npz").stat().st_mtime_ns == stamp
    assert (tmp_path / "template" / "fold-1.npz").exists()
    for number in (4, 5, 6, 7):
        assert (tmp_path / f"figure-{number}.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "8 subjects split into 2 folds (strict protocol)" in text and "Table 4" in text

    # The report can be made again from the predictions that are kept beside it.
    kept = tmp_path / "kept"
    cross_validate.main([*command, "--epochs", "1", "--methods", "template", "--report", str(kept)])
    kept_facts = json.loads((kept / "predictions" / "facts.json").read_text(encoding="utf-8"))
    assert kept_facts["subjects"] == 8
    assert set(kept_facts["sides"].values()) == {"midline", "right", "left"}
    before = json.loads((kept / "tables.json").read_text(encoding="utf-8"))
    monkeypatch.setattr("sys.argv", ["report", str(kept / "predictions"), "--output", str(tmp_path / "again")])
    report.main()
    said = "tables.md: without figure 7 (--scans) and the paper's own figures (--published)"
    assert said in capsys.readouterr().out
    after = json.loads((tmp_path / "again" / "tables.json").read_text(encoding="utf-8"))
    assert after["table_1"] == before["table_1"] and after["table_4"] == before["table_4"]
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path / "again"), "--output", str(tmp_path / "third")])
    with pytest.raises(SystemExit, match="holds no predictions to report on; give the folder 'predictions'"):
        report.main()

    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SystemExit, match=r"Error: '.*file' cannot hold results"):
        cross_validate.main(["--data", str(laboratory), "--output", str(tmp_path / "file"), "--methods", "template"])
    with pytest.raises(SystemExit, match=r"other settings \(seed\)"):
        cross_validate.main([*command, "--epochs", "1", "--seed", "3", "--methods", "template"])
    other = tmp_path / "other" / laboratory.name
    shutil.copytree(laboratory, other)
    copied = ["--data", str(other), *command[2:], "--epochs", "1"]
    cross_validate.main([*copied, "--methods", "template"])
    landmarks = read_landmarks(other / "S3.mrk.json")
    write_landmarks(other / "S3.mrk.json", replace(landmarks, points=landmarks.points + 1.0))
    with pytest.raises(SystemExit, match=r"other settings \(files\)"):
        cross_validate.main([*copied, "--methods", "template"])
    # Predictions that a report keeps are taken up where they belong alone.
    taken = ["--output", str(kept / "predictions"), "--folds", "2", "--epochs", "1", "--methods", "template"]
    with pytest.raises(SystemExit, match=r"other settings \(files, seed\)"):
        cross_validate.main(["--data", str(other), *taken, "--seed", "5"])
    cross_validate.main(["--data", str(laboratory), *taken])


def test_links_of_a_fold_follow_its_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*training: str) -> dict[str, Path]:
        subjects = {
            name: Subject(name, tmp_path / place / f"{name}.ply", tmp_path / place / f"{name}.csv")
            for place in (here,)
            for name in "ABCD"
        }
        for subject in subjects.values():
            subject.scan.parent.mkdir(exist_ok=True)
            for file in (subject.scan, subject.landmarks):
                file.write_text(here)
        return link_fold(Fold(0, training, ("C",), ("D",)), subjects, tmp_path / "folds")

    here = "before"
    link("A", "B")
    (tmp_path / "before").rename(tmp_path / "gone")
    here = "after"
    folders = link("B")
    assert sorted(path.name for path in folders["training"].iterdir()) == ["B.csv", "B.ply"]
    assert (folders["training"] / "B.ply").read_text() == "after"
    # Two trainings side by side have one folder of links, and neither takes those of the other away.
    changed = (folders["training"] / "B.ply").lstat().st_mtime_ns
    link("B")
    assert (folders["training"] / "B.ply").lstat().st_mtime_ns == changed

    def refuse(self: Path, target: Path) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folders = link("A", "B")
    assert (folders["training"] / "A.ply").read_text() == "after" and not (folders["training"] / "A.ply").is_symlink()


def test_every_fold_is_in_the_tables(tmp_path: Path) -> None:
    (tmp_path / "template").mkdir()
    (tmp_path / "template" / "fold-1 (copy).npz").touch()
    for number in (0, 2, 11):
        nothing = np.zeros((1, 1, 3))
        Predictions(
            (f"S{number}",), ("N",), nothing, nothing, nothing, np.zeros((1, 1)), np.zeros((1, 1), bool), ({},), {}
        ).save(tmp_path / "template" / f"fold-{number}.npz")
    assert tables.load_results(tmp_path)["template"].numbers == (0, 2, 11)


def test_variants_join_the_methods_that_are_named() -> None:
    def methods(*options: str) -> list[str]:
        return cross_validate._parse(["--data", "x", "--output", "y", *options]).methods

    assert methods() == list(cross_validate.DEFAULT_METHODS)
    assert methods("--ablations") == ["template", *tables.ABLATIONS]
    together = methods("--methods", "shipped", "pal-net", "--parts", "--ablations")
    assert together[:2] == ["shipped", "pal-net"] and together.count("pal-net") == 1
    assert {*tables.ABLATIONS, *tables.PARTS} < {*together}
    assert cross_validate._parse(["--data", "x", "--output", "y", "--epochs", "0", "--methods", "fine-tuned"])
    with pytest.raises(SystemExit):
        methods("--epochs", "0", "--methods", "fine-tuned", "height-map-net")
    with pytest.raises(SystemExit):
        methods("--parts", "--finetune", "w.safetensors")


def test_truth_is_what_errors_are_measured_against(laboratory: Path, tmp_path: Path) -> None:
    command = ["--data", str(laboratory), "--output", str(tmp_path), "--folds", "2", "--device", "cpu"]
    cross_validate.main([*command, "--folds-run", "0", "--methods", "template"])
    predictions = Predictions.load(tmp_path / "template" / "fold-0.npz")
    assert np.allclose(predictions.annotated - predictions.truth, SCATTER, atol=1e-3)


def test_scans_in_metres_are_measured_in_millimetres(laboratory: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(laboratory, folder)
    mesh = read_scan(folder / "S3.ply")
    write_ply(folder / "S3.ply", mesh.points / 1000, mesh.triangles)
    for file in (folder / "S3.mrk.json", folder / "truth" / "S3.mrk.json"):
        landmarks = read_landmarks(file)
        write_landmarks(file, replace(landmarks, points=landmarks.points / 1000))
    errors = {}
    for name, data in (("mm", laboratory), ("m", folder)):
        command = ["--data", str(data), "--output", str(tmp_path / name), "--folds", "2", "--device", "cpu"]
        cross_validate.main([*command, "--methods", "template"])
        found = [Predictions.load(file) for file in sorted((tmp_path / name / "template").glob("fold-*.npz"))]
        errors[name] = np.concatenate([np.linalg.norm(one.points - one.truth, axis=2) for one in found])
    assert np.abs(errors["m"] - errors["mm"]).max() < 0.2
    with pytest.raises(SystemExit, match="There is no fold 2; --folds-run counts from 0 to 1"):
        cross_validate.main([*command, "--methods", "template", "--folds-run", "2"])


def test_a_unit_that_is_given_holds_for_training_and_test(laboratory: Path, tmp_path: Path) -> None:
    command = ["--data", str(laboratory), "--folds", "2", "--device", "cpu", "--folds-run", "0", "--epochs", "1"]
    given = [*command, "--output", str(tmp_path / "mm"), "--unit", "mm"]
    cross_validate.main([*given, "--threads", "1", "--methods", "template", "shape-model", "coarse"])
    rows = json.loads((tmp_path / "mm" / "tables.json").read_text(encoding="utf-8"))["table_1"]
    assert float(rows[0]["point mm"].split()[0]) < 8
    trained = json.loads((tmp_path / "mm" / "runs" / "coarse-0" / "settings.json").read_text(encoding="utf-8"))
    assert trained["unit"] == "mm"
    with pytest.raises(SystemExit, match=r"other settings \(unit\)"):
        cross_validate.main([*command, "--output", str(tmp_path / "mm"), "--methods", "template"])
    with pytest.raises(SystemExit, match=r"No scan in .* can be used. The first: No face was found .* is in inch"):
        cross_validate.main([*command, "--output", str(tmp_path / "inch"), "--unit", "inch", "--methods", "template"])


def test_an_epoch_is_counted_by_the_subjects_and_by_the_recipe() -> None:
    rows = epoch_speed.epochs({epoch_speed.PLAIN: 2.0, epoch_speed.HEIGHT_MAPS: 0.5})
    assert rows[epoch_speed.PLAIN]["cpu_seconds_per_epoch"] == pytest.approx(2.0 * 171 / 16)
    ours = rows[epoch_speed.HEIGHT_MAPS]
    assert ours["of_the_plain_loop"] == 0.25 and ours["views_per_epoch_of_the_recipe"] == 1200
    assert ours["cpu_seconds_per_epoch_of_the_recipe"] == pytest.approx(0.5 * 1200 / 16)


def test_the_plain_network_is_the_same_function() -> None:
    import torch
    from PALNetLandmarksLib.palnet import PALNetConfig
    from PALNetLandmarksLib.palnet_torch import PALNetModule

    from training.experiments.plain_palnet import PlainPALNet

    config = PALNetConfig(n_landmarks=5, patch_size=100, hidden=32)
    ours, plain = PALNetModule(config, torch.Generator().manual_seed(3)), PlainPALNet(config)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    plain.take(dict(ours.named_parameters()))
    patches = torch.randn(2, 5, 100, 3, generator=torch.Generator().manual_seed(5)) * 10
    with torch.no_grad():
        expected, found = ours.eval()(patches), plain.eval()(patches)
    assert float((expected - found).abs().max()) < 1e-3
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in ours.parameters())
