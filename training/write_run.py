"""What a training leaves in its folder: weights, mean landmarks, model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PALNetLandmarksLib.landmark_files import write_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from PALNetLandmarksLib.weights import WeightsFile, load_weights
from rich.console import Console

from .build_task import AnyTask
from .commit import commit
from .deviation_scale import fit_deviation_scale
from .export import write_weights
from .finetuning import Start
from .height_map_task import HeightMapTask
from .loop import Recipe
from .messages import say_note
from .model_card import measure, write_model_card
from .palnet_task import PALNetTask
from .source import Source
from .training_options import TrainingOptions
from .training_scheme import reference_with


def write_run(
    task: AnyTask,
    network: Any,
    history: list[dict[str, float]],
    source: Source,
    config: dict[str, Any],
    recipe: Recipe,
    device: torch.device,
    world: int,
    start: Start | None,
    options: TrainingOptions,
    console: Console,
) -> None:
    """Write weights, mean landmarks and model card into the folder of the run, and say how good they are.

    ``start``: what a fine-tuning began with; ``options``: those of ``training.train``.
    """
    dtype, folder = "float16", options.output
    before = load_weights(options.finetune) if options.finetune else None
    with torch.no_grad():  # what is measured is what is written
        for parameter in network.parameters():
            parameter.copy_(parameter.half().to(parameter.dtype))
    best = min(history, key=lambda entry: entry[recipe.watched])
    metadata = task.metadata()
    test = None
    if isinstance(task, PALNetTask):
        counts = {split: len(task.arrays.names[split]) for split in source.folders}
        means = task.arrays.template
        if counts.get("test"):
            test = measure(*task.predict(network, "test"), task.scheme.labels)
    else:
        counts = {split: len(source.files[split]) for split in source.folders}
        if not source.scans:  # a pool may have grown meanwhile
            counts |= {"training": task.size, "validation": task.n_validated}
        means = task.reference.landmarks
        passes = int(before.fact("passes") if before else metadata["passes"])
        scale = _deviation_scale(task, network, passes, before, start.untaught if start else ())
        metadata |= {"passes": passes, "deviation_scale": np.round(scale, 4).tolist()}
        if counts.get("test"):
            test = measure(*task.predict(network, source.files["test"], passes)[:2], task.scheme.labels)
    version = options.version or folder.resolve().name
    facts = {
        "started_from": before.sha256 if before else "random weights",
        "commit": commit(),
        "seed": recipe.seed,
        "epochs": history[-1]["epoch"],
        # How long it took would make another file of the same weights.
        "best_validation": {key: value for key, value in best.items() if key != "seconds"},
        "subjects": counts,
    }
    weights = folder / "weights.safetensors"
    digest = write_weights(weights, network.to_arrays(), metadata, version, facts, dtype)
    write_landmarks(folder / "mean-landmarks.mrk.json", LandmarkSet(task.scheme.labels, means))
    if task.scheme.labels != load_reference().labels:
        _write_reference(folder / "ReferenceFace.npz", reference_with(load_reference(), task.scheme.labels, means))
    write_model_card(
        folder,
        {
            "name": version,
            "architecture": config["network"],
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "labels": list(task.scheme.labels),
            "weights": {
                "file": weights.name,
                "sha256": digest,
                "dtype": dtype,
                "bytes": weights.stat().st_size,
            },
            "data": {
                "splits": {
                    split: {"folder": str(data), "subjects": counts[split]} for split, data in source.folders.items()
                },
                "blends": task.size - counts["training"],
                "left_out": source.left_out,
            },
            "config": config,
            "started_from": facts["started_from"],
            "start": vars(start) if start else None,
            "seed": recipe.seed,
            "commit": facts["commit"],
            "device": str(device),
            "processes": world,
            "epochs": history[-1]["epoch"],
            "best": best,
            "test": test,
        },
    )
    console.print(f"{weights}: SHA-256 {digest}", highlight=False, soft_wrap=True)
    if history[-1]["epoch"] and not best["epoch"]:
        say_note(console, "No epoch did better on the validation subjects than the start, so the weights are its.")
    error = f", test {test['point_wise_mm']:.3f} mm" if test and test["point_wise_mm"] is not None else ""
    console.print(f"validation {best[recipe.watched]:.3f} mm{error}; see {folder / 'model-card.md'}", soft_wrap=True)


def _deviation_scale(
    task: HeightMapTask, network: Any, passes: int, before: WeightsFile | None, untaught: Sequence[str]
) -> NDArray[np.float64]:
    """What the network's deviations (L,) are worth on the validation scans, after as many passes as a user's scan gets.

    A few scans say little of a single landmark, so what the weights that the run started from say of it counts along;
    of landmarks ``untaught``, nothing else does.
    """
    stated = np.ones(len(task.scheme)) if before is None else np.array(before.fact("deviation_scale"))
    errors, deviations = task.run(network, passes)
    scale = stated * fit_deviation_scale(errors, deviations * stated, task.mirrored)
    return np.where(np.isin(task.scheme.labels, untaught), stated, scale)


def _write_reference(path: Path, reference: ReferenceFace) -> None:
    np.savez_compressed(path, **{**vars(reference), "labels": np.array(reference.labels)})
