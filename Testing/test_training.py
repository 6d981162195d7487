"""The trainer: folders of scans as laboratories have them, PAL-Net and the height-map network, resuming, processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch (extra 'training') is not installed")
pytest.importorskip("numba", reason="numba (extra 'training') is not installed")

from PALNetLandmarksLib.detector import LandmarkDetector  # noqa: E402
from PALNetLandmarksLib.errors import LandmarkingError  # noqa: E402
from PALNetLandmarksLib.landmark_files import read_landmarks, write_landmarks  # noqa: E402
from PALNetLandmarksLib.landmark_set import LandmarkSet  # noqa: E402
from PALNetLandmarksLib.mesh import TriangleMesh  # noqa: E402
from PALNetLandmarksLib.read_scan import read_scan  # noqa: E402
from PALNetLandmarksLib.reference import load_reference  # noqa: E402
from PALNetLandmarksLib.scheme import load_scheme  # noqa: E402
from PALNetLandmarksLib.weights import load_weights  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

from training import train as trainer  # noqa: E402
from training.aligned_scans import align_scans  # noqa: E402
from training.blend import MIXED, RegisteredScans  # noqa: E402
from training.deviation_scale import fit_deviation_scale  # noqa: E402
from training.export import average_weights, write_weights  # noqa: E402
from training.export import main as export  # noqa: E402
from training.finetuning import habits, scheme_to_finetune, shift_that_carries  # noqa: E402
from training.folder import Subject, TrainingDataError, find_subjects, read_landmark_files, split_names  # noqa: E402
from training.height_map_task import ACROSS_FROM, JOINT, MIXING, HeightMapTask, has_across, open_trained  # noqa: E402
from training.loop import Recipe, split_batches, train  # noqa: E402
from training.loss import LandmarkLoss  # noqa: E402
from training.model_card import measure  # noqa: E402
from training.palnet_task import densify, open_patches  # noqa: E402
from training.prepared import STEP_MM, load_prepared, prepare_scan, save_prepared  # noqa: E402
from training.training_scheme import (  # noqa: E402
    counterparts,
    mean_landmarks,
    meant_by,
    reference_with,
    scheme_of,
    sides_of,
    without_rare,
)
from training.write_ply import write_ply  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]

#: A scheme of its own, by names that say nothing of sides.
LABELS = ("tip of the nose", "1", "2", "mouth a", "mouth b")
LIKE = ("Prn", "Ex_R", "Ex_L", "Ch_R", "Ch_L")

SUBJECTS = 10

#: A PAL-Net that trains in seconds: a thin cloud, small patches, few channels.
TINY = {
    "network": "pal-net",
    "model": {"channels": [8, 16, 16], "hidden": 64, "dropout": 0.1},
    "patches": {"size": 100, "cloud_size": 10_000},
    "split": {"validation": 0.2, "test": 0.2},
    "recipe": {"epochs": 40, "batch_size": 3, "learning_rate": 2e-3, "early_stop": 0, "seed": 3},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def person(number: int):
    """The reference face, smoothly deformed: (mesh, the deformation of points), canonical frame, mm."""
    rng = np.random.default_rng([7, number])
    reference = load_reference()
    size = rng.uniform(0.93, 1.07) * np.exp(rng.normal(0, 0.02, 3))
    centres = rng.uniform([-70, -20, -80], [70, 60, 80], (6, 3))
    pushes = rng.normal(0, 3, (6, 3))

    def deform(points):
        share = np.exp(-((points[:, None] - centres) ** 2).sum(-1) / (2 * 30.0**2))
        return (points + share @ pushes) * size

    return TriangleMesh(deform(reference.points), reference.triangles, f"person {number}"), deform


def landmarks_of(number: int, labels=LIKE):
    reference = load_reference()
    mesh, _ = person(number)
    index = [reference.labels.index(label) for label in labels]
    return mesh.points[cKDTree(reference.points).query(reference.landmarks[index])[1]]


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory) -> Path:
    """Ten subjects in poses and kinds of files of their own; two have a landmark that is not defined."""
    folder = tmp_path_factory.mktemp("laboratory")
    for number in range(SUBJECTS):
        rng = np.random.default_rng([8, number])
        rotation, shift = Rotation.from_rotvec(rng.normal(0, 0.6, 3)).as_matrix(), rng.normal(0, 100, 3)
        mesh, _ = person(number)
        write_ply(folder / f"S{number:02d}.ply", mesh.points @ rotation.T + shift, mesh.triangles)
        points = landmarks_of(number) @ rotation.T + shift
        if number in (4, 5):
            points[4] = np.nan
        landmarks = LandmarkSet(LABELS, points)
        if number % 3 == 0:
            write_landmarks(folder / f"S{number:02d}.mrk.json", landmarks.in_coordinate_system("RAS"))
        elif number % 3 == 1:
            write_landmarks(folder / f"S{number:02d}.fcsv", landmarks)
        else:
            lines = (f"{label}\t({x},{y},{z})" for label, (x, y, z) in zip(LABELS, points))
            (folder / f"S{number:02d}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def aligned(laboratory, tmp_path_factory) -> Path:
    """What the first run found out about the scans, so that only it must align them."""
    run = tmp_path_factory.mktemp("runs") / "aligned"
    run_trainer(laboratory, run, epochs=1)
    return run


def run_trainer(data: Path, output: Path, *more: str, like: Path | None = None, config: dict | None = None, **recipe):
    """Train in this process; ``like`` is a run whose alignments are taken over."""
    output.mkdir(parents=True, exist_ok=True)
    if like is not None and not (output / "alignments").exists():
        shutil.copytree(like / "alignments", output / "alignments")
    settings = config or TINY
    settings = {**settings, "recipe": {**settings["recipe"], **recipe}}
    path = output / "config.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    arguments = ["--config", str(path), "--data", str(data), "--output", str(output), "--device", "cpu", *more]
    trainer.main(arguments)
    return json.loads((output / "model-card.json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------------------------------
# PAL-Net on a laboratory's folder


@pytest.fixture(scope="module")
def trained(laboratory, aligned, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "tiny"
    return run, run_trainer(laboratory, run, like=aligned)


def test_palnet_learns_a_folder_of_mixed_files(trained):
    run, card = trained
    history = json.loads((run / "history.json").read_text())
    assert len(history) == 40
    assert history[-1]["loss"] < history[0]["loss"] / 4
    assert min(entry["error_mm"] for entry in history) < history[0]["error_mm"] / 3
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert card["labels"] == list(LABELS)
    assert card["best"] == min(history, key=lambda entry: entry["error_mm"])
    assert {name: split["subjects"] for name, split in card["data"]["splits"].items()} == {
        "training": 6,
        "validation": 2,
        "test": 2,
    }
    assert card["data"]["left_out"] == {}


def test_card_says_what_the_weights_do(trained, laboratory):
    run, card = trained
    weights = load_weights(run / "weights.safetensors")
    assert weights.sha256 == card["weights"]["sha256"]
    assert card["parameters"] == sum(array.size for array in weights.arrays.values())
    text = (run / "model-card.md").read_text(encoding="utf-8")
    assert card["weights"]["sha256"] in text and "| tip of the nose |" in text
    template = read_landmarks(run / "mean-landmarks.mrk.json")
    assert template.labels == LABELS
    np.testing.assert_allclose(template.points, weights.fact("template"), atol=1e-3)

    # The same subjects, through the detector: point-wise errors of network and detector differ by the surface only.
    detector = LandmarkDetector.load(run / "weights.safetensors", device="cpu")
    assert detector.labels == LABELS
    arrays = open_patches(next(run.glob("patches-????????????")))
    errors = []
    for name in arrays.names["test"]:
        detection = detector.detect(laboratory / f"{name}.ply")
        truth = read_landmarks(find_landmarks(laboratory, name)).in_coordinate_system("LPS").ordered(LABELS).points
        errors.append(np.linalg.norm(detection.points - truth, axis=1))
    assert np.nanmean(errors) == pytest.approx(card["test"]["point_wise_mm"], abs=1.5)
    assert np.nanmean(errors) < 15


def find_landmarks(folder: Path, name: str) -> Path:
    return next(path for path in folder.glob(f"{name}.*") if path.suffix != ".ply")


def test_alignment_puts_the_landmarks_where_they_belong(trained):
    """Whatever pose, file and coordinate system, the aligned landmarks are those of the face before it was moved."""
    arrays = open_patches(next(trained[0].glob("patches-????????????")))
    for split, names in arrays.names.items():
        for name, found in zip(names, arrays.landmarks[split]):
            number = int(name[1:])
            truth = landmarks_of(number)
            known = np.isfinite(found).all(axis=1)
            assert known.tolist() == [True] * 4 + [number not in (4, 5)]
            # The frame is that of the library's alignment, which may differ by a small rigid motion.
            assert np.linalg.norm(found - truth, axis=1)[known].max() < 8
            for i in range(4):
                for j in range(i):
                    assert np.linalg.norm(found[i] - found[j]) == pytest.approx(
                        np.linalg.norm(truth[i] - truth[j]), abs=0.01
                    )


def test_splits_share_no_subject_and_are_the_seed_s():
    names = [f"S{i}" for i in range(40)]
    split = split_names(names, 0.15, 0.15, 5)
    assert sorted(name for part in split.values() for name in part) == sorted(names)
    assert [len(split[key]) for key in ("training", "validation", "test")] == [28, 6, 6]
    assert split == split_names(names[::-1], 0.15, 0.15, 5)
    assert split != split_names(names, 0.15, 0.15, 6)
    with pytest.raises(TrainingDataError, match="too few"):
        split_names(["a", "b"], 0.1, 0.1, 0)


def test_interrupted_run_ends_with_the_same_weights(laboratory, aligned, tmp_path):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    run_trainer(laboratory, straight, like=aligned, epochs=4, average=0.9)
    run_trainer(laboratory, resumed, like=aligned, epochs=2, average=0.9)
    patches = next(resumed.glob("patches-????????????")) / "training.patches.npy"
    written = patches.stat().st_mtime_ns
    run_trainer(laboratory, resumed, epochs=4, average=0.9)
    assert patches.stat().st_mtime_ns == written
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (straight, resumed)]
    assert [state["state"]["epoch"] for state in states] == [4, 4]
    for key in ("network", "averaged"):
        for name, value in states[0][key].items():
            assert torch.equal(value, states[1][key][name]), (key, name)
    first, second = (load_weights(run / "weights.safetensors") for run in (straight, resumed))
    assert all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)
    assert first.fact("training") == second.fact("training")  # so the files differ in the runs' names alone


def test_run_goes_on_with_its_own_settings_only(laboratory, aligned, tmp_path):
    run_trainer(laboratory, tmp_path / "run", like=aligned, epochs=1)
    with pytest.raises(SystemExit, match=r"other settings \(recipe\)"):
        run_trainer(laboratory, tmp_path / "run", epochs=2, learning_rate=0.1)
    with pytest.raises(SystemExit, match=r"other settings \(test\)"):
        run_trainer(laboratory, tmp_path / "run", "--test", str(laboratory), epochs=2)


def test_a_new_subject_shuffles_none_that_was_trained_on_into_the_test(laboratory, aligned, tmp_path):
    folder, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(laboratory, folder)
    run_trainer(folder, run, like=aligned, epochs=1)
    for suffix in (".ply", ".fcsv"):
        shutil.copy(folder / f"S01{suffix}", folder / f"S50{suffix}")
    with pytest.raises(SystemExit, match="The subjects are not those that the run in"):
        run_trainer(folder, run, epochs=2)
    for suffix in (".ply", ".fcsv"):
        (folder / f"S50{suffix}").unlink()
    run_trainer(folder, run, epochs=2)


def test_a_run_does_not_go_on_with_landmarks_that_were_corrected_meanwhile(laboratory, aligned, tmp_path):
    folder, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(laboratory, folder)
    run_trainer(folder, run, like=aligned, epochs=1)
    file = folder / "S01.fcsv"
    kept = read_landmarks(file)
    write_landmarks(file, replace(kept, points=kept.points + np.array([0.0, 0.0, 6.0])))
    with pytest.raises(SystemExit, match="Scans or landmarks have changed since the run in"):
        run_trainer(folder, run, epochs=2)
    shutil.copy(laboratory / "S01.fcsv", file)  # a copy is the same
    run_trainer(folder, run, epochs=2)


def test_what_cannot_be_used_is_named(laboratory, aligned, tmp_path, make_head):
    folder = tmp_path / "data"
    shutil.copytree(laboratory, folder)
    (folder / "S00.fcsv").write_text((folder / "S01.fcsv").read_text())  # a second landmark file
    (folder / "S01.fcsv").unlink()
    (folder / "S02.txt").write_text("no landmarks here")
    points = read_landmarks(folder / "S03.mrk.json")
    write_landmarks(folder / "S03.mrk.json", LandmarkSet(LABELS, points.points))  # RAS numbers called LPS
    (folder / "S07.ply").write_bytes(b"")
    write_landmarks(folder / "S99.fcsv", points)
    card = run_trainer(folder, tmp_path / "run", like=aligned, epochs=1)
    left_out = card["data"]["left_out"]
    assert set(left_out) == {"S00", "S01", "S02", "S03", "S07", "S99"}
    assert "2 landmark files" in left_out["S00"] and "no landmark file" in left_out["S01"]
    assert "S02.txt" in left_out["S02"] and "do not lie on" in left_out["S03"] and "S07.ply" in left_out["S07"]
    assert all(reason in (tmp_path / "run" / "model-card.md").read_text() for reason in left_out.values())
    assert sum(split["subjects"] for split in card["data"]["splits"].values()) == SUBJECTS - 5
    with pytest.raises(TrainingDataError, match="no scan with a landmark file"):
        find_subjects(tmp_path / "run")


def test_landmarks_vouch_for_the_pose_of_an_unusual_face(tmp_path, monkeypatch):
    """As if the alignment doubted every face: it is right where the landmarks lie like a face's."""
    monkeypatch.setattr("training.aligned_scans.LEAST_FITNESS", 1.01)
    mesh, _ = person(0)
    write_ply(tmp_path / "S0.ply", mesh.points, mesh.triangles)
    names = ("N", "Prn", "Sn", "Pg", "Ex_R", "Ex_L", "Ch_R", "Ch_L")
    points = landmarks_of(0, names)
    turned = points[[3, 2, 1, 0, 5, 4, 7, 6]]  # as of a face upside down
    subject = Subject("S0", tmp_path / "S0.ply", tmp_path / "S0.mrk.json")
    for number, (labels, placed, right) in enumerate(
        ((names, points, True), (names, turned, False), (names[:4], points[:4], False), (LABELS, points[:5], False))
    ):
        write_landmarks(subject.landmarks, LandmarkSet(labels, placed))
        sets, _ = read_landmark_files([subject])
        scans, refused = align_scans([subject], sets, labels, load_reference(), tmp_path / str(number))
        assert (len(scans), len(refused)) == ((1, 0) if right else (0, 1))
        if not right:
            assert "No face was found on 'S0.ply'" in str(refused["S0"])


def test_landmarks_whose_sides_are_swapped_are_left_out(tmp_path):
    mesh, _ = person(0)
    write_ply(tmp_path / "S0.ply", mesh.points, mesh.triangles)
    names = ("Prn", "Ex_R", "Ex_L", "Ch_R", "Ch_L", "Al_R", "Al_L")
    subject = Subject("S0", tmp_path / "S0.ply", tmp_path / "S0.mrk.json")
    for order, right in (([0, 1, 2, 3, 4, 5, 6], True), ([0, 2, 1, 4, 3, 6, 5], False)):
        write_landmarks(subject.landmarks, LandmarkSet(names, landmarks_of(0, names)[order]))
        sets, _ = read_landmark_files([subject])
        scans, refused = align_scans([subject], sets, names, load_reference(), tmp_path / "alignments")
        assert (len(scans), len(refused)) == ((1, 0) if right else (0, 1))
    assert "check that left is the person's left" in str(refused["S0"])


def test_a_run_among_the_scans_is_refused(laboratory):
    before = sorted(laboratory.iterdir())
    with pytest.raises(SystemExit, match="is the folder of the scans; choose another --output"):
        trainer.main(["--data", str(laboratory), "--output", str(laboratory / ".." / laboratory.name)])
    assert sorted(laboratory.iterdir()) == before


def test_a_scan_on_both_sides_is_named(laboratory, aligned, tmp_path, capsys):
    other = tmp_path / "others"
    other.mkdir()
    for name, copy in (("S00", "renamed"), ("S03", "S03")):
        shutil.copy(laboratory / f"{name}.ply", other / f"{copy}.ply")
        shutil.copy(laboratory / f"{name}.mrk.json", other / f"{copy}.mrk.json")
    run_trainer(laboratory, tmp_path / "run", "--validation", str(other), like=aligned, epochs=1)
    said = " ".join(capsys.readouterr().err.split())
    assert "2 scans of '" in said and "too (S03, ...), so their errors say little of other people" in said


def test_files_of_one_subject_are_paired_by_name(tmp_path):
    points = LandmarkSet(LABELS, np.arange(15.0).reshape(5, 3))
    for scan in ("Ren\u00e9.PLY", "S1.ply", "S2.obj", "S3.stl", "twin.ply", "TWIN.ply", "S4.ply"):
        (tmp_path / scan).write_bytes(b"ply")
    for file in ("rene\u0301.mrk.json", "s1.csv", "S2.csv", "S2.mrk.json", "S3.json", "Twin.fcsv", "S5.txt", "S6.csv"):
        write_landmarks(tmp_path / file, points)
    (tmp_path / "patients.csv").write_text("name,born\nS1,1990\n")
    (tmp_path / "notes.txt").write_text("S4 was away")
    (tmp_path / "cohort.json").write_text("{}")
    (tmp_path / "S2.json").write_text("{}")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "S7.ply").write_bytes(b"ply")
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "S1.mrk.json").write_bytes(b"{}")
    subjects, left_out = find_subjects(tmp_path)
    assert {subject.name: subject.landmarks.name for subject in subjects} == {
        "Ren\u00e9": "rene\u0301.mrk.json",
        "S1": "s1.csv",
        "S2": "S2.mrk.json",
        "S3": "S3.json",
    }
    no_landmarks, no_scan = "it has no landmark file", "its landmark file has no scan"
    assert left_out == {
        "more/": "folders within the folder are not read; move its files up",
        "S4": no_landmarks,
        "TWIN": no_landmarks,
        "twin": no_landmarks,
        "Twin": no_scan,
        "S5": no_scan,
        "S6": no_scan,
    }


def test_two_processes_end_with_equal_weights(laboratory, aligned, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(aligned / "alignments", run / "alignments")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**TINY, "recipe": {**TINY["recipe"], "epochs": 2}}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "training.train", "--config", config, "--data", laboratory, "--output", run, "--device", "cpu"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "PALNetLandmarks"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command), "--threads", "1"], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    digests = json.loads((run / "processes.json").read_text())["weights_sha256"]
    assert len(digests) == 2 and digests[0] == digests[1]
    assert json.loads((run / "model-card.json").read_text())["processes"] == 2
    assert len(json.loads((run / "history.json").read_text())) == 2


# ---------------------------------------------------------------------------------------------------------------------
# The height-map network


HEIGHT_MAPS = {
    "network": "height-map-net",
    "split": {"validation": 0.1, "test": 0.1},
    "recipe": {"epochs": 2, "samples_per_epoch": 8, "batch_size": 4, "learning_rate": 1e-3, "early_stop": 0},
}


def test_height_map_network_learns_other_landmarks(laboratory, aligned, tmp_path):
    run = tmp_path / "run"
    card = run_trainer(laboratory, run, like=aligned, config=HEIGHT_MAPS)
    weights = load_weights(run / "weights.safetensors")
    assert weights.fact("mirrored") == [0, 2, 1, 4, 3]
    assert weights.fact("config")["kinds"] == [0, 1, 1, 2, 2]
    assert weights.fact("config")["sides"] == [0, 1, 2, 1, 2]
    assert np.shape(weights.fact("mean_landmarks")) == (5, 3)
    assert card["test"]["subjects"] == 1
    detector = LandmarkDetector.load(run / "weights.safetensors", device="cpu")
    detection = detector.detect(laboratory / "S00.ply")
    assert detection.labels == LABELS
    truth = read_landmarks(laboratory / "S00.mrk.json").in_coordinate_system("LPS").points
    assert np.linalg.norm(detection.points - truth, axis=1).mean() < 12
    reference = load_reference(run / "ReferenceFace.npz")
    assert reference.labels == LABELS
    np.testing.assert_allclose(reference.landmarks, weights.fact("mean_landmarks"), atol=1e-3)


def aligned_subjects(folder: Path, run: Path):
    subjects, _ = find_subjects(folder)
    sets, _ = read_landmark_files(subjects)
    scans, refused = align_scans(subjects, sets, LABELS, load_reference(), run / "alignments" / "data")
    assert not refused
    return scans


def test_blends_of_registered_scans_vary_as_their_subjects_do(laboratory, aligned):
    registered = RegisteredScans.of(aligned_subjects(laboratory, aligned))
    assert len(registered.points) == SUBJECTS - 2  # those that have all landmarks
    vertices = cKDTree(registered.points[0]).query(registered.landmarks[0])[1]
    # Wherever a scan lay, its vertices bring it onto the others better than the alignment by its surface does.
    people = np.array([person(number)[0].points for number in range(SUBJECTS) if number not in (4, 5)])
    blends = [registered.blend("", np.random.default_rng(number)) for number in range(400)]
    for mesh, landmarks in blends:
        np.testing.assert_allclose(mesh.points[vertices], landmarks, atol=1e-3)
        np.testing.assert_array_equal(mesh.triangles, registered.triangles)
    spread = np.array([mesh.points[::50] for mesh, _ in blends]).std(axis=0).mean()
    assert spread == pytest.approx(registered.points[:, ::50].std(axis=0).mean(), rel=0.05)
    assert 0.5 < spread < people[:, ::50].std(axis=0).mean()
    faces = [mesh.points for mesh, _ in blends]
    assert np.linalg.norm(faces[0] - registered.points, axis=2).mean(axis=1).min() > 0.5  # nobody who was there


def test_scans_that_are_not_registered_are_not_blended(laboratory, aligned, tmp_path):
    scans = [scan for scan in aligned_subjects(laboratory, aligned) if np.isfinite(scan.landmarks).all()]
    assert RegisteredScans.of(scans[:MIXED]) is None  # too few
    mesh = read_scan(scans[0].subject.scan)
    for name, triangles in (("other triangles", mesh.triangles[::-1]), ("fewer triangles", mesh.triangles[1:])):
        write_ply(tmp_path / f"{name}.ply", mesh.points, triangles)
        other = replace(scans[0], subject=replace(scans[0].subject, scan=tmp_path / f"{name}.ply"))
        assert RegisteredScans.of([*scans, other]) is None
    # The same triangles alone do not make a correspondence: a depth camera's grid has them on every face.
    turned = [
        replace(scan, landmarks=scan.landmarks + np.array((0, 0, 20.0 * (i % 2)))) for i, scan in enumerate(scans)
    ]
    assert RegisteredScans.of(turned) is None


def test_height_map_network_learns_from_blends_of_registered_scans(laboratory, aligned, tmp_path):
    card = run_trainer(laboratory, tmp_path / "run", like=aligned, config={**HEIGHT_MAPS, "blends": 5})
    assert card["data"]["splits"]["training"]["subjects"] == SUBJECTS - 2 and card["data"]["blends"] == 5
    assert "5 subjects blended" in (tmp_path / "run" / "model-card.md").read_text(encoding="utf-8")
    blends = [load_prepared(file) for file in sorted((tmp_path / "run").glob("scans-*/blend-*"))]
    assert len(blends) == 5 and all(blend.visible.all() for blend in blends)
    for blend in blends:
        assert cKDTree(blend.points * STEP_MM).query(blend.landmarks)[0].max() < 1.5
    assert not has_across(load_weights(tmp_path / "run" / "weights.safetensors").arrays)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("batch_size=0", "'batch_size' of the recipe cannot be 0; give a whole number above zero"),
        ("epochs=abc", "'epochs' of the recipe cannot be 'abc'; give a whole number"),
        ("epochs=0", "Without an epoch nothing is learnt"),
        ("weight_decay=-1", "'weight_decay' of the recipe cannot be -1; give a number"),
        ("schedule=cosin", "'schedule' of the recipe cannot be 'cosin'; give plateau or cosine"),
        ("lr=1", "the recipe has no setting 'lr'"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(change: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=said):
        trainer.main(["--data", str(tmp_path), "--output", str(tmp_path / "run"), "--set", change])
    assert not (tmp_path / "run").exists()


def test_no_subjects_at_all_are_not_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trainer.main(["--data", str(tmp_path), "--output", str(tmp_path / "run"), "--limit", "0"])
    assert "--limit: '0' is not a whole number of one or more" in capsys.readouterr().err


def test_a_misspelt_label_in_one_file_does_not_make_another_scheme() -> None:
    labels, said = list(load_scheme().labels), []
    first = LandmarkSet(tuple(labels[7:]), np.zeros((43, 3)))  # a scan that does not show all of them
    misspelt = LandmarkSet(("Pronasal", *labels[4:]), np.zeros((47, 3)))
    whole = LandmarkSet(tuple(labels[::-1]), np.zeros((50, 3)))
    sets = [first, misspelt, whole, whole]
    scheme = scheme_of(sets, "lab")
    assert scheme.labels == (*labels, "Pronasal")
    assert without_rare(scheme, sets, said.append).landmarks == load_scheme().landmarks
    assert len(said) == 1 and "'Pronasal' is left out: it is defined on 1 of 4 subjects" in said[0]
    said.clear()
    many = scheme_of([LandmarkSet(("N", "ex_r", "ex_l"), np.zeros((3, 3)))], "lower case")
    assert without_rare(many, [LandmarkSet(("N",), np.zeros((1, 3)))] * 4, said.append).labels == ("N",)
    assert said[0].startswith("Landmarks 'ex_r', 'ex_l' are left out: they are defined on none of 4") and len(said) == 1


def test_subjects_with_too_few_landmarks_for_the_height_maps_are_named(laboratory, aligned, tmp_path):
    folder, few = tmp_path / "data", {"S01": 2, "S04": 1}
    shutil.copytree(laboratory, folder)
    for name, count in few.items():
        landmarks = read_landmarks(folder / f"{name}.fcsv")
        points = np.where(np.arange(len(LABELS))[:, None] < count, landmarks.ordered(LABELS).points, np.nan)
        write_landmarks(folder / f"{name}.fcsv", LandmarkSet(LABELS, points))
    card = run_trainer(folder, tmp_path / "run", like=aligned, config=HEIGHT_MAPS, epochs=1)
    for name, count in few.items():
        assert f"'{name}.ply' has {count} of the landmarks; place three or more" in card["data"]["left_out"][name]


def test_counterparts_of_the_bundled_landmarks_are_found_from_where_they_lie():
    reference = load_reference()
    assert counterparts(reference.landmarks) == load_scheme().mirrored
    without_left_ear = [i for i, label in enumerate(reference.labels) if label != "Ex_L"]
    labels = [reference.labels[i] for i in without_left_ear]
    assert counterparts(reference.landmarks[without_left_ear])[labels.index("Ex_R")] == -1
    # Where names say nothing, the sides are found from there, too.
    unnamed = [str(i) for i in range(len(reference.labels))]
    by_name = sides_of(reference.labels, reference.landmarks)
    assert list(sides_of(unnamed, reference.landmarks).values()) == list(by_name.values())
    assert (by_name["Ex_R"], by_name["Ex_L"], by_name["Sn"]) == ("right", "left", "midline")
    unknown = np.vstack([reference.landmarks, np.full((1, 3), np.nan)])
    assert counterparts(unknown) == (*counterparts(reference.landmarks), -1)
    assert sides_of((*unnamed, "nowhere"), unknown) == sides_of(unnamed, reference.landmarks)
    again = reference_with(reference, reference.labels, reference.landmarks)
    assert (again.landmark_normals * reference.landmark_normals).sum(axis=1).min() > 0.95


# ---------------------------------------------------------------------------------------------------------------------
# Pools of prepared scans


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    reference = load_reference()
    for number in range(6):
        mesh, _ = person(number)
        visible = np.ones(len(reference.labels), dtype=bool)
        visible[0] = number != 2
        scan = prepare_scan(mesh, landmarks_of(number, reference.labels), visible, reference)
        save_prepared(folder / f"train-{number:05d}.prepared.npz", scan)
    return folder


def test_palnet_trains_on_a_pool(pool, tmp_path):
    card = run_trainer(pool, tmp_path, "--validation", str(pool), "--limit", "5", config=TINY, epochs=2)
    assert card["data"]["splits"]["training"]["subjects"] == 5
    assert card["test"] is None
    arrays = open_patches(next(tmp_path.glob("patches-????????????")))
    numbers = [int(name.split("-")[1]) for name in arrays.names["training"]]
    # The same folder for validation means a share of it: nobody is on both sides.
    assert not {*arrays.names["training"]} & {*arrays.names["validation"]} and 2 in numbers
    # At the subjects' own size, off by a rigid motion only.
    for number, found in zip(numbers, arrays.landmarks["training"]):
        truth = landmarks_of(number, load_reference().labels)
        assert np.isfinite(found).all(axis=1).tolist() == [number != 2] + [True] * 49
        lengths = [np.linalg.norm(points[5] - points[1:], axis=1) for points in (found, truth)]
        np.testing.assert_allclose(*lengths, atol=0.1)
        assert 0.3 < np.linalg.norm(found - truth, axis=1)[1:].mean() < 30


def test_height_map_network_trains_on_pools_as_before(pool, tmp_path):
    run_trainer(pool, tmp_path, "--validation", str(pool), config=HEIGHT_MAPS, epochs=1)
    weights = load_weights(tmp_path / "weights.safetensors")
    np.testing.assert_allclose(weights.fact("mean_landmarks"), load_reference().landmarks, atol=1e-4)
    assert tuple(weights.fact("labels")) == load_scheme().labels
    assert LandmarkDetector.load(tmp_path / "weights.safetensors", device="cpu").labels == load_scheme().labels


def test_many_subjects_bring_the_parts_across_landmarks(pool):
    scheme, reference, scan = load_scheme(), load_reference(), next(pool.glob("*.prepared.npz"))
    few = HeightMapTask(scheme, reference, [scan] * (ACROSS_FROM - 1), [], 0)
    many = HeightMapTask(scheme, reference, [scan] * ACROSS_FROM, [], 0)
    assert (few.config.mixing, few.config.joint) == (0, 0)
    assert (many.config.mixing, many.config.joint) == (MIXING, JOINT)
    for task, expected in ((few, False), (many, True)):
        network = task.build()
        assert has_across(network.state_dict()) == has_across(network.to_arrays()) == expected


def test_finetuning_keeps_the_architecture_it_starts_from(pool, tmp_path, capsys):
    """The bundled network learnt from many; few subjects go on with all of it."""
    bundled = ROOT / "PALNetLandmarks" / "Resources" / "Weights.safetensors"
    recipe = {"batch_size": 2, "learning_rate": 1e-5}
    more = ("--validation", str(pool), "--finetune", str(bundled))
    card = run_trainer(pool, tmp_path, *more, config=HEIGHT_MAPS, epochs=1, **recipe)
    said = " ".join(capsys.readouterr().err.split())
    assert ("No epoch did better on the validation subjects" in said) == (card["best"]["epoch"] == 0)
    trained = load_weights(tmp_path / "weights.safetensors")
    assert trained.fact("config") == load_weights(bundled).fact("config")
    history = json.loads((tmp_path / "history.json").read_text(encoding="utf-8"))
    assert [entry["epoch"] for entry in history] == [0, 1]


def test_an_export_says_of_the_training_what_the_run_noted(pool, tmp_path, capsys):
    bundled = ROOT / "PALNetLandmarks" / "Resources" / "Weights.safetensors"
    run, out = tmp_path / "run", tmp_path / "out" / "Mine.safetensors"
    noted = run_trainer(pool, run, "--finetune", str(bundled), config=HEIGHT_MAPS, epochs=0, seed=3)
    asked = ["--run", str(run), "--output", str(out), "--version", "mine"]
    export([*asked, "--passes", "2", "--subjects", "5000"])
    card = json.loads((out.parent / "model-card.json").read_text(encoding="utf-8"))
    assert card["started_from"] == noted["started_from"] == load_weights(bundled).sha256
    assert (card["seed"], card["device"], card["commit"]) == (3, "cpu", noted["commit"])
    assert card["data"]["splits"]["training"] == {"folder": str(pool), "subjects": 5000}
    assert card["data"]["splits"]["validation"] == noted["data"]["splits"]["validation"]
    assert noted["test"] and card["test"] is None and "test" not in card["data"]["splits"]
    assert load_weights(out).fact("passes") == 2
    # The card of a run that goes on after its end is not of what is exported.
    stale = json.loads((run / "model-card.json").read_text(encoding="utf-8"))
    (run / "model-card.json").write_text(json.dumps({**stale, "epochs": 7, "seed": 9}), encoding="utf-8")
    export(asked)
    card = json.loads((out.parent / "model-card.json").read_text(encoding="utf-8"))
    assert card["data"]["splits"]["validation"] == {"folder": str(pool), "subjects": "?"}
    assert (card["started_from"], card["seed"], card["device"]) == (noted["started_from"], 3, "?")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--passes", "0"], "not a whole number of one or more"),
        (["--run", "{tmp}/absent"], "absent/best.pt' cannot be read"),
        (["--output", "{tmp}/run/W.safetensors"], "has a model card of its own"),
        (["--output", "{tmp}"], "is a folder; give the name of a file"),
        (["--output", "{tmp}/file/W.safetensors"], "cannot hold results"),
        (["--about", "{tmp}/file"], "file' cannot be read as JSON"),
        (["--average-with", "{bundled}"], "are of different networks"),
        (["--average-with", "{other}", "--share", "8"], "between 0 and 1"),
    ],
)
def test_an_export_that_cannot_be_leaves_no_weights(options, said, tmp_path, capsys):
    bundled, run, other = ROOT / "PALNetLandmarks/Resources/Weights.safetensors", tmp_path / "run", tmp_path / "other"
    task = HeightMapTask(load_scheme(), load_reference(), [], [], 0)
    network = task.build()
    run.mkdir()
    torch.save(network.state_dict(), run / "best.pt")
    (run / "history.json").write_text(json.dumps([{"epoch": 1, "error_mm": 1.0}]))
    noted = {"recipe": {}, "data": "data", "validation": None, "finetune": None}
    (run / "settings.json").write_text(json.dumps(noted))
    write_weights(other, network.to_arrays(), task.metadata(), "other", {})
    (tmp_path / "file").write_text("no folder, no JSON")
    filled = [option.format(tmp=tmp_path, bundled=bundled, other=other) for option in options]
    out = tmp_path / "out" / "W.safetensors"
    with pytest.raises(SystemExit) as ended:
        export(["--run", str(run), "--output", str(out), "--version", "mine", *filled])
    assert said in f"{ended.value} {capsys.readouterr().err}"
    assert not list(tmp_path.rglob("*W.safetensors*")) and not list(tmp_path.rglob("model-card*"))


def test_a_run_s_own_architecture_is_opened_again(tmp_path):
    model = {"heads": 8, "maps": {"pitch_mm": [1.0, 2.5]}}
    network = HeightMapTask(load_scheme(), load_reference(), [], [], 0, model=model).build()
    torch.save(network.state_dict(), tmp_path / "best.pt")
    (tmp_path / "settings.json").write_text(json.dumps({"model": model}))
    task, opened = open_trained(tmp_path)
    assert task.config.heads == 8 and task.config.maps.pitch_mm == (1.0, 2.5)
    assert task.config == opened.config


def test_labels_that_the_weights_do_not_know_are_named_with_what_may_be_meant():
    said: list[str] = []
    bundled = ROOT / "PALNetLandmarks" / "Resources" / "Weights.safetensors"
    named = [label for label in load_scheme().labels if label != "Ex_R"]
    assert scheme_to_finetune(bundled, [*named, "exR", "our point"], said.append) == load_scheme()
    assert [meant_by(label, load_scheme().labels) for label in ("T-R", "t r", "TR", "tragion left", "Prn2")] == [
        "T_R",
        "T_R",
        "Tr",
        "T_L",
        None,
    ]
    assert said == [
        "Left out, as 'Weights.safetensors' does not know them: exR ('Ex_R' may be meant), our point.",
        "No landmark file has Ex_R; they stay as 'Weights.safetensors' has them.",
    ]


@pytest.mark.parametrize("kept", [True, False])
def test_who_interrupts_is_told_whether_anything_is_kept(kept, tmp_path, monkeypatch):
    def interrupted(options):
        if kept:
            (options.output / "checkpoint.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_run", interrupted)
    with pytest.raises(SystemExit, match="goes on from the last checkpoint" if kept else "begins anew"):
        trainer.main(["--data", str(tmp_path), "--output", str(tmp_path)])


def test_finetuning_takes_over_where_a_laboratory_puts_its_landmarks(tmp_path, capsys):
    """Eight faces, nine of the landmarks and one of the laboratory's own; its Pg lies 4 mm higher."""
    labels, own = ("N", "Prn", "Sn", "Pg", "Ex_R", "Ex_L", "Ch_R", "Ch_L", "Al_R"), "our point"
    data = tmp_path / "data"
    data.mkdir()
    for number in range(8):
        mesh, _ = person(number)
        points = landmarks_of(number, labels)
        points[3] = mesh.points[cKDTree(mesh.points).query(points[3] + (0, 0, 4))[1]]
        write_ply(data / f"S{number}.ply", mesh.points, mesh.triangles)
        write_landmarks(data / f"S{number}.mrk.json", LandmarkSet((*labels, own), np.vstack([points, points[:1]])))
    bundled = ROOT / "PALNetLandmarks" / "Resources" / "Weights.safetensors"
    run, config = tmp_path / "run", {**HEIGHT_MAPS, "split": {"validation": 0.1, "test": 0.1}}
    card = run_trainer(data, run, "--finetune", str(bundled), config=config, epochs=0)
    said = " ".join(capsys.readouterr().err.split())
    assert f"does not know them: {own}." in said and "No landmark file has Tr, G, C, Ls" in said
    assert "Not trained: what it began with has" in (run / "model-card.md").read_text(encoding="utf-8")
    assert card["labels"] == list(load_scheme().labels)
    assert 2 < card["start"]["moved_mm"]["Pg"] < 5
    assert "nothing was taken over" not in said
    few = run_trainer(data, tmp_path / "few", "--finetune", str(bundled), "--limit", "2", config=config, epochs=0)
    assert "2 scans to train on" in " ".join(capsys.readouterr().err.split())
    assert few["start"]["moved_mm"] is None
    assert "elsewhere than the start" not in (tmp_path / "few" / "model-card.md").read_text(encoding="utf-8")
    # Interrupted before the first checkpoint, it begins as it began.
    started = (run / "start.json").read_text(encoding="utf-8")
    (run / "checkpoint.pt").unlink()
    again = run_trainer(data, run, "--finetune", str(bundled), config=config, epochs=0)
    assert (run / "start.json").read_text(encoding="utf-8") == started
    assert again["weights"]["sha256"] == card["weights"]["sha256"]
    assert set(card["start"]["untaught"]) == set(load_scheme().labels) - set(labels)
    before, after = load_weights(bundled), load_weights(run / "weights.safetensors")
    scale = [np.array(weights.fact("deviation_scale")) for weights in (before, after)]
    kept = [load_scheme().labels.index(label) for label in card["start"]["untaught"]]
    np.testing.assert_allclose(scale[1][kept], scale[0][kept], atol=1e-4)
    assert after.fact("passes") == before.fact("passes") == 4
    # On a face that it has not seen: Pg has moved up, what nobody placed stays.
    mesh, _ = person(30)
    there = [LandmarkDetector.load(path, device="cpu").detect(mesh) for path in (bundled, run / "weights.safetensors")]
    moved, pg = (there[1].points - there[0].points) / there[0].face_scale, load_scheme().labels.index("Pg")
    assert moved[pg, 2] > 2
    assert np.linalg.norm(moved[pg]) == pytest.approx(card["start"]["moved_mm"]["Pg"], abs=0.5)
    assert np.linalg.norm(moved[kept], axis=1).max() < 1
    # In the files to train on, what nobody placed is where the network has it.
    scans = [load_prepared(file) for file in run.glob("scans-*/training-*.prepared.npz")]
    assert len(scans) == 6 and all(np.isfinite(scan.landmarks).all() for scan in scans)


def test_weights_of_another_network_are_refused_before_any_scan_is_looked_at(tmp_path):
    bundled = ROOT / "PALNetLandmarks" / "Resources" / "Weights.safetensors"
    with pytest.raises(SystemExit, match=r"--config training/configs/height-map-net\.json, .* or leave"):
        trainer.main(["--data", str(tmp_path), "--output", str(tmp_path / "run"), "--finetune", str(bundled)])


def test_only_what_exceeds_chance_is_a_habit():
    rng = np.random.default_rng(0)
    kinds = (0, 1, 1, 2)
    residuals = rng.normal(0, 1, (20, 4, 3)) + np.array([[0, 0, 0], [0, 3, 0], [0, 3, 0], [5, 0, 0]])
    residuals[2:, 3] = np.nan  # two subjects are too few
    found = habits(residuals, kinds)
    np.testing.assert_allclose(found[1], (0, 3, 0), atol=0.5)
    assert not found[2].any()
    for subjects in (3, 20):
        none = [habits(rng.normal(0, 1, (subjects, 1, 3)), (0,)) for _ in range(1000)]
        assert 0.03 < np.mean([one.any() for one in none]) < 0.07
    assert max(np.linalg.norm(one) for one in none) < 0.5


@pytest.mark.parametrize("gain", [0.7, 1.0, 1.8])
def test_a_shift_carries_as_far_as_was_asked_for(gain):
    moved = np.array([[0, 0, 4.0], [0, 0, 0], [1.0, -2.0, 0]])
    turned = gain * np.array([[1, 0.1, 0], [-0.1, 1, 0], [0, 0, 1]])
    ended = shift_that_carries(moved, lambda shift: shift @ turned.T + [0, 0, 0.01]) @ turned.T
    np.testing.assert_allclose(ended, moved, atol=0.05)
    assert not shift_that_carries(np.zeros((2, 3)), lambda shift: 1 / 0).any()


def test_finetuning_goes_on_from_weights_older_than_the_parts_across_landmarks(pool, tmp_path):
    task = HeightMapTask(load_scheme(), load_reference(), [], [], 0, across=False)
    metadata = task.metadata()
    assert metadata["config"].pop("mixing") == metadata["config"].pop("joint") == 0
    old = tmp_path / "old.safetensors"
    write_weights(old, task.build().to_arrays(), metadata, "old", {})
    run_trainer(pool, tmp_path, "--validation", str(pool), "--finetune", str(old), config=HEIGHT_MAPS, epochs=1)
    trained = load_weights(tmp_path / "weights.safetensors")
    assert (trained.fact("config")["mixing"], trained.fact("config")["joint"]) == (0, 0)
    metadata["config"]["width"] += 4
    write_weights(old, task.build().to_arrays(), metadata, "old", {})
    with pytest.raises(SystemExit, match="has other settings"):
        run_trainer(pool, tmp_path / "b", "--validation", str(pool), "--finetune", str(old), config=HEIGHT_MAPS)


def test_the_mean_of_two_weights_lies_between_them():
    first, second = {"a": np.full((2, 3), 1.0, np.float32)}, {"a": np.full((2, 3), 2.0, np.float16)}
    mean = average_weights(first, second, 0.75)["a"]
    assert mean.dtype == np.float32 and np.allclose(mean, 1.25)
    with pytest.raises(TrainingDataError, match="different networks"):
        average_weights(first, {"a": np.zeros((3, 3), np.float32)}, 0.5)
    with pytest.raises(TrainingDataError, match="between 0 and 1"):
        average_weights(first, second, 80)


def test_denser_cloud_stays_on_the_surface():
    height = 1 - (2 * np.arange(8000) + 1) / 8000
    turn = np.arange(8000) * np.pi * (3 - np.sqrt(5))
    normals = np.stack([np.sqrt(1 - height**2) * np.cos(turn), np.sqrt(1 - height**2) * np.sin(turn), height], axis=1)
    points = 80 * normals
    dense = densify(points, normals, 20_000)
    assert len(dense) == 20_000
    assert np.abs(np.linalg.norm(dense, axis=1) - 80).max() < 0.15
    # Nearer to one another than the samples, as so many points are.
    spacing = [np.median(cKDTree(cloud).query(cloud[::10], 9)[0][:, 8]) for cloud in (points, dense)]
    assert spacing[1] / spacing[0] == pytest.approx(np.sqrt(8000 / 20_000), rel=0.1)
    assert len(densify(points, normals, 500)) == 500


def test_trains_on_simulated_captures(shared, tmp_path):
    """From the simulator's files to weights: a cohort is a folder like a laboratory's."""
    pytest.importorskip("embreex", reason="embreex (extra 'training') is not installed")
    from training import cohort

    plan = replace(cohort.PLANS["lafas-sim"], device="clean", hair=0.0)
    for index in range(3):
        cohort.make_subject(index, plan, "train", shared / "face-model", tmp_path)
    config = {**TINY, "split": {"validation": 0.3, "test": 0.3}}
    card = run_trainer(tmp_path, tmp_path / "run", config=config, epochs=1)
    assert [split["subjects"] for split in card["data"]["splits"].values()] == [1, 1, 1]
    # The one training subject decides: what the cameras did not see of it cannot be learnt.
    sets = [read_landmarks(path) for path in sorted(tmp_path.glob("*.mrk.json"))]
    assert card["labels"] in [[label for label, there in zip(s.labels, s.defined) if there] for s in sets]
    assert set(load_scheme().labels) - set(card["labels"]) <= {"Pa_R", "Pa_L"}


# ---------------------------------------------------------------------------------------------------------------------
# Loop, loss, measures


class Line:
    """A toy task: learn y = 2 x."""

    size = 8

    def __init__(self, errors=None) -> None:
        self.errors = errors
        self.seen = 0

    def build(self):
        torch.manual_seed(0)
        return torch.nn.Linear(1, 1)

    def batches(self, epoch, samples, batch_size, rank, world):
        for chosen in split_batches(np.arange(samples), batch_size, rank, world):
            yield torch.from_numpy(chosen[:, None] / 8).float()

    def loss(self, network, batch):
        return ((network(batch) - 2 * batch) ** 2).mean()

    def validate(self, network):
        self.seen += 1
        return {"error_mm": self.errors[self.seen - 1] if self.errors else abs(2 - float(network.weight.detach()))}


def test_early_stopping_and_best_weights(tmp_path):
    task = Line([5.0, 3.0, 4.0, 4.0, 4.0, 1.0])
    network, history = train(task, Recipe(epochs=50, early_stop=3), tmp_path, torch.device("cpu"))
    assert len(history) == 5
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    last = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"]
    assert torch.equal(network.weight, best["weight"])
    assert not torch.equal(best["weight"], last["weight"])


class Adjustable(torch.nn.Linear):
    """A line that may start from given weights."""

    def load_arrays(self, arrays):
        self.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


def test_checkpoints_are_written_by_time_and_at_the_end(tmp_path, monkeypatch):
    writes = []
    real = sys.modules["training.loop"]._save
    monkeypatch.setattr("training.loop._save", lambda path, content: (writes.append(path.name), real(path, content)))
    task = Line([5.0, 4.0, 3.0, 3.5, 3.6])
    _, history = train(task, Recipe(epochs=5, early_stop=0), tmp_path, torch.device("cpu"))
    assert writes == ["best.pt", "checkpoint.pt"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4, 5]
    writes.clear()
    monkeypatch.setattr("training.loop.SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    train(Line([5.0, 4.0, 4.5]), Recipe(epochs=3, early_stop=0), tmp_path / "often", torch.device("cpu"))
    assert writes == ["best.pt", "checkpoint.pt", "best.pt", "checkpoint.pt", "checkpoint.pt"]


def test_finetuning_never_ends_worse_than_it_began(tmp_path, monkeypatch):
    monkeypatch.setattr(Line, "build", lambda self: Adjustable(1, 1))
    start = {"weight": np.full((1, 1), 2.0, np.float32), "bias": np.zeros(1, np.float32)}
    recipe, device = Recipe(epochs=3, early_stop=0), torch.device("cpu")
    network, history = train(Line([1.0, 3.0, 2.0, 1.5]), recipe, tmp_path / "worse", device, initial=start)
    assert [entry["epoch"] for entry in history] == [0, 1, 2, 3]
    assert network.weight.item() == 2.0 and network.bias.item() == 0.0
    start["weight"] += 1.0
    network, _ = train(Line([4.0, 3.0, 2.0, 1.5]), recipe, tmp_path / "better", device, initial=start)
    assert network.weight.item() < 3.0


def test_run_of_another_optimizer_kernel_goes_on(tmp_path, monkeypatch):
    """A checkpoint of a machine, or a version, without the fused kernel is taken up by one that has it, and back."""
    recipe, device = Recipe(epochs=4, early_stop=0, learning_rate=0.05, batch_size=4), torch.device("cpu")
    with monkeypatch.context() as patch:
        patch.setattr("training.loop._optimizer", lambda network, _: torch.optim.AdamW(network.parameters(), lr=0.05))
        train(Line(), replace(recipe, epochs=2), tmp_path / "a", device)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    resumed, _ = train(Line(), recipe, tmp_path / "a", device)
    with monkeypatch.context() as patch:
        patch.setattr("training.loop._optimizer", lambda network, _: torch.optim.AdamW(network.parameters(), lr=0.05))
        plain, _ = train(Line(), recipe, tmp_path / "b", device)
    assert resumed.weight.item() == pytest.approx(plain.weight.item(), abs=1e-6)


def test_rate_halves_on_a_plateau(tmp_path):
    task = Line([1.0] * 20)
    train(task, Recipe(epochs=6, early_stop=0, patience=2, learning_rate=0.5), tmp_path, torch.device("cpu"))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["state"]["rate"] == 0.25
    assert saved["optimizer"]["param_groups"][0]["lr"] == 0.125


def test_loop_learns_and_keeps_to_its_time(tmp_path):
    recipe = Recipe(epochs=60, early_stop=0, learning_rate=0.05, batch_size=4)
    _, history = train(Line(), recipe, tmp_path / "a", torch.device("cpu"))
    assert len(history) == 60 and history[-1]["error_mm"] < 0.1 * history[0]["error_mm"]
    _, history = train(Line(), recipe, tmp_path / "b", torch.device("cpu"), minutes=1e-6)
    assert len(history) == 1
    _, history = train(Line(), recipe, tmp_path / "b", torch.device("cpu"), minutes=1e-6)
    assert len(history) == 1  # an interrupted run has no more time than another


def test_cosine_ends_with_the_time(tmp_path, monkeypatch):
    """A run that time ends has come down to a small rate, like one that goes through all its epochs."""
    clock = iter(range(10_000))
    monkeypatch.setattr("training.loop._clock", lambda device: 10.0 * next(clock))
    recipe = Recipe(epochs=1000, early_stop=0, schedule="cosine", learning_rate=0.05, batch_size=4)
    _, history = train(Line(), recipe, tmp_path, torch.device("cpu"), minutes=10)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(history) == 60  # an epoch takes one tick
    assert saved["optimizer"]["param_groups"][0]["lr"] < 0.01 * 0.05


@pytest.mark.parametrize(("lost", "said"), [("best.pt", "is gone"), ("checkpoint.pt", "is damaged")])
def test_a_run_that_lost_a_file_is_refused(tmp_path, lost, said):
    train(Line(), Recipe(epochs=1), tmp_path, torch.device("cpu"))
    if lost == "best.pt":
        (tmp_path / lost).unlink()
    else:
        (tmp_path / lost).write_bytes((tmp_path / lost).read_bytes()[:200])
    with pytest.raises(LandmarkingError, match=said):
        train(Line(), Recipe(epochs=2), tmp_path, torch.device("cpu"))


def test_divergence_is_said(tmp_path):
    with pytest.raises(FloatingPointError, match="diverged"):
        train(Line([1.0, float("nan")]), Recipe(epochs=3), tmp_path / "error", torch.device("cpu"))
    with pytest.raises(FloatingPointError, match=r"diverged in epoch 1 \(its loss or weights"):
        train(Line(), Recipe(epochs=3, learning_rate=1e38), tmp_path / "weights", torch.device("cpu"))


def test_mixed_precision_runs_where_asked_for(tmp_path):
    _, history = train(Line(), Recipe(epochs=2, precision="bfloat16"), tmp_path, torch.device("cpu"))
    assert np.isfinite(history[-1]["loss"])


@pytest.mark.parametrize(("count", "size", "world"), [(12, 16, 2), (1200, 16, 1), (13, 4, 3), (5, 2, 4)])
def test_every_process_gets_as_many_batches_and_every_example_is_used(count, size, world):
    parts = [split_batches(np.arange(count), size, rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    assert sorted(np.concatenate([batch for part in parts for batch in part])) == list(range(count))
    assert max(len(batch) for part in parts for batch in part) <= size
    with pytest.raises(ValueError, match="too few"):
        split_batches(np.arange(world - 1), size, 0, world)


def test_undefined_landmarks_have_no_part_in_the_loss():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(3, 6, 3, generator=generator, dtype=torch.float64) * 50
    predicted = (target + torch.randn(3, 6, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    known = torch.ones(3, 6, dtype=torch.bool)
    known[:, 2] = False
    blank = torch.where(known[..., None], target, torch.nan)
    loss = LandmarkLoss()(predicted, blank, known)
    others = [0, 1, 3, 4, 5]
    assert loss.item() == pytest.approx(LandmarkLoss()(predicted[:, others], target[:, others]).item(), rel=1e-12)
    loss.backward()
    assert (predicted.grad[:, 2] == 0).all()
    assert torch.isfinite(predicted.grad).all() and (predicted.grad[:, others].abs().sum(dim=-1) > 0).all()


def test_measures_are_those_of_a_case_worked_out():
    truth = np.array([[[0.0, 0, 0], [10, 0, 0], [0, 10, 0]], [[0, 0, 0], [10, 0, 0], [np.nan] * 3]])
    predicted = np.zeros((2, 3, 3))
    predicted[:, 1], predicted[:, 2] = [13, 0, 0], [0, 10, 0]
    result = measure(predicted, truth, ("a", "b", "c"))
    assert result["point_wise_mm"] == pytest.approx((3 + 3) / 5)
    distances = [3, 0, np.hypot(13, 10) - np.hypot(10, 10), 3]
    assert result["distance_wise_mm"] == pytest.approx(np.mean(distances), abs=1e-4)
    assert result["landmarks"]["b"] == {"mean_mm": 3.0, "sd_mm": 0.0, "subjects": 2}
    assert result["landmarks"]["c"]["subjects"] == 1


def test_mean_landmarks_are_over_those_that_have_them():
    first, second = np.array([[1.0, 2, 3], [np.nan] * 3]), np.array([[3.0, 2, 1], [4, 5, 6]])
    np.testing.assert_array_equal(mean_landmarks([first, second]), [[2, 2, 2], [4, 5, 6]])


def test_both_sides_of_the_face_share_the_scale_of_their_deviations():
    rng = np.random.default_rng(2)
    deviations = rng.uniform(0.5, 2.0, (400, 3))
    factor = np.array([1.0, 3.0, 3.0])
    errors = np.linalg.norm(rng.normal(size=(400, 3, 3)), axis=2) * deviations * factor
    errors[rng.random((400, 3)) < 0.3] = np.nan  # landmarks that some scans do not show
    errors[:, 2] *= 1.2  # chance: one side came out larger
    scale = fit_deviation_scale(errors, deviations, (0, 2, 1))
    assert scale[1] == scale[2] and 3.0 < scale[1] < 3.6
    assert 1.0 <= scale[0] < 1.35  # drawn a little towards the common scale
    assert fit_deviation_scale(errors[:, :1], deviations[:, :1], (-1,))[0] == pytest.approx(1.0, abs=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_ends_the_command_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="Error: torch finds no 'cuda' device on this computer; choose --device cpu"):
        trainer.main(["--data", str(tmp_path), "--output", str(tmp_path / "run"), "--device", "cuda"])
