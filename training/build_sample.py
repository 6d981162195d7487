"""Make the sample scan that the library bundles: one simulated subject of the test split, as a clinic's camera sees it.

python -m training.build_sample --model ../shared/face-model --output PALNetLandmarks/Resources/SampleScan.ply
"""

from __future__ import annotations

from pathlib import Path

import fast_simplification
import numpy as np

from .arguments import command_parser
from .cohort import PLANS, draw_capture
from .simulation.capture import CaptureSimulator
from .simulation.head import HeadModel, head_model_folder
from .simulation.surfaces import compact
from .write_ply import write_ply

#: Subject of the test split of the clinic cohort: hair above the forehead, both ears and the trichion in view.
SUBJECT = 1007

#: Few enough triangles for a file of a few hundred kilobytes.
TRIANGLES = 22_000


def main() -> None:
    parser = command_parser(__doc__.splitlines()[0])
    parser.add_argument("--model", type=head_model_folder, required=True, help="folder of the head model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--subject", type=int, default=SUBJECT)
    a = parser.parse_args()
    capture, _ = draw_capture(CaptureSimulator(HeadModel(a.model)), PLANS["clinic"], "test", a.subject)
    points, triangles = capture.points, capture.triangles
    if len(triangles) > TRIANGLES:
        points, triangles = fast_simplification.simplify(
            points.astype(np.float32), triangles.astype(np.int32), target_count=TRIANGLES, agg=4.0
        )
        points, triangles = compact(points.astype(np.float64), triangles.astype(np.int64))
    write_ply(a.output, points, triangles)
    hidden = [label for label, seen in zip(capture.labels, capture.visible) if not seen]
    print(f"{a.output}: {len(points)} points, {a.output.stat().st_size / 1e3:.0f} kB, hidden: {hidden or 'none'}")


if __name__ == "__main__":
    main()
