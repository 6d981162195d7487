"""2S-SGCN-style: heat maps over a thin cloud by graph convolutions, and the surface point whose ideal heat fits best.

The idea is Burger et al., "2S-SGCN: A two-stage stratified graph convolutional network model for facial landmark
detection on 3D data" (2024). First stage: graph convolutions with near and far neighbours ("stratified") give each
landmark a heat map over the points of a thin cloud. Second stage ("MSE over mesh"): of all surface points near the
heat, the landmark is the one whose own ideal heat map differs least from the one found. The layers here are edge
convolutions and fewer than theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional

from ...augmentation import FIRST_PASS, unpack
from ...loop import split_batches
from ...prepared import PreparedScan
from .placed_scans import mean_error_mm

#: Points of the thin cloud, and those of its share that far neighbours are taken from.
POINTS, FAR_POINTS = 2048, 256
NEAR_NEIGHBOURS, FAR_NEIGHBOURS = 12, 12
#: Standard deviation of the ideal heat, mm; how far from the hottest point the second stage looks.
HEAT_MM, REACH_MM = 7.0, 14.0
WIDTH, LAYERS = 64, 5


@dataclass(frozen=True)
class Cloud:
    """``features`` (POINTS, 6): coordinates in units of 100 mm and normals; ``neighbours`` (POINTS, k) int64, near ones
    first, far ones after."""

    features: NDArray[np.float32]
    neighbours: NDArray[np.int64]


def thin_cloud(points: NDArray[np.floating], normals: NDArray[np.floating], rng: np.random.Generator) -> Cloud:
    """A random thin cloud of samples (n, 3), with its stratified neighbours."""
    chosen = rng.permutation(len(points))[:POINTS]
    if len(chosen) < POINTS:
        chosen = np.resize(chosen, POINTS)
    some = points[chosen]
    near = cKDTree(some).query(some, NEAR_NEIGHBOURS + 1)[1][:, 1:]
    far = cKDTree(some[:FAR_POINTS]).query(some, FAR_NEIGHBOURS)[1]
    features = np.hstack([some / 100.0, normals[chosen]]).astype(np.float32)
    return Cloud(features, np.hstack([near, far]).astype(np.int64))


class _EdgeConvolution(nn.Module):
    """x_i -> relu(norm(A x_i + max_near(B x_j) + max_far(C x_j))), each a linear map: an edge convolution whose sum
    over the edge's ends is taken before the gathering, so that it costs no product per edge."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own = nn.Linear(inputs, outputs)
        self.others = nn.Linear(inputs, 2 * outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        """(B, n, inputs), (B, n, k) -> (B, n, outputs)."""
        near, far = self.others(x).chunk(2, dim=-1)
        total = self.own(x)
        total = total + _largest(near, neighbours[..., :NEAR_NEIGHBOURS])
        total = total + _largest(far, neighbours[..., NEAR_NEIGHBOURS:])
        return functional.relu(self.norm(total))


def _largest(values: Tensor, neighbours: Tensor) -> Tensor:
    """Per channel the largest of ``values`` (B, n, C) among each point's neighbours (B, m, k): (B, m, C)."""
    start = values.shape[1] * torch.arange(len(values), device=values.device)[:, None, None]
    around = values.flatten(0, 1).index_select(0, (neighbours + start).flatten())
    return around.view(*neighbours.shape, -1).amax(dim=2)


class StratifiedGraphNet(nn.Module):
    """Features (B, n, 6) and neighbours (B, n, k) -> logits of heat maps (B, L, n)."""

    def __init__(self, landmarks: int) -> None:
        super().__init__()
        widths = [6] + LAYERS * [WIDTH]
        self.layers = nn.ModuleList(_EdgeConvolution(a, b) for a, b in zip(widths, widths[1:]))
        self.join = nn.Linear(LAYERS * WIDTH + WIDTH, 2 * WIDTH)
        self.whole = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(2 * WIDTH, landmarks)

    def forward(self, features: Tensor, neighbours: Tensor) -> Tensor:
        """See the class."""
        x, kept = features, []
        for layer in self.layers:
            x = layer(x, neighbours)
            kept.append(x)
        whole = functional.relu(self.whole(x.amax(dim=1, keepdim=True))).expand(-1, x.shape[1], -1)
        joined = functional.relu(self.join(torch.cat([*kept, whole], dim=-1)))
        return self.head(joined).transpose(1, 2)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Batch:
    """``features`` (B, n, 6), ``neighbours`` (B, n, k), ``landmarks`` (B, L, 3) in mm, NaN where unknown."""

    features: Tensor
    neighbours: Tensor
    landmarks: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(self.features.to(device), self.neighbours.to(device), self.landmarks.to(device))


class GraphTask:
    """What the training loop needs to know."""

    def __init__(self, training: Sequence[PreparedScan], validation: Sequence[PreparedScan], seed: int) -> None:
        self.training, self.validation, self.seed = training, validation, seed

    @property
    def size(self) -> int:
        """Number of training scans."""
        return len(self.training)

    def build(self) -> StratifiedGraphNet:
        """A fresh network; the loop has seeded torch."""
        return StratifiedGraphNet(len(self.training[0].landmarks))

    def batches(self, epoch: int, samples: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Random thin clouds of the training scans, placed as inexactly as a registration places them."""
        rng = np.random.default_rng([self.seed, 4, epoch, rank])
        order = np.concatenate([rng.permutation(self.size) for _ in range(-(-samples // self.size))])[:samples]
        for chosen in split_batches(order, batch_size, rank, world):
            clouds, landmarks = [], []
            for i in chosen:
                scan = self.training[i]
                points, normals = unpack(scan)
                pose = FIRST_PASS.draw(rng)
                clouds.append(thin_cloud(pose.apply(points), pose.apply_to_vectors(normals), rng))
                landmarks.append(np.where(scan.visible[:, None], pose.apply(scan.landmarks), np.nan))
            yield Batch(
                torch.from_numpy(np.array([cloud.features for cloud in clouds])),
                torch.from_numpy(np.array([cloud.neighbours for cloud in clouds])),
                torch.from_numpy(np.array(landmarks, dtype=np.float32)),
            )

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy between the heat maps and the ideal ones."""
        log_share = functional.log_softmax(network(batch.features, batch.neighbours).float(), dim=-1)
        known = torch.isfinite(batch.landmarks).all(dim=-1)
        places = torch.where(known[..., None], batch.landmarks, 0.0)
        distance = torch.cdist(places, 100.0 * batch.features[..., :3])
        target = functional.softmax(-0.5 * (distance / HEAT_MM) ** 2, dim=-1)
        return -(target * log_share).sum(dim=-1)[known].mean()

    def validate(self, network: StratifiedGraphNet) -> dict[str, float]:
        """Error of both stages on the validation scans."""
        return mean_error_mm(lambda points, normals: self.place(network, points, normals), self.validation)

    @torch.no_grad()
    def place(
        self, network: StratifiedGraphNet, points: NDArray[np.float32], normals: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Landmarks (L, 3) of a scan's samples (n, 3), in their frame: some of the samples."""
        network.eval()
        device = next(network.parameters()).device
        cloud = thin_cloud(points, normals, np.random.default_rng(self.seed))
        logits = network(
            torch.from_numpy(cloud.features)[None].to(device), torch.from_numpy(cloud.neighbours)[None].to(device)
        )
        heat = functional.softmax(logits[0].float(), dim=-1).cpu().numpy().astype(np.float64)
        return best_surface_points(heat, 100.0 * cloud.features[:, :3].astype(np.float64), points.astype(np.float64))


def best_surface_points(
    heat: NDArray[np.float64], cloud: NDArray[np.float64], surface: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The second stage: for each heat map (L, n) over ``cloud`` (n, 3), the point of ``surface`` (m, 3) whose ideal
    heat differs least from it (sum of squares)."""
    tree, thin = cKDTree(surface), cKDTree(cloud)
    found = []
    for shares in heat:
        hottest = cloud[shares.argmax()]
        candidates = surface[tree.query_ball_point(hottest, REACH_MM)]
        if not len(candidates):
            candidates = hottest[None]
        near = thin.query_ball_point(hottest, REACH_MM + 3 * HEAT_MM)
        distance = np.linalg.norm(candidates[:, None] - cloud[near][None], axis=2)
        ideal = np.exp(-0.5 * (distance / HEAT_MM) ** 2)
        ideal /= ideal.sum(axis=1, keepdims=True)
        found.append(candidates[((ideal - shares[near]) ** 2).sum(axis=1).argmin()])
    return np.array(found)
