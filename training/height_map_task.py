"""Training the shipped network: batches of height maps drawn on the fly, its loss, its validation by whole passes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PALNetLandmarksLib.height_map_net import HeightMapNetConfig
from PALNetLandmarksLib.height_map_net_torch import HeightMapNetTorch
from PALNetLandmarksLib.height_maps import NORMALS, HeightMapConfig, landmark_frames
from PALNetLandmarksLib.initial_landmarks import place_initial_landmarks
from PALNetLandmarksLib.procrustes import SimilarityTransform
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from PALNetLandmarksLib.refine import REACH_MM, refine_landmarks
from PALNetLandmarksLib.scheme import LandmarkScheme, load_scheme
from torch import Tensor

from .augmentation import FIRST_PASS, draw_view, unpack
from .fast_height_maps import cut_height_maps_fast
from .folder import TrainingDataError
from .landmark_groups import inner_landmarks
from .loop import BEST, split_batches
from .prepared import PreparedScan, load_prepared

#: How much the error of a landmark counts whose surface the scan lacks: its place is known in a simulation, but nothing
#: shows it. Its doubt counts like any other's: deviations must be as honest there as elsewhere.
HIDDEN_WEIGHT = 0.25

#: Combinations of all landmarks that each layer forms, and features of each landmark that the last map from all
#: landmarks to all offsets reads, of a network that learns from so many subjects. Many faces teach them; from 136 they
#: learn the annotator's scatter (1.86 instead of 1.78 mm on the first fold of ``lafas-sim``).
MIXING, JOINT, ACROSS_FROM = 128, 16, 400


def network_config(
    mirrored: Sequence[int],
    mean_landmarks: NDArray[np.float64],
    maps: HeightMapConfig | None = None,
    across: bool = True,
) -> HeightMapNetConfig:
    """The architecture for landmarks of any name: ``mirrored`` names each one's counterpart (itself; -1: none).

    ``across``: with the parts that many subjects teach.
    """
    kinds: list[int] = []
    for i, other in enumerate(mirrored):
        kinds.append(kinds[other] if 0 <= other < i else max(kinds, default=-1) + 1)
    sides = [0 if other in (i, -1) else 1 if mean_landmarks[i, 0] < 0 else 2 for i, other in enumerate(mirrored)]
    return HeightMapNetConfig(
        kinds=tuple(kinds),
        sides=tuple(sides),
        maps=maps or HeightMapConfig(),
        mixing=MIXING * across,
        joint=JOINT * across,
    )


def has_across(names: Iterable[str]) -> bool:
    """Whether weights, by the names in a file or in a checkpoint, have the parts that many subjects teach."""
    return any(name.startswith("joint") for name in names)


@dataclass(frozen=True)
class Batch:
    """``maps`` (B, scales, L, p, p, c), ``centres``, ``offsets`` (B, L, 3), ``weights`` (B, L)."""

    maps: Tensor
    centres: Tensor
    offsets: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(*(value.to(device) for value in vars(self).values()))


class HeightMapTask:
    """What the training loop needs to know of the height-map network.

    Parameters
    ----------
    scheme, reference : the landmarks, and the reference face with their means and normals.
    training, validation : folders of prepared scans, or lists of such files; a training folder may grow while training
        goes on.
    validation_limit : how many of the validation folder's scans are used.
    mirrored : each landmark's counterpart, -1 where it has none; from the labels by default.
    registration_error : the validation scans lie as their landmarks say, so a registration's error is simulated; not
        for scans that the library has aligned.
    across : whether the network has the parts that many subjects teach; by default from ``ACROSS_FROM`` on.
    model : settings of ``HeightMapNetConfig`` that differ from the usual ones, those of its ``maps`` below that name.
    augmented, with_normals : for comparisons: whether views are augmented, and whether maps show normals.
    """

    def __init__(
        self,
        scheme: LandmarkScheme,
        reference: ReferenceFace,
        training: Path | Sequence[Path],
        validation: Path | Sequence[Path],
        seed: int,
        validation_limit: int | None = 60,
        mirrored: tuple[int, ...] | None = None,
        registration_error: bool = True,
        across: bool | None = None,
        model: Mapping[str, Any] | None = None,
        augmented: bool = True,
        with_normals: bool = True,
    ) -> None:
        self.scheme, self.reference, self.seed = scheme, reference, seed
        self.mirrored = scheme.mirrored if mirrored is None else mirrored
        self._training = training
        across = self.size >= ACROSS_FROM if across is None else across
        changes = dict(model or {})
        changed_maps: dict[str, Any] = {key: tuple(value) for key, value in changes.pop("maps", {}).items()}
        maps = replace(HeightMapConfig(), **changed_maps)
        self.config = replace(network_config(self.mirrored, reference.landmarks, maps, across), **changes)
        self._augmented, self._with_normals = augmented, with_normals
        self.frames = landmark_frames(reference.landmark_normals, self.mirrored)
        self._validation = _files(validation)[:validation_limit]
        self._registration_error = registration_error

    @property
    def size(self) -> int:
        """Number of training scans, at present."""
        return len(_files(self._training))

    @property
    def n_validated(self) -> int:
        """Number of scans that choose the epoch."""
        return len(self._validation)

    def build(self) -> HeightMapNetTorch:
        """A fresh network."""
        network = HeightMapNetTorch(self.config, torch.Generator().manual_seed(self.seed))
        if not self._with_normals:
            with torch.no_grad():  # as maps without normals teach these weights nothing, they stay zero
                network.get_parameter("conv0_weight")[:, :, NORMALS] = 0
        return network

    def describe(self) -> dict[str, object]:
        """What the weights file says of the network."""
        return {"architecture": "height-map-net", "config": asdict(self.config)}

    def batches(self, epoch: int, samples: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """``samples`` views per epoch over all processes, drawn without replacement until the pool is used up."""
        files = _files(self._training)
        if not files:
            raise FileNotFoundError(f"No prepared scans in '{self._training}'.")
        order_rng = np.random.default_rng([self.seed, epoch])
        rounds = -(-samples // len(files))
        order = np.concatenate([order_rng.permutation(len(files)) for _ in range(rounds)])[:samples]
        chunks = split_batches(order, batch_size, rank, world)

        def make(number: int) -> Batch:
            rng = np.random.default_rng([self.seed, epoch, rank, number])
            return self._stack([self._example(load_prepared(files[i]), rng) for i in chunks[number]])

        with ThreadPoolExecutor(1) as executor:
            pending = [executor.submit(make, number) for number in range(min(3, len(chunks)))]
            for number in range(len(chunks)):
                yield pending.pop(0).result()
                if number + 3 < len(chunks):
                    pending.append(executor.submit(make, number + 3))

    def loss(self, network: torch.nn.Module, batch: Batch) -> Tensor:
        """Mean distance (mm) plus the likelihood of the distances under the predicted deviations."""
        offsets, deviation = network(batch.maps, batch.centres)
        distance = torch.sqrt(((offsets.float() - batch.offsets) ** 2).sum(-1) + 1e-4)
        share = batch.weights / batch.weights.sum()
        known = (batch.weights > 0).float()
        # Three axes of a Gaussian; the distance is detached, so that doubt never excuses an error.
        deviation = deviation.float()
        doubt = 3 * torch.log(deviation) + 0.5 * (distance.detach() / deviation) ** 2
        return (share * distance).sum() + 0.15 * (known * doubt).sum() / known.sum()

    def validate(self, network: HeightMapNetTorch) -> dict[str, float]:
        """Mean error (mm of the subject) over visible landmarks after three passes from registration-like starts."""
        errors, _ = self.run(network)
        inner = inner_landmarks(self.scheme)
        return {
            "error_mm": float(np.nanmean(errors)),
            **({"inner_error_mm": float(np.nanmean(errors[:, inner]))} if inner else {}),
            "median_mm": float(np.nanmedian(errors)),
            "over_10_mm": float(np.mean(errors[np.isfinite(errors)] > 10)),
        }

    def run(self, network: HeightMapNetTorch, passes: int = 3) -> tuple[np.ndarray, np.ndarray]:
        """Errors and predicted standard deviations (subjects, L) in mm of the subject on the validation scans.

        Landmarks that the scan does not show are NaN in the errors.
        """
        predicted, truth, deviations = self.predict(network, self._validation, passes)
        return np.linalg.norm(predicted - truth, axis=2), deviations

    def predict(
        self, network: HeightMapNetTorch, files: Sequence[Path], passes: int = 3
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predicted and true landmarks (subjects, L, 3) and deviations (subjects, L), in mm of the subjects.

        Landmarks that the scan does not show are NaN in the truth.
        """
        device = next(network.parameters()).device

        def forward(maps: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with torch.no_grad():
                offsets, deviation = network(
                    torch.from_numpy(maps)[None].to(device), torch.from_numpy(centres)[None].to(device)
                )
            return offsets[0].float().cpu().numpy(), deviation[0].float().cpu().numpy()

        predicted, truth, deviations = [], [], []
        for i, file in enumerate(files):
            scan = load_prepared(file)
            points, normals = unpack(scan)
            pose = SimilarityTransform(1.0, np.eye(3), np.zeros(3))
            if self._registration_error:
                pose = FIRST_PASS.draw(np.random.default_rng([self.seed, i]))
            placed = pose.apply(points).astype(np.float32)
            found = refine_landmarks(
                placed,
                pose.apply_to_vectors(normals).astype(np.float32),
                place_initial_landmarks(self.reference.landmarks, placed, REACH_MM),
                self.reference.landmarks,
                self.frames,
                forward,
                self.config.maps,
                passes,
                cut=cut_height_maps_fast,
            )
            predicted.append(pose.inverse().apply(found.points) * scan.size)
            truth.append(np.where(scan.visible[:, None], scan.landmarks * scan.size, np.nan))
            deviations.append(found.standard_deviation / pose.scale * scan.size)
        shape = (len(files), len(self.frames), 3)
        return np.reshape(predicted, shape), np.reshape(truth, shape), np.reshape(deviations, shape[:2])

    def metadata(self) -> dict[str, Any]:
        """What a weights file says, as ``PALNetLandmarksLib.placers`` reads it."""
        return {
            **self.describe(),
            "labels": list(self.scheme.labels),
            "mirrored": list(self.mirrored),
            "scheme": self.scheme.name,
            "passes": 3,
            "deviation_scale": [1.0] * len(self.scheme),
            # The network knows these alone, whatever landmarks a later reference face may have.
            "mean_landmarks": np.round(self.reference.landmarks, 4).tolist(),
            "landmark_normals": np.round(self.reference.landmark_normals, 5).tolist(),
        }

    def _example(self, scan: PreparedScan, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        mirrored = None if -1 in self.mirrored else self.mirrored
        view = draw_view(scan, self.reference.landmarks, mirrored, rng, self._augmented)
        maps = cut_height_maps_fast(
            view.points, view.normals, view.centres.astype(np.float32), self.frames, self.config.maps
        )
        if not self._with_normals:
            maps[..., NORMALS] = 0
        centres = np.einsum("lij,lj->li", self.frames, view.centres - self.reference.landmarks)
        offsets = np.einsum("lij,lj->li", self.frames, view.landmarks - view.centres)
        return maps, centres, offsets, np.where(view.visible, 1.0, np.where(view.known, HIDDEN_WEIGHT, 0.0))

    @staticmethod
    def _stack(examples: list[tuple[np.ndarray, ...]]) -> Batch:
        return Batch(*(torch.from_numpy(np.stack(arrays).astype(np.float32)) for arrays in zip(*examples)))


def open_trained(run: Path) -> tuple[HeightMapTask, HeightMapNetTorch]:
    """The best network of a run for the bundled landmarks, and its task without any scan.

    Raises
    ------
    TrainingDataError
        If the folder holds no such run.
    """
    try:
        weights = torch.load(run / BEST, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise TrainingDataError(
            f"'{run / BEST}' cannot be read; give the folder of a run that training.train has begun."
        ) from error
    settings = run / "settings.json"
    try:
        config = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
    except ValueError as error:
        raise TrainingDataError(f"'{settings}' is damaged; it says how the run's network is built.") from error
    changes = {key: config[key] for key in ("model", "with_normals") if key in config}
    task = HeightMapTask(load_scheme(), load_reference(), [], [], 0, across=has_across(weights), **changes)
    network = task.build()
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingDataError(
            f"'{run}' is a run of another network, or for landmarks of its own; give one of the height-map network for "
            "the bundled landmarks."
        ) from error
    network.eval()
    return task, network


def _files(source: Path | Sequence[Path]) -> list[Path]:
    return sorted(source.glob("*.prepared.npz")) if isinstance(source, Path) else list(source)
