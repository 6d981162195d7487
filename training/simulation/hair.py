"""Hair, caps and head-bands: a second surface over the scalp, and beards and brows on the skin itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.mesh import TriangleMesh
from scipy import sparse
from scipy.sparse.linalg import splu

from .head import HeadModel, Subject
from .noise import smooth_noise
from .surfaces import split_triangles

#: Height (mm, on the neutral head) of the annotated trichion.
TRICHION_HEIGHT = 112.9

#: Centre and radius (mm) of the left ear on the neutral head; the right one is its mirror image.
EAR_CENTRE = np.array([84.0, 0.0, 10.0])
EAR_RADIUS = 38.0


@dataclass(frozen=True)
class HairStyle:
    """A drawn hair style; heights in millimetres on the neutral head.

    ``kind`` is ``"none"``, ``"hair"``, ``"cap"`` or ``"band"``. ``hairline`` gives the lowest height of the hair at the
    azimuths ``AZIMUTHS`` (0 is the front, 180 the back of the head). ``thickness_mm`` is the typical height above the
    skin, ``fringe_mm`` how far the hair hangs below the hairline over the forehead.
    """

    kind: str
    hairline: NDArray[np.float64]
    thickness_mm: float
    taper_mm: float
    roughness: float
    covers_ears: tuple[bool, bool]
    fringe_mm: float
    beard_mm: float
    moustache_mm: float


AZIMUTHS = np.array([0.0, 22.0, 42.0, 58.0, 70.0, 80.0, 90.0, 103.0, 115.0, 140.0, 180.0])
_TYPICAL_HAIRLINE = np.array([TRICHION_HEIGHT, 112.0, 98.0, 68.0, 38.0, 24.0, 42.0, 44.0, 0.0, -45.0, -60.0])


def draw_hair_style(rng: np.random.Generator, amount: float = 1.0) -> HairStyle:
    """Draw a style; ``amount`` scales the chance of anything on the head at all."""
    kind = "none"
    if rng.random() < amount:
        kind = str(rng.choice(["none", "hair", "cap", "band"], p=[0.12, 0.72, 0.06, 0.10]))
    front = float(np.clip(rng.normal(0, 7), -16, 16))
    recession = rng.uniform(0, 14) if rng.random() < 0.5 else 0.0
    sideburn = rng.uniform(-25, 25)
    hairline = _TYPICAL_HAIRLINE + front * np.interp(AZIMUTHS, [0, 45, 75, 180], [1, 1, 0.3, 0.0])
    hairline = hairline + recession * np.interp(AZIMUTHS, [0, 15, 32, 50, 180], [0, 0.3, 1, 0.4, 0])
    hairline = hairline + sideburn * np.interp(AZIMUTHS, [0, 60, 75, 85, 95, 180], [0, 0.2, 1, 1, 0, 0])
    hairline = hairline + rng.normal(0, 3, len(AZIMUTHS)) * (AZIMUTHS > 0)
    long_hair = rng.random() < 0.45
    covers = (bool(long_hair and rng.random() < 0.7), bool(long_hair and rng.random() < 0.7))
    thickness = float(np.exp(rng.normal(np.log(12 if long_hair else 6), 0.55)))
    fringe = rng.uniform(10, 45) if rng.random() < 0.1 else 0.0
    if kind == "cap":
        hairline = np.interp(AZIMUTHS, [0, 60, 90, 110, 180], rng.uniform(75, 105) + np.array([0, -5, -15, -25, -60]))
        thickness, fringe = rng.uniform(2, 8), 0.0
        covers = (False, False)
    if kind == "band":
        hairline = hairline + np.interp(AZIMUTHS, [0, 60, 90, 180], rng.uniform(-12, 14) + np.array([0, 0, 5, 5]))
        thickness = rng.uniform(1.0, 4.0)
        fringe, covers = 0.0, (False, False)
    beard = float(np.exp(rng.normal(np.log(2.0), 0.8))) if rng.random() < 0.22 else 0.0
    moustache = float(np.exp(rng.normal(np.log(1.5), 0.5))) if rng.random() < (0.8 if beard else 0.06) else 0.0
    return HairStyle(
        kind,
        hairline,
        min(thickness, 30.0),
        rng.uniform(2, 14),
        rng.uniform(0.05, 0.4),
        covers,
        fringe,
        min(beard, 7.0),
        min(moustache, 4),
    )


class HairShell:
    """The surface that hair may occupy: the scalp and the sides of the head with the ears ironed flat."""

    def __init__(self, model: HeadModel) -> None:
        skin_end = model.parts["head_neck"][1]
        neutral = model.neutral[:skin_end]
        triangles = model.skin_triangles
        fill = _flatten_ears(neutral, triangles)
        flat = fill @ neutral
        # Hair never grows on the central face; keep the rest, subdivided until the edges carry some roughness.
        central = (flat[:, 1] < -55) & (flat[:, 2] < 70) & (np.abs(flat[:, 0]) < 58)
        kept = triangles[~central[triangles].any(axis=1)]
        kept = kept[(flat[kept][:, :, 2] > -150).all(axis=1)]
        matrix: sparse.csr_matrix = fill
        for _ in range(2):
            kept, split = _subdivide(kept, matrix.shape[0])
            matrix = (split @ matrix).tocsr()
        used, inverse = np.unique(kept, return_inverse=True)
        self._matrix = matrix[used].tocsr()
        self._triangles = inverse.reshape(-1, 3)
        self._neutral = self._matrix @ neutral
        self._skin_end = skin_end
        azimuth = np.degrees(np.arctan2(np.abs(self._neutral[:, 0]), -self._neutral[:, 1] - 10.0))
        self._azimuth = azimuth
        midline = np.flatnonzero((np.abs(neutral[:, 0]) < 0.2) & (neutral[:, 1] < -30) & (neutral[:, 2] > 60))
        self._midline = midline[np.argsort(neutral[midline, 2])]
        self._midline_heights = neutral[self._midline, 2]

    def grow(
        self, subject: Subject, style: HairStyle, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the surface of the hair, cap or band on ``subject``: points (n, 3) and triangles (m, 3)."""
        if style.kind == "none":
            return np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64)
        base = self._matrix @ subject.vertices[: self._skin_end]
        line = np.interp(self._azimuth, AZIMUTHS, style.hairline)
        left = self._neutral[:, 0] > 0
        for side, covered in ((~left, style.covers_ears[0]), (left, style.covers_ears[1])):
            if covered:
                falling = np.interp(self._azimuth, [55, 66, 75, 180], [0, 40, 260, 260])
                line = np.where(side, line - falling, line)
        if style.fringe_mm:
            line = line - style.fringe_mm * np.interp(self._azimuth, [0, 45, 60], [1, 0.8, 0])
        ragged = 2.0 * style.roughness * smooth_noise(base, 12.0, rng) + 2.0 * smooth_noise(base, 40.0, rng)
        # The trichion is annotated on the hairline itself, so the edge is left alone in the midline.
        inside = self._neutral[:, 2] - line + ragged * np.clip((self._azimuth - 4) / 10, 0, 1)
        if style.kind == "band":
            inside = np.minimum(inside, rng.uniform(18, 60) - inside)
        rise = np.clip(inside / style.taper_mm, 0, 1)
        if style.kind == "hair":
            body = 1 + 0.25 * smooth_noise(base, 70.0, rng)
            strands = smooth_noise(base * [1, 1, rng.uniform(0.2, 1)], rng.uniform(6, 14), rng, 32)
            lumps = smooth_noise(base, 28.0, rng)
            thickness = style.thickness_mm * np.clip(body + style.roughness * (0.6 * lumps + 0.5 * strands), 0.1, None)
            # Over a covered ear the hair stands off and falls back to the head and neck without a step.
            height_above_ear = (self._neutral[:, 2] - rng.uniform(0, 15)) / rng.uniform(35, 60)
            over_ear = np.exp(-(((self._azimuth - 98) / rng.uniform(28, 42)) ** 2) - height_above_ear**2)
            on_covered = np.where(left, style.covers_ears[1], style.covers_ears[0])
            thickness = thickness + rng.uniform(5, 13) * over_ear * on_covered
        else:
            thickness = style.thickness_mm * (1 + 0.15 * smooth_noise(base, 50.0, rng))
        # Cut hair stands up at once, combed hair rises from the skin, thinning hair hardly at all; its edge lies a
        # little under the skin, so that there is no wall around it.
        height = (thickness * rise ** rng.uniform(0.5, 1.3) - rng.uniform(0, 0.4) * (1 - rise)) * subject.size
        points = base + TriangleMesh(base, self._triangles).vertex_normals * height[:, None]
        keep = (inside > 0)[self._triangles].all(axis=1)
        return points, self._triangles[keep]

    def trichion(self, subject: Subject, style: HairStyle) -> NDArray[np.float64] | None:
        """The point of the midline skin at the hairline, (3,); None where no hairline shows (bald, cap, band)."""
        if style.kind != "hair":
            return None
        curve = subject.vertices[self._midline]
        height = style.hairline[0]
        return np.array([np.interp(height, self._midline_heights, curve[:, axis]) for axis in range(3)])


def grow_facial_hair(
    model: HeadModel, subject: Subject, style: HairStyle, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Displacement (v, 3) of the skin by brows, beard and moustache."""
    x, y, z = model.neutral.T
    skin = np.arange(len(x)) < model.parts["head_neck"][1]
    amount = np.zeros(len(x))
    brow = np.exp(-(((z - 48 - 0.06 * (np.abs(x) - 30)) / 4.5) ** 2)) * (np.abs(np.abs(x) - 31) < 20) * (y < -70)
    amount += 0.7 * rng.uniform(0, 1.5) * brow * (1 + 0.5 * smooth_noise(model.neutral, 6.0, rng))
    lips = (np.abs(x) < 27) & (z < -25) & (z > -46) & (y < -95)
    if style.beard_mm:
        upper = -18 + 0.012 * x**2 * (np.abs(x) > 30) * 0.5 + 2 * smooth_noise(model.neutral, 30, rng)
        soft = rng.uniform(2, 8)
        beard = np.clip((upper - z) / soft, 0, 1) * np.clip((z + 110) / 10, 0, 1) * np.clip((-10 - y) / 10, 0, 1)
        beard *= ~lips & ~((np.abs(x) < 30) & (z > -28))
        lumps = rng.uniform(0.05, 0.3) * smooth_noise(model.neutral, 9, rng)
        rough = np.clip(1 + lumps + 0.3 * smooth_noise(model.neutral, 40, rng), 0, 3)
        amount += style.beard_mm * beard * rough
    if style.moustache_mm:
        moustache = (np.abs(x) < 28) & (z < -14) & (z > -24.5 - 0.2 * np.abs(x)) & (y < -98) & ~(z > -11)
        amount += style.moustache_mm * moustache * np.clip(1 + 0.5 * smooth_noise(model.neutral, 7, rng), 0, 3)
    amount = np.where(skin, amount, 0.0)
    return TriangleMesh(subject.vertices, model.skin_triangles).vertex_normals * amount[:, None]


def _flatten_ears(neutral: NDArray[np.float64], triangles: NDArray[np.int64]) -> sparse.csr_matrix:
    """Matrix (v, v) that replaces the vertices of both ears by a membrane stretched over the rest of the skin."""
    count = len(neutral)
    ear = np.linalg.norm(np.abs(neutral) * [1, 0, 0] + neutral * [0, 1, 1] - EAR_CENTRE, axis=1) < EAR_RADIUS
    rows = np.concatenate([triangles[:, i] for i in (0, 1, 2, 1, 2, 0)])
    columns = np.concatenate([triangles[:, i] for i in (1, 2, 0, 0, 1, 2)])
    adjacency = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    adjacency.data[:] = 1
    laplacian = sparse.diags(np.asarray(adjacency.sum(axis=1)).ravel()) - adjacency
    laplacian = (laplacian @ laplacian).tocsr()
    inner, outer = np.flatnonzero(ear), np.flatnonzero(~ear)
    solver = splu(laplacian[inner][:, inner].tocsc() + 1e-9 * sparse.identity(len(inner), format="csc"))
    border = laplacian[inner][:, outer].tocsc()
    touching = np.unique(border.nonzero()[1])
    dense = -solver.solve(border[:, touching].toarray())
    fill = sparse.lil_matrix((count, count))
    fill[outer, outer] = 1.0
    fill = fill.tocsr()
    block = sparse.coo_matrix(dense)
    extra = sparse.csr_matrix((block.data, (inner[block.row], outer[touching[block.col]])), shape=(count, count))
    return (fill + extra).tocsr()


def _subdivide(triangles: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], sparse.csr_matrix]:
    """Split every triangle in four; also returns the matrix (new count, count) that makes the new vertices."""
    split, edges = split_triangles(triangles, count)
    middle = sparse.csr_matrix(
        (np.full(edges.size, 0.5), (np.repeat(np.arange(len(edges)), 2), edges.ravel())), shape=(len(edges), count)
    )
    return split, sparse.vstack([sparse.identity(count, format="csr"), middle]).tocsr()
