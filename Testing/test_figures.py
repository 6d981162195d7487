"""The figures of a cross-validation: what they show, and what they say that they don't."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PALNetLandmarksLib.align import align_to_reference, to_canonical
from PALNetLandmarksLib.landmark_files import write_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.scheme import load_scheme
from PIL import Image
from test_experiments import LABELS, results_with
from test_training import person

from training.experiments import figures, report
from training.experiments.tables import Results
from training.write_ply import write_ply

SIDES = {landmark.label: landmark.side for landmark in load_scheme().landmarks}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    kept: list[Figure] = []
    save = figures._save

    def keep_and_save(figure: Figure, path: Path) -> None:
        kept.append(figure)
        save(figure, path)

    monkeypatch.setattr(figures, "_save", keep_and_save)
    return kept


def one_moved(label: str, by: tuple[float, float, float], method: str = "pal-net") -> Results:
    offsets = np.zeros((len(LABELS), 3))
    offsets[LABELS.index(label)] = by
    return results_with(offsets, method)


def test_figure_4_says_where_its_colours_end(tmp_path: Path, drawn: list[Figure]) -> None:
    names = ("template", "shape-model", "pal-net", "height-map-net")
    results = {name: one_moved("Pg", (0.0, 0.0, -4.0 * i), name) for i, name in enumerate(names)}
    figures.figure_4(results, tmp_path / "4.png")
    *panels, bar = drawn[0].axes
    matrices = [panel.images[0].get_array().filled(np.nan) for panel in panels]
    assert np.isnan(matrices[3].diagonal()).all()  # a landmark has no distance to itself
    # Of 50 landmarks the moved one has 98 of 2450 entries, 4 %: the quantile lies among them.
    largest, end = np.nanmax(matrices[3]), np.nanquantile(matrices[3], 0.98)
    assert 4.0 < end < largest <= 12.0
    assert all(panel.images[0].get_clim() == (0, pytest.approx(end)) for panel in panels)
    assert f"98 % quantile, {end:.1f} mm; the largest is {largest:.1f} mm" in bar.get_xlabel()
    assert [label.get_text() for label in panels[0].get_yticklabels()] == list(LABELS[::3])
    # Three in a row: the fourth is below the first.
    first, _, _, fourth = (panel.get_position() for panel in panels)
    assert fourth.x0 == pytest.approx(first.x0, abs=0.01) and fourth.y1 < first.y0


@pytest.mark.filterwarnings("error")
def test_figure_4_and_5_of_a_single_landmark_are_empty(tmp_path: Path, drawn: list[Figure]) -> None:
    offsets = np.full((len(LABELS), 3), np.nan)
    offsets[0] = 1.0
    results = {"pal-net": results_with(offsets)}
    figures.figure_4(results, tmp_path / "4.png")
    figures.figure_5(results, SIDES, tmp_path / "5.png")
    assert np.isnan(drawn[0].axes[0].images[0].get_array().filled(np.nan)).all()
    assert [len(axes.lines) for axes in drawn[1].axes] == [0, 0, 0]


def test_figure_5_says_how_much_of_all_it_shows(
    tmp_path: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {"pal-net": one_moved("Pg", (0.0, 0.0, -1000.0))}
    figures.figure_5(results, SIDES, tmp_path / "all.png")
    monkeypatch.setattr(figures, "MOST_POINTS", 100)
    figures.figure_5(results, SIDES, tmp_path / "some.png")
    (limits, every), (limits_of_some, some) = ([text.get_text() for text in figure.axes[0].texts] for figure in drawn)
    # 12 landmarks of 12 subjects: 66 distances each, 11 of them to the moved one.
    assert every == "all 792 drawn\nbeyond ±12 mm: 132 (16.67 %)"
    assert some == "100 of 792 drawn, at random\nbeyond ±12 mm: 132 (16.67 %)"
    assert limits == limits_of_some
    assert [len(figure.axes[0].lines[0].get_xdata()) for figure in drawn] == [792, 100]
    assert drawn[0].axes[1].texts[1].get_text().endswith("beyond ±12 mm: 0 (0.00 %)")
    assert drawn[0].axes[0].get_ylabel() == "predicted minus annotated, mm"


def test_figure_7_shows_predictions_and_truth_on_the_median_face(tmp_path: Path, drawn: list[Figure]) -> None:
    (fold,) = results_with(np.zeros(3), folds=1).predictions
    truth = fold.truth[:3].copy()
    for i in range(3):
        mesh, deform = person(i)
        truth[i] = deform(load_reference().landmarks)
        write_ply(tmp_path / f"S{i}.ply", mesh.points, mesh.triangles)
        write_landmarks(tmp_path / f"S{i}.mrk.json", LandmarkSet(LABELS, truth[i]))
    points = truth + np.array([0.0, 0.0, 1.0]) * np.array([9.0, 5.0, 1.0])[:, None, None]
    truth[1, LABELS.index("Tr")] = np.nan
    behind = LABELS.index("Ls")
    truth[1, behind, 1] += 40
    points[1, behind, 1] += 40
    three = replace(
        fold,
        names=("S0", "S1", "S2"),
        points=points,
        truth=truth,
        annotated=truth,
        deviations=fold.deviations[:3],
        missing=fold.missing[:3],
    )
    refused = replace(three, points=np.where(np.arange(3)[:, None, None] == 1, np.nan, points))
    results = {"shape-model": Results("shape-model", (refused,), (0,)), "pal-net": Results("pal-net", (three,), (0,))}
    figures.figure_7(results, tmp_path, None, tmp_path / "7.png")
    without, panel = drawn[0].axes
    assert panel.get_title() == "PAL-Net as published\nS1, 49 landmarks: 5.00 mm"
    assert without.get_title() == "Shape model, non-rigid fit\nS1, no landmarks placed"

    transform = align_to_reference(read_scan(tmp_path / "S1.ply"), load_reference()).transform
    rings, dots = (to_canonical(place[1], transform, 1.0)[:, [0, 2]] for place in (truth, points))
    pale, seen = (np.asarray(drawn_rings.get_offsets()) for drawn_rings in panel.collections)
    pale_dots, seen_dots = (line.get_xydata() for line in panel.lines if line.get_marker() == "o")
    hidden = np.array([any(np.allclose(ring, one) for one in pale) for ring in rings])
    assert hidden[behind] and not hidden[[LABELS.index(label) for label in ("Prn", "Pg", "Ex_R", "Ex_L")]].any()
    dots[LABELS.index("Tr")] = np.nan  # a dot without a ring would be no error
    assert np.allclose(pale, rings[hidden]) and np.allclose(seen, rings[~hidden], equal_nan=True)
    assert np.allclose(pale_dots, dots[hidden]) and np.allclose(seen_dots, dots[~hidden], equal_nan=True)

    # The surface has no holes: between the ears' landmarks it covers every pixel of a row through the nose.
    shade = panel.images[0].get_array()
    left, right, bottom, top = panel.images[0].get_extent()
    row = np.ma.filled(shade, np.nan)[int(shade.shape[0] * (top - rings[LABELS.index("Prn"), 1]) / (top - bottom))]
    columns = (np.array([-50.0, 50.0]) - left) / (right - left) * shade.shape[1]
    assert np.isfinite(row[slice(*columns.astype(int))]).all()

    with Image.open(tmp_path / "7.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[1] == 2 * figures.PANEL_INCHES * figures.DOTS_PER_INCH
    assert pixels[0, 0].tolist() == [255, 255, 255]
    for colour in figures.SEEN:
        assert np.abs(pixels - 255 * np.array(to_rgb(colour))).max(axis=2).min() < 12


def test_captions_say_how_many_subjects_and_what_is_left_out(tmp_path: Path) -> None:
    for name in ("template", "pal-net"):
        (tmp_path / name).mkdir()
        for number, fold in enumerate(results_with(np.ones(3), name).predictions):
            if name == "pal-net" and number == 0:
                fold = replace(fold, refused={"0-3": "no face"})
            fold.save(tmp_path / name / f"fold-{number}.npz")
    facts = {"data": "d", "subjects": 12, "folds": 2, "protocol": "strict", "seed": 0, "commit": "c", "command": "x"}
    report.write_report(tmp_path, tmp_path / "report", facts)
    text = (tmp_path / "report" / "tables.md").read_text(encoding="utf-8")
    captions = dict(re.findall(r"!\[Figure (\d): .*\n\n\*(Figure .*)\*\n", text))
    assert sorted(captions) == ["4", "5", "6"]
    for number, words in captions.items():
        assert words.startswith(f"Figure {number}. ")
        assert "12 subjects of 2 folds, 1 of them refused by at least one method." in words
        assert words.endswith("Left out: Mean landmarks, projected.") == (number in "45")


def test_the_caption_of_figure_7_names_its_subject() -> None:
    (fold,) = results_with(np.zeros(3), folds=1).predictions
    errors = np.array([4.0, 8.0, 6.0, 1.0, 7.0, np.nan])
    some = replace(fold, points=fold.truth + errors[:, None, None] * np.array([1.0, 0.0, 0.0]))
    results = {"pal-net": Results("pal-net", (some,), (0,))}
    assert "Subject 0-2, whose error by PAL-Net as published is the median of 6 subjects of 1 fold." in figures.caption(
        7, results, results
    )
