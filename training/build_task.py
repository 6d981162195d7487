"""What a network is trained on: the patches or height maps of a training's subjects, prepared once and kept."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.palnet import PALNetConfig
from PALNetLandmarksLib.patches import PatchConfig
from PALNetLandmarksLib.procrustes import SimilarityTransform
from PALNetLandmarksLib.reference import ReferenceFace
from PALNetLandmarksLib.triangle_order import in_order_of_place
from PALNetLandmarksLib.weights import load_weights
from rich.console import Console

from .aligned_scans import AlignedScan, reference_digest
from .blend import RegisteredScans
from .folder import TrainingDataError
from .height_map_task import ACROSS_FROM, HeightMapTask, has_across
from .loop import Recipe
from .messages import progress
from .palnet_task import SPLITS, PALNetTask, examples_of_pool, examples_of_scans, prepare_patches
from .prepared import PREPARATION, prepare_placed_scan, save_prepared
from .source import PREPARED, Source, leave_out
from .training_scheme import counterparts, mean_landmarks, reference_with

AnyTask = Union[PALNetTask, HeightMapTask]


def build_task(
    config: dict[str, Any],
    recipe: Recipe,
    reference: ReferenceFace,
    source: Source,
    a: argparse.Namespace,
    console: Console,
) -> AnyTask:
    """Prepare the subjects of ``source`` for the network that ``config`` names, in the folder of the run.

    Those that cannot be prepared are named and added to ``source.left_out``; a laboratory's prepared scans are added to
    ``source.files``. ``a``: the options of ``training.train``.

    Raises
    ------
    TrainingDataError
        If the landmarks do not suit the network, or no subject is left.
    """
    if config["network"] == "pal-net":
        return _palnet_task(config, recipe, reference, source, a, console)
    return _height_map_task(config, recipe, reference, source, a, console)


def _palnet_task(
    config: dict[str, Any],
    recipe: Recipe,
    reference: ReferenceFace,
    source: Source,
    a: argparse.Namespace,
    console: Console,
) -> PALNetTask:
    patches = PatchConfig(**config.get("patches", {}))
    if source.scans:
        examples = {split: examples_of_scans(scans, patches, reference) for split, scans in source.scans.items()}
    else:
        examples = {
            split: examples_of_pool(files, patches, reference, recipe.seed) for split, files in source.files.items()
        }
    if any(len(example.landmarks) != len(source.scheme) for example in examples["training"]):
        raise TrainingDataError(f"The prepared scans do not have the {len(source.scheme)} landmarks of the scheme.")
    key, face = _stamps(source), reference_digest(reference)
    name = _digest([PREPARATION, vars(patches), recipe.seed, source.scheme.labels, a.unit, key, source.splits, face])
    with progress(console, "patches", sum(map(len, examples.values()))) as advance:
        arrays = prepare_patches(a.output / f"patches-{name}", examples, patches, source.left_out, a.workers, advance)
    leave_out(source.left_out, {name: arrays.left_out[name] for name in sorted(arrays.left_out)}, console)
    network = PALNetConfig.from_dict(
        {"n_landmarks": len(source.scheme), "patch_size": patches.size, **config.get("model", {})}
    )
    return PALNetTask(source.scheme, arrays, network, patches, recipe.seed)


def _height_map_task(
    config: dict[str, Any],
    recipe: Recipe,
    reference: ReferenceFace,
    source: Source,
    a: argparse.Namespace,
    console: Console,
) -> HeightMapTask:
    if not source.scans:
        # A pool may grow during training, unless its share of subjects is fixed.
        training = source.files["training"] if a.limit or not a.validation else a.data
        validation = source.files["validation"]
        return HeightMapTask(source.scheme, reference, training, validation, recipe.seed, 40, across=_across(a))
    bundled = source.scheme.labels == reference.labels
    mirrored = None
    if not bundled:
        means = mean_landmarks(scan.landmarks / scan.face_scale for scan in source.scans["training"])
        if len(means) < 4 or np.linalg.svd(means - means.mean(axis=0), compute_uv=False)[1] < 5.0:
            raise TrainingDataError(
                "The height-map network aligns faces by their landmarks and needs four or more that do not lie on a "
                "line; train PAL-Net instead (training/configs/palnet.json)."
            )
        reference = reference_with(reference, source.scheme.labels, means)
        mirrored = counterparts(means)
    face, start = reference_digest(reference), load_weights(a.finetune).sha256 if a.finetune else None
    name = _digest([PREPARATION, source.scheme.labels, a.unit, _stamps(source), source.splits, face, start])
    folder = a.output / f"scans-{name}"
    folder.mkdir(exist_ok=True)
    files = _prepare_scans(folder, source, reference, console)
    source.files.update(files)
    across = _across(a)
    blends = config.get("blends", 0) if recipe.epochs else 0
    return HeightMapTask(
        source.scheme,
        reference,
        files["training"] + _blends(blends, recipe.seed, folder, reference, source.scans["training"], console),
        files["validation"],
        recipe.seed,
        None,
        mirrored,
        registration_error=False,
        # Blends say nothing that their subjects do not.
        across=len(files["training"]) >= ACROSS_FROM if across is None else across,
    )


def _prepare_scans(folder: Path, source: Source, reference: ReferenceFace, console: Console) -> dict[str, list[Path]]:
    """The prepared scans of a laboratory's subjects, by split; who cannot be prepared is left out."""
    files: dict[str, list[Path]] = {split: [] for split in SPLITS}
    with progress(console, "prepare", sum(map(len, source.scans.values()))) as advance:
        for split, scans in source.scans.items():
            for scan in scans:
                file = folder / f"{split}-{scan.subject.name}{PREPARED}"
                try:
                    if not file.exists():
                        visible = np.isfinite(scan.landmarks).all(axis=1)
                        to_size = SimilarityTransform(1.0 / scan.face_scale, np.eye(3), np.zeros(3))
                        save_prepared(
                            file, prepare_placed_scan(scan.mesh(), scan.landmarks, visible, reference, to_size)
                        )
                    files[split].append(file)
                except (LandmarkingError, ValueError) as error:
                    leave_out(source.left_out, {scan.subject.name: str(error)}, console)
                advance(scan.subject.name)
    return files


def _blends(
    count: int, seed: int, folder: Path, reference: ReferenceFace, scans: list[AlignedScan], console: Console
) -> list[Path]:
    """``count`` prepared blends of the training subjects, if these are registered scans; otherwise none."""
    registered = RegisteredScans.of(scans) if count else None
    if registered is None:
        return []
    files = []
    with progress(console, "blend", count) as advance:
        for number in range(count):
            file = folder / f"blend-{seed}-{number:05d}{PREPARED}"
            if not file.exists():
                mesh, landmarks = registered.blend(file.name, np.random.default_rng([seed, number]))
                visible = np.ones(len(landmarks), dtype=bool)
                as_it_is = SimilarityTransform(1.0, np.eye(3), np.zeros(3))
                save_prepared(
                    file, prepare_placed_scan(in_order_of_place(mesh), landmarks, visible, reference, as_it_is)
                )
            files.append(file)
            advance(file.name)
    return files


def _across(a: argparse.Namespace) -> bool | None:
    """What a run begins with or goes on with says whether its network has the parts that many subjects teach."""
    checkpoint = a.output / "checkpoint.pt"
    if checkpoint.exists():
        return has_across(torch.load(checkpoint, map_location="cpu", weights_only=True)["network"])
    return has_across(load_weights(a.finetune).arrays) if a.finetune else None


def _stamps(source: Source) -> list[Any]:
    """What tells whether a subject's files have changed."""
    if source.scans:
        return [[_stamp(s.subject.scan), _stamp(s.subject.landmarks)] for scans in source.scans.values() for s in scans]
    return [_stamp(file) for files in source.files.values() for file in files]


def _stamp(path: Path) -> list[Any]:
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
