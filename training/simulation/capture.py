"""A whole capture: subject, hair, clothes, device, defects, and the landmarks that belong to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import fast_simplification
import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.surface import SurfaceLocator
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from .cameras import Device, Scene, draw_device, see
from .clothing import sew_collar, sew_garment
from .fusion import fuse, mesh_range_image
from .hair import HairShell, HairStyle, draw_hair_style, grow_facial_hair
from .head import HeadModel, Subject
from .noise import smooth_noise
from .surfaces import bridge_holes, compact, join, unweld

#: How often each device is drawn for the wide training pool; the clinic's cohort uses ``stereo`` alone.
DEVICE_SHARES = {"stereo": 0.55, "frontal": 0.13, "handheld": 0.18, "tomography": 0.09, "half": 0.05}

#: Fewest and most vertices of a simulated file.
VERTEX_COUNTS = (5_000, 300_000)

#: A landmark counts as captured when the scan's surface passes this close to its true position: as close as the
#: detector asks for, and wide enough for stomion between closed lips and for points on an ear's smoothed rim.
VISIBLE_MM = 4.0

#: In the place of a device: no capture, but what registration software makes of one, the same vertices on every
#: subject, of which the landmarks are some.
REGISTERED = "registered"


@dataclass(frozen=True)
class Capture:
    """A simulated scan in the head frame (LPS mm).

    ``points`` (n, 3), ``triangles`` (m, 3), ``landmarks`` (L, 3) without annotator noise and, where ``visible`` (L,),
    on the scan's surface; ``visible``: the scan has a surface there; ``device`` its name.
    """

    points: NDArray[np.float64]
    triangles: NDArray[np.int64]
    landmarks: NDArray[np.float64]
    visible: NDArray[np.bool_]
    labels: tuple[str, ...]
    device: str


class CaptureSimulator:
    """Draws captures of subjects of one head model."""

    def __init__(self, model: HeadModel) -> None:
        self.model = model
        self._shell = HairShell(model)
        self._mouth_triangles = model.triangles_of("mouth_socket")

    def capture(
        self, subject: Subject, rng: np.random.Generator, device_name: str | None = None, hair: float = 1.0
    ) -> Capture:
        """Capture ``subject`` with a drawn device or the one of ``device_name``.

        ``hair`` scales the chance of hair and clothes. ``REGISTERED`` is no device.
        """
        if device_name == REGISTERED:
            return self._registered(subject)
        name = device_name or str(rng.choice(list(DEVICE_SHARES), p=list(DEVICE_SHARES.values())))
        device = draw_device(rng, name)
        wanted = rng.uniform(60_000, 120_000) if name == "clean" else np.exp(rng.uniform(*np.log(VERTEX_COUNTS)))
        # A head has some 150,000 mm² of surface: never fuse much finer than the file will be.
        finest = 0.8 * np.sqrt(150_000 / wanted)
        device = replace(device, voxel_mm=float(np.clip(finest, max(device.voxel_mm, 0.9), 2.0)))
        bare = name in ("tomography", "clean")
        style = draw_hair_style(rng, 0.0 if bare else hair)
        if bare:
            style = replace(style, beard_mm=0.0, moustache_mm=0.0)
        points, triangles, fuzzy, landmarks = self._dress(subject, style, rng, clothed=not bare and rng.random() < hair)
        points, triangles = self._photograph(points, triangles, fuzzy, device, subject.size, rng)
        if name != "clean":
            points = _roughen(points, triangles, rng)
            if rng.random() < 0.55:
                points, triangles = bridge_holes(points, triangles, float(np.exp(rng.uniform(*np.log((2.0, 14.0))))))
        points, triangles = _crop(points, triangles, subject.size, device, rng)
        points, triangles = _resample(points, triangles, int(wanted), rng)
        if name != "clean":
            points, triangles = _spoil(points, triangles, rng)
        on_surface, distance = SurfaceLocator(TriangleMesh(points, triangles)).nearest_on_surface(landmarks)
        visible = distance < VISIBLE_MM
        # An annotator clicks on the scan: where it closed the lips or smoothed a rim, the landmark goes with it.
        landmarks = np.where(visible[:, None], on_surface, landmarks)
        return Capture(points, triangles, landmarks, visible, self.model.labels, name)

    def _registered(self, subject: Subject) -> Capture:
        """The head model's own mesh of ``subject``."""
        points, triangles = compact(subject.vertices, self.model.outer_triangles)
        shown = np.ones(len(subject.landmarks), dtype=bool)
        return Capture(points, triangles, subject.landmarks.copy(), shown, self.model.labels, REGISTERED)

    def _dress(
        self, subject: Subject, style: HairStyle, rng: np.random.Generator, clothed: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
        model = self.model
        landmarks = subject.landmarks.copy()
        trichion = self._shell.trichion(subject, style)
        if trichion is not None and "Tr" in model.labels:
            landmarks[model.labels.index("Tr")] = trichion
        growth = grow_facial_hair(model, subject, style, rng)
        tree = cKDTree(subject.vertices[: model.parts["head_neck"][1]])
        landmarks = landmarks + growth[tree.query(landmarks)[1]]
        parts = [(subject.vertices + growth, model.outer_triangles, False)]
        if rng.random() < 0.5:  # an open mouth has an inside; cameras rarely reach it
            parts.append((subject.vertices + growth, self._mouth_triangles, False))
        parts.append((*self._shell.grow(subject, style, rng), style.kind == "hair"))
        if clothed:
            garment = rng.random()
            if garment < 0.75:
                parts.append((*sew_garment(subject.size, rng), False))
            if garment > 0.4:
                parts.append((*sew_collar(subject.size, rng), False))
        points, triangles = join([(part[0], part[1]) for part in parts])
        fuzzy = np.concatenate([np.full(len(part[1]), part[2]) for part in parts])
        return points, triangles, fuzzy, landmarks

    def _photograph(
        self,
        points: NDArray[np.float64],
        triangles: NDArray[np.int64],
        fuzzy: NDArray[np.bool_],
        device: Device,
        size: float,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        scene = Scene(points, triangles, fuzzy)
        floor = (rng.uniform(-330, -200) if rng.random() < 0.3 else rng.uniform(-200, -115)) * size
        box = np.array([np.maximum(points.min(axis=0), [-260, -200, floor]), np.minimum(points.max(axis=0), 220)])
        images = []
        for viewpoint in device.viewpoints:
            image = see(scene, box, viewpoint, device, rng)
            if device.misfit_mm:
                shift = rng.normal(0, device.misfit_mm, 3) / np.sqrt(3)
                turn = Rotation.from_rotvec(rng.normal(0, np.radians(0.15), 3)).as_matrix()
                image = replace(image, origin=turn @ image.origin + shift, axes=image.axes @ turn.T)
            images.append(image)
        if device.name in ("stereo", "frontal", "half") and rng.random() < 0.12:
            return join([mesh_range_image(image) for image in images])
        rotation = Rotation.random(random_state=rng).as_matrix()
        return fuse(images, device.voxel_mm, rng.uniform(0.6, 1.6), rotation)


def _roughen(
    points: NDArray[np.float64], triangles: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Pores, wrinkles and the matcher's pattern: relief that every camera sees alike, finer than the head model."""
    relief = rng.uniform(0, 0.10) * smooth_noise(points, rng.uniform(3, 6), rng, 48)
    relief += rng.uniform(0, 0.14) * smooth_noise(points, rng.uniform(7, 14), rng, 32)
    # Not the same everywhere: some regions are smooth.
    relief *= np.clip(1 + 0.7 * smooth_noise(points, 60, rng), 0, None)
    return points + relief[:, None] * TriangleMesh(points, triangles).vertex_normals


def _crop(
    points: NDArray[np.float64], triangles: NDArray[np.int64], size: float, device: Device, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cut as operators and software do: at a plane behind the face, an ellipse round it, or not at all."""
    kind = "none" if device.name == "tomography" else str(rng.choice(["none", "mask", "plane"], p=[0.64, 0.16, 0.2]))
    if kind == "none":
        return points, triangles
    ragged = rng.uniform(0, 4) * smooth_noise(points, 12, rng) + rng.uniform(0, 6) * smooth_noise(points, 50, rng)
    scaled = points / size
    if kind == "mask":
        radius = np.array([rng.uniform(78, 125), rng.uniform(95, 160), rng.uniform(118, 165)])
        away = (scaled - [0, -30, 5]) / radius
        kept = np.linalg.norm(away, axis=1) * 100 + ragged < 100
    else:
        kept = (scaled[:, 1] + rng.uniform(-0.3, 0.3) * scaled[:, 2] < rng.uniform(0, 60) + ragged) & (
            scaled[:, 2] > rng.uniform(-170, -95) + ragged
        )
    if kept[triangles].all(axis=1).sum() < 6000:
        return points, triangles
    return compact(points, triangles[kept[triangles].all(axis=1)])


def _resample(
    points: NDArray[np.float64], triangles: NDArray[np.int64], wanted: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Decimate to the vertex count of some export setting; the triangles follow the shape from then on."""
    target = 2 * wanted
    if target >= 0.95 * len(triangles):
        return points, triangles
    reduced, faces = fast_simplification.simplify(
        points.astype(np.float32), triangles.astype(np.int32), target_count=target, agg=float(rng.uniform(3, 8))
    )
    return compact(reduced.astype(np.float64), faces.astype(np.int64))


def _spoil(
    points: NDArray[np.float64], triangles: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Add what real files have: holes, floating fragments, a few spikes."""
    centres = points[triangles[:, 0]]
    for _ in range(int(rng.choice([0, 0, 0, 1, 3]))):
        middle = centres[rng.integers(len(centres))]
        away = np.linalg.norm(centres - middle, axis=1)
        gone = away < rng.uniform(2, 9) * (1 + 0.4 * smooth_noise(centres, 8, rng))
        if not (away[gone] > 25).any():
            triangles, centres = triangles[~gone], centres[~gone]
    for _ in range(int(rng.choice([0, 0, 0, 0, 1, 3, 10]))):
        middle = centres[rng.integers(len(centres))]
        piece = triangles[np.linalg.norm(centres - middle, axis=1) < rng.uniform(1.5, 6)]
        if len(piece):
            moved, faces = compact(points, piece)
            moved = moved + rng.normal(0, 1, 3) * rng.uniform(8, 60)
            triangles = np.concatenate([triangles, faces + len(points)])
            points = np.concatenate([points, moved])
            centres = points[triangles[:, 0]]
    spikes = rng.integers(len(points), size=int(rng.choice([0, 0, 3, 20])))
    points = points.copy()
    points[spikes] += rng.normal(0, 4, (len(spikes), 3))
    points, triangles = compact(points, triangles)
    if rng.random() < 0.08 and 3 * len(triangles) <= VERTEX_COUNTS[1]:
        return unweld(points, triangles)
    return points, triangles
