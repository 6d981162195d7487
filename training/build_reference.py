"""Make the reference face that the library bundles: the head model's mean, seen from all sides, at adult size.

python -m training.build_reference --model ../shared/face-model --output PALNetLandmarks/Resources/ReferenceFace.npz
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fast_simplification
import numpy as np
from PALNetLandmarksLib.inside_box import inside_box
from PALNetLandmarksLib.mesh import TriangleMesh
from scipy.spatial import cKDTree

from .arguments import command_parser
from .simulation.cameras import Device, Scene, see
from .simulation.fusion import fuse
from .simulation.head import HeadModel, head_model_folder
from .simulation.surfaces import compact

#: The head around the tip of the nose (mm): from behind the ears to the nose, from under the chin to the hairline.
REGION_OF_INTEREST = np.array([[-100.0, -12.0, -95.0], [100.0, 150.0, 125.0]])


def build_reference(model: HeadModel, rng: np.random.Generator) -> dict[str, Any]:
    """Return the arrays of a ``ReferenceFace`` for ``model``'s landmark scheme."""
    subject = model.mean_subject()
    views = np.array([(a, e) for a in (-110, -75, -35, 0, 35, 75, 110) for e in (-35, 5, 40)], dtype=float)
    device = Device("reference", views, 0.0, 0.0, 0.0, 0.12, 1.0, 0.0)
    scene = Scene(subject.vertices, model.outer_triangles, np.zeros(len(model.outer_triangles), dtype=bool))
    box = np.array([[-110.0, -140.0, -125.0], [110.0, 60.0, 140.0]])
    points, triangles = fuse([see(scene, box, view, device, rng) for view in views], 1.0, 0.7, np.eye(3))
    points, triangles = fast_simplification.simplify(
        points.astype(np.float32), triangles.astype(np.int32), target_count=56_000, agg=4.0
    )
    points, triangles = compact(points.astype(np.float64), triangles.astype(np.int64))
    # The 68-point scheme numbers its points; the tip of the nose is the 31st.
    nose = subject.landmarks[model.labels.index("Prn" if "Prn" in model.labels else "P31")]
    points, landmarks = points - nose, subject.landmarks - nose
    inside = inside_box(points, REGION_OF_INTEREST[0] - 5, REGION_OF_INTEREST[1] + 5)
    points, triangles = compact(points, triangles[inside[triangles].all(axis=1)])
    mesh = TriangleMesh(points, triangles)
    normals = mesh.vertex_normals
    near = cKDTree(points).query_ball_point(landmarks, 9.0)
    around = np.array([normals[index].mean(axis=0) for index in near])
    return {
        "points": points.astype(np.float32),
        "normals": normals.astype(np.float32),
        "triangles": triangles.astype(np.int32),
        "landmarks": landmarks,
        "landmark_normals": around / np.linalg.norm(around, axis=1, keepdims=True),
        "labels": np.array(model.labels),
        "region_of_interest": REGION_OF_INTEREST,
    }


def main() -> None:
    parser = command_parser(__doc__.splitlines()[0])
    parser.add_argument("--model", type=head_model_folder, required=True, help="folder of the head model")
    parser.add_argument("--scheme", default="lafas50", choices=["lafas50", "multipie68"])
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arrays = build_reference(HeadModel(arguments.model, arguments.scheme), np.random.default_rng(0))
    np.savez_compressed(arguments.output, **arrays)
    print(f"{arguments.output}: {len(arrays['points'])} points, {len(arrays['triangles'])} triangles")


if __name__ == "__main__":
    main()
