"""Write a trained network as the weights file that the library loads.

    python -m training.export --run runs/shipped --output PALNetLandmarks/Resources/Weights.safetensors --version 0.1.0

``training.train`` writes such a file into its run folder; this makes the bundled one of the height-map network, also
from a run that is still going on. With ``--average-with`` it is the mean of the run's weights and those that the run
was trained on from: where both lie in one basin, as then, the mean errs less than either. ``training.calibrate`` then
scales its standard deviations.

The model card says of the training what the run noted, unless options say otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.scheme import load_scheme
from PALNetLandmarksLib.weights import load_weights, save_weights

from .arguments import at_least_one
from .folder import TrainingDataError, make_folder
from .height_map_task import open_trained
from .loop import Recipe
from .model_card import MODEL_CARD, commit, write_model_card


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


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see ``python -m training.export --help``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--passes", type=at_least_one, default=3)
    parser.add_argument("--data", help="what the model card says the training scans are, if not the run's folder")
    parser.add_argument("--subjects", type=at_least_one, help="how many there were")
    parser.add_argument("--validation", help="what the model card says the validation scans are")
    parser.add_argument("--validation-subjects", type=at_least_one)
    parser.add_argument("--started-from", help="what the model card says the training began with")
    parser.add_argument("--about", type=Path, metavar="JSON", help="paragraphs of the model card by their headings")
    parser.add_argument("--average-with", type=Path, metavar="WEIGHTS", help="write the mean of the run and of these")
    parser.add_argument("--share", type=float, default=0.5, help="of the run in that mean, 0 to 1")
    a = parser.parse_args(arguments)
    try:
        _export(a)
    except (LandmarkingError, ValueError) as error:
        sys.exit(f"Error: {error}")


def _export(a: argparse.Namespace) -> None:
    about = _read_about(a.about) if a.about else None
    task, network = open_trained(a.run)
    arrays = network.to_arrays()
    metadata = {**task.metadata(), "passes": a.passes}
    history = json.loads((a.run / "history.json").read_text(encoding="utf-8"))
    best = min(history, key=lambda entry: entry["error_mm"])
    facts = {"commit": commit(), "epochs": history[-1]["epoch"], "best_validation": best}
    if a.average_with:
        other = load_weights(a.average_with)
        arrays = average_weights(arrays, other.arrays, a.share)
        facts["averaged_with"] = {"sha256": other.sha256, "share_of_the_run": a.share}
    if a.output.is_dir():
        raise TrainingDataError(f"'{a.output}' is a folder; give the name of a file, such as Weights.safetensors.")
    make_folder(a.output.parent)
    digest = write_weights(a.output, arrays, metadata, a.version, facts)
    card = {
        **_facts_of_run(a.run, a),
        "name": f"{a.output.name} {a.version}",
        "architecture": "height-map-net",
        "parameters": sum(array.size for array in arrays.values()),
        "weights": {"file": a.output.name, "bytes": a.output.stat().st_size, "dtype": "float16", "sha256": digest},
        "labels": list(load_scheme().labels),
        "config": {**metadata["config"], "passes": a.passes},
        "commit": facts["commit"],
        "epochs": history[-1]["epoch"],
        "best": best,
        "test": None,
    }
    if about:
        card["about"] = about
    if a.average_with:
        card["averaged_with"] = facts["averaged_with"]
    write_model_card(a.output.parent, card)
    print(f"{a.output}: {a.output.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")


def _facts_of_run(run: Path, a: argparse.Namespace) -> dict[str, Any]:
    """What the model card says of the training: as the options ``a`` say, else as the run noted."""
    card = run / MODEL_CARD
    if card.exists():
        noted = json.loads(card.read_text(encoding="utf-8"))
        facts = {key: noted[key] for key in ("data", "start", "started_from", "seed", "device", "processes")}
    else:  # the run is still going on
        noted = json.loads((run / "settings.json").read_text(encoding="utf-8"))
        folders = {"training": noted["data"], "validation": noted["validation"] or noted["data"]}
        facts = {
            "data": {
                "splits": {split: {"folder": folder, "subjects": "?"} for split, folder in folders.items()},
                "left_out": {},
            },
            "started_from": noted["finetune"] or "random weights",
            "seed": Recipe(**noted["recipe"]).seed,
            "device": "?",
            "processes": "?",
        }
    splits = facts["data"]["splits"]
    for split, folder, subjects in (
        ("training", a.data, a.subjects),
        ("validation", a.validation, a.validation_subjects),
    ):
        splits[split] = {"folder": folder or splits[split]["folder"], "subjects": subjects or splits[split]["subjects"]}
    facts["started_from"] = a.started_from or facts["started_from"]
    return facts


def _read_about(path: Path) -> dict[str, str]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingDataError(
            f"'{path}' cannot be read as JSON ({error}); see about_bundled_weights.json."
        ) from error
    if not isinstance(about, dict) or not all(isinstance(paragraph, str) for paragraph in about.values()):
        raise TrainingDataError(f"'{path}' holds no paragraphs by their headings; see about_bundled_weights.json.")
    return about


if __name__ == "__main__":
    main()
