"""The picture: where points appear, what hides them, which colours they have, and that it copes with odd input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PALNetLandmarksLib import picture
from PALNetLandmarksLib.certainty import CERTAINTY_CLASSES, UNKNOWN_CERTAINTY, certainty_class
from PALNetLandmarksLib.drawn_surface import MOST_TRIANGLES
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.picture import render_detection
from PALNetLandmarksLib.rasterise import rasterise
from PIL import Image

# On the egg: tip of the nose, forehead, both "ears", the back of the head.
LABELS = ("Prn", "Tr", "T_R", "T_L", "Back")
POINTS = np.array([[0, 0, 0], [0, 39, 75], [-75, 90, 0], [75, 90, 0], [0, 160, 0]], dtype=float)


class Drawable(NamedTuple):
    """The fields of a detection that the picture shows."""

    labels: tuple[str, ...] = LABELS
    points: np.ndarray = POINTS
    standard_deviation_mm: np.ndarray = np.array([0.5, 1.5, 2.5, 3.5, 0.5])
    missing: np.ndarray = np.zeros(5, dtype=bool)
    rigid_transform: np.ndarray = np.eye(4)
    scan_name: str = "egg.ply"
    unit: str = "mm"
    unit_source: str = "estimated"
    fitness: float = 0.9


def draw(mesh: TriangleMesh, detection: Drawable, path: Path) -> np.ndarray:
    render_detection(mesh, detection, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def spots(pixels: np.ndarray, certainty: int) -> np.ndarray:
    """(n, 2) column and row of the dots of one class of certainty in the panels (the key below left out)."""
    wanted = np.abs(pixels[:-50] - CERTAINTY_CLASSES[certainty].colour).max(axis=2) <= 2
    rows, columns = np.nonzero(wanted)
    groups: list[list[tuple[int, int]]] = []
    for spot in sorted(zip(columns.tolist(), rows.tolist())):
        near = [g for g in groups if min(abs(spot[0] - c) + abs(spot[1] - r) for c, r in g) <= 3]
        groups = [g for g in groups if g not in near] + [sum(near, [spot])]
    return np.array([np.mean(group, axis=0) for group in groups if len(group) >= 8]).reshape(-1, 2)


def test_points_appear_where_they_are_and_hidden_ones_do_not(make_head, tmp_path):
    pixels = draw(make_head(), Drawable(), tmp_path / "egg.png")
    height, width = pixels.shape[:2]
    assert width > 1.5 * height
    middle = width / 2

    # Class 2 is the right ear: the front view shows it left of the middle, where the viewer sees the subject's right,
    # the right side shows it too, and the left side does not.
    right_ear, left_ear = spots(pixels, 2), spots(pixels, 3)
    assert len(right_ear) == len(left_ear) == 2
    front_right, front_left = right_ear[:, 0].max(), left_ear[:, 0].min()
    assert front_right < middle < front_left
    assert right_ear[:, 0].min() < width / 3 < 2 * width / 3 < left_ear[:, 0].max()
    # One scale for all: 150 mm between the ears.
    assert front_left - front_right == pytest.approx(150 * picture.PIXELS_PER_MM, abs=3)

    # The nose (class 0) is in all three views, at one height; the back of the head, of the same class, in two of them.
    dots = spots(pixels, 0)
    assert len(dots) == 5
    assert np.ptp(dots[:, 1]) <= 2
    # The right profile looks towards the front view: its nose is right of its ear; the left profile mirrors it.
    profile_nose = dots[(dots[:, 0] < middle - 100)][:, 0].max()
    assert profile_nose - right_ear[:, 0].min() == pytest.approx(90 * picture.PIXELS_PER_MM, abs=3)
    # Up is up: 75 mm from nose to forehead.
    assert dots[:, 1].mean() - spots(pixels, 1)[:, 1].mean() == pytest.approx(75 * picture.PIXELS_PER_MM, abs=3)


def test_any_pose_unit_and_winding_give_the_same_picture(make_head, tmp_path):
    head = make_head()
    upright = draw(head, Drawable(), tmp_path / "upright.png")
    generator = np.random.default_rng(4)
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    shift = np.array([300.0, -40.0, 1200.0])
    to_canonical = np.eye(4)
    to_canonical[:3, :3] = rotation.T
    to_canonical[:3, 3] = -rotation.T @ shift

    def moved(points):
        return (points @ rotation.T + shift) / 1000

    detection = Drawable(points=moved(POINTS), rigid_transform=to_canonical, unit="m")
    for triangles in (head.triangles, head.triangles[:, ::-1]):
        mesh = TriangleMesh(moved(head.points), triangles, "egg.ply")
        other = draw(mesh, detection, tmp_path / "moved.png")
        assert other.shape == upright.shape
        # The words differ ("m", not "mm"); the panels may differ by rounding on edges.
        panels = slice(45, int(0.9 * len(upright)))
        assert np.mean(np.abs(other[panels] - upright[panels]).max(axis=2) > 24) < 0.005


def test_same_input_gives_the_same_bytes(make_head, tmp_path):
    head = make_head()
    for name in ("a.png", "b.png"):
        render_detection(head, Drawable(), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_missing_landmarks_are_listed_and_not_drawn(make_head, tmp_path):
    whole = draw(make_head(), Drawable(), tmp_path / "whole.png")
    lost = Drawable(missing=np.array([False, False, True, False, False]))
    lost = lost._replace(points=np.where(lost.missing[:, None], np.nan, POINTS))
    pixels = draw(make_head(), lost, tmp_path / "lost.png")
    assert len(spots(whole, 2)) == 2
    assert len(spots(pixels, 2)) == 0
    assert len(spots(pixels, 3)) == 2
    assert len(pixels) > len(whole), "there is one more line, with the missing label"


def test_placed_landmarks_that_no_view_shows_are_listed(make_head, tmp_path):
    whole = draw(make_head(), Drawable(), tmp_path / "whole.png")
    inside = Drawable(points=np.where(np.arange(5)[:, None] == 2, [0.0, 75.0, 0.0], POINTS))
    pixels = draw(make_head(), inside, tmp_path / "inside.png")
    assert len(spots(pixels, 2)) == 0
    assert len(pixels) > len(whole), "there is one more line, with the hidden label"


def test_classes_of_certainty_meet_without_a_gap():
    limits = [one.limit_mm for one in CERTAINTY_CLASSES]
    assert limits == sorted(limits) and np.isinf(limits[-1])
    for one, following in zip(CERTAINTY_CLASSES, CERTAINTY_CLASSES[1:]):
        assert certainty_class(one.limit_mm) is one
        assert certainty_class(np.nextafter(one.limit_mm, np.inf)) is following
    assert certainty_class(0.0) is CERTAINTY_CLASSES[0]
    assert certainty_class(float("nan")) is UNKNOWN_CERTAINTY


def test_unknown_certainty_has_a_colour_of_its_own(make_head, tmp_path):
    unknown = Drawable(standard_deviation_mm=np.array([0.5, 1.5, np.nan, 3.5, 0.5]))
    pixels = draw(make_head(), unknown, tmp_path / "unknown.png")
    assert len(spots(pixels, 2)) == 0
    assert len(spots(pixels, 3)) == 2
    key = pixels[-50:]
    grey = np.array(UNKNOWN_CERTAINTY.colour)
    assert (np.abs(key - grey).max(axis=2) <= 1).sum() > 20


def test_a_mesh_in_front_hides_the_back(make_head, tmp_path):
    """A wall before the face hides the points behind it in the front view, and only there."""
    head = make_head()
    wall = np.array([[-140, -60, -20], [140, -60, -20], [140, -60, 90], [-140, -60, 90]], dtype=float)
    count = len(head.points)
    mesh = TriangleMesh(
        np.concatenate([head.points, wall]),
        np.concatenate([head.triangles, count + np.array([[0, 1, 2], [0, 2, 3]])]),
        "egg.ply",
    )
    pixels = draw(mesh, Drawable(), tmp_path / "wall.png")
    assert len(spots(pixels, 0)) == 4
    assert len(spots(pixels, 2)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"missing": np.ones(5, dtype=bool)},
        {"labels": (), "points": np.empty((0, 3)), "standard_deviation_mm": np.empty(0), "missing": np.empty(0, bool)},
        {"standard_deviation_mm": np.full(5, np.nan)},
        {"scan_name": "Zoë 患者 " + "long " * 80 + "name.ply"},
        {"points": POINTS * 50},
        {"points": np.repeat(POINTS[:1], 5, axis=0)},
    ],
    ids=["all missing", "no landmarks", "unknown deviation", "long name", "far away", "one spot"],
)
def test_odd_detections_still_give_a_picture_of_bounded_size(change, make_head, tmp_path):
    pixels = draw(make_head(), Drawable()._replace(**change), tmp_path / "odd.png")
    assert 150 < len(pixels) < 1200
    assert 500 < len(pixels[0]) < 3200


def test_dense_scans_are_thinned_without_changing_what_is_seen(make_head, tmp_path):
    coarse, dense = make_head(), make_head(400, 620)
    assert len(dense.triangles) > MOST_TRIANGLES
    a, b = draw(coarse, Drawable(), tmp_path / "a.png"), draw(dense, Drawable(), tmp_path / "b.png")
    assert a.shape == b.shape
    assert np.median(np.abs(a - b)) <= 2
    assert np.mean(np.abs(a - b).max(axis=2) > 40) < 0.02


def test_a_mesh_outside_the_region_leaves_the_backdrop(make_head, tmp_path):
    head = make_head()
    pixels = draw(head.with_points(head.points + np.array([0.0, 0.0, 5000.0])), Drawable(), tmp_path / "away.png")
    skin = (pixels[:, :, 0] > pixels[:, :, 2] + 15) & (pixels[:, :, 0] < 245)
    assert skin.mean() < 0.01


def test_points_of_the_other_side_are_left_out_of_a_side_view_even_where_nothing_hides_them(make_head, tmp_path):
    away = make_head().with_points(make_head().points + np.array([0.0, 0.0, 5000.0]))
    pixels = draw(away, Drawable(), tmp_path / "away.png")
    assert len(spots(pixels, 2)) == len(spots(pixels, 3)) == 2
    assert len(spots(pixels, 1)) == 3


def test_unwritable_path_raises_oserror(make_head, tmp_path):
    with pytest.raises(OSError):
        render_detection(make_head(), Drawable(), tmp_path / "absent" / "egg.png")


def test_neither_plotting_library_nor_opengl_is_loaded():
    program = (
        "import sys; import PALNetLandmarksLib.picture; "
        "print([name for name in sys.modules if name.split('.')[0] in ('matplotlib', 'vtkmodules', 'torch', 'PIL')])"
    )
    environment = {"PYTHONPATH": str(Path(picture.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------------------------------
# The rasteriser


def brute_force(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Depth of the nearest triangle at each pixel centre by barycentric coordinates."""
    row, column = np.mgrid[: size[0], : size[1]].astype(float)
    nearest = np.full(size, -np.inf)
    for a, b, c in corners:
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if abs(area) < 1e-3:
            continue
        u = ((column - a[0]) * (c[1] - a[1]) - (row - a[1]) * (c[0] - a[0])) / area
        v = ((b[0] - a[0]) * (row - a[1]) - (b[1] - a[1]) * (column - a[0])) / area
        inside = (u >= 0) & (v >= 0) & (u + v <= 1)
        depth = a[2] + u * (b[2] - a[2]) + v * (c[2] - a[2])
        nearest = np.where(inside & (depth > nearest), depth, nearest)
    return nearest


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12), spread=st.sampled_from([3.0, 15.0, 60.0]))
def test_rasteriser_agrees_with_barycentric_coordinates(seed, count, spread):
    generator = np.random.default_rng(seed)
    centre = generator.uniform(-5, 35, (count, 1, 3))
    corners = (centre + generator.normal(0, spread, (count, 3, 3))).astype(np.float32)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    corners = corners[np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) > 1.0]
    triangles = np.arange(3 * len(corners), dtype=np.int32).reshape(-1, 3)
    depth, shade = rasterise(corners.reshape(-1, 3), triangles, corners.reshape(-1, 3)[:, 2] * np.float32(2), (24, 30))
    expected = brute_force(corners.astype(float), (24, 30))
    covered = np.isfinite(depth) & np.isfinite(expected)
    # Only pixels on an edge may be decided differently.
    assert np.mean(np.isfinite(depth) != np.isfinite(expected)) < 0.01
    close = np.isclose(depth[covered], expected[covered], atol=0.02, rtol=1e-3)
    assert np.count_nonzero(~close) <= 0.01 * close.size
    # Shade was made twice the depth, so both must come from the same triangle.
    assert np.allclose(shade[np.isfinite(depth)], 2 * depth[np.isfinite(depth)], atol=0.05, rtol=1e-2)


@given(
    wanted=st.lists(st.floats(0, 100), max_size=20).map(sorted),
    spacing=st.floats(0.5, 12),
)
def test_labels_keep_their_order_and_distance_and_stay_inside(wanted, spacing):
    placed = picture._spread(np.array(wanted), spacing, 0.0, 100.0)
    assert len(placed) == len(wanted)
    room = min(spacing, 100 / max(len(wanted) - 1, 1))
    assert (np.diff(placed) >= room - 1e-9).all()
    assert ((placed >= -1e-9) & (placed <= 100 + 1e-9)).all()


def test_labels_with_room_stay_at_their_points():
    assert picture._spread(np.array([10.0, 30.0, 50.0]), 12, 0, 100) == pytest.approx([10, 30, 50])
    # Two that collide move apart by the same amount.
    assert picture._spread(np.array([40.0, 44.0]), 12, 0, 100) == pytest.approx([36, 48])


def test_fonts_are_asked_for_their_letters():
    font = picture._font(12)
    assert picture._has_letters(font, "anna 1.ply") and not picture._has_letters(font, "王小明")
    chinese = picture._font(12, "王小明.ply")
    if not picture._has_letters(chinese, "王小明"):
        pytest.skip("no Chinese font is installed (Debian: fonts-wqy-microhei)")
    assert picture._has_letters(chinese, "王小明.ply")
