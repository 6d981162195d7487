"""Write a trained network as the weights file that the library loads.

    python -m training.export --run runs/shipped --output PALNetLandmarks/Resources/Weights.safetensors --version 0.1.0

``training.train`` writes such a file into its run folder; this makes the bundled one of the height-map network, also
from a run that is still going on. With ``--average-with`` it is the mean of the run's weights and those that the run
was trained on from: where both lie in one basin, as then, the mean errs less than either. ``training.calibrate`` then
scales its standard deviations.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.scheme import load_scheme
from PALNetLandmarksLib.weights import load_weights, save_weights

from .height_map_task import open_trained
from .model_card import commit, write_model_card


def write_weights(
    path: Path,
    arrays: Mapping[str, NDArray[np.float32]],
    metadata: Mapping[str, Any],
    version: str,
    facts: Mapping[str, Any],
    dtype: str = "float16",
) -> str:
    """Write weights and, beside them, ``<path>.sha256``; returns the SHA-256.

    ``metadata`` from the task's ``metadata()``; ``facts`` on the training.
    """
    digest = save_weights(path, arrays, {**metadata, "version": version, "training": dict(facts)}, dtype)
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    return digest


def average_weights(
    first: Mapping[str, NDArray[np.float32]], second: Mapping[str, NDArray[np.floating]], share: float
) -> dict[str, NDArray[np.float32]]:
    """``share`` of the first and the rest of the second, array by array.

    Raises
    ------
    ValueError
        If they are no weights of the same network, or ``share`` is not between 0 and 1.
    """
    if {name: array.shape for name, array in first.items()} != {name: array.shape for name, array in second.items()}:
        raise ValueError("The two weights to average are of different networks.")
    if not 0 <= share <= 1:
        raise ValueError(f"The share of the run is between 0 and 1, not {share}.")
    return {name: share * array + (1 - share) * second[name].astype(np.float32) for name, array in first.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--data", default="", help="what the model card says the training scans are")
    parser.add_argument("--subjects", type=int, default=0, help="how many there were")
    parser.add_argument("--validation", default="", help="what the model card says the validation scans are")
    parser.add_argument("--validation-subjects", type=int, default=0)
    parser.add_argument("--started-from", default="random weights", help="the weights that the training began with")
    parser.add_argument("--about", type=Path, metavar="JSON", help="paragraphs of the model card by their headings")
    parser.add_argument("--average-with", type=Path, metavar="WEIGHTS", help="write the mean of the run and of these")
    parser.add_argument("--share", type=float, default=0.5, help="of the run in that mean, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    task, network = open_trained(a.run)
    arrays = network.to_arrays()
    metadata = {**task.metadata(), "passes": a.passes}
    history = json.loads((a.run / "history.json").read_text(encoding="utf-8"))
    best = min(history, key=lambda entry: entry["error_mm"])
    facts = {"commit": commit(), "epochs": history[-1]["epoch"], "best_validation": best}
    a.output.parent.mkdir(parents=True, exist_ok=True)
    if a.average_with:
        other = load_weights(a.average_with)
        arrays = average_weights(arrays, other.arrays, a.share)
        facts["averaged_with"] = {"sha256": other.sha256, "share_of_the_run": a.share}
    digest = write_weights(a.output, arrays, metadata, a.version, facts)
    splits = {
        "training": {"folder": a.data, "subjects": a.subjects},
        "validation": {"folder": a.validation, "subjects": a.validation_subjects},
    }
    card = {
        "name": f"{a.output.name} {a.version}",
        "architecture": "height-map-net",
        "parameters": sum(array.size for array in arrays.values()),
        "weights": {"file": a.output.name, "bytes": a.output.stat().st_size, "dtype": "float16", "sha256": digest},
        "data": {"splits": splits, "left_out": {}},
        "labels": list(load_scheme().labels),
        "config": {**metadata["config"], "passes": a.passes},
        "seed": a.seed,
        "started_from": a.started_from,
        "commit": facts["commit"],
        "device": "cpu",
        "processes": 1,
        "epochs": history[-1]["epoch"],
        "best": best,
        "test": None,
    }
    if a.about:
        card["about"] = json.loads(a.about.read_text(encoding="utf-8"))
    if a.average_with:
        card["averaged_with"] = facts["averaged_with"]
    write_model_card(a.output.parent, card)
    print(f"{a.output}: {a.output.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")


if __name__ == "__main__":
    main()
