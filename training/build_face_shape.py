"""Make the small shape model by which the alignment tells faces from anything else.

    python -m training.build_face_shape --model ../shared/face-model --output PALNetLandmarks/Resources/FaceShape.npz

Subjects of the training pool's kind are drawn, fitted to the mean by a similarity, and the way their skin stands off
the mean, along its normals, is decomposed into its principal modes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.align import thin_out
from PALNetLandmarksLib.face_evidence import evidence_weights, similarity_columns
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from scipy.spatial import cKDTree

from .simulation.head import HeadModel

SUBJECTS = 600
MODES = 6
SPACING_MM = 6.5


def build_face_shape(model: HeadModel, reference: ReferenceFace, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the arrays of a ``FaceShape``."""
    weights = evidence_weights(reference.points, reference.normals)
    even = thin_out(reference.points, reference.normals, weights, SPACING_MM)
    points, normals, weights = even.points, even.normals, even.weights
    mean = model.mean_subject().vertices - model.mean_subject().landmarks[model.labels.index("Prn")]
    mean_normals = _vertex_normals(mean, model.outer_triangles)
    outer = np.unique(model.outer_triangles)
    distance, nearest = cKDTree(mean[outer]).query(points, k=8)
    nearest = outer[nearest]
    same_side = np.einsum("nki,ni->nk", mean_normals[nearest], normals) > 0.3
    share = same_side / (distance**2 + 1.0)
    share /= share.sum(axis=1, keepdims=True)

    def on_points(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.einsum("nk,nki->ni", share, values[nearest])

    start, start_normals = on_points(mean), on_points(mean_normals)
    columns = similarity_columns(points, normals)
    offsets, turns = [], []
    for _ in range(SUBJECTS):
        vertices = model.draw_subject(rng).vertices
        rotation, scale, shift = _similarity(on_points(vertices), start, weights)
        offset = np.einsum("ni,ni->n", scale * on_points(vertices) @ rotation + shift - start, normals)
        # Remove what a similarity can do along the normals: the alignment has seen to that as well.
        root = np.sqrt(weights)
        offset -= columns @ np.linalg.lstsq(columns * root[:, None], offset * root, rcond=None)[0]
        offsets.append(offset)
        turned = on_points(_vertex_normals(vertices, model.outer_triangles)) @ rotation
        turns.append((turned - start_normals)[:, [0, 2]])
    stood_off, turned_by = np.array(offsets), np.array(turns)
    mean_offset, mean_turn = stood_off.mean(axis=0), turned_by.mean(axis=0)
    left, singular, right = np.linalg.svd((stood_off - mean_offset) * np.sqrt(weights), full_matrices=False)
    coefficients = left[:, :MODES] * np.sqrt(SUBJECTS)
    return {
        "points": points.astype(np.float32),
        "mean_offset": mean_offset.astype(np.float32),
        "offset_modes": (right[:MODES].T / np.sqrt(weights)[:, None] * (singular[:MODES] / np.sqrt(SUBJECTS))).astype(
            np.float32
        ),
        "mean_turn": mean_turn.astype(np.float32),
        "turn_modes": (np.einsum("sk,snc->nck", coefficients, turned_by - mean_turn) / SUBJECTS).astype(np.float32),
    }


def _similarity(
    source: NDArray[np.float64], target: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Weighted least squares: ``scale * source @ rotation + shift`` is ``target`` (Umeyama, 1991)."""
    source_mean, target_mean = weights @ source, weights @ target
    a, b = source - source_mean, target - target_mean
    u, s, vt = np.linalg.svd((a * weights[:, None]).T @ b)
    sign = np.array([1.0, 1.0, np.linalg.det(u @ vt)])
    rotation = (u * sign) @ vt
    scale = float((weights @ b**2).sum() / (s * sign).sum())
    return rotation, scale, target_mean - scale * source_mean @ rotation


def _vertex_normals(vertices: NDArray[np.float64], triangles: NDArray[np.int64]) -> NDArray[np.float64]:
    corners = vertices[triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.stack(
        [np.bincount(triangles.ravel(), np.repeat(cross[:, axis], 3), len(vertices)) for axis in range(3)], axis=1
    )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder with ict_head.npz and landmarks50.json")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    # A seed of its own: no subject of any cohort is among these.
    arrays = build_face_shape(HeadModel(arguments.model), load_reference(), np.random.default_rng([20260, 9, 0]))
    np.savez_compressed(arguments.output, **arrays)
    print(f"{arguments.output}: {len(arrays['points'])} points, {MODES} modes")


if __name__ == "__main__":
    main()
