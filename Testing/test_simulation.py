"""The simulator: subjects of published size, devices that see what they can, captures that fit their landmarks."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.procrustes import fit_similarity
from PALNetLandmarksLib.scheme import load_scheme
from PALNetLandmarksLib.surface import SurfaceLocator

pytest.importorskip("embreex", reason="the simulator needs the training extra")
pytest.importorskip("numba", reason="the simulator needs the training extra")
pytest.importorskip("fast_simplification", reason="the simulator needs the training extra")

from training.cohort import load_simulator
from training.compare_pictures import BOX, VIEWS, shade
from training.simulation.cameras import Device, RangeImage, Scene, draw_device, see
from training.simulation.capture import DEVICE_SHARES, VERTEX_COUNTS, VISIBLE_MM, Capture, CaptureSimulator
from training.simulation.clothing import sew_collar, sew_garment
from training.simulation.fusion import fuse, mesh_range_image
from training.simulation.hair import TRICHION_HEIGHT, HairShell, draw_hair_style, grow_facial_hair
from training.simulation.head import ADULT_SIZE, HeadModel, Subject
from training.simulation.makehuman import AGES, FEATURES, RACES, SEXES, MakeHumanHeads
from training.simulation.noise import smooth_noise
from training.simulation.surfaces import bridge_holes, compact, subdivide_smoothly, unweld, zero_surface

DEVICES = ("stereo", "frontal", "handheld", "tomography", "half", "clean")
EARS = tuple(name + side for side in ("_R", "_L") for name in ("T", "Pra", "Sa", "Pa", "Sba"))


@pytest.fixture(scope="module")
def simulator(shared: Path) -> CaptureSimulator:
    return load_simulator(shared / "face-model", "lafas50")


@pytest.fixture(scope="module")
def model(simulator: CaptureSimulator) -> HeadModel:
    return simulator.model


@pytest.fixture(scope="module")
def shell(model: HeadModel) -> HairShell:
    return HairShell(model)


@pytest.fixture(scope="module")
def subjects(model: HeadModel) -> list[Subject]:
    return [model.draw_subject(np.random.default_rng([5, i])) for i in range(60)]


@pytest.fixture(scope="module")
def captures(simulator: CaptureSimulator, subjects: list[Subject]) -> dict[str, Capture]:
    """One capture with each device, all of different people."""
    return {
        device: simulator.capture(subjects[i], np.random.default_rng([6, i]), device, hair=0.5)
        for i, device in enumerate(DEVICES)
    }


def normals_and_areas(
    points: NDArray[np.float64], triangles: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centres (m, 3), normals (m, 3) and areas (m,) of the triangles."""
    areas, normals = TriangleMesh(points, triangles).triangle_areas_and_normals
    return points[triangles].mean(axis=1), normals, areas


# --- subjects


def test_extremum_landmarks_are_extreme_on_the_neutral_head(model: HeadModel) -> None:
    mean = model.mean_subject()
    skin = mean.vertices[: model.parts["head_neck"][1]]
    place = dict(zip(model.labels, mean.landmarks))
    assert place["Prn"][1] < skin[:, 1].min() + 0.3  # the frontmost point of the head
    for side, sign in (("_R", -1), ("_L", 1)):
        ear = skin[np.linalg.norm(skin - place["T" + side] - [sign * 8, 12, 5], axis=1) < 42]
        ear = ear[ear[:, 0] * sign > abs(place["T" + side][0]) + 8]  # what stands off the head
        assert len(ear) > 100
        assert place["Sa" + side][2] > ear[:, 2].max() - 1.0
        assert place["Sba" + side][2] < ear[:, 2].min() + 4.0
        assert place["Pa" + side][1] > ear[:, 1].max() - 1.5
    for label in load_scheme().labels[:12]:
        assert abs(place[label][0]) < 0.5, label


def test_every_extremum_stays_within_the_radius_of_its_rule(model: HeadModel) -> None:
    place = dict(zip(model.labels, model.mean_subject().landmarks / ADULT_SIZE))
    rules = [rule for rule in model.rules if rule.direction]
    assert len(rules) == 12
    for rule in rules:
        vertex = model.neutral[list(rule.vertices)].mean(axis=0)
        moved = place[rule.label] - vertex
        assert np.linalg.norm(moved) < rule.radius_mm
        assert moved @ np.array(rule.direction) > -0.3  # never noticeably behind the annotated vertex


def test_distances_are_those_of_adults(model: HeadModel, subjects: list[Subject]) -> None:
    """Means of LAFAS (../shared/README.md); the neutral head at 0.916, and the adults of a cohort."""
    published = {
        ("Ex_R", "Ex_L"): 86.7,
        ("Zy_R", "Zy_L"): 131.7,
        ("T_R", "T_L"): 137.4,
        ("Ch_R", "Ch_L"): 47.7,
        ("Go_R", "Go_L"): 111.0,
        ("T_L", "N"): 115.0,
        ("T_L", "Sn"): 118.6,
        ("T_L", "Pg"): 132.5,
        ("Pg", "Go_L"): 95.7,
        ("T_L", "Go_L"): 54.2,
        ("Tr", "N"): 62.5,
        ("N", "Pg"): 103.3,
        ("N", "Sn"): 52.9,
        ("Sn", "Pg"): 51.7,
    }
    index = {label: i for i, label in enumerate(model.labels)}
    neutral = model.mean_subject().landmarks * 0.916 / ADULT_SIZE
    adults = np.array([subject.landmarks for subject in subjects if subject.size > 0.84])
    assert len(adults) > 35
    for (a, b), distance in published.items():
        assert np.linalg.norm(neutral[index[a]] - neutral[index[b]]) == pytest.approx(distance, rel=0.05), (a, b)
        drawn = np.linalg.norm(adults[:, index[a]] - adults[:, index[b]], axis=1)
        assert drawn.mean() == pytest.approx(distance, rel=0.065), (a, b)


def test_sizes_reach_from_children_to_large_adults(model: HeadModel, subjects: list[Subject]) -> None:
    right, left = model.labels.index("Ex_R"), model.labels.index("Ex_L")
    width = np.array([np.linalg.norm(s.landmarks[right] - s.landmarks[left]) for s in subjects])
    assert width.min() < 72  # a small child
    assert width.max() > 95  # more than one deviation above the larger adults (89.7 +- 4.3)
    assert 82 < np.median(width) < 92
    sizes = np.array([subject.size for subject in subjects])
    assert 0.1 < (sizes < 0.84).mean() < 0.35


def test_faces_differ_in_shape_and_are_not_symmetric(subjects: list[Subject]) -> None:
    mirrored = list(load_scheme().mirrored)
    mean = np.mean([s.landmarks / s.size for s in subjects], axis=0)
    shape, asymmetry = [], []
    for subject in subjects:
        landmarks = subject.landmarks / subject.size
        shape.append(np.linalg.norm(fit_similarity(landmarks, mean).apply(landmarks) - mean, axis=1).mean())
        reflected = (landmarks * [-1, 1, 1])[mirrored]
        asymmetry.append(
            np.linalg.norm(fit_similarity(reflected, landmarks).apply(reflected) - landmarks, axis=1).mean()
        )
    assert 2.5 < np.mean(shape) < 6.0  # the spread of adults' landmarks after Procrustes is 3 to 5 mm
    assert 0.7 < np.mean(asymmetry) < 4.0
    assert min(asymmetry) > 0.2


def test_landmarks_lie_on_the_skin(model: HeadModel, subjects: list[Subject]) -> None:
    for subject in subjects[:5]:
        skin = SurfaceLocator(TriangleMesh(subject.vertices, model.skin_triangles))
        _, distance = skin.nearest_on_surface(subject.landmarks)
        assert distance.max() < 1.2
        assert np.median(distance) < 0.1


def test_an_expression_moves_the_mouth_and_not_the_ears(model: HeadModel) -> None:
    index = [model.labels.index(label) for label in ("Ch_R", "Ch_L", "Li", "Sl")]
    ears = [model.labels.index(label) for label in EARS]
    moved_mouth, moved_ears = [], []
    for seed in range(8):
        # Both draw the same identity first; expression then takes numbers of its own from the generator.
        calm = model.draw_subject(np.random.default_rng(seed), expressive=False)
        lively = model.draw_subject(np.random.default_rng(seed), expressive=True)
        back = fit_similarity(lively.landmarks[ears], calm.landmarks[ears]).apply(lively.landmarks)
        moved_mouth.append(np.linalg.norm(back - calm.landmarks, axis=1)[index].mean())
        moved_ears.append(np.linalg.norm(back - calm.landmarks, axis=1)[ears].mean())
        assert not calm.eyes_shut
    assert np.mean(moved_mouth) > 2 * np.mean(moved_ears)
    assert np.mean(moved_ears) < 1.5  # unequal stretching of the head only


def test_the_68_point_scheme_has_its_points_on_the_head(model: HeadModel, shared: Path) -> None:
    other = HeadModel(shared / "face-model", "multipie68")
    assert len(other.labels) == 68
    assert other.labels[0] == "P01"
    mean = other.mean_subject()
    assert np.abs(mean.vertices[:, None] - mean.landmarks).sum(axis=2).min(axis=0).max() == 0  # vertices of the model
    assert mean.landmarks[30] == pytest.approx(model.mean_subject().landmarks[model.labels.index("Prn")], abs=4)


# --- smooth noise


def test_smooth_noise_has_unit_variance_and_its_wavelength() -> None:
    rng = np.random.default_rng(0)
    line = np.column_stack([np.arange(0.0, 400.0), np.zeros((400, 2))])
    fields = np.array([smooth_noise(line, 40.0, rng) for _ in range(150)])
    assert fields.mean() == pytest.approx(0, abs=0.1)
    assert fields.var() == pytest.approx(1, abs=0.12)
    near, far = ((fields[:, step:] * fields[:, :-step]).mean() for step in (2, 20))
    assert near > 0.9  # 2 mm apart: nearly the same
    assert abs(far) < 0.35  # half a wavelength: little in common
    assert smooth_noise(line, 40.0, rng, outputs=3).shape == (400, 3)


# --- hair and clothes


def test_the_trichion_follows_the_hairline(model: HeadModel, shell: HairShell) -> None:
    subject = model.mean_subject()
    skin = SurfaceLocator(TriangleMesh(subject.vertices, model.skin_triangles))
    styles = (draw_hair_style(np.random.default_rng(seed)) for seed in range(200))
    styles = [style for style in styles if style.kind == "hair" and not style.fringe_mm][:3]
    for style, shift in zip(styles, (-12.0, 0.0, 12.0)):
        hairline = style.hairline - style.hairline[0] + TRICHION_HEIGHT + shift
        style = replace(style, hairline=hairline, covers_ears=(False, False))
        trichion = shell.trichion(subject, style)
        assert trichion is not None
        assert trichion[2] / ADULT_SIZE == pytest.approx(TRICHION_HEIGHT + shift, abs=0.2)
        assert abs(trichion[0]) < 0.2
        _, distance = skin.nearest_on_surface(trichion[None])
        assert distance[0] < 0.3
        hair, triangles = shell.grow(subject, style, np.random.default_rng(1))
        front = hair[np.unique(triangles)]
        front = front[(np.abs(front[:, 0]) < 2.5) & (front[:, 1] < 0)]
        # The hair begins at the trichion: nothing below, and the first of it within an edge of the shell.
        assert trichion[2] - 0.5 < front[:, 2].min() < trichion[2] + 4.0


@pytest.mark.parametrize("kind", ["none", "cap", "band"])
def test_a_hidden_or_absent_hairline_shows_no_trichion(kind: str, model: HeadModel, shell: HairShell) -> None:
    style = replace(draw_hair_style(np.random.default_rng(0)), kind=kind)
    assert shell.trichion(model.mean_subject(), style) is None


def test_styles_are_as_frequent_as_said() -> None:
    rng = np.random.default_rng(0)
    styles = [draw_hair_style(rng) for _ in range(600)]
    share = {kind: np.mean([style.kind == kind for style in styles]) for kind in ("none", "hair", "cap", "band")}
    assert share["hair"] == pytest.approx(0.72, abs=0.05)
    assert share["cap"] == pytest.approx(0.06, abs=0.03)
    assert np.mean([style.beard_mm > 0 for style in styles]) == pytest.approx(0.22, abs=0.05)
    assert max(style.thickness_mm for style in styles) <= 30
    hairlines = np.array([style.hairline[0] for style in styles if style.kind == "hair"])
    assert 5 < hairlines.std() < 9
    bald = [draw_hair_style(rng, 0.0) for _ in range(50)]
    assert all(style.kind == "none" for style in bald)


def test_hair_lies_outside_the_skin_and_faces_outwards(model: HeadModel, shell: HairShell) -> None:
    subject = model.mean_subject()
    style = next(
        style
        for style in (draw_hair_style(np.random.default_rng(seed)) for seed in range(50))
        if style.kind == "hair" and any(style.covers_ears)
    )
    points, triangles = shell.grow(subject, style, np.random.default_rng(2))
    centres, normals, areas = normals_and_areas(points, triangles)
    outward = ((centres - np.array([0.0, 0.0, 10.0])) * normals).sum(axis=1) > 0
    assert areas[outward].sum() / areas.sum() > 0.85
    face = np.linalg.norm(points - subject.landmarks[model.labels.index("Prn")], axis=1)
    assert face.min() > 40  # never on the central face


def test_beards_grow_outwards_and_only_where_they_should(model: HeadModel) -> None:
    subject = model.mean_subject()
    style = replace(draw_hair_style(np.random.default_rng(0)), beard_mm=4.0, moustache_mm=0.0)
    bearded = grow_facial_hair(model, subject, style, np.random.default_rng(1))
    shaved = grow_facial_hair(model, subject, replace(style, beard_mm=0.0), np.random.default_rng(1))
    length = np.linalg.norm(bearded, axis=1)
    chin = np.linalg.norm(subject.vertices - subject.landmarks[model.labels.index("Pg")], axis=1) < 12
    nose = np.linalg.norm(subject.vertices - subject.landmarks[model.labels.index("Prn")], axis=1) < 12
    assert 1.0 < np.median(length[chin]) < 8.0
    assert (length[nose] == 0).all()
    assert np.linalg.norm(shaved, axis=1).max() < 4.0  # brows
    assert (np.linalg.norm(shaved, axis=1)[chin] == 0).all()
    assert (bearded[chin & (length > 0)] @ np.array([0.0, -1.0, -0.3]) > 0).mean() > 0.8  # forwards


def outward_share(points: NDArray[np.float64], triangles: NDArray[np.int64]) -> float:
    """Share of the area of a tube around the neck that faces away from its axis."""
    centres, normals, areas = normals_and_areas(points, triangles)
    outward = ((centres - np.array([0.0, 22.0, 0.0])) * [1, 1, 0] * normals).sum(axis=1) > 0
    return float(areas[outward].sum() / areas.sum())


@pytest.mark.parametrize("sew", [sew_garment, sew_collar])
def test_clothes_lie_below_the_chin(sew: Callable[..., tuple[NDArray[np.float64], NDArray[np.int64]]]) -> None:
    for seed in range(5):
        points, triangles = sew(0.9, np.random.default_rng(seed))
        assert points[:, 2].max() < -50 * 0.9  # the chin is 64 mm below the origin of the head frame
        assert np.linalg.norm(points[:, :2] - [0, 22], axis=1).min() > 30  # around the neck, not through it
        assert len(np.unique(triangles)) > 0.8 * len(points)  # a collar is open in front


def test_collars_face_outwards() -> None:
    for seed in range(5):
        assert outward_share(*sew_collar(0.9, np.random.default_rng(seed))) > 0.8


def test_shirts_face_outwards() -> None:
    for seed in range(5):
        assert outward_share(*sew_garment(0.9, np.random.default_rng(seed))) > 0.8


# --- cameras and fusion


def plain_device(**settings: float) -> Device:
    return replace(Device("test", np.zeros((1, 2)), 0.0, 0.0, 0.0, 0.15, 2.0, 0.0), **settings)


def sphere(radius: float = 60.0, count: int = 90) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    latitude, longitude = np.meshgrid(
        np.linspace(-np.pi / 2, np.pi / 2, count), np.linspace(0, 2 * np.pi, 2 * count, endpoint=False), indexing="ij"
    )
    unit = np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], -1)
    i, j = np.meshgrid(np.arange(count - 1), np.arange(2 * count), indexing="ij")
    a, b = i * 2 * count + j, i * 2 * count + (j + 1) % (2 * count)
    triangles = np.concatenate(
        [np.stack(t, -1).reshape(-1, 3) for t in ((a, b, b + 2 * count), (a, b + 2 * count, a + 2 * count))]
    )
    return radius * unit.reshape(-1, 3), triangles


BOX_OF_SPHERE = np.array([[-65.0] * 3, [65.0] * 3])


def photograph_sphere(viewpoint: tuple[float, float], **settings: float) -> RangeImage:
    points, triangles = sphere()
    scene = Scene(points, triangles, np.zeros(len(triangles), dtype=bool))
    return see(scene, BOX_OF_SPHERE, np.array(viewpoint), plain_device(**settings), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("viewpoint", "towards"),
    [
        ((0, 0), (0, -1, 0)),
        ((90, 0), (1, 0, 0)),
        ((-90, 0), (-1, 0, 0)),
        ((180, 0), (0, 1, 0)),
        ((0, 60), (0, -0.5, 0.866)),
    ],
)
def test_a_camera_sees_its_side_of_a_sphere(viewpoint: tuple[float, float], towards: tuple[float, ...]) -> None:
    points = photograph_sphere(viewpoint).points()
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 60.0, atol=0.05)
    cosine = points @ np.array(towards) / 60.0
    assert cosine.min() > 0.15 - 0.06 * 6  # no flatter than the grazing limit, which is ragged
    assert cosine.min() > -0.01
    # It measures a disc: the silhouette less the rim at grazing angles.
    area = len(points) * (0.85 * 2.0) ** 2
    assert 0.93 * np.pi * 60**2 < area < 1.01 * np.pi * 60**2


def test_range_noise_has_the_devices_deviation() -> None:
    points = photograph_sphere((0, 0), noise_mm=0.5).points()
    centre = points[np.hypot(points[:, 0], points[:, 2]) < 20]
    assert (np.linalg.norm(centre, axis=1) - 60.0).std() == pytest.approx(0.5, rel=0.2)


def test_hair_is_measured_worse_than_skin() -> None:
    points, triangles = sphere()
    images = [
        see(
            Scene(points, triangles, np.full(len(triangles), fuzzy)),
            BOX_OF_SPHERE,
            np.array([0.0, 0.0]),
            plain_device(noise_mm=0.2, dropout=0.03),
            np.random.default_rng(1),
        ).points()
        for fuzzy in (False, True)
    ]
    errors = [np.linalg.norm(p[np.hypot(p[:, 0], p[:, 2]) < 20], axis=1) - 60.0 for p in images]
    assert errors[1].std() == pytest.approx(4 * errors[0].std(), rel=0.2)
    assert len(images[1]) < 0.95 * len(images[0])


def test_fused_range_images_give_the_sphere_back() -> None:
    views = [(0, 0), (90, 0), (180, 0), (270, 0), (0, 80), (0, -80)]
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    points, triangles = fuse([photograph_sphere(view) for view in views], 2.0, 0.7, rotation)
    distance = np.linalg.norm(points, axis=1)
    assert np.abs(distance - 60.0).max() < 0.6
    assert np.abs(distance - 60.0).mean() < 0.1
    centres, normals, areas = normals_and_areas(points, triangles)
    assert areas.sum() == pytest.approx(4 * np.pi * 60**2, rel=0.02)  # closed
    assert ((centres * normals).sum(axis=1) > 0).all() or areas[
        (centres * normals).sum(axis=1) <= 0
    ].sum() < 1e-3 * areas.sum()


def test_one_range_image_makes_a_surface_towards_the_camera() -> None:
    points, triangles = mesh_range_image(photograph_sphere((35, 10)))
    centres, normals, areas = normals_and_areas(points, triangles)
    assert ((centres * normals).sum(axis=1) > 0).all()
    assert 0.65 < areas.sum() / (2 * np.pi * 60**2) < 0.85  # the visible half less its rim, steeper than 1 in 5
    np.testing.assert_array_equal(np.unique(triangles), np.arange(len(points)))


@pytest.mark.parametrize("name", DEVICES)
def test_devices_stay_within_reason(name: str) -> None:
    for seed in range(30):
        device = draw_device(np.random.default_rng(seed), name)
        assert device.name == name
        assert device.viewpoints.shape[1] == 2
        assert len(device.viewpoints) >= 1
        assert 0 <= device.noise_mm < 1
        assert 0 <= device.grazing < 0.5
        assert 0.4 < device.voxel_mm < 3


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown device 'camera obscura'"):
        draw_device(np.random.default_rng(0), "camera obscura")
    assert sum(DEVICE_SHARES.values()) == pytest.approx(1.0)


# --- captures


def test_the_same_seed_gives_the_same_capture(simulator: CaptureSimulator) -> None:
    def take(seed: int) -> Capture:
        rng = np.random.default_rng(seed)
        return simulator.capture(simulator.model.draw_subject(rng), rng, "frontal")

    first, again, other = take(1), take(1), take(2)
    for name in ("points", "triangles", "landmarks", "visible"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.points.shape != other.points.shape
    assert np.abs(first.landmarks - other.landmarks).max() > 5


@pytest.mark.parametrize("device", DEVICES)
def test_a_capture_is_a_clean_file(device: str, captures: dict[str, Capture]) -> None:
    capture = captures[device]
    assert capture.device == device
    assert capture.labels == load_scheme().labels
    assert 0.9 * VERTEX_COUNTS[0] < len(capture.points) <= VERTEX_COUNTS[1]
    assert np.isfinite(capture.points).all()
    np.testing.assert_array_equal(np.unique(capture.triangles), np.arange(len(capture.points)))
    assert capture.landmarks.shape == (50, 3)
    assert np.isfinite(capture.landmarks).all()


@pytest.mark.parametrize("device", DEVICES)
def test_visible_landmarks_lie_on_the_scan_and_others_do_not(device: str, captures: dict[str, Capture]) -> None:
    capture = captures[device]
    locator = SurfaceLocator(TriangleMesh(capture.points, capture.triangles))
    _, to_surface = locator.nearest_on_surface(capture.landmarks)
    assert to_surface[capture.visible].max() < 1e-6
    assert (to_surface[~capture.visible] >= VISIBLE_MM).all()
    assert capture.visible.mean() > 0.5


@pytest.mark.parametrize("device", DEVICES)
def test_normals_point_outwards_on_every_device(device: str, captures: dict[str, Capture]) -> None:
    capture = captures[device]
    centres, normals, areas = normals_and_areas(capture.points, capture.triangles)
    low, high = capture.landmarks.min(axis=0), capture.landmarks.max(axis=0)
    depth = low[1] + 0.5 * (high[1] - low[1])
    face = (centres[:, 1] < depth) & (np.abs(centres[:, 0]) < 0.7 * high[0]) & (centres[:, 2] > low[2])
    assert areas[face].sum() > 5_000
    assert areas[face & (normals[:, 1] < 0.2)].sum() / areas[face].sum() > 0.94


def test_devices_see_what_they_can(captures: dict[str, Capture], subjects: list[Subject]) -> None:
    ears = [load_scheme().labels.index(label) for label in EARS]
    seen = {name: captures[name].visible[ears].reshape(2, 5).sum(axis=1) for name in DEVICES}
    assert seen["tomography"].sum() >= 9
    assert seen["clean"].sum() >= 9
    assert abs(seen["half"][0] - seen["half"][1]) >= 3  # one ear and hardly the other
    assert seen["frontal"].sum() <= seen["tomography"].sum()
    # How far the scan reaches behind the tip of the nose, in millimetres of the head model: to the ears, or all around.
    depth = {
        name: (np.quantile(captures[name].points[:, 1], 0.99) - captures[name].landmarks[3, 1]) / subjects[i].size
        for i, name in enumerate(DEVICES)
    }
    assert depth["frontal"] + 10 < min(depth["clean"], depth["tomography"])
    # One camera at the side sees one half: the middle of its surface lies off the midline.
    assert abs(np.median(captures["half"].points[:, 0])) > 15
    assert abs(np.median(captures["tomography"].points[:, 0])) < 10


def test_no_topology_of_the_head_model_survives(captures: dict[str, Capture], subjects: list[Subject]) -> None:
    for i, device in enumerate(DEVICES):
        locator = SurfaceLocator(TriangleMesh(captures[device].points, captures[device].triangles))
        _, distance = locator.nearest_vertex(subjects[i].vertices[:3000])
        assert (distance < 0.01).mean() < 0.01  # the face's own vertices are not the scan's


# --- the comparison picture


def test_a_shaded_sphere_is_a_disc_that_darkens_to_its_rim() -> None:
    points, triangles = sphere(60.0)
    centre = BOX.mean(axis=0)
    mesh = TriangleMesh(points + centre, triangles)
    for axes in VIEWS.values():
        picture = shade(mesh, axes, 1.0)
        covered = picture < 255
        assert covered.sum() == pytest.approx(np.pi * 60**2, rel=0.02)
        row, column = (index.mean() for index in np.nonzero(covered))
        assert (row, column) == pytest.approx((picture.shape[0] / 2 - 0.5, picture.shape[1] / 2 - 0.5), abs=0.6)
        middle = picture[round(row), round(column)]
        assert middle == pytest.approx(230, abs=3)
        assert picture[round(row), round(column) + 55] < 130
    inside_out = TriangleMesh(mesh.points, triangles[:, ::-1])
    assert set(np.unique(shade(inside_out, VIEWS["front"], 1.0))) == {25, 255}


def test_the_comparison_looks_at_faces_from_the_front_and_the_left() -> None:
    """A small ball at the subject's left shows right in the front view, nearest to the viewer from the left."""
    points, triangles = sphere(10.0, 20)
    ball = TriangleMesh(points + np.array([60.0, 50.0, 80.0]), triangles)
    for name, across in (("front", 60.0 - BOX[0, 0]), ("left side", 50.0 - BOX[0, 1])):
        picture = shade(ball, VIEWS[name], 1.0)
        row, column = (index.mean() for index in np.nonzero(picture < 255))
        assert (row, column) == pytest.approx((BOX[1, 2] - 80.0, across), abs=1.0)


def test_holes_up_to_a_size_are_bridged_and_face_outwards() -> None:
    sphere = unit_grid_sphere()
    centres = sphere[0][sphere[1]].mean(axis=1)
    open_mesh = compact(sphere[0], sphere[1][centres[:, 2] < 46.0])  # a cap cut off a ball of 50 mm
    unchanged = bridge_holes(*open_mesh, 5.0)
    closed = bridge_holes(*open_mesh, 60.0)
    assert len(unchanged[1]) == len(open_mesh[1])
    assert len(closed[1]) > len(open_mesh[1])
    volume = np.einsum("ij,ij->i", closed[0][closed[1][:, 0]], np.cross(*closed[0][closed[1][:, 1:]].swapaxes(0, 1)))
    # All of it but the cap of height 4 mm (pi h^2 (3 r - h) / 3), within the coarseness of the grid.
    assert volume.sum() / 6 == pytest.approx(4 / 3 * np.pi * 50**3 - np.pi * 16 * (150 - 4) / 3, rel=0.01)


def unit_grid_sphere() -> tuple[np.ndarray, np.ndarray]:
    axis = np.linspace(-55, 55, 56)
    field = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0) - 50.0
    points, triangles = zero_surface(field, (-55.0,) * 3, 2.0)
    return points, triangles[:, ::-1]  # VTK winds towards growing values


def test_unwelded_files_show_the_same_surface() -> None:
    points, triangles = unit_grid_sphere()
    apart, faces = unweld(points, triangles)
    assert len(apart) == 3 * len(triangles)
    np.testing.assert_array_equal(apart[faces], points[triangles])


def test_smooth_subdivision_rounds_corners_and_keeps_the_surface_closed() -> None:
    corners = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=float)
    faces = np.array([[a, b, c] for a in (0, 1) for b in (2, 3) for c in (4, 5)])
    outwards = np.linalg.det(corners[faces]) > 0
    faces[~outwards] = faces[~outwards][:, ::-1]
    points, triangles = subdivide_smoothly(corners, faces, 3)
    assert len(triangles) == 8 * 4**3
    assert len(points) - len(triangles) * 3 // 2 + len(triangles) == 2  # Euler: closed
    radii = np.linalg.norm(points, axis=1)
    assert radii.max() / radii.min() < 1.2  # the octahedron itself: 1.73


@pytest.fixture
def makehuman(tmp_path: Path) -> Path:
    """Data of MakeHuman's layout: a skin of 8 x 8 squares, three rows of it above the neck, and two features."""
    side = np.arange(9)
    lines = [f"v {x / 8 - 0.5} {4.6 + y / 4} 0.0" for y in side for x in side]
    lines += ["g body"]
    for y in range(8):
        for x in range(8):
            a = 9 * y + x + 1
            lines.append("f " + " ".join(f"{i}/1" for i in (a, a + 1, a + 10, a + 9)))
    lines += ["g helper-hair", "f 1/1 2/1 11/1 10/1"]
    (tmp_path / "3dobjs").mkdir()
    (tmp_path / "3dobjs" / "base.obj").write_text("\n".join(lines), encoding="utf-8")

    def target(folder: str, name: str, text: str = "") -> None:
        (tmp_path / "targets" / folder).mkdir(parents=True, exist_ok=True)
        with gzip.open(tmp_path / "targets" / folder / f"{name}.target.gz", "wt", encoding="utf-8") as file:
            file.write("# a comment\n" + text)

    for sex in SEXES:
        for age in AGES:
            for race in RACES:
                target("macrodetails", f"{race}-{sex}-{age}")
            for weight in ("minweight", "averageweight", "maxweight"):
                target("macrodetails", f"universal-{sex}-{age}-averagemuscle-{weight}")
    for feature in FEATURES:
        (tmp_path / "targets" / feature).mkdir(exist_ok=True)
    target("nose", "nose-hump-incr", "67 0 0 .1\n")
    target("nose", "nose-hump-decr", "67 0 0 -.1\n")
    for letter, vertex in (("l", 71), ("r", 63)):
        target("ears", f"{letter}-ear-shape-round", f"{vertex} 0 0 .2\n")
    return tmp_path


def test_heads_of_makehuman_vary_in_their_features_alone(makehuman: Path) -> None:
    heads = MakeHumanHeads(makehuman)
    assert len(heads.triangles) == 8 * 3 * 2 * 4**2  # what is skin and above the neck
    plain = heads.draw(np.random.default_rng(0), 0.0)
    np.testing.assert_allclose(plain[:, 1], 0.0, atol=1e-9)  # flat: z forward is -y in LPS
    assert plain[:, 2].min() == pytest.approx(585, abs=15) and plain[:, 2].max() == pytest.approx(660, abs=15)
    forward = np.array([-heads.draw(np.random.default_rng(i), 0.5)[:, 1] for i in range(200)])
    nose = np.argmin(np.linalg.norm(plain - [0, 0, 635], axis=1))
    ears = [np.argmin(np.linalg.norm(plain - [x, 0, 635], axis=1)) for x in (-50, 50)]
    # The smoothing lowers a single vertex's peak, of all heads alike.
    peak = np.abs(forward[:, nose]).max() / forward[:, nose].std()
    assert 2.2 < peak < 3.5 and abs(forward[:, nose].mean()) < 0.2 * forward[:, nose].std()
    assert 1.0 < forward[:, nose].std() < 5.0  # half of 10 mm, smoothed
    assert (forward[:, ears] >= 0).all()  # nothing undoes it
    np.testing.assert_allclose(forward[:, ears[0]], forward[:, ears[1]], rtol=1e-6)
    np.testing.assert_array_equal(heads.draw(np.random.default_rng(3), 0.5)[:, 1], -forward[3])


def test_unusual_heads_lie_further_from_the_mean(model: HeadModel) -> None:
    mean = model.mean_subject().landmarks

    def away(unusual: bool) -> float:
        found = []
        for i in range(40):
            landmarks = model.draw_subject(np.random.default_rng([8, i]), expressive=False, unusual=unusual).landmarks
            found.append(np.linalg.norm(fit_similarity(landmarks, mean).apply(landmarks) - mean, axis=1).mean())
        return float(np.mean(found))

    assert 1.4 < away(True) / away(False) < 2.2
