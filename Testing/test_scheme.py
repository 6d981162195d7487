"""The landmark scheme: the published order, names and sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PALNetLandmarksLib.scheme import load_scheme
from PALNetLandmarksLib.stopwatch import Stopwatch


def test_the_published_landmarks_in_their_order(shared: Path) -> None:
    published = json.loads((shared / "face-model" / "landmarks50.json").read_text(encoding="utf-8"))["landmarks"]
    scheme = load_scheme()
    assert len(scheme) == 50
    for landmark, entry in zip(scheme.landmarks, published):
        assert (landmark.label, landmark.name, landmark.definition) == (
            entry["label"],
            entry["name"],
            entry["definition"],
        )


def test_twelve_landmarks_lie_in_the_midline_and_nineteen_on_each_side() -> None:
    scheme = load_scheme()
    assert scheme.labels[:12] == ("Tr", "G", "N", "Prn", "C", "Sn", "Ls", "Sto", "Li", "Sl", "Pg", "Gn")
    assert [label.endswith("_R") for label in scheme.labels] == [False] * 12 + [True] * 19 + [False] * 19
    assert [label.endswith("_L") for label in scheme.labels] == [False] * 31 + [True] * 19
    assert len(set(scheme.labels)) == 50
    for landmark in scheme.landmarks:
        side = {"_R": "right", "_L": "left"}.get(landmark.label[-2:], "midline")
        assert landmark.side == side
        assert landmark.name
        assert landmark.region
        assert len(landmark.definition) > 10


def test_the_counterpart_of_the_counterpart_is_the_landmark() -> None:
    scheme = load_scheme()
    for i, other in enumerate(scheme.mirrored):
        assert scheme.mirrored[other] == i
        assert (other == i) == (scheme.landmarks[i].side == "midline")
        assert scheme.labels[other][:-2] == scheme.labels[i][:-2]


def test_a_scheme_of_ones_own_is_read(tmp_path: Path) -> None:
    entry = {"name": "", "side": "", "region": "", "definition": ""}
    path = tmp_path / "scheme.json"
    labels = ["A_L", "B", "A_R"]
    document = {"name": "mine", "landmarks": [{"label": label, **entry} for label in labels]}
    path.write_text(json.dumps(document), encoding="utf-8")
    scheme = load_scheme(path)
    assert scheme.name == "mine"
    assert scheme.labels == ("A_L", "B", "A_R")
    assert scheme.mirrored == (2, 1, 0)


@pytest.mark.parametrize("missing", ["label", "definition"])
def test_an_incomplete_scheme_is_refused(missing: str, tmp_path: Path) -> None:
    entry = {"label": "A", "name": "", "side": "", "region": "", "definition": ""}
    del entry[missing]
    path = tmp_path / "scheme.json"
    path.write_text(json.dumps({"name": "mine", "landmarks": [entry]}), encoding="utf-8")
    with pytest.raises(KeyError, match=missing):
        load_scheme(path)


def test_laps_of_one_step_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 10.5, 12.5, 12.75])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    watch = Stopwatch()
    watch.lap("align")
    watch.lap("network")
    watch.lap("align")
    assert watch.seconds == {"align": 0.75, "network": 2.0}
