"""From an aligned scan to landmarks: the shipped network and PAL-Net behind one interface."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import WeightsError
from .height_map_net import HeightMapNet, HeightMapNetConfig
from .height_maps import HeightMapConfig, landmark_frames
from .initial_landmarks import place_initial_landmarks
from .mesh import TriangleMesh
from .palnet import PALNet, PALNetConfig
from .patches import PatchConfig, extract_patches, sample_cloud
from .reference import ReferenceFace
from .refine import REACH_MM, Forward, refine_stepwise
from .region_of_interest import crop_to_region_of_interest, sample_region_of_interest
from .stopwatch import Stopwatch
from .weights import WeightsFile, check_shapes


@dataclass(frozen=True)
class Placed:
    """``points`` (L, 3) and ``standard_deviation_mm`` (L,), NaN where the network says none; aligned frame, LPS mm.

    ``outward`` (L, 3): where the skin around each landmark faces, for networks that look at it from there.
    """

    points: NDArray[np.float64]
    standard_deviation_mm: NDArray[np.float64]
    outward: NDArray[np.float64] | None = None


class Placer(Protocol):
    """Places landmarks on a scan that is aligned to the reference face.

    ``mean_landmarks`` (L, 3): where a mean face has them, up to its size; canonical frame.
    """

    labels: tuple[str, ...]
    mean_landmarks: NDArray[np.float64]

    def place(self, mesh: TriangleMesh, face_scale: float, stopwatch: Stopwatch) -> Generator[None, None, Placed]:
        """``mesh`` in the canonical frame (LPS mm of the subject, origin at the tip of the nose); see ``stepwise``."""
        ...


class HeightMapPlacer:
    """The shipped way: height maps, passes of one network, each landmark with its certainty."""

    def __init__(self, weights: WeightsFile, reference: ReferenceFace, device: str) -> None:
        self.labels = tuple(weights.fact("labels"))
        settings = dict(weights.fact("config"))
        maps = HeightMapConfig(**{key: _frozen(value) for key, value in settings.pop("maps").items()})
        config = HeightMapNetConfig(maps=maps, **{key: _frozen(value) for key, value in settings.items()})
        check_shapes(weights.arrays, config.shapes(), weights.name)
        self._config = config
        self._reference = reference
        self.mean_landmarks = reference.landmarks
        mirrored = tuple(int(i) for i in weights.fact("mirrored"))
        self._frames = landmark_frames(reference.landmark_normals, mirrored)
        self._passes = int(weights.fact("passes"))
        self._deviation_scale = np.asarray(weights.fact("deviation_scale"), dtype=np.float64)
        self._forward: Forward = (
            HeightMapNet(config, weights.arrays).forward
            if device == "cpu"
            else _torch_height_map_forward(config, weights, device)
        )

    def place(self, mesh: TriangleMesh, face_scale: float, stopwatch: Stopwatch) -> Generator[None, None, Placed]:
        """See ``Placer.place``."""
        # The network knows faces of the reference's size.
        samples = sample_region_of_interest(mesh.with_points(mesh.points * (1.0 / face_scale)), self._reference)
        points = samples.points.astype(np.float32)
        stopwatch.lap("sampling")
        yield
        initial = place_initial_landmarks(self._reference.landmarks, points, REACH_MM)
        stopwatch.lap("initial landmarks")
        refined = yield from refine_stepwise(
            points,
            samples.normals.astype(np.float32),
            initial,
            self._reference.landmarks,
            self._frames,
            self._forward,
            self._config.maps,
            self._passes,
        )
        stopwatch.lap("network")
        deviation = refined.standard_deviation * face_scale * self._deviation_scale
        return Placed(refined.points * face_scale, deviation, self._frames[:, 2].astype(np.float64))


class PALNetPlacer:
    """PAL-Net as published (arXiv 2510.00910): point patches around the projected template, one pass, no certainty."""

    def __init__(self, weights: WeightsFile, reference: ReferenceFace, device: str) -> None:
        self.labels = tuple(weights.fact("labels"))
        self._patches = PatchConfig(**{key: _frozen(value) for key, value in weights.fact("patches").items()})
        try:
            config = PALNetConfig.from_dict(weights.fact("config"))
        except ValueError as error:
            raise WeightsError(f"The weights '{weights.name}' do not describe a PAL-Net ({error}).") from error
        self._reference = reference
        self.mean_landmarks = _points(weights, "template", len(self.labels))
        if config.n_landmarks != len(self.labels) or config.patch_size != self._patches.size:
            raise ValueError("its labels and patches do not fit its network")
        if device == "cpu":
            self._forward: Any = PALNet(config, weights.arrays).forward
        else:
            self._forward = _torch_palnet_forward(config, weights, device)

    def place(self, mesh: TriangleMesh, face_scale: float, stopwatch: Stopwatch) -> Generator[None, None, Placed]:
        """See ``Placer.place``."""
        face = crop_to_region_of_interest(mesh, self._reference)
        cloud = sample_cloud(face, self._patches)
        stopwatch.lap("sampling")
        yield
        initial = place_initial_landmarks(self.mean_landmarks, face.points)
        stopwatch.lap("initial landmarks")
        patches = extract_patches(cloud, initial, self._patches, name=mesh.name)
        stopwatch.lap("patches")
        yield
        points = np.asarray(self._forward(patches[None])[0], dtype=np.float64)
        stopwatch.lap("network")
        return Placed(points, np.full(len(points), np.nan))


PLACERS: dict[str, Callable[[WeightsFile, ReferenceFace, str], Placer]] = {
    "height-map-net": HeightMapPlacer,
    "pal-net": PALNetPlacer,
}


def build_placer(weights: WeightsFile, reference: ReferenceFace, device: str) -> Placer:
    """The placer for the architecture that ``weights`` name.

    Raises
    ------
    WeightsError
        If the architecture is unknown, or names, shapes or landmarks do not fit.
    """
    architecture = weights.metadata.get("architecture", "")
    if architecture not in PLACERS:
        raise WeightsError(
            f"The weights '{weights.name}' are for an unknown network ('{architecture}'); choose weights made for "
            "PALNetLandmarks."
        )
    try:
        reference = _own_reference(weights, reference)
        placer = PLACERS[architecture](weights, reference, device)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"The weights '{weights.name}' do not describe a network this version knows ({error}); update "
            "PALNetLandmarks or choose other weights."
        ) from error
    if architecture == "height-map-net" and placer.labels != reference.labels:
        raise WeightsError(
            f"The weights '{weights.name}' place other landmarks than the bundled reference face has; choose weights "
            "of the same landmark scheme."
        )
    return placer


def _own_reference(weights: WeightsFile, reference: ReferenceFace) -> ReferenceFace:
    """The reference face with the landmarks that ``weights`` were trained for, if they bring their own."""
    if "mean_landmarks" not in weights.metadata:
        return reference
    labels = tuple(weights.fact("labels"))
    return replace(
        reference,
        labels=labels,
        landmarks=_points(weights, "mean_landmarks", len(labels)),
        landmark_normals=_points(weights, "landmark_normals", len(labels)),
    )


def _points(weights: WeightsFile, key: str, count: int) -> NDArray[np.float64]:
    points = np.asarray(weights.fact(key), dtype=np.float64)
    if points.shape != (count, 3) or not np.isfinite(points).all():
        raise ValueError(f"its {key} are not {count} points")
    return points


def _frozen(value: Any) -> Any:
    """Lists from JSON as tuples, so that configurations stay hashable and immutable."""
    return tuple(value) if isinstance(value, list) else value


def _torch_height_map_forward(config: HeightMapNetConfig, weights: WeightsFile, device: str) -> Forward:
    import torch

    from .height_map_net_torch import HeightMapNetTorch

    network = HeightMapNetTorch(config)
    network.load_arrays(weights.arrays)
    network.to(device).eval()
    lock = threading.Lock()

    def forward(
        maps: NDArray[np.float32], centres: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with lock, torch.no_grad():
            offsets, deviation = network(
                torch.from_numpy(maps)[None].to(device),
                torch.from_numpy(np.ascontiguousarray(centres))[None].to(device),
            )
        return offsets[0].cpu().numpy(), deviation[0].cpu().numpy()

    return forward


def _torch_palnet_forward(config: PALNetConfig, weights: WeightsFile, device: str) -> Any:
    import torch

    from .palnet_torch import PALNetModule

    network = PALNetModule.from_arrays(config, weights.arrays, weights.name)
    network.to(device).eval()
    lock = threading.Lock()

    def forward(patches: NDArray[np.float32]) -> NDArray[np.float32]:
        with lock, torch.no_grad():
            return network(torch.from_numpy(patches).to(device)).cpu().numpy()  # type: ignore[no-any-return]

    return forward
