"""Alignment: the right pose from any start, in any unit, of any part of a face; and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PALNetLandmarksLib import align
from PALNetLandmarksLib.align import LEAST_FITNESS, UNITS, Alignment, align_to_reference
from PALNetLandmarksLib.errors import NotAFaceError, UnknownUnitError
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from scipy.spatial.transform import Rotation

REAL_SCANS = ("facefuns_f18", "facefuns_f46", "facefuns_m26", "facefuns_m66", "menpo_james", "meshmonk_demo")


@pytest.fixture(scope="module")
def reference() -> ReferenceFace:
    return load_reference()


@pytest.fixture(scope="module")
def sample(resources: Path) -> TriangleMesh:
    """The bundled synthetic subject."""
    return read_scan(resources / "SampleScan.ply")


@pytest.fixture(scope="module")
def sample_alignment(sample: TriangleMesh, reference: ReferenceFace) -> Alignment:
    return align_to_reference(sample, reference)


def as_mesh(reference: ReferenceFace, keep: np.ndarray | None = None, name: str = "reference.ply") -> TriangleMesh:
    """The reference face as a scan, or the part of it whose vertices are in ``keep``."""
    mesh = TriangleMesh(reference.points, reference.triangles, name)
    return mesh if keep is None else part(mesh, keep)


def part(mesh: TriangleMesh, keep: np.ndarray | slice) -> TriangleMesh:
    """The triangles whose vertices are all in ``keep``."""
    kept = np.zeros(len(mesh.points), dtype=bool)
    kept[keep] = True
    triangles = mesh.triangles[kept[mesh.triangles].all(axis=1)]
    used, renumbered = np.unique(triangles, return_inverse=True)
    return TriangleMesh(mesh.points[used], renumbered.reshape(-1, 3), mesh.name)


def sphere(half_axes: tuple[float, float, float], columns: int = 160) -> TriangleMesh:
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, columns), np.linspace(0, np.pi, columns // 2), indexing="ij")
    points = np.stack([np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)], axis=2).reshape(-1, 3)
    rows = u.shape[1]
    corner = (np.arange(columns - 1)[:, None] * rows + np.arange(rows - 1)).ravel()
    triangles = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + rows + 1], axis=1),
            np.stack([corner, corner + rows + 1, corner + rows], axis=1),
        ]
    )
    return TriangleMesh(points * half_axes, triangles, "ball.stl")


def together(*meshes: TriangleMesh, name: str = "parts.ply") -> TriangleMesh:
    starts = np.cumsum([0] + [len(mesh.points) for mesh in meshes[:-1]])
    return TriangleMesh(
        np.concatenate([mesh.points for mesh in meshes]),
        np.concatenate([mesh.triangles + start for mesh, start in zip(meshes, starts)]),
        name,
    )


def moved(mesh: TriangleMesh, rotation: np.ndarray, shift: np.ndarray, factor: float = 1.0) -> TriangleMesh:
    return mesh.with_points((mesh.points @ rotation.T + shift) * factor)


def in_scan(alignment: Alignment, canonical: np.ndarray) -> np.ndarray:
    """Canonical points in the scan's coordinates."""
    rotation, shift = alignment.transform[:3, :3], alignment.transform[:3, 3]
    return (canonical - shift) @ rotation / alignment.mm_per_unit


def in_frame(alignment: Alignment, points: np.ndarray) -> np.ndarray:
    """Points of the scan in the canonical frame."""
    return points * alignment.mm_per_unit @ alignment.transform[:3, :3].T + alignment.transform[:3, 3]


def degrees_between(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.degrees(Rotation.from_matrix(first @ second.T).magnitude()))


@pytest.mark.parametrize("seed", range(5))
def test_the_reference_itself_is_brought_home_from_anywhere(reference: ReferenceFace, seed: int) -> None:
    rotation = Rotation.random(random_state=seed).as_matrix()
    shift = np.random.default_rng(seed).normal(size=3) * 500
    found = align_to_reference(moved(as_mesh(reference), rotation, shift), reference)
    assert degrees_between(found.transform[:3, :3], rotation.T) < 1.5
    landmarks = reference.landmarks @ rotation.T + shift
    assert np.linalg.norm(in_scan(found, reference.landmarks) - landmarks, axis=1).max() < 2.5
    assert found.face_scale == pytest.approx(1.0, abs=0.02)
    assert found.fitness > 0.95 and found.coverage > 0.95 and found.residual_mm < 1.0
    assert found.unit == "mm" and found.unit_source == "estimated" and not found.inside_out and not found.warnings
    assert np.abs(found.transform[:3, :3] @ found.transform[:3, :3].T - np.eye(3)).max() < 1e-12
    assert np.linalg.det(found.transform[:3, :3]) > 0 and found.transform[3].tolist() == [0, 0, 0, 1]


def test_a_scan_ends_in_the_same_pose_from_every_start(
    sample: TriangleMesh, sample_alignment: Alignment, reference: ReferenceFace
) -> None:
    expected = in_scan(sample_alignment, reference.landmarks)
    for seed in range(8):
        rotation = Rotation.random(random_state=100 + seed).as_matrix()
        shift = np.random.default_rng(seed).normal(size=3) * 1000
        found = align_to_reference(moved(sample, rotation, shift), reference)
        back = (in_scan(found, reference.landmarks) - shift) @ rotation
        assert np.linalg.norm(back - expected, axis=1).max() < 0.1
        assert found.face_scale == pytest.approx(sample_alignment.face_scale, abs=1e-3)


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_is_found_or_taken(
    unit: str, sample: TriangleMesh, sample_alignment: Alignment, reference: ReferenceFace
) -> None:
    scaled = sample.with_points(sample.points / UNITS[unit])
    found = align_to_reference(scaled, reference)
    assert (found.unit, found.mm_per_unit, found.unit_source) == (unit, UNITS[unit], "estimated")
    given = align_to_reference(scaled, reference, unit=unit)
    assert (given.unit, given.unit_source) == (unit, "given")
    for alignment in (found, given):
        assert np.abs(alignment.transform - sample_alignment.transform).max() < 0.02


@pytest.mark.parametrize("size", [0.72, 1.15])
def test_the_size_of_the_face_is_found(size: float, reference: ReferenceFace) -> None:
    found = align_to_reference(as_mesh(reference).with_points(reference.points * size), reference)
    assert found.face_scale == pytest.approx(size, rel=0.04)
    # A point on the scan goes to face_scale times the corresponding point of the reference.
    tip = found.transform[:3, 3]
    assert np.linalg.norm(tip) < 2.0
    assert degrees_between(found.transform[:3, :3], np.eye(3)) < 2.0


@pytest.mark.parametrize("side", [-1, 1])
def test_half_a_face_is_enough(side: int, reference: ReferenceFace) -> None:
    rotation = Rotation.random(random_state=17).as_matrix()
    half = as_mesh(reference, side * reference.points[:, 0] > -3)
    found = align_to_reference(moved(half, rotation, np.zeros(3)), reference)
    assert degrees_between(found.transform[:3, :3], rotation.T) < 4
    assert np.linalg.norm(in_scan(found, reference.landmarks) - reference.landmarks @ rotation.T, axis=1).mean() < 5
    assert 0.4 < found.coverage < 0.7


@pytest.mark.parametrize("unit", [None, "mm"])
def test_too_little_of_a_face_is_called_so(
    sample: TriangleMesh, sample_alignment: Alignment, reference: ReferenceFace, unit: str | None
) -> None:
    """What lies beside the right eye: it fits a face well, but could be seen on many."""
    rotation, shift = sample_alignment.transform[:3, :3], sample_alignment.transform[:3, 3]
    beside = (sample.points @ rotation.T + shift)[:, 0] < -22
    with pytest.raises(
        NotAFaceError, match=r"shows too little of a face \((1|2|3).\ % of its middle, less than the 35 %"
    ):
        align_to_reference(part(sample, beside), reference, unit)


def test_a_bare_mask_with_holes_noise_and_fragments(reference: ReferenceFace) -> None:
    rng = np.random.default_rng(5)
    points = reference.points
    keep = np.linalg.norm(points - [0, 0, 5], axis=1) < 95
    for hole in points[rng.choice(np.flatnonzero(keep), 6)]:
        keep &= np.linalg.norm(points - hole, axis=1) > 8
    mask = as_mesh(reference, keep)
    mask = mask.with_points(mask.points + rng.normal(0, 0.4, mask.points.shape))
    speck = sphere((3, 2, 1), 12)
    fragments = [speck.with_points(speck.points + rng.normal(0, 150, 3)) for _ in range(5)]
    rotation = Rotation.random(random_state=4).as_matrix()
    found = align_to_reference(moved(together(mask, *fragments), rotation, np.ones(3)), reference)
    assert degrees_between(found.transform[:3, :3], rotation.T) < 3


def test_a_head_on_broad_shoulders(sample: TriangleMesh, sample_alignment: Alignment, reference: ReferenceFace) -> None:
    tip = in_scan(sample_alignment, np.zeros((1, 3)))[0]
    body = sphere((230, 110, 90))
    axes = sample_alignment.transform[:3, :3]
    body = body.with_points((body.points + np.array([0.0, 90.0, -220.0])) @ axes + tip)
    found = align_to_reference(together(sample, body), reference)
    assert np.abs(found.transform - sample_alignment.transform).max() < 1.0


def test_inside_out_surfaces_are_found_and_said(
    sample: TriangleMesh, sample_alignment: Alignment, reference: ReferenceFace
) -> None:
    flipped = TriangleMesh(sample.points, sample.triangles[:, ::-1].copy(), "flipped.stl")
    found = align_to_reference(flipped, reference)
    assert found.inside_out and any("mirrored" in warning for warning in found.warnings)
    assert np.abs(found.transform - sample_alignment.transform).max() < 0.5
    mirrored = sample.with_points(sample.points * [-1.0, 1.0, 1.0])
    assert align_to_reference(mirrored, reference).inside_out


def test_the_same_bits_every_time_and_no_matter_how_vertices_are_numbered(
    sample: TriangleMesh, sample_alignment: Alignment, reference: ReferenceFace
) -> None:
    again = align_to_reference(sample, reference)
    assert np.array_equal(again.transform, sample_alignment.transform)
    assert (again.fitness, again.face_scale) == (sample_alignment.fitness, sample_alignment.face_scale)
    order = np.random.default_rng(0).permutation(len(sample.points))
    renumbered = TriangleMesh(sample.points[order], np.argsort(order)[sample.triangles], "renumbered.ply")
    assert np.array_equal(align_to_reference(renumbered, reference).transform, sample_alignment.transform)


def rough_ball() -> TriangleMesh:
    ball = sphere((90, 90, 90))
    centres = Rotation.random(60, random_state=3).as_matrix()[:, 0] * 90
    heights = np.random.default_rng(2).normal(0, 9, 60)
    squared = ((ball.points[:, None] - centres) ** 2).sum(axis=2)
    bumps = np.exp(-squared / (2 * 18.0**2)) @ heights
    return ball.with_points(ball.points * (1 + bumps / 90)[:, None])


def noisy_plane() -> TriangleMesh:
    plane = sphere((100, 100, 0.01))
    return plane.with_points(plane.points + np.random.default_rng(1).normal(0, [0.1, 0.1, 1.0], plane.points.shape))


def foot() -> TriangleMesh:
    parts = [((0, 0, 0), (130, 42, 32)), ((-70, 0, 70), (45, 40, 100)), ((-115, 0, 0), (30, 33, 35))]
    parts += [((135 - 5 * k, -30 + 15 * k, -12), (28, 14 - k, 13)) for k in range(5)]
    return together(*(sphere(axes, 60).with_points(sphere(axes, 60).points + centre) for centre, axes in parts))


@pytest.mark.parametrize(
    "shape",
    [lambda: sphere((80, 80, 80)), lambda: sphere((75, 95, 115)), rough_ball, noisy_plane, foot],
    ids=["sphere", "egg", "rough ball", "noisy plane", "foot"],
)
def test_what_is_no_face_is_refused_with_the_figure(shape, reference: ReferenceFace) -> None:  # type: ignore[no-untyped-def]
    mesh = shape()
    with pytest.raises(NotAFaceError, match=rf"'{mesh.name}'.*fitness 0\.\d\d < {LEAST_FITNESS}"):
        align_to_reference(mesh, reference, unit="mm")


def whole_head(shared: Path) -> TriangleMesh:
    """The mean head, closed but for the neck."""
    with np.load(shared / "face-model" / "ict_head.npz") as model:
        points = model["neutral"].astype(float)[:, [0, 2, 1]] * [1.0, -1.0, 1.0]
        first, last = model["part_face"][0], model["part_head_neck"][1]
        quads = model["quads"].astype(np.int64)
    triangles = np.vstack([quads[:, :3], quads[quads[:, 3] >= 0][:, [0, 2, 3]]])
    return part(TriangleMesh(points, triangles, "head.obj"), slice(first, last))


def test_the_back_of_a_head_is_refused(shared: Path, reference: ReferenceFace) -> None:
    head = whole_head(shared)
    back = part(head, head.points[:, 1] > np.median(head.points[:, 1]) + 40)
    with pytest.raises(NotAFaceError, match=r"'head\.obj'"):
        align_to_reference(back, reference)


@pytest.mark.parametrize("seed", [2, 3])
def test_airways_and_bone_inside_a_skin_surface(seed: int, shared: Path, reference: ReferenceFace) -> None:
    """As in CT that ends below the nose. (Before there was a search of the outer surface, the first was refused.)"""
    head = whole_head(shared)
    head = head.with_points(in_frame(align_to_reference(head, reference), head.points))
    head = part(head, head.points[:, 2] > -28)
    rng = np.random.default_rng(seed)
    inside = [
        moved(sphere((radius, radius, 10), 24), turn, rng.uniform(low, high))
        for radius, low, high in ((4, [-30, 14, -25], [30, 60, 20]), (8, [-40, 40, -20], [40, 140, 70]))
        for turn in Rotation.random(80, random_state=rng).as_matrix()
    ]
    found = align_to_reference(together(head, *inside), reference)
    assert np.abs(found.transform - np.eye(4)).max() < 1.0
    assert found.fitness > 0.9


def test_a_search_that_missed_the_face_is_made_again_on_other_samples(
    sample: TriangleMesh, sample_alignment: Alignment, reference: ReferenceFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts = []

    def missing_once(search):  # type: ignore[no-untyped-def]
        def searched(given, *rest):  # type: ignore[no-untyped-def]
            found = search(given, *rest)
            place = tuple(found.even[0])
            firsts.append(place)
            missed = replace(found.evidence, fitness=found.evidence.fitness * 0.1)
            return replace(found, evidence=missed) if place == firsts[0] else found

        return searched

    for name in ("_search", "_search_borders"):
        monkeypatch.setattr(align, name, missing_once(getattr(align, name)))
    found = align_to_reference(sample, reference, unit="mm")
    assert len(set(firsts)) == 2
    assert np.abs(found.transform - sample_alignment.transform).max() < 0.3
    assert found.fitness == pytest.approx(sample_alignment.fitness, abs=0.02)


@pytest.mark.parametrize(
    ("unit", "resembling", "expected"),
    [("cm", "", ["cm"]), ("inch", "", ["cm", "inch"]), ("inch", "cm", ["cm", "inch"])],
)
def test_a_certain_face_ends_the_search_for_the_unit(
    unit: str,
    resembling: str,
    expected: list[str],
    sample: TriangleMesh,
    sample_alignment: Alignment,
    reference: ReferenceFace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched = []
    search = align._search

    def noted(samples, unit, target):  # type: ignore[no-untyped-def]
        searched.append(unit)
        found = search(samples, unit, target)
        if unit != resembling:
            return found
        # In a wrong unit a scrap of surface may look like a face.
        fitness, coverage = np.full_like(found.evidence.fitness, 0.85), np.full_like(found.evidence.coverage, 0.1)
        return replace(found, evidence=replace(found.evidence, fitness=fitness, coverage=coverage))

    monkeypatch.setattr(align, "_search", noted)
    found = align_to_reference(sample.with_points(sample.points / UNITS[unit]), reference)
    assert searched == expected
    assert (found.unit, found.fitness) == (unit, pytest.approx(sample_alignment.fitness, abs=1e-6))


@pytest.mark.parametrize("away", [[320.0, 40.0, 20.0], [-90.0, 380.0, 30.0], [20.0, -60.0, 420.0]])
def test_two_faces_are_refused(away: list[float], sample: TriangleMesh, reference: ReferenceFace) -> None:
    turn = Rotation.from_rotvec([0, 0, 0.6]).as_matrix()
    other = moved(as_mesh(reference), turn, sample.points.mean(axis=0) + np.array(away))
    with pytest.raises(NotAFaceError, match=r"'pair\.ply' shows more than one face"):
        align_to_reference(together(sample, other, name="pair.ply"), reference)


def test_a_place_much_less_like_a_face_is_no_second_one(
    sample: TriangleMesh, reference: ReferenceFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = moved(as_mesh(reference), np.eye(3), sample.points.mean(axis=0) + np.array([320.0, 40.0, 20.0]))
    pair, settle = together(sample, other, name="pair.ply"), align._settle

    def weakened(first: float, second: float):  # type: ignore[no-untyped-def]
        def settled(found, target, index):  # type: ignore[no-untyped-def]
            pose, evidence = settle(found, target, index)
            fitness = np.full_like(evidence.fitness, second if index else first)
            return pose, replace(evidence, fitness=fitness)

        return settled

    monkeypatch.setattr(align, "_settle", weakened(0.95, 0.6))
    assert align_to_reference(pair, reference).fitness == pytest.approx(0.95)
    monkeypatch.setattr(align, "_settle", weakened(0.95, 0.75))
    with pytest.raises(NotAFaceError, match="more than one face"):
        align_to_reference(pair, reference)
    monkeypatch.setattr(align, "_settle", weakened(0.6, 0.55))
    with pytest.raises(NotAFaceError, match="too little of a face to tell where it is"):
        align_to_reference(pair, reference)


def test_a_coarse_scan_is_refused_with_the_number_of_its_points(reference: ReferenceFace) -> None:
    cells = np.floor(reference.points / 9.0).astype(np.int64)
    _, first, member = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    triangles = member.ravel()[reference.triangles]
    a, b, c = triangles.T
    mesh = TriangleMesh(reference.points[first], triangles[(a != b) & (b != c) & (c != a)], "coarse.stl")
    assert 500 < len(mesh.points) < 2000
    with pytest.raises(NotAFaceError, match=r"'coarse\.stl' has only \d+ points on the face, fewer than the 2000"):
        align_to_reference(mesh, reference)


@pytest.mark.parametrize("far", [1e6, 1e12])
def test_a_point_very_far_away(far: float, sample: TriangleMesh, reference: ReferenceFace) -> None:
    points = sample.points.copy()
    points[777, 0] = far
    with pytest.raises(
        NotAFaceError, match=r"'SampleScan\.ply' stretches over 1e\+\d\d length units.*remove the points"
    ):
        align_to_reference(sample.with_points(points), reference)


def test_sizes_that_fit_no_unit_and_wrong_or_unknown_units(sample: TriangleMesh, reference: ReferenceFace) -> None:
    with pytest.raises(UnknownUnitError, match=f"'{sample.name}' measures"):
        align_to_reference(sample.with_points(sample.points * 1e-5), reference)
    with pytest.raises(NotAFaceError, match="is in cm"):
        align_to_reference(sample, reference, unit="cm")
    with pytest.raises(ValueError, match="furlong"):
        align_to_reference(sample, reference, unit="furlong")
    flat = TriangleMesh(np.zeros((3, 3)), np.array([[0, 1, 2]]), "flat.ply")
    with pytest.raises(NotAFaceError, match=r"'flat\.ply' has no surface area"):
        align_to_reference(flat, reference)


@pytest.mark.parametrize("name", REAL_SCANS)
def test_real_scans(name: str, shared: Path, reference: ReferenceFace) -> None:
    mesh = read_scan(shared / "scans" / f"{name}.ply")
    points = json.loads((shared / "scans" / f"{name}.landmarks.json").read_text(encoding="utf-8"))["landmarks"]
    rows = {label: reference.labels.index(label) for label in points}
    expected = np.array(list(points.values()))
    starts = Rotation.create_group("O").as_matrix()[5::9]
    placed = []
    for rotation in (np.eye(3), *starts):
        found = align_to_reference(moved(mesh, rotation, np.array([10.0, -700.0, 99.0])), reference)
        template = found.face_scale * reference.landmarks[list(rows.values())]
        placed.append((in_scan(found, template) - [10.0, -700.0, 99.0]) @ rotation)
        assert found.unit == "mm" and not found.inside_out
    assert np.linalg.norm(placed[0] - expected, axis=1).mean() < 7
    assert max(np.linalg.norm(other - placed[0], axis=1).max() for other in placed[1:]) < 0.3
