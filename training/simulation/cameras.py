"""Range cameras: what each one sees, how it errs, and where they stand in the usual devices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh as EmbreeMesh
from numpy.typing import NDArray
from PALNetLandmarksLib.mesh import TriangleMesh
from scipy import ndimage
from scipy.special import erfinv


@dataclass(frozen=True)
class Device:
    """A way to capture a head.

    ``viewpoints`` (c, 2): azimuth (positive: from the subject's left) and elevation in degrees. ``noise_mm`` is the
    standard deviation of the range noise, ``blur_mm`` the lateral smoothing of the range maps, ``misfit_mm`` the error
    of stitching, ``grazing`` the least cosine between ray and surface that still measures, ``voxel_mm`` the resolution
    of the fused surface, ``dropout`` the share of bare skin that a camera misses in patches.
    """

    name: str
    viewpoints: NDArray[np.float64]
    noise_mm: float
    blur_mm: float
    misfit_mm: float
    grazing: float
    voxel_mm: float
    dropout: float


def draw_device(rng: np.random.Generator, name: str) -> Device:
    """Draw the settings of a device.

    ``name`` is ``"stereo"`` (two to five cameras, as in clinics), ``"frontal"`` (one camera), ``"handheld"`` (one led
    around the face), ``"tomography"`` (all sides), ``"half"`` (one camera at the side) or ``"clean"`` (a dense scan
    without noise).

    Raises
    ------
    ValueError
        If there is no such device.
    """
    views: list[tuple[float, float]]
    if name == "stereo":
        spread, height = rng.uniform(28, 58), rng.uniform(-18, 12)
        views = [(-spread, height), (spread, height)]
        if rng.random() < 0.5:
            views.append((rng.uniform(-8, 8), rng.uniform(-30, 15)))
        if rng.random() < 0.35:
            views += [(-spread - rng.uniform(20, 45), height), (spread + rng.uniform(20, 45), height)]
        noise, blur, misfit, voxel = rng.uniform(0.03, 0.22), rng.uniform(0.3, 1.1), rng.uniform(0, 0.35), 1.0
        grazing, dropout = rng.uniform(0.12, 0.35), rng.uniform(0, 0.03)
    elif name == "frontal":
        views = [(rng.uniform(-18, 18), rng.uniform(-15, 15))]
        noise, blur, misfit, voxel = rng.uniform(0.05, 0.6), rng.uniform(0.4, 1.6), 0.0, 1.2
        grazing, dropout = rng.uniform(0.15, 0.4), rng.uniform(0, 0.05)
    elif name == "handheld":
        count, reach = int(rng.integers(4, 9)), rng.uniform(60, 120)
        views = [(a, rng.uniform(-25, 25)) for a in np.linspace(-reach, reach, count)]
        noise, blur, misfit, voxel = rng.uniform(0.1, 0.8), rng.uniform(0.5, 1.8), rng.uniform(0.1, 0.8), 1.4
        grazing, dropout = rng.uniform(0.15, 0.4), rng.uniform(0, 0.04)
    elif name == "tomography":
        views = [(45.0 * i, e) for i in range(8) for e in (-35.0, 25.0)] + [(0.0, 75.0), (0.0, 0.0), (0.0, -60.0)]
        noise, blur, misfit, voxel = rng.uniform(0.02, 0.15), rng.uniform(0.3, 1.0), 0.0, 1.1
        grazing, dropout = 0.1, 0.0
    elif name == "half":
        side = rng.choice([-1, 1])
        views = [(side * rng.uniform(40, 75), rng.uniform(-15, 12))]
        noise, blur, misfit, voxel = rng.uniform(0.05, 0.3), rng.uniform(0.3, 1.1), 0.0, 1.0
        grazing, dropout = rng.uniform(0.12, 0.35), rng.uniform(0, 0.03)
    elif name == "clean":
        views = [(a, e) for a in (-75, -35, 0, 35, 75) for e in (-30, 10)]
        noise, blur, misfit, voxel, grazing, dropout = 0.0, 0.2, 0.0, 0.9, 0.1, 0.0
    else:
        raise ValueError(f"unknown device {name!r}")
    voxel = voxel * float(np.exp(rng.normal(0, 0.2)))
    return Device(name, np.array(views, dtype=float), noise, blur, misfit, grazing, voxel, dropout)


@dataclass(frozen=True)
class RangeImage:
    """One camera's orthographic range map.

    ``axes`` (3, 3): rows are the image's right, up and the viewing direction (away from the camera); ``origin`` (3,) is
    the point of pixel (0, 0) at range 0; ``range_mm`` (h, w) is NaN where nothing was measured; ``weight`` (h, w).
    """

    axes: NDArray[np.float64]
    origin: NDArray[np.float64]
    pitch_mm: float
    range_mm: NDArray[np.float32]
    weight: NDArray[np.float32]

    def points(self) -> NDArray[np.float64]:
        """The measured points (k, 3)."""
        v, u = np.nonzero(np.isfinite(self.range_mm))
        d = self.range_mm[v, u].astype(float)
        return self.origin + np.stack([u * self.pitch_mm, v * self.pitch_mm, d], axis=1) @ self.axes


class Scene:
    """Triangles that rays can hit; ``fuzzy`` (m,) marks those that cameras measure badly (hair)."""

    def __init__(self, points: NDArray[np.float64], triangles: NDArray[np.int64], fuzzy: NDArray[np.bool_]) -> None:
        self._scene = rtcore_scene.EmbreeScene()
        self._mesh = EmbreeMesh(self._scene, points.astype(np.float32), triangles.astype(np.int32))
        self.normals = TriangleMesh(points, triangles).triangle_areas_and_normals[1].astype(np.float32)
        self.fuzzy = fuzzy

    def cast(
        self, origins: NDArray[np.float32], direction: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Distance to the first hit (inf: none) and its triangle for parallel rays from ``origins`` (k, 3)."""
        directions = np.ascontiguousarray(np.broadcast_to(direction, origins.shape), dtype=np.float32)
        result = self._scene.run(np.ascontiguousarray(origins), directions, output=True)
        hit = result["primID"].astype(np.int64)
        return np.where(hit >= 0, result["tfar"], np.inf).astype(np.float32), hit


def see(
    scene: Scene, box: NDArray[np.float64], viewpoint: NDArray[np.float64], device: Device, rng: np.random.Generator
) -> RangeImage:
    """Take one range image of what lies in ``box`` (2, 3) from ``viewpoint`` (azimuth, elevation in degrees)."""
    azimuth, elevation = np.radians(viewpoint)
    back = np.array([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(back, right), -back])
    corners = np.array(np.meshgrid(*box.T)).reshape(3, -1).T @ axes.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    pitch = 0.85 * device.voxel_mm
    width, height = (np.ceil((high - low)[:2] / pitch).astype(int) + 1).tolist()
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    origin = np.array([low[0], low[1], low[2] - 10.0]) @ axes
    starts = origin + np.stack([u.ravel() * pitch, v.ravel() * pitch, np.zeros(u.size)], axis=1) @ axes
    distance, triangle = scene.cast(starts.astype(np.float32), axes[2].astype(np.float32))
    seen = (triangle >= 0).reshape(height, width)
    cosine = np.where(triangle >= 0, -scene.normals[triangle] @ axes[2].astype(np.float32), 0).reshape(height, width)
    fuzzy = (scene.fuzzy[triangle] & (triangle >= 0)).reshape(height, width)
    depth = np.where(seen, distance.reshape(height, width), 0.0).astype(np.float32)

    # The matcher's window smooths the range, across small occlusions too: nostrils close, edges round off.
    weight = seen.astype(np.float32)
    if device.blur_mm > 0.1:
        sigma = device.blur_mm / pitch
        near = np.abs(ndimage.grey_dilation(np.where(seen, depth, -np.inf), size=3) - depth) < 12
        smooth = ndimage.gaussian_filter(depth * weight, sigma) / np.maximum(
            ndimage.gaussian_filter(weight, sigma), 1e-3
        )
        depth = np.where(near & seen, smooth, depth).astype(np.float32)
    texture = ndimage.gaussian_filter(rng.normal(size=depth.shape).astype(np.float32), rng.uniform(0.8, 2.5))
    texture *= device.noise_mm / max(float(texture.std()), 1e-6)
    roughness = np.where(fuzzy, 4.0, 1.0) / np.clip(cosine, 0.25, 1.0)
    depth = depth + texture * roughness

    holes = ndimage.gaussian_filter(rng.normal(size=depth.shape).astype(np.float32), 4.0 / pitch)
    holes /= max(float(holes.std()), 1e-6)
    fail = device.dropout * (1 + 4.0 * fuzzy)
    threshold = device.grazing + 0.06 * holes
    kept = seen & (cosine > threshold) & (holes < np.sqrt(2) * _inverse_tail(fail))
    return RangeImage(
        axes,
        origin,
        pitch,
        np.where(kept, depth, np.nan).astype(np.float32),
        np.where(kept, np.clip(cosine, 0.05, 1) ** 2, 0).astype(np.float32),
    )


def _inverse_tail(share: NDArray[np.floating] | float) -> NDArray[np.floating]:
    """x / sqrt(2) such that a standard normal exceeds x with probability ``share``."""
    return erfinv(1 - 2 * np.clip(share, 1e-6, 0.5))
