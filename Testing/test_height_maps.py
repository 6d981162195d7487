"""Height maps: known surfaces give the images worked out by hand; symmetry; the compiled twin of the trainer."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PALNetLandmarksLib.height_maps import CHANNELS, HeightMapConfig, cut_height_maps, landmark_frames
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from PALNetLandmarksLib.sample_surface import sample_surface
from PALNetLandmarksLib.scheme import load_scheme
from scipy.spatial.transform import Rotation

FLIP = np.array([-1.0, 1.0, 1.0])
#: One scale with every sample: what is compared with formulas.
ONE_SCALE = HeightMapConfig(pixels=24, pitch_mm=(1.25,), depth_mm=(14.0,), stride=(1,))


@pytest.fixture(scope="module")
def reference() -> ReferenceFace:
    return load_reference()


@pytest.fixture(scope="module")
def frames(reference: ReferenceFace) -> NDArray[np.float32]:
    return landmark_frames(reference.landmark_normals, load_scheme().mirrored)


@pytest.fixture(scope="module")
def samples(reference: ReferenceFace) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    taken = sample_surface(TriangleMesh(reference.points, reference.triangles), 24_000)
    return taken.points.astype(np.float32), taken.normals.astype(np.float32)


def pixel_positions(config: HeightMapConfig, scale: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right and up (mm from the centre) of every pixel: rows go up, columns to the right."""
    along = (np.arange(config.pixels) - 0.5 * (config.pixels - 1)) * config.pitch_mm[scale]
    up, right = np.meshgrid(along, along, indexing="ij")
    return right, up


def draw_local(
    local: NDArray[np.float64],
    local_normals: NDArray[np.float64],
    config: HeightMapConfig = ONE_SCALE,
    turn: Rotation | None = None,
) -> NDArray[np.float32]:
    """The map (pixels, pixels, CHANNELS) of samples given as right, up and outward (mm), looked at in a turned pose."""
    axes = (turn or Rotation.from_rotvec([0.3, -0.8, 0.5])).as_matrix()
    centre = np.array([12.0, -70.0, 33.0])
    points, normals = centre + local @ axes, local_normals @ axes
    return cut_height_maps(points, normals, centre[None], axes[None].astype(np.float32), config)[0, 0]


def grid(extent: float = 22.0, step: float = 0.21) -> NDArray[np.float64]:
    """Positions (n, 2) on a fine regular grid, over more than the map."""
    along = np.arange(-extent, extent, step)
    return np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)


# --- known surfaces


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.25, 0.0), (-0.1, 0.2)])
def test_a_plane_is_drawn_with_its_heights_and_one_normal(slope: tuple[float, float]) -> None:
    uv = grid()
    normal = np.array([-slope[0], -slope[1], 1.0])
    normal /= np.linalg.norm(normal)
    image = draw_local(np.column_stack([uv, uv @ slope]), np.tile(normal, (len(uv), 1)))
    right, up = pixel_positions(ONE_SCALE)
    inside = (slice(1, -1), slice(1, -1))  # at the border half of each pixel's samples are missing
    np.testing.assert_array_equal(image[..., 0], 1.0)
    np.testing.assert_allclose(image[..., 1][inside] * 14.0, (slope[0] * right + slope[1] * up)[inside], atol=0.04)
    np.testing.assert_allclose(image[..., 2], normal[0], atol=1e-5)
    np.testing.assert_allclose(image[..., 3], normal[1], atol=1e-5)


def test_a_sphere_is_drawn_with_its_heights_and_normals() -> None:
    radius = 60.0
    uv = grid()
    w = np.sqrt(radius**2 - (uv**2).sum(axis=1)) - radius
    normals = np.column_stack([uv, w + radius]) / radius
    image = draw_local(np.column_stack([uv, w]), normals)
    right, up = pixel_positions(ONE_SCALE)
    inside = (slice(1, -1), slice(1, -1))
    expected = np.sqrt(radius**2 - right**2 - up**2) - radius
    np.testing.assert_allclose(image[..., 1][inside] * 14.0, expected[inside], atol=0.06)
    np.testing.assert_allclose(image[..., 2][inside], (right / radius)[inside], atol=0.003)
    np.testing.assert_allclose(image[..., 3][inside], (up / radius)[inside], atol=0.003)


def test_each_scale_has_its_own_pixel_size_and_depth() -> None:
    config = HeightMapConfig(pixels=24, pitch_mm=(1.25, 3.4), depth_mm=(14.0, 48.0), stride=(1, 5))
    # The coarse scale draws the first fifth of the samples, which then must be spread evenly.
    uv = np.random.default_rng(0).permutation(grid(50.0, 0.5))
    axes = np.eye(3)
    points = np.column_stack([uv, 0.2 * uv[:, 0]])
    normal = np.array([-0.2, 0.0, 1.0]) / np.hypot(0.2, 1.0)
    maps = cut_height_maps(
        points, np.tile(normal, (len(uv), 1)), np.zeros((1, 3)), axes[None].astype(np.float32), config
    )
    assert maps.shape == (2, 1, 24, 24, CHANNELS)
    assert maps.dtype == np.float32
    for scale, tolerance in ((0, 0.06), (1, 0.5)):
        right, _ = pixel_positions(config, scale)
        inner = maps[scale, 0, 2:-2, 2:-2, 1] * config.depth_mm[scale]
        np.testing.assert_allclose(inner, 0.2 * right[2:-2, 2:-2], atol=tolerance)


def test_nothing_there_is_zero_everywhere() -> None:
    far = np.array([[500.0, 0.0, 0.0], [0.0, 500.0, 0.0]])
    assert not draw_local(far, np.tile([0.0, 0.0, 1.0], (2, 1))).any()
    assert not draw_local(np.zeros((0, 3)), np.zeros((0, 3))).any()


def test_a_surface_deeper_than_the_depth_is_not_drawn() -> None:
    uv = grid()
    towards = np.tile([0.0, 0.0, 1.0], (len(uv), 1))
    for height, drawn in ((13.5, 1.0), (-13.5, 1.0), (14.5, 0.0), (-14.5, 0.0)):
        # The frame of the canonical axes: the box around the map then cuts nothing off.
        image = draw_local(np.column_stack([uv, np.full(len(uv), height)]), towards, turn=Rotation.identity())
        assert image[..., 0].mean() == drawn
        np.testing.assert_allclose(image[..., 1], drawn * height / 14.0, atol=1e-5)


def test_a_surface_seen_from_behind_is_not_drawn() -> None:
    uv = grid()
    flat = np.column_stack([uv, np.full(len(uv), 3.0)])
    away = np.tile([0.0, 0.0, -1.0], (len(uv), 1))
    assert not draw_local(flat, away).any()
    # The far side of an ear, behind its near side, leaves no trace in the picture of the near side.
    near = np.column_stack([uv, np.full(len(uv), 1.0)])
    alone = draw_local(near, -away)
    both = draw_local(np.concatenate([near, flat - [0, 0, 6]]), np.concatenate([-away, away]))
    np.testing.assert_array_equal(both, alone)


def test_the_outer_of_two_surfaces_wins() -> None:
    uv = grid()
    towards = np.tile([0.0, 0.0, 1.0], (len(uv), 1))
    outer, inner = np.column_stack([uv, np.full(len(uv), 6.0)]), np.column_stack([uv, np.full(len(uv), -6.0)])
    image = draw_local(np.concatenate([outer, inner]), np.concatenate([towards, towards]))
    weight = np.exp(12.0 / ONE_SCALE.softness_mm)  # 55 to 1
    np.testing.assert_allclose(image[..., 1] * 14.0, 6.0 * (weight - 1) / (weight + 1), atol=1e-4)


def test_a_large_hole_stays_open_and_a_small_gap_closes() -> None:
    uv = grid()
    towards = np.tile([0.0, 0.0, 1.0], (len(uv), 1))
    right, up = pixel_positions(ONE_SCALE)
    distance = np.hypot(right, up)
    for radius, still_open in ((1.2, False), (6.0, True)):
        kept = np.linalg.norm(uv, axis=1) > radius
        image = draw_local(np.column_stack([uv, np.zeros(len(uv))])[kept], towards[kept])
        if still_open:
            assert not image[distance < radius - 2 * np.sqrt(2) * 1.25].any()
        else:
            assert image[..., 0].all()
        assert image[distance > radius + 1.25, 0].all()


def test_rows_go_up_and_columns_to_the_right() -> None:
    blob = np.array([6.0, -4.0, 0.0]) + np.column_stack([grid(0.6, 0.2), np.zeros(36)])
    image = draw_local(blob, np.tile([0.0, 0.0, 1.0], (len(blob), 1)))
    row, column = (index.mean() for index in np.nonzero(image[..., 0]))
    assert column == pytest.approx(11.5 + 6.0 / 1.25, abs=0.6)
    assert row == pytest.approx(11.5 - 4.0 / 1.25, abs=0.6)


# --- directions of view


def test_frames_are_orthonormal_and_look_along_the_skin_normal(
    reference: ReferenceFace, frames: NDArray[np.float32]
) -> None:
    np.testing.assert_allclose(frames @ frames.transpose(0, 2, 1), np.tile(np.eye(3), (50, 1, 1)), atol=1e-6)
    cosine = (frames[:, 2] * reference.landmark_normals).sum(axis=1)
    assert cosine.min() > 0.97
    # Up in the image is up on the head, except where one looks from below or above.
    level = np.abs(frames[:, 2, 2]) < 0.85
    assert level.sum() > 35
    assert (frames[level, 1, 2] > 0.5).all()


def test_left_frames_are_mirror_images_of_right_ones(frames: NDArray[np.float32]) -> None:
    mirrored = load_scheme().mirrored
    handedness = np.round(np.linalg.det(frames))
    for i, other in enumerate(mirrored):
        assert handedness[i] == (-1 if other < i else 1)
        if other == i:
            assert abs(frames[i, 2, 0]) < 1e-6  # a midline landmark is looked at from the midline
        else:
            np.testing.assert_array_equal(frames[i], frames[other] * FLIP.astype(np.float32))


def test_a_landmark_without_counterpart_is_looked_at_along_its_own_normal() -> None:
    normals = np.array([[0.6, -0.8, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    frames = landmark_frames(normals, (-1, -1, -1))
    np.testing.assert_allclose(frames[:, 2], normals, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(frames), 1.0, atol=1e-6)
    np.testing.assert_allclose(frames @ frames.transpose(0, 2, 1), np.tile(np.eye(3), (3, 1, 1)), atol=1e-6)


# --- symmetry and order


def test_a_mirrored_face_gives_the_counterparts_images(
    reference: ReferenceFace,
    frames: NDArray[np.float32],
    samples: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    mirrored = np.array(load_scheme().mirrored)
    centres = reference.landmarks + np.random.default_rng(3).normal(0, 1.5, (50, 3))
    config = HeightMapConfig()
    maps = cut_height_maps(*samples, centres, frames, config)
    flip = FLIP.astype(np.float32)
    reflected = cut_height_maps(samples[0] * flip, samples[1] * flip, (centres * FLIP)[mirrored], frames, config)
    paired = mirrored != np.arange(50)
    assert (np.count_nonzero(maps[:, :, :, :, 0], axis=(2, 3)) > 30).all()
    np.testing.assert_allclose(reflected[:, mirrored[paired]], maps[:, paired], atol=2e-5)
    # In the midline the image itself is reflected, and what points to the right points to the left.
    midline = maps[:, ~paired][:, :, :, ::-1] * np.array([1, 1, -1, 1], dtype=np.float32)
    np.testing.assert_allclose(reflected[:, ~paired], midline, atol=2e-5)


def test_the_order_of_the_samples_does_not_matter(
    reference: ReferenceFace,
    frames: NDArray[np.float32],
    samples: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    config = HeightMapConfig(stride=(1, 1))
    order = np.random.default_rng(1).permutation(len(samples[0]))
    maps = cut_height_maps(*samples, reference.landmarks, frames, config)
    shuffled = cut_height_maps(samples[0][order], samples[1][order], reference.landmarks, frames, config)
    np.testing.assert_allclose(shuffled, maps, atol=1e-6)


def test_a_moved_face_looked_at_from_moved_frames_gives_the_same_images(
    reference: ReferenceFace,
    frames: NDArray[np.float32],
    samples: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    # The fine scale only: at the coarse one, samples in the far corners of the box come and go with its direction.
    config = HeightMapConfig(pitch_mm=(1.25,), depth_mm=(7.0,), stride=(1,))
    turn = Rotation.from_rotvec([0.4, 1.1, -0.3]).as_matrix()
    maps = cut_height_maps(*samples, reference.landmarks, frames, config)
    turned = cut_height_maps(
        samples[0] @ turn.T + [5, -9, 2],
        samples[1] @ turn.T,
        reference.landmarks @ turn.T + [5, -9, 2],
        (frames @ turn.T).astype(np.float32),
        config,
    )
    same = turned[..., 0] == maps[..., 0]
    assert same.mean() > 0.999
    # All but those in which a single sample at the edge of the box, or seen edge-on, comes or goes.
    assert np.quantile(np.abs(turned - maps)[same], 0.9995) < 2e-3


# --- the trainer's compiled twin


@pytest.mark.parametrize("seed", [0, 1])
def test_the_compiled_twin_draws_the_same(
    seed: int,
    reference: ReferenceFace,
    frames: NDArray[np.float32],
    samples: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    pytest.importorskip("numba", reason="the trainer's compiled height maps need numba (training extra)")
    from training.fast_height_maps import cut_height_maps_fast

    rng = np.random.default_rng(seed)
    centres = (reference.landmarks + rng.normal(0, 3, (50, 3))).astype(np.float32)
    config = HeightMapConfig()
    slow = cut_height_maps(*samples, centres, frames, config)
    fast = cut_height_maps_fast(*samples, centres, frames, config)
    assert fast.shape == slow.shape
    assert slow[..., 0].mean() > 0.4
    same = fast[..., 0] == slow[..., 0]
    assert same.mean() > 0.9999  # a sample on the very edge of a pixel may fall to either side in single precision
    assert np.abs(fast - slow)[same].max() < 1e-3
    assert np.abs(fast - slow)[same].mean() < 1e-6
