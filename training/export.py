"""Write a trained network as the weights file that the library loads.

    python -m training.export --run runs/shipped --output PALNetLandmarks/Resources/Weights.safetensors --version 0.1.0

``training.train`` writes such a file into its run folder; this makes the bundled one of the height-map network, also
from a run that is still going on. ``training.calibrate`` then scales its standard deviations.
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
from PALNetLandmarksLib.weights import save_weights

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
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    task, network = open_trained(a.run)
    metadata = {**task.metadata(), "passes": a.passes}
    history = json.loads((a.run / "history.json").read_text(encoding="utf-8"))
    best = min(history, key=lambda entry: entry["error_mm"])
    facts = {"commit": commit(), "epochs": history[-1]["epoch"], "best_validation": best}
    a.output.parent.mkdir(parents=True, exist_ok=True)
    digest = write_weights(a.output, network.to_arrays(), metadata, a.version, facts)
    splits = {
        "training": {"folder": a.data, "subjects": a.subjects},
        "validation": {"folder": a.validation, "subjects": a.validation_subjects},
    }
    card = {
        "name": f"{a.output.name} {a.version}",
        "architecture": "height-map-net",
        "parameters": sum(array.size for array in network.to_arrays().values()),
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
    write_model_card(a.output.parent, card)
    print(f"{a.output}: {a.output.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")


if __name__ == "__main__":
    main()
