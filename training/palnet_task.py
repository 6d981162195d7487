"""Training PAL-Net as published: patches cut once by the library's own steps, kept in memory-mapped arrays.

Two sources give the same arrays: scans that the library has aligned (``examples_of_scans``), and pools of prepared
scans (``examples_of_pool``), where the error of a registration is simulated.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.initial_landmarks import place_initial_landmarks
from PALNetLandmarksLib.inside_box import inside_box
from PALNetLandmarksLib.palnet import PALNetConfig
from PALNetLandmarksLib.palnet_torch import PALNetModule
from PALNetLandmarksLib.patches import PatchConfig, extract_patches, sample_cloud
from PALNetLandmarksLib.reference import ReferenceFace
from PALNetLandmarksLib.region_of_interest import crop_to_region_of_interest
from PALNetLandmarksLib.scheme import LandmarkScheme
from scipy.spatial import cKDTree
from torch import Tensor

from .aligned_scans import AlignedScan
from .augmentation import FIRST_PASS, unpack
from .folder import TrainingDataError
from .loop import split_batches
from .loss import LandmarkLoss
from .prepared import PreparedScan, load_prepared
from .training_scheme import mean_landmarks

SPLITS = ("training", "validation", "test")


@dataclass(frozen=True)
class Example:
    """A subject before its patches: its landmarks (L, 3), NaN where undefined, and ``surface``, which gives its points
    (n, 3), one of which each initial landmark becomes, and the cloud (m, 3) that patches are cut from.

    All in the aligned frame (canonical LPS, mm of the subject).
    """

    name: str
    landmarks: NDArray[np.float64]
    surface: Callable[[], tuple[NDArray[np.floating], NDArray[np.floating]]]


@dataclass(frozen=True)
class PatchArrays:
    """The patches of all splits: ``patches[split]`` (n, L, K, 3) and ``landmarks[split]`` (n, L, 3) float32, aligned
    frame (mm), memory-mapped; ``names[split]``; ``template`` (L, 3) the mean landmarks of the training split;
    ``left_out`` which subjects could not be used, and why.
    """

    patches: dict[str, NDArray[np.float32]]
    landmarks: dict[str, NDArray[np.float32]]
    names: dict[str, list[str]]
    template: NDArray[np.float64]
    left_out: dict[str, str]


def examples_of_scans(scans: Iterable[AlignedScan], config: PatchConfig, reference: ReferenceFace) -> list[Example]:
    """Examples of aligned scans; cropping and sampling are those of ``PALNetPlacer``."""

    def surface_of(scan: AlignedScan) -> Callable[[], tuple[NDArray[np.floating], NDArray[np.floating]]]:
        def surface() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            face = crop_to_region_of_interest(scan.mesh(), reference)
            if not len(face.points):
                raise TrainingDataError(f"'{face.name}' has no surface in the region of interest; check the scan.")
            return face.points, sample_cloud(face, config)

        return surface

    return [Example(scan.subject.name, scan.landmarks, surface_of(scan)) for scan in scans]


def examples_of_pool(files: Iterable[Path], config: PatchConfig, reference: ReferenceFace, seed: int) -> list[Example]:
    """Examples of prepared scans, at the size of the subjects and rigidly off by what a registration leaves.

    Landmarks that the scan does not show count as undefined.
    """

    def example(file: Path) -> Example:
        name = file.name[: -len(".prepared.npz")]
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        error = FIRST_PASS.draw(rng)

        def place(points: NDArray[np.floating], size: float) -> NDArray[np.float64]:
            return (points * size) @ error.rotation.T + error.translation

        def surface() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            scan = load_prepared(file)
            stored, stored_normals = unpack(scan)
            points, normals = place(stored, scan.size), stored_normals @ error.rotation.T
            inside = inside_box(points, *reference.region_of_interest)
            if not inside.any():
                raise TrainingDataError(f"'{file.name}' has no surface in the region of interest.")
            cloud = points[inside]
            if config.cloud_size is not None:
                cloud = densify(cloud, normals[inside], config.cloud_size)
            return points[inside], cloud

        scan: PreparedScan = load_prepared(file)
        landmarks = np.where(scan.visible[:, None], scan.landmarks.astype(np.float64), np.nan)
        return Example(name, place(landmarks, scan.size), surface)

    return [example(file) for file in files]


def densify(points: NDArray[np.float64], normals: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """``count`` points from samples (n, 3) with normals (n, 3), each spread over its share of the surface.

    The samples are in the order of ``SurfaceSamples``.

    A prepared scan has fewer samples than the cloud that PAL-Net's patches are cut from, and a patch of a thousand
    points of a thinner cloud would cover more skin than at detection.
    """
    if len(points) >= count:
        return points[:count]
    # The eight nearest share a disc of eight samples' area.
    some = points[:: max(1, len(points) // 2000)]
    eighth = np.median(cKDTree(points).query(some, 9)[0][:, 8])
    radius = eighth / np.sqrt(8.0)
    source = (np.arange(count) * len(points)) // count
    # The first point of each sample is the sample itself; a golden spiral gives the others.
    copy = np.arange(count) - np.searchsorted(source, source)
    angle = (copy + 0.37 * source) * (np.pi * (3 - np.sqrt(5)))
    reach = np.where(copy == 0, 0.0, radius * np.sqrt((copy * 0.618034) % 1.0))
    normal = normals[source]
    helper = np.where(np.abs(normal[:, :1]) < 0.7, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    first = np.cross(normal, helper)
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-9)
    second = np.cross(normal, first)
    return points[source] + (reach * np.cos(angle))[:, None] * first + (reach * np.sin(angle))[:, None] * second


def prepare_patches(
    folder: Path,
    splits: Mapping[str, Sequence[Example]],
    config: PatchConfig,
    left_out: Mapping[str, str],
    workers: int = 1,
    done: Callable[[str], None] = lambda name: None,
) -> PatchArrays:
    """Cut the patches of all subjects into arrays in ``folder``, which appears whole or not at all; or open it.

    Raises
    ------
    TrainingDataError
        If a split that has subjects loses all of them, or a landmark is defined on no training subject.
    """
    if folder.exists():
        return open_patches(folder)
    template = mean_landmarks(example.landmarks for example in splits["training"])
    if not np.isfinite(template).all():
        raise TrainingDataError("A landmark is defined on no training subject; leave it out of the scheme.")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    refused = dict(left_out)

    def cut(example: Example) -> NDArray[np.float32] | LandmarkingError:
        try:
            points, cloud = example.surface()
            return extract_patches(cloud, place_initial_landmarks(template, points), config, name=example.name)
        except LandmarkingError as error:
            return error

    names: dict[str, list[str]] = {}
    for split in SPLITS:
        examples = splits.get(split, ())
        names[split] = []
        if not examples:
            continue
        shape = (len(examples), len(template), config.size, 3)
        array = np.lib.format.open_memmap(partial / f"{split}.patches.npy", "w+", np.float32, shape)
        landmarks: list[NDArray[np.float64]] = []
        with ThreadPoolExecutor(workers) as executor:
            # A few at a time: finished patches wait in memory until they are written in order.
            for start in range(0, len(examples), 4 * workers):
                some = examples[start : start + 4 * workers]
                for example, result in zip(some, executor.map(cut, some)):
                    if isinstance(result, LandmarkingError):
                        refused[example.name] = str(result)
                    else:
                        array[len(landmarks)] = result
                        landmarks.append(example.landmarks)
                        names[split].append(example.name)
                    done(example.name)
        array.flush()
        del array
        if not landmarks:
            raise TrainingDataError(f"No subject of the {split} split can be used: {next(iter(refused.values()))}")
        np.save(partial / f"{split}.landmarks.npy", np.array(landmarks, dtype=np.float32))
    info = {"names": names, "template": template.tolist(), "left_out": refused}
    (partial / "info.json").write_text(json.dumps(info, indent=1), encoding="utf-8")
    partial.replace(folder)
    return open_patches(folder)


def open_patches(folder: Path) -> PatchArrays:
    """Open what ``prepare_patches`` wrote."""
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    patches, landmarks = {}, {}
    for split in SPLITS:
        if info["names"][split]:
            landmarks[split] = np.load(folder / f"{split}.landmarks.npy")
            patches[split] = np.load(folder / f"{split}.patches.npy", mmap_mode="r")[: len(landmarks[split])]
    return PatchArrays(patches, landmarks, info["names"], np.array(info["template"]), info["left_out"])


@dataclass(frozen=True)
class Batch:
    """``patches`` (B, L, K, 3), ``landmarks`` (B, L, 3), NaN where undefined."""

    patches: Tensor
    landmarks: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(self.patches.to(device), self.landmarks.to(device))


class PALNetTask:
    """What the training loop needs to know of PAL-Net.

    Parameters
    ----------
    scheme : the landmarks, as many as the network has.
    arrays : patches and landmarks.
    """

    def __init__(
        self, scheme: LandmarkScheme, arrays: PatchArrays, config: PALNetConfig, patches: PatchConfig, seed: int
    ) -> None:
        self.scheme, self.arrays, self.config, self.patches, self.seed = scheme, arrays, config, patches, seed
        self._loss = LandmarkLoss()

    @property
    def size(self) -> int:
        """Number of training subjects."""
        return len(self.arrays.landmarks["training"])

    def build(self) -> PALNetModule:
        """A fresh network, Glorot-normal."""
        return PALNetModule(self.config, torch.Generator().manual_seed(self.seed))

    def batches(self, epoch: int, samples: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The training subjects in an order of this epoch; over and over if ``samples`` are more than there are."""
        rng = np.random.default_rng([self.seed, 2, epoch])
        order = np.concatenate([rng.permutation(self.size) for _ in range(-(-samples // self.size))])[:samples]
        for chosen in split_batches(order, batch_size, rank, world):
            yield self._batch("training", chosen)

    def loss(self, network: torch.nn.Module, batch: Batch) -> Tensor:
        """The published loss over the landmarks that are defined."""
        known = torch.isfinite(batch.landmarks).all(dim=-1)
        return self._loss(network(batch.patches).float(), batch.landmarks, known)

    def validate(self, network: PALNetModule) -> dict[str, float]:
        """Mean point-wise error (mm) on the validation split, before points are put on the surface."""
        predicted, truth = self.predict(network, "validation")
        error = np.linalg.norm(predicted - truth, axis=2)
        return {"error_mm": float(np.nanmean(error)), "median_mm": float(np.nanmedian(error))}

    @torch.no_grad()
    def predict(self, network: PALNetModule, split: str, batch_size: int = 16) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and true landmarks (n, L, 3) of a split, mm of the subjects, NaN where undefined."""
        network.eval()
        device = next(network.parameters()).device
        count = len(self.arrays.landmarks[split])
        parts = np.array_split(np.arange(count), -(-count // batch_size))
        found = [network(self._batch(split, part).patches.to(device)).float().cpu().numpy() for part in parts]
        return np.concatenate(found).astype(np.float64), self.arrays.landmarks[split].astype(np.float64)

    def metadata(self) -> dict[str, Any]:
        """What a weights file says, as ``PALNetLandmarksLib.placers`` reads it."""
        return {
            "architecture": "pal-net",
            "config": self.config.to_dict(),
            "patches": asdict(self.patches),
            "labels": list(self.scheme.labels),
            "scheme": self.scheme.name,
            "template": np.round(self.arrays.template, 4).tolist(),
        }

    def _batch(self, split: str, chosen: NDArray[np.int64]) -> Batch:
        return Batch(
            torch.from_numpy(np.ascontiguousarray(self.arrays.patches[split][chosen])),
            torch.from_numpy(self.arrays.landmarks[split][chosen]),
        )
