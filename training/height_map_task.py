"""Training the shipped network: batches of height maps drawn on the fly, its loss, its validation by whole passes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PALNetLandmarksLib.height_map_net import HeightMapNetConfig
from PALNetLandmarksLib.height_map_net_torch import HeightMapNetTorch
from PALNetLandmarksLib.height_maps import HeightMapConfig, landmark_frames
from PALNetLandmarksLib.initial_landmarks import place_initial_landmarks
from PALNetLandmarksLib.reference import ReferenceFace
from PALNetLandmarksLib.refine import REACH_MM, refine_landmarks
from PALNetLandmarksLib.scheme import LandmarkScheme
from torch import Tensor

from .augmentation import FIRST_PASS, draw_view, unpack
from .fast_height_maps import cut_height_maps_fast
from .prepared import PreparedScan, load_prepared

#: How much a landmark counts whose surface the scan lacks: its place is known in a simulation, but nothing shows it.
HIDDEN_WEIGHT = 0.1


def network_config(scheme: LandmarkScheme, maps: HeightMapConfig | None = None) -> HeightMapNetConfig:
    """The architecture for a landmark scheme: kinds and sides from its labels."""
    stems = [label[:-2] if label[-2:] in ("_R", "_L") else label for label in scheme.labels]
    order = list(dict.fromkeys(stems))
    side = {"_R": 1, "_L": 2}
    return HeightMapNetConfig(
        kinds=tuple(order.index(stem) for stem in stems),
        sides=tuple(side.get(label[-2:], 0) for label in scheme.labels),
        maps=maps or HeightMapConfig(),
    )


def inner_landmarks(scheme: LandmarkScheme) -> list[int]:
    """Indices of eyes, nose, mouth and midline, less the trichion: what every scan shows."""
    return [
        i
        for i, landmark in enumerate(scheme.landmarks)
        if landmark.region in ("eyes", "nose", "mouth") or (landmark.side == "midline" and landmark.label != "Tr")
    ]


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
    training, validation : folders of prepared scans; the training folder may grow while training goes on.
    """

    def __init__(
        self,
        scheme: LandmarkScheme,
        reference: ReferenceFace,
        training: Path,
        validation: Path,
        seed: int,
        validation_limit: int = 60,
    ) -> None:
        self.scheme, self.reference, self.seed = scheme, reference, seed
        self.config = network_config(scheme)
        self.frames = landmark_frames(reference.landmark_normals, scheme.mirrored)
        self._training = training
        self._validation = sorted(validation.glob("*.prepared.npz"))[:validation_limit]

    def build(self) -> HeightMapNetTorch:
        """A fresh network."""
        return HeightMapNetTorch(self.config, torch.Generator().manual_seed(self.seed))

    def describe(self) -> dict[str, object]:
        """What the weights file says of the network."""
        return {"architecture": "height-map-net", "config": asdict(self.config)}

    def batches(self, epoch: int, samples: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """``samples`` views per epoch over all processes, drawn without replacement until the pool is used up."""
        files = sorted(self._training.glob("*.prepared.npz"))
        if not files:
            raise FileNotFoundError(f"No prepared scans in '{self._training}'.")
        order_rng = np.random.default_rng([self.seed, epoch])
        rounds = -(-samples // len(files))
        order = np.concatenate([order_rng.permutation(len(files)) for _ in range(rounds)])[:samples]
        chunks = [order[start : start + batch_size] for start in range(0, samples - batch_size + 1, batch_size)][
            rank::world
        ]

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
        # Three axes of a Gaussian; the distance is detached, so that doubt never excuses an error.
        deviation = deviation.float()
        doubt = 3 * torch.log(deviation) + 0.5 * (distance.detach() / deviation) ** 2
        return (share * distance).sum() + 0.15 * (share * doubt).sum()

    def validate(self, network: HeightMapNetTorch) -> dict[str, float]:
        """Mean error (mm of the subject) over the visible landmarks after three passes from registration-like starts."""
        errors, _ = self.run(network)
        inner = inner_landmarks(self.scheme)
        return {
            "error_mm": float(np.nanmean(errors)),
            "inner_error_mm": float(np.nanmean(errors[:, inner])),
            "median_mm": float(np.nanmedian(errors)),
            "over_10_mm": float(np.mean(errors[np.isfinite(errors)] > 10)),
        }

    def run(self, network: HeightMapNetTorch, passes: int = 3) -> tuple[np.ndarray, np.ndarray]:
        """Errors and predicted standard deviations (subjects, L) in mm of the subject on the validation scans.

        Landmarks that the scan does not show are NaN in the errors.
        """
        device = next(network.parameters()).device

        def forward(maps: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with torch.no_grad():
                offsets, deviation = network(
                    torch.from_numpy(maps)[None].to(device), torch.from_numpy(centres)[None].to(device)
                )
            return offsets[0].float().cpu().numpy(), deviation[0].float().cpu().numpy()

        errors, deviations = [], []
        for i, file in enumerate(self._validation):
            scan = load_prepared(file)
            points, normals = unpack(scan)
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
            error = np.linalg.norm(pose.inverse().apply(found.points) - scan.landmarks, axis=1) * scan.size
            errors.append(np.where(scan.visible, error, np.nan))
            deviations.append(found.standard_deviation / pose.scale * scan.size)
        return np.array(errors), np.array(deviations)

    def _example(self, scan: PreparedScan, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        view = draw_view(scan, self.reference.landmarks, self.scheme.mirrored, rng)
        maps = cut_height_maps_fast(
            view.points, view.normals, view.centres.astype(np.float32), self.frames, self.config.maps
        )
        centres = np.einsum("lij,lj->li", self.frames, view.centres - self.reference.landmarks)
        offsets = np.einsum("lij,lj->li", self.frames, view.landmarks - view.centres)
        return maps, centres, offsets, np.where(view.visible, 1.0, HIDDEN_WEIGHT)

    @staticmethod
    def _stack(examples: list[tuple[np.ndarray, ...]]) -> Batch:
        return Batch(*(torch.from_numpy(np.stack(arrays).astype(np.float32)) for arrays in zip(*examples)))
