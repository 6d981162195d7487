"""Fit the scale of the predicted standard deviations on validation subjects.

    python -m training.calibrate --run runs/shipped --validation POOL --output runs/shipped/calibration.json

The network's deviations are scaled per landmark so that the 95 % region of an isotropic Gaussian holds 95 % of the
true positions: that is what a clinician reads off the numbers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .benchmarks.metrics import RADIUS_95, calibration
from .height_map_task import open_trained

#: The common scale counts as much as this many points of a landmark.
PRIOR_POINTS = 40


def fit_deviation_scale(
    errors: NDArray[np.float64], deviations: NDArray[np.float64], mirrored: Sequence[int]
) -> NDArray[np.float64]:
    """Scale (L,) of the deviations from errors (n, L), NaN where unknown, and deviations (n, L), in millimetres.

    ``mirrored``: each landmark's counterpart, -1 where it has none; both sides of the face get one scale.
    """
    ratio = errors / deviations / RADIUS_95
    common = float(np.nanquantile(ratio, 0.95))
    scales = []
    for i, other in enumerate(mirrored):
        both = ratio[:, sorted({i, other} - {-1})]
        known = both[np.isfinite(both)]
        own = float(np.quantile(known, 0.95)) if len(known) else common
        share = len(known) / (len(known) + PRIOR_POINTS)
        scales.append(share * own + (1 - share) * common)
    return np.array(scales)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--passes", type=int, default=3)
    a = parser.parse_args()
    task, network = open_trained(a.run, a.validation, seed=1)
    errors, deviations = task.run(network, a.passes)
    scale = fit_deviation_scale(errors, deviations, task.mirrored)
    result = {
        "deviation_scale": np.round(scale, 4).tolist(),
        "subjects": len(errors),
        "held_95": calibration(errors, deviations * scale)["within_95"],
        "error_mm": float(np.nanmean(errors)),
    }
    a.output.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "deviation_scale"}))


if __name__ == "__main__":
    main()
