"""Augmentation of prepared scans, and first guesses as registration or an earlier pass would leave them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.known_points import known_points
from PALNetLandmarksLib.procrustes import SimilarityTransform, fit_similarity
from PALNetLandmarksLib.refine import REACH_MM
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from .prepared import STEP_MM, PreparedScan


@dataclass(frozen=True)
class TrainingView:
    """What the network gets to see of one scan and what it should answer, in the (perturbed) reference frame.

    ``points``, ``normals`` (n, 3) float32; ``centres``, ``landmarks`` (L, 3) float64; ``visible`` (L,).
    ``known`` (L,): the scan says where the landmark is; the place of the others is a guess from the template.
    """

    points: NDArray[np.float32]
    normals: NDArray[np.float32]
    centres: NDArray[np.float64]
    landmarks: NDArray[np.float64]
    visible: NDArray[np.bool_]
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class PoseError:
    """Standard deviations of what a registration leaves: degrees and millimetres per axis, relative size."""

    degrees: float
    shift_mm: float
    scale: float

    def draw(self, rng: np.random.Generator) -> SimilarityTransform:
        """A random similarity of this size."""
        rotation = Rotation.from_rotvec(np.radians(rng.normal(0, self.degrees, 3))).as_matrix()
        return SimilarityTransform(float(np.exp(rng.normal(0, self.scale))), rotation, rng.normal(0, self.shift_mm, 3))


#: What the first pass meets (registration on the surface) and what later ones do (Procrustes on landmarks).
FIRST_PASS = PoseError(degrees=2.5, shift_mm=2.0, scale=0.04)
POOR_FIRST_PASS = PoseError(degrees=6.0, shift_mm=5.0, scale=0.08)
LATER_PASS = PoseError(degrees=0.8, shift_mm=0.6, scale=0.012)


#: Share of views that lack a whole part of the face, and how many landmarks they show at least.
CUT_SHARE, LEAST_SHOWN = 0.25, 20

#: How often an earlier pass is thought to have taken the edge of what is left for a landmark that the scan lacks.
EDGE_SHARE = 0.5


def unpack(scan: PreparedScan) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points and normals (n, 3) float32 of a prepared scan."""
    return scan.points.astype(np.float32) * np.float32(STEP_MM), scan.normals.astype(np.float32) / np.float32(127)


def draw_view(
    scan: PreparedScan,
    template: NDArray[np.float64],
    mirrored: tuple[int, ...] | None,
    rng: np.random.Generator,
    augmented: bool = True,
) -> TrainingView:
    """Draw an augmented view of ``scan`` with the first guesses of a first or later pass.

    ``template`` (L, 3): mean landmarks in the reference frame. ``mirrored``: each landmark's counterpart; ``None``
    where some have none, so that views cannot be mirrored. ``augmented``: otherwise the scan stays as it is, and only
    its pose and the first guesses are drawn, which no network that works in passes can do without.
    """
    points, normals = unpack(scan)
    landmarks, visible = scan.landmarks.astype(np.float64), scan.visible.copy()
    known = known_points(landmarks)
    if not known.all():
        guess = fit_similarity(template[known], landmarks[known]).apply(template)
        landmarks, visible = np.where(known[:, None], landmarks, guess), visible & known
    if augmented and rng.random() < 0.5 and mirrored is not None:
        flip = np.array([-1, 1, 1], dtype=np.float32)
        points, normals = points * flip, normals * flip
        landmarks, visible = (landmarks * flip)[list(mirrored)], visible[list(mirrored)]
        known = known[list(mirrored)]
    if augmented:
        points, normals, landmarks, visible = _augment(points, normals, landmarks, visible, rng)

    fitted = fit_similarity(landmarks[visible], template[visible]) if visible.sum() > 10 else None
    pose = fit_similarity(landmarks, template) if fitted is None else fitted
    first = rng.random() < 0.4
    error = LATER_PASS
    if first:
        error = POOR_FIRST_PASS if rng.random() < 0.15 else FIRST_PASS
    pose = error.draw(rng).after(pose)
    placed, landmarks = pose.apply(points), pose.apply(landmarks)
    if first:
        distance, nearest = cKDTree(placed).query(template)
        centres = np.where(distance[:, None] <= REACH_MM, placed[nearest], template)
    else:
        # Never too close: with guesses near the truth the network learns to trust them and to doubt too little.
        # Of a landmark that the scan lacks, an earlier pass knows little, and may have been drawn to the edge: whoever
        # sees the edge in the middle of the map must not take that for an answer.
        scatter = np.where(visible, rng.uniform(1.0, 3.5), rng.uniform(2.0, 9.0))
        centres = landmarks + scatter[:, None] * rng.normal(size=landmarks.shape)
        drawn = ~visible & (rng.random(len(landmarks)) < EDGE_SHARE)
        if drawn.any():
            edge = placed[cKDTree(placed).query(centres[drawn])[1]]
            centres[drawn] = edge + rng.normal(0, 2.0, edge.shape)
    turned = pose.apply_to_vectors(normals).astype(np.float32)
    return TrainingView(placed.astype(np.float32), turned, centres, landmarks, visible, known)


def _augment(
    points: NDArray[np.float32],
    normals: NDArray[np.float32],
    landmarks: NDArray[np.float64],
    visible: NDArray[np.bool_],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]]:
    """Points, normals, landmarks and what is visible of a copy: stretched, with holes, cut, thinned out, with noise."""
    stretch = np.exp(rng.normal(0, 0.025, 3))
    points, landmarks = points * stretch.astype(np.float32), landmarks * stretch
    if rng.random() < 0.25:  # a hole, as large as half an ear at times
        middle = landmarks[rng.integers(len(landmarks))] + rng.normal(0, 8, 3)
        radius = rng.uniform(5, 22)
        kept = ((points - middle.astype(np.float32)) ** 2).sum(axis=1) > radius**2
        points, normals = points[kept], normals[kept]
        visible = visible & (np.linalg.norm(landmarks - middle, axis=1) > radius - 1.0)
    if rng.random() < CUT_SHARE:
        kept, shown = _cut(points, landmarks, rng)
        if (visible & shown).sum() >= LEAST_SHOWN:
            points, normals, visible = points[kept], normals[kept], visible & shown
    if rng.random() < 0.5:
        kept = rng.random(len(points)) < rng.uniform(0.45, 1)
        points, normals = points[kept], normals[kept]
    if rng.random() < 0.3:
        points = points + rng.normal(0, rng.uniform(0, 0.25), points.shape).astype(np.float32)
        normals = normals + rng.normal(0, rng.uniform(0, 0.15), normals.shape).astype(np.float32)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return points, normals, landmarks, visible


def _cut(
    points: NDArray[np.float32], landmarks: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which points and landmarks stay if a plane through some landmark takes what lies outside: a chin out of view, a
    scan cropped at the forehead, half a face."""
    through = landmarks[rng.integers(len(landmarks))]
    outwards = (through - landmarks.mean(axis=0)) * (1.0, 0.5, 1.0) + rng.normal(0, 20, 3)
    outwards /= np.linalg.norm(outwards)
    limit = through @ outwards + rng.normal(0, 6)
    # Near the edge a landmark counts as shown, as it does in the simulator's captures.
    return points @ outwards.astype(np.float32) < limit, landmarks @ outwards < limit + 3.0
