"""Distances and angles between landmarks: known figures, their standard deviations, and units."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PALNetLandmarksLib.align import UNITS
from PALNetLandmarksLib.errors import OutputError, UnknownUnitError, UnreadableLandmarksError
from PALNetLandmarksLib.landmark_files import write_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.measurements import (
    angles,
    check_sides,
    distances,
    doubts,
    load_measurements,
    measure,
    unit_of_landmarks,
    write_measurements,
)
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.scheme import load_scheme, other_side
from scipy.spatial.transform import Rotation

REFERENCE = load_reference()
MEAN = dict(zip(REFERENCE.labels, REFERENCE.landmarks))


def values(points: dict, deviations: dict | None = None) -> dict:
    return {one.measurement.name: one for one in measure(points, deviations or {})}


def test_the_papers_measurements_are_between_known_landmarks() -> None:
    all_of_them = load_measurements()
    assert [one.is_angle for one in all_of_them] == [False] * 20 + [True] * 9
    assert len({one.name for one in all_of_them}) == 29
    assert {label for one in all_of_them for label in one.landmarks} <= set(load_scheme().labels)


@pytest.mark.parametrize("kinds", [load_scheme().labels, ("N", "Prn", "Sn", "Pg", "Ex_R", "Ex_L", "Ch_R", "Ch_L")])
def test_exchanged_sides_are_refused(kinds: tuple[str, ...]) -> None:
    rng = np.random.default_rng(5)
    points = np.array([MEAN[label] for label in kinds]) * rng.uniform(0.9, 1.1, 3) + rng.normal(0, 2, (len(kinds), 3))
    points = points @ Rotation.random(random_state=rng).as_matrix().T / 10  # cm, in any pose
    check_sides(LandmarkSet(kinds, points), REFERENCE, "a.csv")
    with pytest.raises(
        UnreadableLandmarksError, match=r"^The landmarks of 'a\.csv' make a face only with right and left"
    ):
        check_sides(LandmarkSet(tuple(other_side(label) for label in kinds), points), REFERENCE, "a.csv")
    check_sides(LandmarkSet(("Ex_L", "Ex_R"), points[:2]), REFERENCE, "a.csv")  # nobody can tell


def test_a_unit_that_is_given_is_taken_unless_the_face_is_plainly_another() -> None:
    small = LandmarkSet(REFERENCE.labels, REFERENCE.landmarks * 0.55 / 10)  # nearer to a face in inches
    assert unit_of_landmarks(small, REFERENCE, "a.csv") == "inch"
    assert unit_of_landmarks(small, REFERENCE, "a.csv", "cm") == "cm"
    with pytest.raises(UnknownUnitError, match="make a face in inch, not in m; leave out --unit"):
        unit_of_landmarks(small, REFERENCE, "a.csv", "m")


def test_known_figures() -> None:
    points = {"Tr": [0, 0, 4], "N": [3, 0, 0], "Sn": [3, 0, -1], "Pg": [4, 0, -1]}
    found = values({label: np.array(point, dtype=float) for label, point in points.items()})
    assert found["Tr - N"].value == pytest.approx(5.0)
    assert found["N - Sn - Pg"].value == pytest.approx(90.0)
    assert np.isnan(found["Go_R - Go_L"].value)  # neither is there
    assert np.isnan(found["Tr - N"].standard_deviation)  # nobody said how certain they are


@given(st.integers(0, 2**32 - 1))
def test_a_rigid_motion_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rotation, shift = Rotation.random(random_state=rng), rng.normal(0, 300, 3)
    moved = {label: rotation.apply(point) + shift for label, point in MEAN.items()}
    deviations = {label: float(rng.uniform(0.3, 3)) for label in MEAN}
    for before, after in zip(measure(MEAN, deviations), measure(moved, deviations)):
        assert after.value == pytest.approx(before.value, abs=1e-7)
        assert after.standard_deviation == pytest.approx(before.standard_deviation, abs=1e-7)


def test_right_and_left_are_measured_alike() -> None:
    scheme = load_scheme()
    mirrored = {label: MEAN[scheme.labels[scheme.mirrored[i]]] * [-1, 1, 1] for i, label in enumerate(scheme.labels)}
    before, after = values(MEAN), values(mirrored)
    assert after["T_R - Go_R - Pg"].value == pytest.approx(before["T_L - Go_L - Pg"].value, abs=1e-9)
    assert after["T_L - Sn"].value == pytest.approx(before["T_R - Sn"].value, abs=1e-9)


def test_standard_deviations_are_those_of_repeated_scatter() -> None:
    """The first order against 20,000 draws of independent errors on the mean face."""
    rng = np.random.default_rng(3)
    deviations = {label: float(rng.uniform(0.3, 2.0)) for label in MEAN}
    for one in measure(MEAN, deviations):
        corners = np.array([MEAN[label] for label in one.measurement.landmarks])
        scatter = np.array([deviations[label] for label in one.measurement.landmarks])
        drawn = corners + scatter[:, None] * rng.standard_normal((20_000, len(corners), 3))
        spread = (angles if one.measurement.is_angle else distances)(drawn).std()
        assert one.standard_deviation == pytest.approx(spread, rel=0.05), one.measurement.name


def test_a_landmark_of_unknown_certainty_leaves_the_value_without_one() -> None:
    deviations = {label: 1.0 for label in MEAN if label != "N"}
    found = values(MEAN, deviations)
    assert np.isnan(found["Tr - N"].standard_deviation) and found["Tr - N"].value > 40
    assert found["Sn - Pg"].standard_deviation == pytest.approx(np.sqrt(2))


def test_points_in_one_place_have_an_undefined_slope_and_warn_of_nothing() -> None:
    here = {**MEAN, "N": MEAN["Sn"]}
    assert np.isnan(values(here, dict.fromkeys(MEAN, 1.0))["N - Sn - Pg"].standard_deviation)


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1.0), ("cm", 10.0), ("m", 1000.0), ("inch", 25.4)])
@pytest.mark.parametrize("size", [0.65, 0.72, 1.0, 1.25])
def test_the_unit_is_found_from_small_and_large_faces(unit: str, mm: float, size: float) -> None:
    rotation = Rotation.random(random_state=1).as_matrix()
    points = (REFERENCE.landmarks * size) @ rotation.T / mm + 7
    assert unit_of_landmarks(LandmarkSet(REFERENCE.labels, points), REFERENCE, "anna.fcsv") == unit


@pytest.mark.parametrize(("unit", "size"), [(1.0, 0.52), (1.0, 1.9), (1000.0, 0.52), (25.4, 0.52)])
def test_an_infant_s_face_has_its_unit_where_no_other_comes_near(unit: float, size: float) -> None:
    found = unit_of_landmarks(LandmarkSet(REFERENCE.labels, REFERENCE.landmarks * size / unit), REFERENCE, "anna.fcsv")
    assert UNITS[found] == unit


def test_halfway_between_two_units_none_is_chosen() -> None:
    between = LandmarkSet(REFERENCE.labels, REFERENCE.landmarks / np.sqrt(10 * 25.4))
    with pytest.raises(UnknownUnitError, match="do not make a face"):
        unit_of_landmarks(between, REFERENCE, "anna.fcsv")
    assert unit_of_landmarks(between, REFERENCE, "anna.fcsv", "inch") == "inch"


def test_points_that_slipped_and_names_mistyped_are_mentioned() -> None:
    sound = LandmarkSet(REFERENCE.labels, REFERENCE.landmarks)
    assert doubts(sound, REFERENCE, "anna.csv") == []
    points = REFERENCE.landmarks.copy()
    points[REFERENCE.labels.index("Prn")] += (200.0, 0.0, 0.0)
    (said,) = doubts(LandmarkSet(REFERENCE.labels, points / 10), REFERENCE, "anna.csv")
    assert re.match(r"'anna.csv': Prn lies (19\d|20\d) mm from where the other landmarks suggest it", said)
    names = tuple("Pq" if label == "Pg" else label for label in REFERENCE.labels)
    (said,) = doubts(LandmarkSet(names, REFERENCE.landmarks), REFERENCE, "anna.csv")
    assert said.startswith("'anna.csv' has names that are not known (Pq);")
    more = LandmarkSet((*REFERENCE.labels, "mine"), np.vstack([REFERENCE.landmarks, [0, 0, 0]]))
    assert doubts(more, REFERENCE, "anna.csv") == [], "points of one's own are no mistake where none is missing"


def test_too_few_landmarks_or_none_of_a_face_have_no_unit() -> None:
    few = LandmarkSet(REFERENCE.labels[:3], REFERENCE.landmarks[:3])
    with pytest.raises(UnknownUnitError, match=r"'anna.fcsv' has 3 of the 50 known landmarks"):
        unit_of_landmarks(few, REFERENCE, "anna.fcsv")
    with pytest.raises(UnknownUnitError, match="do not make a face"):
        unit_of_landmarks(LandmarkSet(REFERENCE.labels, REFERENCE.landmarks * 40), REFERENCE, "anna.fcsv")


def test_a_table_of_two_faces(tmp_path: Path) -> None:
    there = measure(MEAN, dict.fromkeys(MEAN, 1.0))
    path = tmp_path / "both.csv"
    write_measurements(path, [("anna", there), ("ben", measure({}, {}))])
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["scan"] for row in rows] == ["anna"] * 29 + ["ben"] * 29
    assert float(rows[0]["value"]) == pytest.approx(there[0].value, abs=1e-3)
    assert rows[0]["standard_deviation"] == "1.414" and rows[0]["unit"] == "mm" and rows[28]["unit"] == "deg"
    assert rows[29]["value"] == rows[29]["standard_deviation"] == ""
    write_measurements(path, [("anna", there)])  # an earlier table is replaced
    assert len(path.read_text(encoding="utf-8").splitlines()) == 30


def test_no_other_file_is_overwritten(tmp_path: Path) -> None:
    landmarks = tmp_path / "anna.csv"
    write_landmarks(landmarks, LandmarkSet(REFERENCE.labels, REFERENCE.landmarks))
    before = landmarks.read_bytes()
    with pytest.raises(OutputError, match="is no table of measurements"):
        write_measurements(landmarks, [("anna", measure(MEAN, {}))])
    with pytest.raises(OutputError, match=r"ends in \.csv"):
        write_measurements(tmp_path / "anna.mrk.json", [("anna", measure(MEAN, {}))])
    assert landmarks.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
