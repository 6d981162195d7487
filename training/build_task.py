"""What a network is trained on: the patches or height maps of a training's subjects, prepared once and kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.palnet import PALNetConfig
from PALNetLandmarksLib.patches import PatchConfig
from PALNetLandmarksLib.procrustes import SimilarityTransform
from PALNetLandmarksLib.reference import ReferenceFace
from PALNetLandmarksLib.weights import load_weights
from rich.console import Console

from .aligned_scans import reference_digest
from .blend import RegisteredScans
from .folder import TrainingDataError
from .height_map_task import ACROSS_FROM, HeightMapTask, has_across
from .loop import CHECKPOINT, Recipe
from .messages import progress
from .palnet_task import SPLITS, PALNetTask, examples_of_pool, examples_of_scans, prepare_patches
from .prepared import PREPARATION, prepare_aligned_scan, prepare_placed_scan, save_prepared
from .source import PREPARED, Source, leave_out
from .training_options import TrainingOptions
from .training_scheme import counterparts, mean_landmarks, reference_with

AnyTask = Union[PALNetTask, HeightMapTask]


def build_task(
    config: dict[str, Any],
    recipe: Recipe,
    reference: ReferenceFace,
    source: Source,
    options: TrainingOptions,
    console: Console,
) -> AnyTask:
    """Prepare the subjects of ``source`` for the network that ``config`` names, in the folder of the run.

    Those that cannot be prepared are named and added to ``source.left_out``; a laboratory's prepared scans are added to
    ``source.files``. ``options``: those of ``training.train``.

    Raises
    ------
    TrainingDataError
        If the landmarks do not suit the network, or no subject is left.
    """
    builder = _Builder(config, recipe, reference, source, options, console)
    return builder.palnet() if config["network"] == "pal-net" else builder.height_maps()


@dataclass(frozen=True)
class _Builder:
    """What ``build_task`` is given, and the task of each network made of it."""

    config: dict[str, Any]
    recipe: Recipe
    reference: ReferenceFace
    source: Source
    options: TrainingOptions
    console: Console

    def palnet(self) -> PALNetTask:
        """Patches, cut once."""
        source, reference, seed = self.source, self.reference, self.recipe.seed
        patches = PatchConfig(**self.config.get("patches", {}))
        if source.scans:
            examples = {split: examples_of_scans(scans, patches, reference) for split, scans in source.scans.items()}
        else:
            examples = {
                split: examples_of_pool(files, patches, reference, seed) for split, files in source.files.items()
            }
        if any(len(example.landmarks) != len(source.scheme) for example in examples["training"]):
            raise TrainingDataError(f"The prepared scans do not have the {len(source.scheme)} landmarks of the scheme.")
        folder = self._folder("patches", reference, vars(patches), seed)
        with progress(self.console, "patches", sum(map(len, examples.values()))) as advance:
            arrays = prepare_patches(folder, examples, patches, source.left_out, self.options.workers, advance)
        leave_out(source.left_out, {name: arrays.left_out[name] for name in sorted(arrays.left_out)}, self.console)
        network = PALNetConfig.from_dict(
            {"n_landmarks": len(source.scheme), "patch_size": patches.size, **self.config.get("model", {})}
        )
        return PALNetTask(source.scheme, arrays, network, patches, seed)

    def height_maps(self) -> HeightMapTask:
        """Dense samples, of which height maps are drawn while the network learns."""
        source, options = self.source, self.options
        changes = {key: self.config[key] for key in ("model", "augmented", "with_normals") if key in self.config}
        if not source.scans:
            # A pool may grow during training, unless its share of subjects is fixed.
            training = source.files["training"] if options.limit or not options.validation else options.data
            validation = source.files["validation"]
            return HeightMapTask(
                source.scheme,
                self.reference,
                training,
                validation,
                self.recipe.seed,
                40,
                across=self._across(),
                **changes,
            )
        reference, mirrored = self._of_landmarks()
        folder = self._folder("scans", reference, load_weights(options.finetune).sha256 if options.finetune else None)
        folder.mkdir(exist_ok=True)
        files = self._prepare_scans(folder, reference)
        source.files.update(files)
        across = self._across()
        return HeightMapTask(
            source.scheme,
            reference,
            files["training"] + self._blends(folder, reference),
            files["validation"],
            self.recipe.seed,
            None,
            mirrored,
            registration_error=False,
            # Blends say nothing that their subjects do not.
            across=len(files["training"]) >= ACROSS_FROM if across is None else across,
            **changes,
        )

    def _of_landmarks(self) -> tuple[ReferenceFace, tuple[int, ...] | None]:
        """The reference face with the landmarks of the subjects, and their counterparts where it has others."""
        source = self.source
        if source.scheme.labels == self.reference.labels:
            return self.reference, None
        means = mean_landmarks(scan.landmarks / scan.face_scale for scan in source.scans["training"])
        if len(means) < 4 or np.linalg.svd(means - means.mean(axis=0), compute_uv=False)[1] < 5.0:
            raise TrainingDataError(
                "The height-map network aligns faces by their landmarks and needs four or more that do not lie on a "
                "line; train PAL-Net instead (training/configs/palnet.json)."
            )
        return reference_with(self.reference, source.scheme.labels, means), counterparts(means)

    def _prepare_scans(self, folder: Path, reference: ReferenceFace) -> dict[str, list[Path]]:
        """The prepared scans of a laboratory's subjects, by split; who cannot be prepared is left out."""
        source = self.source
        files: dict[str, list[Path]] = {split: [] for split in SPLITS}
        with progress(self.console, "prepare", sum(map(len, source.scans.values()))) as advance:
            for split, scans in source.scans.items():
                for scan in scans:
                    file = folder / f"{split}-{scan.subject.name}{PREPARED}"
                    try:
                        if not file.exists():
                            save_prepared(file, prepare_aligned_scan(scan, reference))
                        files[split].append(file)
                    except (LandmarkingError, ValueError) as error:
                        leave_out(source.left_out, {scan.subject.name: str(error)}, self.console)
                    advance(scan.subject.name)
        return files

    def _blends(self, folder: Path, reference: ReferenceFace) -> list[Path]:
        """Prepared blends of the training subjects, as many as the configuration says, if these are registered scans;
        otherwise none."""
        count, seed = self.config.get("blends", 0) if self.recipe.epochs else 0, self.recipe.seed
        files = [folder / f"blend-{seed}-{number:05d}{PREPARED}" for number in range(count)]
        if all(file.exists() for file in files):
            return files
        registered = RegisteredScans.of(self.source.scans["training"])
        if registered is None:
            return []
        visible = np.ones(len(self.source.scheme), dtype=bool)
        as_it_is = SimilarityTransform(1.0, np.eye(3), np.zeros(3))
        with progress(self.console, "blend", count) as advance:
            for number, file in enumerate(files):
                if not file.exists():
                    mesh, landmarks = registered.blend(file.name, np.random.default_rng([seed, number]))
                    save_prepared(file, prepare_placed_scan(mesh, landmarks, visible, reference, as_it_is))
                advance(file.name)
        return files

    def _across(self) -> bool | None:
        """What a run begins with or goes on with says whether its network has the parts that many subjects teach."""
        checkpoint, weights = self.options.output / CHECKPOINT, self.options.finetune
        if checkpoint.exists():
            return has_across(torch.load(checkpoint, map_location="cpu", weights_only=True)["network"])
        return has_across(load_weights(weights).arrays) if weights else None

    def _folder(self, kind: str, reference: ReferenceFace, *settings: Any) -> Path:
        """Where to keep what is prepared; another one for other subjects, landmarks, or settings."""
        source = self.source
        facts = [source.scheme.labels, self.options.unit, _stamps(source), source.splits, reference_digest(reference)]
        folder: Path = self.options.output / f"{kind}-{_digest([PREPARATION, *facts, *settings])}"
        return folder


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
