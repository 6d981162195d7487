"""Checking a laboratory's folder: habits are no faults; single points that slipped and exchanged names are named."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the trainer's packages are not installed: pip install -e '.[training,test]'")

from PALNetLandmarksLib.detector import LandmarkDetector
from PALNetLandmarksLib.landmark_files import read_landmarks, write_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.write_results import write_results

from training import check_data
from training.check_data import Expected, habits_of, odd_landmarks
from training.folder import Subject, TrainingDataError, read_landmark_files, shared_subjects, twins

LABELS = ("N", "Prn", "Pg", "Gn", "Ex_R")
PLACES = np.array([[0, 0, 40], [0, -20, 0], [0, 0, -60], [0, 5, -75], [-45, 20, 35]], dtype=float)


def faces(count: int = 12, scatter: float = 1.0) -> list[Expected]:
    """Annotators who put N 4 mm higher than the weights; each face has a place and size of its own."""
    rng = np.random.default_rng(3)
    habit = np.array([[0, 0, 4.0], *np.zeros((4, 3))])
    detected = [PLACES * rng.uniform(0.9, 1.1) + rng.normal(0, 50, 3) for _ in range(count)]
    return [
        Expected(f"S{i}", points + habit + rng.normal(0, scatter, (5, 3)), points, np.full(5, 0.8))
        for i, points in enumerate(detected)
    ]


def test_a_habit_is_no_fault() -> None:
    assert odd_landmarks(faces(), LABELS) == {}
    assert habits_of(faces(), LABELS) == {"N": pytest.approx(4.0, abs=1.0)}
    assert habits_of(faces(2), LABELS) == {}, "two subjects do not tell a habit"
    slipped = faces()
    slipped[3].annotated[1] += (0, 0, 60)
    assert habits_of(slipped, LABELS).keys() == {"N"}, "nor does one slip"


def test_exchanged_and_slipped_points_are_named_with_their_subject() -> None:
    some = faces()
    some[2].annotated[[2, 3]] = some[2].annotated[[3, 2]]
    some[5].annotated[4] += (0, 0, 12)
    some[7].annotated[1] = np.nan
    odd = odd_landmarks(some, LABELS)
    assert odd.keys() == {"S2", "S5"}
    assert odd["S2"].startswith("Pg and Gn seem to be exchanged (")
    assert odd["S5"].startswith("Ex_R lies 12.") or odd["S5"].startswith("Ex_R lies 11.")


def test_what_the_weights_doubt_may_lie_further_away() -> None:
    some = faces()
    for face in some:
        face.deviation[4] = 3.5
    some[5].annotated[4] += (0, 0, 12)
    assert odd_landmarks(some, LABELS) == {}


def test_another_subject_s_file_is_told_as_one() -> None:
    some = faces()
    some[4].annotated[:] += np.random.default_rng(0).normal(0, 8, (5, 3))
    assert odd_landmarks(some, LABELS) == {"S4": odd_landmarks(some, LABELS)["S4"]}
    assert "so they may be another subject's" in odd_landmarks(some, LABELS)["S4"]


def test_twins_have_the_same_points_whatever_else_differs() -> None:
    points = np.array([[1.0, 2, 3], [4, 5, 6], [np.nan] * 3])
    sets = {
        "a": LandmarkSet(("N", "Prn", "Sn"), points),
        "turned": LandmarkSet(("Prn", "N", "Sn"), points[[1, 0, 2]] * (-1, -1, 1), "RAS"),
        "other": LandmarkSet(("N", "Prn", "Sn"), points + 1),
        "empty": LandmarkSet(("N",), np.full((1, 3), np.nan)),
        "empty too": LandmarkSet(("N",), np.full((1, 3), np.nan)),
    }
    assert twins(sets) == [("a", "turned")]
    assert shared_subjects({"a": sets["a"]}, sets) == ["a", "turned"]


def test_a_single_scan_is_compared_with_the_weights_themselves() -> None:
    (one,) = faces(1)
    one.annotated[4] += (12, 0, 0)
    assert "Ex_R" in odd_landmarks([one], LABELS)["S0"]
    assert odd_landmarks([], LABELS) == {}


def test_a_folder(resources, tmp_path, capsys) -> None:
    """The bundled sample four times, as somebody near the module places its landmarks; one file has two names
    exchanged."""
    rng = np.random.default_rng(1)
    sample = resources / "SampleScan.ply"
    detection = LandmarkDetector.load().detect(read_scan(sample))
    labels = list(detection.labels)
    for number in range(4):
        shutil.copy(sample, tmp_path / f"S{number}.ply")
        names = list(labels)
        if number == 2:
            i, j = names.index("Pg"), names.index("Ch_L")
            names[i], names[j] = names[j], names[i]
        if number == 3:
            names[names.index("Sn")] = "Subnasale"
        points = np.where(detection.missing[:, None], np.nan, detection.points + rng.normal(0, 0.3, (len(labels), 3)))
        write_landmarks(tmp_path / f"S{number}.mrk.json", LandmarkSet(tuple(names), points))
    (tmp_path / "S4.mrk.json").write_bytes((tmp_path / "S0.mrk.json").read_bytes())
    with pytest.raises(SystemExit) as end:
        check_data.main(["--data", str(tmp_path)])
    said = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 1
    assert "Left out: S4: its landmark file has no scan" in said
    assert "'Subnasale' (S3) is not known to the weights, so it is not checked; 'Sn' may be meant." in said
    assert said.count("Look at:") == 1 and "Look at: S2: Pg and Ch_L seem to be exchanged" in said
    assert "Scans: can be used 4, left out 1, not checked 0, with points to look at 1." in said

    # What a detection left beside a scan is no annotation.
    shutil.copy(sample, tmp_path / "S5.ply")
    write_results("S5", tmp_path, (".mrk.json",), read_scan(sample), detection)
    with pytest.raises(SystemExit):
        check_data.main(["--data", str(tmp_path)])
    said = " ".join(capsys.readouterr().out.split())
    assert "S5: its landmarks are as this module detected them, none corrected" in said and "can be used 4" in said

    # One landmark that the user corrected or took away makes it one.
    file = tmp_path / "S5.mrk.json"
    subject, found = Subject("S5", tmp_path / "S5.ply", file), read_landmarks(file)
    with pytest.raises(TrainingDataError, match="No landmark file can be used"):
        read_landmark_files([subject])
    for points in (found.points, np.where(np.arange(len(labels))[:, None] == 7, np.nan, found.points)):
        write_landmarks(file, replace(found, points=points, corrected=np.arange(len(labels)) == 7))
        assert "S5" in read_landmark_files([subject])[0]
    for path in tmp_path.glob("S5.*"):
        path.unlink()

    shutil.copy(tmp_path / "S0.ply", tmp_path / "S4.ply")
    with pytest.raises(SystemExit):
        check_data.main(["--data", str(tmp_path)])
    assert "S0 and S4 have the same points" in " ".join(capsys.readouterr().out.split())

    for name in ("S2", "S3", "S4", "S5"):
        for file in tmp_path.glob(f"{name}.*"):
            file.unlink()
    with pytest.raises(SystemExit) as end:
        check_data.main(["--data", str(tmp_path)])
    assert end.value.code == 0
    assert "Scans: can be used 2, left out 0, not checked 0, with points to look at 0." in capsys.readouterr().out
