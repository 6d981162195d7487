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

from .arguments import at_least_one, command_parser
from .commit import commit
from .finetuning import Start
from .folder import TrainingDataError, make_folder
from .height_map_task import open_trained
from .loop import Recipe
from .model_card import MODEL_CARD, write_model_card


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
    TrainingDataError
        If they are no weights of the same network, or ``share`` is not between 0 and 1.
    """
    if {name: array.shape for name, array in first.items()} != {name: array.shape for name, array in second.items()}:
        raise TrainingDataError("The two weights to average are of different networks; choose those of one.")
    if not 0 <= share <= 1:
        raise TrainingDataError(f"The share of the run in the mean lies between 0 and 1; {share} does not.")
    return {name: share * array + (1 - share) * second[name].astype(np.float32) for name, array in first.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see ``python -m training.export --help``."""
    parser = command_parser(__doc__.splitlines()[0])
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
    except LandmarkingError as error:
        sys.exit(f"Error: {error}")


def _export(a: argparse.Namespace) -> None:
    about = _read(a.about) if a.about else {}
    if not isinstance(about, dict):
        raise TrainingDataError(f"'{a.about}' holds no paragraphs by their headings; see about_bundled_weights.json.")
    task, network = open_trained(a.run)
    history = _read(a.run / "history.json")
    noted = _read(a.run / "settings.json")
    watched = Recipe(**noted["recipe"]).watched
    best = min(history, key=lambda entry: entry[watched])
    told = _told_of_run(a.run, noted, history[-1]["epoch"], best)
    said = {
        "training": {"folder": a.data, "subjects": a.subjects},
        "validation": {"folder": a.validation, "subjects": a.validation_subjects},
    }
    for split, options in said.items():
        told["data"]["splits"][split].update({key: value for key, value in options.items() if value})
    arrays = network.to_arrays()
    metadata = {**task.metadata(), "passes": a.passes}
    facts = {"commit": commit(), "epochs": history[-1]["epoch"], "best_validation": best}
    if a.average_with:
        other = load_weights(a.average_with)
        arrays = average_weights(arrays, other.arrays, a.share)
        facts["averaged_with"] = {"sha256": other.sha256, "share_of_the_run": a.share}
    if a.output.is_dir():
        raise TrainingDataError(f"'{a.output}' is a folder; give the name of a file, such as Weights.safetensors.")
    if a.output.resolve().parent == a.run.resolve():
        raise TrainingDataError(f"'{a.run}' has a model card of its own; choose an --output outside of the run.")
    make_folder(a.output.parent)
    digest = write_weights(a.output, arrays, metadata, a.version, facts)
    card = {
        **told,
        "name": f"{a.output.name} {a.version}",
        "architecture": "height-map-net",
        "parameters": sum(array.size for array in arrays.values()),
        "weights": {"file": a.output.name, "bytes": a.output.stat().st_size, "dtype": "float16", "sha256": digest},
        "labels": list(load_scheme().labels),
        "config": {**metadata["config"], "passes": a.passes},
        "started_from": a.started_from or told["started_from"],
        "epochs": history[-1]["epoch"],
        "best": best,
        "test": None,
        "about": about,
    }
    if a.average_with:
        card["averaged_with"] = facts["averaged_with"]
    write_model_card(a.output.parent, card)
    print(f"{a.output}: {a.output.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")


def _told_of_run(run: Path, noted: Mapping[str, Any], epoch: int, best: Mapping[str, float]) -> dict[str, Any]:
    """What the model card says of data, start and machine: what the run's own card does, if that is of these epochs.

    Of a run that is still going on, or goes on after its end, less is known: what it ``noted`` when it began.
    """
    card = _read(run / MODEL_CARD) if (run / MODEL_CARD).exists() else {}
    if card.get("epochs") == epoch and card.get("best") == best:
        told = {key: card[key] for key in ("data", "start", "started_from", "seed", "commit", "device", "processes")}
        told["data"]["splits"].pop("test", None)  # as exported, the network was tested on nobody
        return told
    folders = {"training": noted["data"], "validation": noted["validation"] or noted["data"]}
    splits = {split: {"folder": folder, "subjects": "?"} for split, folder in folders.items()}
    return {
        "data": {"splits": splits, "left_out": {}},
        "start": vars(Start.load(run)) if noted["finetune"] else None,
        "started_from": noted["finetune"] or "random weights",
        "seed": Recipe(**noted["recipe"]).seed,
        "commit": commit(),
        "device": "?",
        "processes": "?",
    }


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingDataError(f"'{path}' cannot be read as JSON ({error}); give another or mend it.") from error


if __name__ == "__main__":
    main()
