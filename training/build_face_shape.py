"""Make the small shape model by which the alignment tells faces from anything else.

    python -m training.build_face_shape --model ../shared/face-model --output PALNetLandmarks/Resources/FaceShape.npz

Subjects of the training pool's kind are drawn, fitted to the mean by a similarity, and the way their skin stands off
the mean, along its normals, is decomposed into its principal modes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.alignment_target import thin_out
from PALNetLandmarksLib.face_evidence import evidence_weights, similarity_columns
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.procrustes import fit_similarity
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from scipy.spatial import cKDTree

from .arguments import command_parser
from .simulation.head import HeadModel, head_model_folder

SUBJECTS = 600
MODES = 6
SPACING_MM = 6.5


def build_face_shape(model: HeadModel, reference: ReferenceFace, rng: np.random.Generator) -> dict[str, Any]:
    """Return the arrays of a ``FaceShape``."""
    weights = evidence_weights(reference.points, reference.normals)
    even = thin_out(reference.points, reference.normals, weights, SPACING_MM)
    points, normals, weights = even.points, even.normals, even.weights
    mean = model.mean_subject().vertices - model.mean_subject().landmarks[model.labels.index("Prn")]
    mean_normals = TriangleMesh(mean, model.outer_triangles).vertex_normals
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
        # Fitted from the mean to the subject: the size is then the subject's, whatever stands off the mean.
        to_mean = fit_similarity(start, on_points(vertices), weights).inverse()
        offset = np.einsum("ni,ni->n", to_mean.apply(on_points(vertices)) - start, normals)
        # Remove what a similarity can do along the normals: the alignment has seen to that as well.
        root = np.sqrt(weights)
        offset -= columns @ np.linalg.lstsq(columns * root[:, None], offset * root, rcond=None)[0]
        offsets.append(offset)
        subject_normals = TriangleMesh(vertices, model.outer_triangles).vertex_normals
        turned = to_mean.apply_to_vectors(on_points(subject_normals))
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


def main() -> None:
    parser = command_parser(__doc__.splitlines()[0])
    parser.add_argument("--model", type=head_model_folder, required=True, help="folder of the head model")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    # A seed of its own: no subject of any cohort is among these.
    arrays = build_face_shape(HeadModel(arguments.model), load_reference(), np.random.default_rng([20260, 9, 0]))
    np.savez_compressed(arguments.output, **arrays)
    print(f"{arguments.output}: {len(arrays['points'])} points, {MODES} modes")


if __name__ == "__main__":
    main()
