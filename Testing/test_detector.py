"""The detector as a whole, with the bundled weights: on the bundled sample, on real scans, and on what is no face."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PALNetLandmarksLib.align import DOUBTFUL_FITNESS, LEAST_FITNESS, UNITS, align_to_reference
from PALNetLandmarksLib.detection import Detection
from PALNetLandmarksLib.detector import SURE_BELOW_MM, LandmarkDetector
from PALNetLandmarksLib.errors import LandmarkingError, NotAFaceError, UnknownUnitError, WeightsError
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.placers import Placed
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.scheme import load_scheme
from PALNetLandmarksLib.stopwatch import Stopwatch
from PALNetLandmarksLib.surface import SurfaceLocator
from PALNetLandmarksLib.weights import load_weights, save_weights
from scipy.spatial.transform import Rotation

from training.benchmarks.repeatability import listed_otherwise

#: The same surface in another pose may give landmarks this far away.
SPREAD_MM = 0.01


@pytest.fixture(scope="session")
def detector() -> LandmarkDetector:
    return LandmarkDetector.load(device="cpu")


@pytest.fixture(scope="session")
def sample(resources: Path) -> TriangleMesh:
    """The bundled scan, in millimetres."""
    return read_scan(resources / "SampleScan.ply")


@pytest.fixture(scope="session")
def found(detector: LandmarkDetector, sample: TriangleMesh) -> Detection:
    """What the detector finds on the sample as it is."""
    return detector.detect(sample)


def apart(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each landmark between two results."""
    return np.linalg.norm(first - second, axis=1)


def without(mesh: TriangleMesh, gone: NDArray[np.bool_]) -> TriangleMesh:
    """The mesh less its points ``gone`` (n,) and their triangles."""
    triangles = mesh.triangles[~gone[mesh.triangles].any(axis=1)]
    used, index = np.unique(triangles, return_inverse=True)
    return TriangleMesh(mesh.points[used], index.reshape(-1, 3), mesh.name)


# ---------------------------------------------------------------------------------------------------------------------
# What a detection holds


def test_detection_of_the_sample(found: Detection, sample: TriangleMesh, resources: Path) -> None:
    assert found.labels == load_scheme().labels
    assert found.points.shape == (50, 3) and np.isfinite(found.points).all()
    assert found.standard_deviation_mm.shape == (50,) and (found.standard_deviation_mm > 0).all()
    assert (found.unit, found.unit_source, found.coordinate_system, found.device) == ("mm", "estimated", "LPS", "cpu")
    assert 0.87 <= found.fitness <= 1
    assert 0.7 < found.face_scale < 1.3
    rotation = found.rigid_transform[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert found.weights_sha256 == load_weights(resources / "Weights.safetensors").sha256
    assert {"align", "network", "surface"} <= found.seconds.keys()
    assert all(value >= 0 for value in found.seconds.values())
    assert found.scan_name == sample.name


def test_canonical_frame_of_the_transform(found: Detection) -> None:
    """x to the subject's left, y backwards, z up, origin at the tip of the nose."""
    canonical = found.points @ found.rigid_transform[:3, :3].T + found.rigid_transform[:3, 3]
    place = dict(zip(found.labels, canonical))
    assert np.linalg.norm(place["Prn"]) < 12
    assert place["Ex_L"][0] - place["Ex_R"][0] > 60
    assert place["G"][2] - place["Gn"][2] > 80
    assert place["T_R"][1] > 60 and place["T_L"][1] > 60


def test_every_landmark_lies_on_the_surface_or_is_missing(found: Detection, sample: TriangleMesh) -> None:
    _, distance = SurfaceLocator(sample).nearest_on_surface(found.points)
    assert distance[~found.missing].max() < 1e-6
    assert found.missing.sum() <= 5  # the sample shows both ears and the hairline


@pytest.mark.parametrize("surface", ["vertex", "centroid"])
def test_other_surfaces(surface: str, found: Detection, sample: TriangleMesh) -> None:
    other = LandmarkDetector.load(device="cpu", surface=surface).detect(sample)
    points, there = other.points, ~found.missing
    # What moves a landmark further makes it less certain.
    moved = apart(points, found.points)[there]
    grown = (other.standard_deviation_mm / found.standard_deviation_mm)[there]
    assert grown.min() > 0.999 and np.median(grown[moved > 0.7]) > 1.1 and (moved > 0.7).sum() > 5
    away = np.linalg.norm(sample.points[None] - points[there][:, None], axis=2)
    if surface == "vertex":
        assert away.min(axis=1).max() < 1e-9
    else:
        # The mean of ten vertices is none of them, but lies among them.
        assert np.median(away.min(axis=1)) > 1e-3
        assert np.sort(away, axis=1)[:, 9].max() < 12
    assert apart(points, found.points)[there].max() < 8


def test_unknown_surface_and_unit_are_refused(detector: LandmarkDetector, sample: TriangleMesh) -> None:
    with pytest.raises(ValueError, match="triangle, vertex, centroid"):
        LandmarkDetector.load(device="cpu", surface="nearest")
    with pytest.raises(ValueError, match="furlong"):
        detector.detect(sample, unit="furlong")


def test_landmarks_over_a_hole_are_missing(detector: LandmarkDetector, found: Detection, sample: TriangleMesh) -> None:
    ear = [found.labels.index(label) for label in ("T_L", "Pra_L")]
    middle = found.points[ear].mean(axis=0)
    scan = without(sample, np.linalg.norm(sample.points - middle, axis=1) < 32)
    holed = detector.detect(scan)
    assert holed.missing[ear].all()
    far = np.linalg.norm(found.points - middle, axis=1) > 60
    np.testing.assert_array_equal(holed.missing[far], found.missing[far])
    assert np.median(apart(holed.points, found.points)[far]) < 1


class OffTheSurface:
    """A placer whose landmarks lie 0, 1, 2 ... mm off the sample's skin, all with a standard deviation of 0.5 mm."""

    labels = load_scheme().labels

    def __init__(self) -> None:
        reference = load_reference()
        self.mean_landmarks, self._normals = reference.landmarks, reference.landmark_normals
        self.off_mm = np.zeros(len(self.labels))
        #: On the smooth forehead and cheeks, so that the nearest point is where the landmark came from.
        self.moved = [self.labels.index(label) for label in ("G", "Ft_R", "Ft_L", "Chk_R", "Chk_L", "Pg")]
        self.off_mm[self.moved] = [1, 2, 3, 3.5, 5, 6]

    def place(self, mesh: TriangleMesh, face_scale: float, stopwatch: Stopwatch) -> Generator[None, None, Placed]:
        yield
        skin, _ = SurfaceLocator(mesh).nearest_on_surface(self.mean_landmarks * face_scale)
        return Placed(skin + self.off_mm[:, None] * self._normals, np.full(len(skin), 0.5))


def test_what_had_to_be_moved_to_the_surface_is_doubted_by_as_much(sample: TriangleMesh) -> None:
    placer = OffTheSurface()
    found = LandmarkDetector(placer, load_reference(), "0", "0" * 64, "cpu", "triangle").detect(sample)
    deviation, missing = found.standard_deviation_mm[placer.moved], found.missing[placer.moved]
    assert missing.tolist() == [False] * 4 + [True] * 2
    np.testing.assert_allclose(deviation[:4], np.sqrt(0.25 + np.array([1, 2, 3, 3.5]) ** 2), rtol=0.15)
    np.testing.assert_allclose(deviation[4:], 0.5)  # these were not moved
    np.testing.assert_allclose(np.delete(found.standard_deviation_mm, placer.moved), 0.5, atol=1e-6)


def test_where_the_scan_ends_a_landmark_is_doubted_by_as_much(sample: TriangleMesh) -> None:
    """A cheek is cut away up to 3 mm from its landmark, which then has to move onto the edge."""
    placer = OffTheSurface()
    placer.off_mm[:] = 0
    detector = LandmarkDetector(placer, load_reference(), "0", "0" * 64, "cpu", "triangle")
    cheek = placer.labels.index("Chk_R")
    whole = detector.detect(sample)
    rotation, shift = whole.rigid_transform[:3, :3], whole.rigid_transform[:3, 3]
    known = Placed(whole.points @ rotation.T + shift, whole.standard_deviation_mm, load_reference().landmark_normals)
    # Where they lie on the whole face; so small a hole moves the alignment by less than can be seen here.
    placer.place = lambda mesh, face_scale, stopwatch: (yield) or known  # type: ignore[method-assign]
    cut = without(sample, np.linalg.norm(sample.points - whole.points[cheek], axis=1) < 2.5)
    found = detector.detect(cut)
    moved = np.linalg.norm(found.points[cheek] - whole.points[cheek])
    assert 2 < moved < 4 and not found.missing[cheek]
    assert found.standard_deviation_mm[cheek] == pytest.approx(np.hypot(0.5, moved), rel=0.1)


# ---------------------------------------------------------------------------------------------------------------------
# The same scan in other guises


def test_same_scan_same_result_bit_for_bit(found: Detection, sample: TriangleMesh, resources: Path) -> None:
    again = LandmarkDetector.load(device="cpu").detect(resources / "SampleScan.ply")
    for name in ("points", "standard_deviation_mm", "missing", "rigid_transform"):
        assert getattr(again, name).tobytes() == getattr(found, name).tobytes(), name
    assert (again.fitness, again.face_scale) == (found.fitness, found.face_scale)


@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    quaternion=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    shift=st.tuples(*[st.floats(-2000, 2000)] * 3),
)
def test_landmarks_move_with_the_scan(
    quaternion: tuple[float, ...],
    shift: tuple[float, ...],
    detector: LandmarkDetector,
    found: Detection,
    sample: TriangleMesh,
) -> None:
    rotation = Rotation.from_quat(quaternion).as_matrix()
    moved = detector.detect(sample.with_points(sample.points @ rotation.T + shift))
    assert apart((moved.points - shift) @ rotation, found.points).max() <= SPREAD_MM
    np.testing.assert_array_equal(moved.missing, found.missing)


@pytest.mark.parametrize("unit", ["cm", "m", "inch"])
def test_units(unit: str, detector: LandmarkDetector, found: Detection, sample: TriangleMesh) -> None:
    other = detector.detect(sample.with_points(sample.points / UNITS[unit]))
    assert (other.unit, other.unit_source) == (unit, "estimated")
    assert apart(other.points * UNITS[unit], found.points).max() <= 0.05
    np.testing.assert_allclose(other.standard_deviation_mm, found.standard_deviation_mm, rtol=0.02)


def test_given_unit_is_taken(detector: LandmarkDetector, found: Detection, sample: TriangleMesh) -> None:
    given_unit = detector.detect(sample, unit="mm")
    assert given_unit.unit_source == "given"
    assert apart(given_unit.points, found.points).max() < 1e-9


def test_mirrored_scan_gives_mirrored_landmarks(
    detector: LandmarkDetector, found: Detection, sample: TriangleMesh
) -> None:
    mirror = np.array([-1.0, 1.0, 1.0])
    other = detector.detect(TriangleMesh(sample.points * mirror, sample.triangles[:, ::-1].copy(), "mirrored"))
    swapped = other.points[list(load_scheme().mirrored)] * mirror
    difference = apart(swapped, found.points)
    assert np.mean(difference) < 0.4
    assert difference.max() < 2.0
    assert not other.warnings


def test_how_the_surface_is_listed(detector: LandmarkDetector, found: Detection, sample: TriangleMesh) -> None:
    other = detector.detect(listed_otherwise(sample, np.random.default_rng(4)))
    assert apart(other.points, found.points).max() < 1e-5
    assert np.abs(other.standard_deviation_mm - found.standard_deviation_mm).max() < 1e-5


def test_how_precisely_the_surface_is_stored(
    detector: LandmarkDetector, found: Detection, sample: TriangleMesh
) -> None:
    away = sample.points + np.array([500.0, -2000.0, 900.0])
    stored = detector.detect(sample.with_points(away.astype(np.float32).astype(np.float64)))
    difference = apart(stored.points - (away - sample.points)[0], found.points)
    assert difference.max() < 0.1 and np.median(difference) < 0.01


def test_inside_out_scan_is_accepted_with_a_warning(
    detector: LandmarkDetector, found: Detection, sample: TriangleMesh
) -> None:
    inverted = TriangleMesh(sample.points, sample.triangles[:, ::-1].copy(), "inverted.ply")
    other = detector.detect(inverted)
    assert any("inside-out" in warning for warning in other.warnings)
    assert not any("inside-out" in warning for warning in found.warnings)
    assert apart(other.points, found.points).max() < 1e-5


def test_two_threads_give_what_one_gives(detector: LandmarkDetector, found: Detection, sample: TriangleMesh) -> None:
    shift = np.array([40.0, -300.0, 25.0])
    moved = sample.with_points(sample.points + shift)
    alone = detector.detect(moved)
    with ThreadPoolExecutor(2) as executor:
        first, second = executor.map(detector.detect, [sample, moved])
    assert first.points.tobytes() == found.points.tobytes()
    assert second.points.tobytes() == alone.points.tobytes()


def test_many_scans_in_order_with_their_errors(
    detector: LandmarkDetector, found: Detection, sample: TriangleMesh, tmp_path: Path
) -> None:
    ball = _ball(80.0, "ball.ply")
    scans = [tmp_path / "absent.ply", sample, ball, sample]
    results = list(detector.detect_many(scans, workers=2))
    assert len(results) == 4
    assert isinstance(results[0], LandmarkingError) and "absent.ply" in str(results[0])
    assert isinstance(results[2], NotAFaceError) and "ball.ply" in str(results[2])
    for result in (results[1], results[3]):
        assert isinstance(result, Detection)
        assert result.points.tobytes() == found.points.tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# What must be refused


def assert_one_sentence(error: BaseException, name: str) -> None:
    message = str(error)
    assert name in message
    assert message.endswith(".") and "\n" not in message and 20 < len(message) < 300


@pytest.mark.parametrize("kind", ["sphere", "ellipsoid", "foot", "torso", "noisy cube", "two faces"])
def test_no_single_face(kind: str, detector: LandmarkDetector) -> None:
    non_faces = pytest.importorskip("training.benchmarks.non_faces")
    mesh = non_faces.KINDS[kind](np.random.default_rng(11), None)
    with pytest.raises(NotAFaceError) as refusal:
        detector.detect(mesh, unit="mm")
    assert_one_sentence(refusal.value, mesh.name)


def test_back_of_a_head(shared: Path, detector: LandmarkDetector) -> None:
    non_faces = pytest.importorskip("training.benchmarks.non_faces")
    mesh = non_faces.back_of_a_head(np.random.default_rng(11), shared / "face-model")
    with pytest.raises(NotAFaceError) as refusal:
        detector.detect(mesh)
    assert_one_sentence(refusal.value, mesh.name)


def test_too_few_points_on_the_face(detector: LandmarkDetector, sample: TriangleMesh) -> None:
    # Vertices that share a cell of 8 mm become one.
    _, first, cell = np.unique(np.floor(sample.points / 8.0), axis=0, return_index=True, return_inverse=True)
    triangles = cell.reshape(-1)[sample.triangles]
    triangles = triangles[np.diff(np.sort(triangles, axis=1), axis=1).all(axis=1)]
    coarse = TriangleMesh(sample.points[first], triangles, sample.name)
    with pytest.raises(NotAFaceError, match=r"points on the face") as refusal:
        detector.detect(coarse)
    assert_one_sentence(refusal.value, sample.name)
    assert "2000" in str(refusal.value)


@pytest.mark.parametrize("factor", [1e-6, 3e3])
def test_unit_that_cannot_be_told(factor: float, detector: LandmarkDetector, sample: TriangleMesh) -> None:
    with pytest.raises(UnknownUnitError) as refusal:
        detector.detect(sample.with_points(sample.points * factor))
    assert_one_sentence(refusal.value, sample.name)


def test_surface_without_area(detector: LandmarkDetector) -> None:
    line = TriangleMesh(np.arange(9000.0).reshape(3000, 3), np.arange(3000).reshape(1000, 3), "line.ply")
    with pytest.raises(LandmarkingError) as refusal:
        detector.detect(line)
    assert_one_sentence(refusal.value, "line.ply")


def _damage_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])
    path.with_name(path.name + ".sha256").unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")
    path.with_name(path.name + ".sha256").unlink()


def _rewrite(path: Path, metadata: dict[str, str | None], **arrays: NDArray[np.float32]) -> None:
    """The file with other metadata (None: left out) or further arrays, whole in itself."""
    weights = load_weights(path)
    path.with_name(path.name + ".sha256").unlink()
    facts = {key: value for key, value in {**weights.metadata, **metadata}.items() if value is not None}
    save_weights(path, {**weights.arrays, **arrays}, facts)


def _other_network(path: Path) -> None:
    _rewrite(path, {"architecture": "another-net"})


def _other_landmarks(path: Path) -> None:
    """Which the reference face does not have, nor the file says where a mean face has them."""
    labels = [f"p{number}" for number in range(50)]
    _rewrite(path, {"labels": json.dumps(labels), "mean_landmarks": None, "landmark_normals": None})


def _half_the_mean_landmarks(path: Path) -> None:
    _rewrite(path, {"mean_landmarks": json.dumps(np.zeros((25, 3)).tolist())})


def _other_parameters(path: Path) -> None:
    _rewrite(path, {}, surplus=np.zeros((2, 2), dtype=np.float32))


@pytest.mark.parametrize(
    "change",
    [
        _damage_a_byte,
        _truncate,
        _empty,
        _other_network,
        _other_landmarks,
        _half_the_mean_landmarks,
        _other_parameters,
    ],
)
def test_corrupted_or_foreign_weights(change: Callable[[Path], None], resources: Path, tmp_path: Path) -> None:
    weights = tmp_path / "Copy.safetensors"
    shutil.copy(resources / "Weights.safetensors", weights)
    digest = load_weights(weights).sha256
    (tmp_path / "Copy.safetensors.sha256").write_text(f"{digest}  Copy.safetensors\n", encoding="utf-8")
    LandmarkDetector.load(weights, device="cpu")
    change(weights)
    with pytest.raises(WeightsError) as refusal:
        LandmarkDetector.load(weights, device="cpu")
    assert_one_sentence(refusal.value, "Copy.safetensors")


class _UncertainPlacer:
    """Stands in for a network: the bundled one's points, with one standard deviation for all."""

    def __init__(self, placer: Any, deviation: float) -> None:
        self.labels, self.mean_landmarks = placer.labels, placer.mean_landmarks
        self._placer, self._deviation = placer, deviation

    def place(self, mesh: TriangleMesh, face_scale: float, stopwatch: Stopwatch) -> Generator[None, None, Placed]:
        placed = yield from self._placer.place(mesh, face_scale, stopwatch)
        return replace(placed, standard_deviation_mm=np.full(len(self.labels), self._deviation * face_scale))


@pytest.mark.parametrize(
    "deviation, is_face", [(0.9 * SURE_BELOW_MM, True), (1.1 * SURE_BELOW_MM, False), (np.nan, False)]
)
def test_the_network_judges_what_the_alignment_doubts(
    deviation: float, is_face: bool, detector: LandmarkDetector, sample: TriangleMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that says nothing of its certainty, like PAL-Net, cannot speak for a face."""
    placer = _UncertainPlacer(detector._placer, deviation)
    judge = LandmarkDetector(placer, load_reference(), "1", "", "cpu", "triangle")
    assert judge.detect(sample).warnings == ()  # no doubt, so nobody is asked
    monkeypatch.setattr("PALNetLandmarksLib.detector.LEAST_FITNESS", 0.999)
    if is_face:
        assert "check every landmark" in judge.detect(sample).warnings[0]
    else:
        with pytest.raises(NotAFaceError, match="No face was found"):
            judge.detect(sample)


# ---------------------------------------------------------------------------------------------------------------------
# Accuracy, roughly: training.benchmark measures it


def test_a_capture_against_the_subject_it_was_made_from(shared: Path, detector: LandmarkDetector) -> None:
    cohort = pytest.importorskip("training.cohort")
    build_sample = pytest.importorskip("training.build_sample")
    simulator = cohort.CaptureSimulator(cohort.HeadModel(shared / "face-model"))
    capture, _ = cohort.draw_capture(simulator, cohort.PLANS["clinic"], "test", build_sample.SUBJECT)
    found = detector.detect(TriangleMesh(capture.points, capture.triangles))
    errors = apart(found.points, capture.landmarks)[capture.visible]
    assert np.mean(errors) < 2.5
    assert np.quantile(errors, 0.9) < 5


def test_an_unusual_face_that_the_alignment_doubts_is_found(shared: Path, detector: LandmarkDetector) -> None:
    cohort = pytest.importorskip("training.cohort")
    simulator = cohort.CaptureSimulator(cohort.HeadModel(shared / "face-model"))
    capture, _ = cohort.draw_capture(simulator, cohort.PLANS["unusual"], "test", 86)
    mesh = TriangleMesh(capture.points, capture.triangles, "unusual.ply")
    with pytest.raises(NotAFaceError, match="No face was found"):
        align_to_reference(mesh, load_reference())
    found = detector.detect(mesh)
    assert DOUBTFUL_FITNESS < found.fitness < LEAST_FITNESS
    assert np.mean(apart(found.points, capture.landmarks)[capture.visible]) < 2.5
    assert len(found.warnings) == 1 and "check every landmark" in found.warnings[0]


@pytest.mark.parametrize("name", ["facefuns_f18", "meshmonk_demo"])
def test_real_scans(name: str, shared: Path, detector: LandmarkDetector) -> None:
    detection = detector.detect(shared / "scans" / f"{name}.ply")
    truth = json.loads((shared / "scans" / f"{name}.landmarks.json").read_text(encoding="utf-8"))["landmarks"]
    places = dict(zip(detection.labels, detection.points))
    errors = [np.linalg.norm(places[label] - np.array(place)) for label, place in truth.items()]
    assert detection.unit == "mm"
    assert np.mean(errors) < 3.5
    assert max(errors) < 9


def _ball(radius: float, name: str, rows: int = 60, columns: int = 90) -> TriangleMesh:
    """A ball of latitudes and longitudes."""
    lat, lon = np.meshgrid(
        np.linspace(-np.pi / 2, np.pi / 2, rows), np.linspace(0, 2 * np.pi, columns, endpoint=False), indexing="ij"
    )
    points = radius * np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns), indexing="ij")
    a, b = row * columns + column, row * columns + (column + 1) % columns
    triangles = [np.stack(t, -1).reshape(-1, 3) for t in ((a, b, b + columns), (a, b + columns, a + columns))]
    return TriangleMesh(points.reshape(-1, 3), np.concatenate(triangles).astype(np.int64), name)
