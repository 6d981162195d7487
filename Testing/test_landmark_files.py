"""Landmark files: written for Slicer and spreadsheets, read for the trainer, seen by Slicer's own code on the model."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PALNetLandmarksLib.atomic_file import write_atomically
from PALNetLandmarksLib.errors import OutputError, UnreadableLandmarksError
from PALNetLandmarksLib.landmark_files import read_landmarks, write_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.scheme import load_scheme

SCHEME = load_scheme()


def fifty_landmarks(coordinate_system: str = "LPS") -> LandmarkSet:
    """The 50 landmarks of the scheme at random places; the third is not defined."""
    rng = np.random.default_rng(2)
    points = rng.normal(scale=80, size=(len(SCHEME), 3))
    points[2] = np.nan
    return LandmarkSet(
        labels=SCHEME.labels,
        points=points,
        coordinate_system=coordinate_system,
        names=tuple(landmark.name for landmark in SCHEME.landmarks),
        standard_deviation_mm=np.linspace(0.4, 3, len(SCHEME)),
    )


def test_markups_document_follows_slicers_schema(tmp_path: Path) -> None:
    landmarks = fifty_landmarks()
    write_landmarks(tmp_path / "face.mrk.json", landmarks)
    document = json.loads((tmp_path / "face.mrk.json").read_text(encoding="utf-8"))
    assert document["@schema"].endswith("/markups-schema-v1.0.3.json#")
    (markup,) = document["markups"]
    assert (markup["type"], markup["coordinateSystem"], markup["coordinateUnits"]) == ("Fiducial", "LPS", "mm")
    points = markup["controlPoints"]
    assert [point["label"] for point in points] == list(SCHEME.labels)
    assert len({point["id"] for point in points}) == 50
    assert points[0]["position"] == landmarks.points[0].tolist(), "every digit is kept"
    assert points[0]["description"] == f"{SCHEME.landmarks[0].name} ± 0.4 mm"
    assert points[0]["orientation"] == [-1, 0, 0, 0, -1, 0, 0, 0, 1]
    assert [point["positionStatus"] for point in points].count("undefined") == 1
    assert points[2]["positionStatus"] == "undefined" and "position" not in points[2]
    assert all(point["selected"] and point["visibility"] and not point["locked"] for point in points)


def test_csv_columns(tmp_path: Path) -> None:
    landmarks = fifty_landmarks()
    write_landmarks(tmp_path / "face.csv", landmarks)
    with (tmp_path / "face.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:7] == ["label", "name", "x", "y", "z", "standard_deviation_mm", "state"]
    assert [row["label"] for row in rows] == list(SCHEME.labels)
    np.testing.assert_array_equal([float(rows[9][axis]) for axis in "xyz"], landmarks.points[9])
    assert rows[0]["standard_deviation_mm"] == "0.400"
    assert (rows[2]["x"], rows[2]["standard_deviation_mm"], rows[2]["state"]) == ("", "", "missing")
    assert rows[3]["state"] == "defined"
    assert {(row["coordinate_system"], row["unit"]) for row in rows} == {("LPS", "")}
    write_landmarks(tmp_path / "face.csv", replace(landmarks, unit="cm").ordered(SCHEME.labels[:5]))
    lines = (tmp_path / "face.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[-1] for line in lines] == ["unit"] + 5 * ["cm"]


@pytest.mark.parametrize("coordinate_system", ["LPS", "RAS"])
@pytest.mark.parametrize("suffix", [".mrk.json", ".fcsv", ".csv"])
def test_written_files_are_read_back(tmp_path: Path, coordinate_system: str, suffix: str) -> None:
    landmarks = fifty_landmarks(coordinate_system)
    write_landmarks(tmp_path / f"face{suffix}", landmarks)
    again = read_landmarks(tmp_path / f"face{suffix}")
    assert again.coordinate_system == coordinate_system
    again = again.ordered(SCHEME.labels)
    np.testing.assert_array_equal(again.points, landmarks.points)
    np.testing.assert_array_equal(again.defined, landmarks.defined)
    assert again.names[4] == landmarks.names[4]


words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    labels=st.lists(words.map(str.strip).filter(bool), unique=True, min_size=1, max_size=8),
    seed=st.integers(0, 1000),
    suffix=st.sampled_from([".mrk.json", ".fcsv", ".csv"]),
)
def test_any_labels_survive(tmp_path: Path, labels: list[str], seed: int, suffix: str) -> None:
    labels = list(dict.fromkeys(" ".join(label.split()) for label in labels))
    points = np.random.default_rng(seed).normal(scale=10.0 ** (seed % 13 - 6), size=(len(labels), 3))
    written = LandmarkSet(tuple(labels), points, names=tuple(f'the "{label}", here' for label in labels))
    write_landmarks(tmp_path / f"any{suffix}", written)
    again = read_landmarks(tmp_path / f"any{suffix}")
    assert again.labels == written.labels
    assert again.names == tuple(" ".join(name.split()) for name in written.names)
    np.testing.assert_array_equal(again.points, points)


def test_coordinate_systems_differ_in_the_first_two_signs() -> None:
    landmarks = LandmarkSet(("a",), np.array([[1.0, 2.0, 3.0]]), "LPS")
    turned = landmarks.in_coordinate_system("RAS")
    np.testing.assert_array_equal(turned.points, [[-1.0, -2.0, 3.0]])
    assert turned.coordinate_system == "RAS"
    np.testing.assert_array_equal(turned.in_coordinate_system("LPS").points, landmarks.points)


def test_landmark_set_refuses_what_does_not_fit() -> None:
    for arguments in (
        {"labels": ("a", "b"), "points": np.zeros((1, 3))},
        {"labels": ("a", "a"), "points": np.zeros((2, 3))},
        {"labels": ("a",), "points": np.zeros((1, 3)), "coordinate_system": "IJK"},
        {"labels": ("a",), "points": np.zeros((1, 3)), "names": ("x", "y")},
        {"labels": ("a",), "points": np.zeros((1, 3)), "standard_deviation_mm": np.zeros(2)},
    ):
        with pytest.raises(ValueError):
            LandmarkSet(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "system"),
    [
        ("# Markups fiducial file version = 4.10\n# CoordinateSystem = 0\n", "RAS"),
        ("# Markups fiducial file version = 4.10\n# CoordinateSystem = 1\n", "LPS"),
        ("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n", "LPS"),
        ("# Markups fiducial file version = 5.2\n# CoordinateSystem = RAS\n", "RAS"),
        ("# Markups fiducial file version = 5.2\n", "LPS"),
    ],
)
def test_versions_of_fcsv(tmp_path: Path, header: str, system: str) -> None:
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    rows = '1,1.5,-2,3e1,0,0,0,1,1,1,0,N,,\nvtkMRMLMarkups_2,4,5,6,0,0,0,1,1,1,0,"Sn, old",x,\r\n'
    for name, content in (("a", header + columns + rows), ("b", header + rows)):
        path = tmp_path / f"{name}.fcsv"
        path.write_text(content, encoding="utf-8")
        landmarks = read_landmarks(path)
        assert landmarks.coordinate_system == system
        assert landmarks.labels == ("N", "Sn, old")
        np.testing.assert_array_equal(landmarks.points, [[1.5, -2, 30], [4, 5, 6]])


def test_fcsv_of_slicer_3(tmp_path: Path) -> None:
    (tmp_path / "old.fcsv").write_text("# name = F\nN,1,2,3,1,1\nSn,4,5,6,1,1\n", encoding="utf-8")
    landmarks = read_landmarks(tmp_path / "old.fcsv")
    assert (landmarks.labels, landmarks.coordinate_system) == (("N", "Sn"), "RAS")
    np.testing.assert_array_equal(landmarks.points, [[1, 2, 3], [4, 5, 6]])


def test_lafas_text(tmp_path: Path) -> None:
    path = tmp_path / "subject.txt"
    path.write_bytes(
        "\ufeffNasion\t(1.5,-2.25,3e1)\r\nExocanthion right\t( 4, 5, 6 )\r\n\r\nTragion\t(nan,nan,nan)".encode()
    )
    landmarks = read_landmarks(path)
    assert landmarks.labels == ("Nasion", "Exocanthion right", "Tragion")
    np.testing.assert_array_equal(landmarks.points[:2], [[1.5, -2.25, 30], [4, 5, 6]])
    assert landmarks.defined.tolist() == [True, True, False]


def test_lafas_text_is_written_as_it_is_read(tmp_path: Path) -> None:
    points = np.array([[1.25, -2.5, 30.0], [np.nan] * 3, [4.0, 5.0, -6.1234]])
    write_landmarks(tmp_path / "subject.txt", LandmarkSet(("N", "Tr", "Ex_R"), points))
    assert (tmp_path / "subject.txt").read_text(encoding="utf-8").startswith("N\t(1.2500,-2.5000,30.0000)\n")
    landmarks = read_landmarks(tmp_path / "subject.txt")
    assert landmarks.labels == ("N", "Ex_R")  # the format knows no undefined ones
    np.testing.assert_allclose(landmarks.points, points[[0, 2]], atol=1e-4)


def test_markups_of_other_programs(tmp_path: Path) -> None:
    point = {"label": "N", "position": [1000.0, 2000.0, 3000.0]}
    markups = [
        {"type": "Fiducial", "coordinateUnits": ["um", "UCUM", "micrometer"], "controlPoints": [point]},
        {"type": "Line", "controlPoints": [point]},
        {"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": [{"id": "7", "position": [1, 2, 3]}]},
        {"type": "Fiducial", "controlPoints": [{"label": "Sn", "position": "", "positionStatus": "missing"}]},
    ]
    path = tmp_path / "several.json"
    path.write_text(json.dumps({"@schema": "markups-schema-v1.0.0.json", "markups": markups}), encoding="utf-8")
    landmarks = read_landmarks(path)
    assert (landmarks.labels, landmarks.coordinate_system) == (("N", "7", "Sn"), "LPS")
    np.testing.assert_array_equal(landmarks.points, [[1, 2, 3], [-1, -2, 3], [np.nan] * 3])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_tables_of_any_editor(tmp_path: Path, encoding: str, line_end: str) -> None:
    text = line_end.join(["label,name,x,y,z", "N,Nasenwurzel (Müller),1,2,3", ""])
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    landmarks = read_landmarks(tmp_path / "a.csv")
    assert (landmarks.labels, landmarks.names) == (("N",), ("Nasenwurzel (Müller)",))


@pytest.mark.parametrize(
    "text",
    [
        "label;x;y;z\nN;1,5;-2;3\n;;;\n;;;\n",
        "sep=;\nlabel;x;y;z\nN;1,5;-2;3\n",
        "label;x;y;z\nN;1,5E+00;-2,0e-00;3\n",
        "\n\nLabel, X, Y, Z\nN , 1.5, -2, 3\n",
        'label,x,y,z\nN,"1,5","-2,0",3\n',
    ],
)
def test_tables_with_what_spreadsheets_add(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    landmarks = read_landmarks(tmp_path / "a.csv")
    assert landmarks.labels == ("N",)
    np.testing.assert_array_equal(landmarks.points, [[1.5, -2, 3]])


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_tables_saved_by_a_spreadsheet_with_decimal_commas(tmp_path: Path, delimiter: str) -> None:
    rows = [["label", "name", "x", "y", "z"], ["N", "nasion, soft", "1,5", "-2", "3,25"], ["Tr", "", "", "", ""]]
    (tmp_path / "a.csv").write_text("\n".join(delimiter.join(row) for row in rows), encoding="utf-8-sig")
    landmarks = read_landmarks(tmp_path / "a.csv")
    assert (landmarks.labels, landmarks.names) == (("N", "Tr"), ("nasion, soft", ""))
    np.testing.assert_array_equal(landmarks.points, [[1.5, -2, 3.25], [np.nan] * 3])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.mrk.json", ""),
        ("a.mrk.json", "{}"),
        ("a.mrk.json", "[1, 2]"),
        ("a.mrk.json", '{"markups": [{"type": "Fiducial"'),
        ("a.csv", "scan,measurement,value\nanna,N - Pg,12\n"),
        ("a.csv", "label,x,y,z\nN,1,2,\n"),
        ("a.csv", "label;x;y;z\nN;1,2;2.000,5;3\n"),
        ("a.csv", "label,x,y,z,coordinate_system\nN,1,2,3,LPS\nSn,1,2,3,RAS\n"),
        ("a.mrk.json", '{"markups": [{"type": "Line", "controlPoints": []}]}'),
        ("a.mrk.json", '{"markups": [{"type": "Fiducial", "controlPoints": [{"label": "N", "position": [1, 2]}]}]}'),
        (
            "a.mrk.json",
            '{"markups": [{"controlPoints": [{"label": "N", "position": [1, 2, NaN]}]}]}',
        ),
        ("a.mrk.json", '{"markups": [{"type": "Fiducial", "coordinateSystem": "XYZ", "controlPoints": []}]}'),
        ("a.mrk.json", '{"markups": [{"coordinateUnits": "inch", "controlPoints": []}]}'),
        ("a.fcsv", ""),
        ("a.fcsv", "# Markups fiducial file version = 4.10\n# CoordinateSystem = 2\n1,2,3\n"),
        ("a.fcsv", "N,1,2\n"),
        ("a.fcsv", "N,1,two,3,1,1\n"),
        ("a.fcsv", "N,1,2,3,1,1\nN,1,2,3,1,1\n"),
        ("a.txt", "N (1,2,3)\n"),
        ("a.txt", "N\t(1,2)\n"),
        ("a.txt", "N\t(1,2,x)\n"),
        ("a.csv", "label,x\n"),
        ("a.csv", "label,x,y,z\nN,1,5,2,0,3,0\n"),
        ("a.csv", 'label,x,y,z\n"N' + "n" * 200_000 + '",1,2,3\n'),
        ("a.png", "x"),
    ],
)
def test_unreadable_landmark_files(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UnreadableLandmarksError, match=rf"^'{name}' .*; .*\.$"):
        read_landmarks(tmp_path / name)


def test_missing_landmark_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableLandmarksError, match=r"none\.fcsv' cannot be read"):
        read_landmarks(tmp_path / "none.fcsv")


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    (tmp_path / "taken.csv").mkdir()
    for path in (tmp_path / "file" / "a.csv", tmp_path / "nowhere" / "a.csv", tmp_path / "taken.csv"):
        with pytest.raises(OutputError, match=rf"{path.name}' cannot be written"):
            write_landmarks(path, fifty_landmarks())
    with pytest.raises(ValueError, match=r"\.mrk\.json"):
        write_landmarks(tmp_path / "a.xlsx", fifty_landmarks())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken.csv"], "nothing is left behind"


def test_a_failing_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "Ergebnis Ω.csv"
    write_atomically(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


# ---------------------------------------------------------------------------------------------------------------------
# Real Slicer code


def slicer_python() -> str | None:
    """An interpreter with slicer-core: the one named by ``PALNET_SLICER_PYTHON``, else this one if it has it."""
    named = os.environ.get("PALNET_SLICER_PYTHON")
    return named or (sys.executable if importlib.util.find_spec("slicer_core") else None)


def run_slicer(jobs: list[dict[str, Any]]) -> list[Any]:
    python = slicer_python()
    assert python is not None
    script = Path(__file__).with_name("slicer_scene.py")
    result = subprocess.run(
        [python, str(script)], input=json.dumps(jobs), capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.skipif(
    slicer_python() is None,
    reason="slicer-core is not installed (pip install slicer-core, or PALNET_SLICER_PYTHON=<interpreter that has it>)",
)
def test_slicer_sees_the_landmarks_on_the_model(tmp_path: Path) -> None:
    """Slicer saves one model in all its formats and both coordinate systems; landmarks placed on each lie on it."""
    side = 60
    u, v = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    # Far from the origin, so that a wrong sign moves the points by decimetres.
    points = np.stack([120 + 2.0 * u, -90 + 2.5 * v, 10 * np.sin(u / 6) * np.cos(v / 9)], axis=-1).reshape(-1, 3)
    corner = (u[:-1, :-1] * side + v[:-1, :-1]).ravel()
    triangles = np.concatenate([corner[:, None] + [0, side, side + 1], corner[:, None] + [0, side + 1, 1]])
    # In single precision, in which Slicer keeps models read from these formats.
    points = points.astype(np.float32).astype(np.float64)
    source = tmp_path / "plain.obj"
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in points.tolist()]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in triangles.tolist()]
    source.write_text("\n".join(lines), encoding="utf-8")

    kinds = ("obj", "ply", "stl", "vtk", "vtp")
    targets = [(tmp_path / f"{system}.{kind}", system) for system in ("LPS", "RAS") for kind in kinds]
    run_slicer([{"do": "convert", "model": str(source), "to": [[str(path), system] for path, system in targets]}])

    jobs, expected = [], []
    for path, system in [*targets, (source, "LPS")]:
        scan = read_scan(path)
        assert scan.coordinate_system == system
        assert len(scan.points) == len(points)
        sign = np.array([1.0, 1.0, 1.0] if system == "LPS" else [-1.0, -1.0, 1.0])
        order, original = np.lexsort((scan.points * sign).T), np.lexsort(points.T)
        np.testing.assert_allclose((scan.points * sign)[order], points[original], atol=1e-4)
        centres = scan.points[scan.triangles[:: len(scan.triangles) // 50][:50]].mean(axis=1)
        centres[2] = np.nan
        landmarks = LandmarkSet(SCHEME.labels, centres, scan.coordinate_system, standard_deviation_mm=np.full(50, 1.26))
        for suffix in (".mrk.json", ".fcsv"):
            markups = path.with_name(path.name + suffix)
            write_landmarks(markups, landmarks)
            jobs.append({"do": "load", "model": str(path), "markups": str(markups)})
            expected.append((suffix, system, landmarks))

    for seen, (suffix, system, landmarks) in zip(run_slicer(jobs), expected):
        assert seen["model_coordinate_system"] == system
        defined = [point for point in seen["points"] if point["defined"]]
        assert len(defined) == 49
        assert len(seen["points"]) == (50 if suffix == ".mrk.json" else 49)
        assert max(point["distance"] for point in defined) < 1e-3
        ras = landmarks.in_coordinate_system("RAS").points[landmarks.defined]
        np.testing.assert_allclose([point["ras"] for point in defined], ras, atol=1e-9)
        assert [point["label"] for point in defined] == [*SCHEME.labels[:2], *SCHEME.labels[3:]]
        assert defined[0]["description"] == "± 1.3 mm"


def test_what_was_corrected_is_written_and_names_stay_names(tmp_path: Path) -> None:
    points = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [np.nan] * 3])
    corrected = np.array([False, True, True])
    names = ("Nasion", "Pogonion", "Gnathion")
    write_landmarks(tmp_path / "a.mrk.json", LandmarkSet(("N", "Pg", "Gn"), points, names=names, corrected=corrected))
    assert read_landmarks(tmp_path / "a.mrk.json").names == names
    write_landmarks(tmp_path / "a.csv", LandmarkSet(("N", "Pg", "Gn"), points, names=names, corrected=corrected))
    states = [line.split(",")[-3] for line in (tmp_path / "a.csv").read_text().splitlines()[1:]]
    assert states == ["defined", "corrected", "missing"]


def test_what_is_certain_and_what_corrected_is_read_back_from_markups_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "anna.mrk.json"
    points = np.array([[1.0, 2, 3], [4, 5, 6], [np.nan] * 3])
    written = LandmarkSet(
        ("N", "Prn", "Tr"),
        points,
        standard_deviation_mm=np.array([0.7, np.nan, 2.0]),
        corrected=np.array([False, True, False]),
    )
    write_landmarks(path, written)
    read = read_landmarks(path)
    np.testing.assert_allclose(read.standard_deviation_mm, [0.7, np.nan, 2.0])
    assert read.corrected is not None and read.corrected.tolist() == [False, True, False]
    # Another program moves a point, or leaves out what it does not know: then nothing is certain any more.
    document = json.loads(path.read_text(encoding="utf-8"))
    document["markups"][0]["controlPoints"][0]["position"][2] = 3.5
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_landmarks(path).standard_deviation_mm is None
    document["markups"][0]["controlPoints"][0]["position"][2] = 3.0
    del document["palnetLandmarks"]
    path.write_text(json.dumps(document), encoding="utf-8")
    other = read_landmarks(path)
    assert other.standard_deviation_mm is None and other.corrected is None
    np.testing.assert_array_equal(other.points, points)


def test_a_damaged_note_on_certainty_is_said(tmp_path: Path) -> None:
    path = tmp_path / "anna.mrk.json"
    write_landmarks(path, LandmarkSet(("N",), np.zeros((1, 3))))
    document = json.loads(path.read_text(encoding="utf-8"))
    document["palnetLandmarks"]["standardDeviationMm"] = ["N"]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UnreadableLandmarksError, match=r"'anna\.mrk\.json' is damaged"):
        read_landmarks(path)


def test_points_that_slicer_saved_without_a_position_have_none(tmp_path: Path) -> None:
    path = tmp_path / "anna.fcsv"
    path.write_text(
        "# Markups fiducial file version = 5.8\n# CoordinateSystem = LPS\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "1,-1,-2,3,0,0,0,1,1,1,0,N,,,2,0\n2,0,0,0,0,0,0,1,1,1,0,Tr,,,0,0\n",
        encoding="utf-8",
    )
    np.testing.assert_array_equal(read_landmarks(path).points, [[-1, -2, 3], [np.nan] * 3])
