"""MVLM-style: heat maps of the landmarks in rendered views, and the point in space that most views agree on.

The idea is Paulsen et al., "Multi-view Consensus CNN for 3D Facial Landmark Placement" (2018): depth and normals are
rendered from many directions, a network draws a heat map of each landmark in each view, every peak is a line through
space, and the lines' robust intersection is the landmark. Theirs is a stacked hourglass on a hundred views of 256
pixels; this is one small hourglass on fifteen of 128.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.nn import functional

from ...augmentation import unpack
from ...loop import split_batches
from ...prepared import PreparedScan
from .placed_scans import mean_error_mm

#: Pixels of a view and their size; heat maps have half as many pixels of twice the size.
PIXELS, PITCH_MM = 128, 2.0
HEAT_PIXELS, HEAT_PITCH_MM = PIXELS // 2, 2 * PITCH_MM
#: Standard deviation of the wanted heat, mm; half width in pixels of the window around a peak that is averaged.
HEAT_MM, WINDOW = 5.0, 2
#: Degrees that the head is turned and nodded by: at most in training, and in the views that are asked.
MOST_TURN, MOST_NOD = 70.0, 30.0
TURNS, NODS = (-60.0, -30.0, 0.0, 30.0, 60.0), (-20.0, 0.0, 20.0)
#: Distance (mm) at which a view's line counts half in the consensus.
DOUBTED_MM = 4.0
CHANNELS = (24, 48, 72, 96)

#: From canonical LPS to a camera before the face: right in the picture, up, towards the camera.
_FRONTAL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


def view_of(turn: float, nod: float) -> NDArray[np.float64]:
    """Rotation (3, 3) from the canonical frame to a camera that sees the head turned and nodded (degrees)."""
    return _FRONTAL @ Rotation.from_euler("zx", [turn, nod], degrees=True).as_matrix()


ASKED_VIEWS = np.array([view_of(turn, nod) for turn in TURNS for nod in NODS])


def render_view(
    points: NDArray[np.float32],
    normals: NDArray[np.float32],
    view: NDArray[np.float64],
    centre: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Normals (3), depth in units of 100 mm and mask as an image (5, PIXELS, PIXELS), row 0 at the bottom.

    Orthographic; ``centre`` (3,) is in the middle. Samples (n, 3) are splatted, the nearest wins, single gaps are
    filled from their neighbours.
    """
    turned = view.astype(np.float32)
    facing = normals @ turned[2] > 0
    local = (points[facing] - centre.astype(np.float32)) @ turned.T
    column, row = (np.floor(local[:, axis] / PITCH_MM + PIXELS / 2).astype(np.int64) for axis in (0, 1))
    inside = (column >= 0) & (column < PIXELS) & (row >= 0) & (row < PIXELS)
    order = np.argsort(local[inside, 2], kind="stable")
    pixel = (row[inside] * PIXELS + column[inside])[order]
    depth = local[inside, 2][order, None] / 100.0
    values = np.hstack([normals[facing][inside][order] @ turned.T, depth, np.ones_like(depth)])
    image = np.zeros((PIXELS, PIXELS, 5), dtype=np.float32)
    image.reshape(-1, 5)[pixel] = values
    around = uniform_filter(image, size=(3, 3, 1), mode="constant")
    filled = around / np.maximum(around[..., 4:], 1e-6)
    gap = (image[..., 4] == 0) & (around[..., 4] > 4 / 9)
    image[gap] = filled[gap]
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def intersect_lines(
    places: NDArray[np.float64], weights: NDArray[np.float64], views: NDArray[np.float64], rounds: int = 8
) -> NDArray[np.float64]:
    """Points (L, 3) that lie nearest to one line from each view, lines far off counting less and less.

    ``places`` (V, L, 2): where each of V views sees each landmark, mm from the middle of the picture; ``weights``
    (V, L) how sure it is; ``views`` (V, 3, 3). Points are relative to the centre of the views.
    """
    across = views[:, :2]  # (V, 2, 3)
    trust = weights.copy()
    for _ in range(rounds):
        matrix = np.einsum("vl,vai,vaj->lij", trust, across, across) + 1e-6 * np.eye(3)
        points = np.linalg.solve(matrix, np.einsum("vl,vai,vla->li", trust, across, places)[..., None])[..., 0]
        off = np.linalg.norm(np.einsum("vai,li->vla", across, points) - places, axis=2)
        trust = weights / (1.0 + (off / DOUBTED_MM) ** 2)
    return points


class Hourglass(nn.Module):
    """Images (B, 5, PIXELS, PIXELS) -> logits of heat maps (B, L, HEAT_PIXELS, HEAT_PIXELS)."""

    def __init__(self, landmarks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(5, CHANNELS[0], 5, stride=2, padding=2)
        self.down = nn.ModuleList(_pair(channels, channels) for channels in CHANNELS)
        self.wider = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in zip(CHANNELS, CHANNELS[1:])
        )
        self.narrower = nn.ModuleList(nn.Conv2d(after, before, 1) for before, after in zip(CHANNELS, CHANNELS[1:]))
        self.up = nn.ModuleList(_pair(channels, channels) for channels in CHANNELS[:-1])
        self.head = nn.Conv2d(CHANNELS[0], landmarks, 1)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        x = functional.relu(self.stem(images.contiguous(memory_format=torch.channels_last)))
        kept = []
        for level, block in enumerate(self.down):
            x = x + block(x)
            if level < len(self.wider):
                kept.append(x)
                x = functional.relu(self.wider[level](x))
        for level in reversed(range(len(self.up))):
            x = kept[level] + functional.interpolate(self.narrower[level](x), scale_factor=2.0, mode="nearest")
            x = x + self.up[level](x)
        return self.head(x)  # type: ignore[no-any-return]


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(8, inputs), nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
        nn.GroupNorm(8, outputs), nn.Conv2d(outputs, outputs, 3, padding=1),
    )  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """``images`` (B, 5, PIXELS, PIXELS); ``places`` (B, L, 2) of the landmarks in pixels of the heat map, NaN where
    unknown."""

    images: Tensor
    places: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(self.images.to(device), self.places.to(device))


class MultiViewTask:
    """What the training loop needs to know; ``centre`` of all views is the middle of the training landmarks."""

    def __init__(self, training: Sequence[PreparedScan], validation: Sequence[PreparedScan], seed: int) -> None:
        self.training, self.validation, self.seed = training, validation, seed
        self.centre = np.nanmean([np.nanmean(scan.landmarks, axis=0) for scan in training], axis=0)

    @property
    def size(self) -> int:
        """Number of training scans."""
        return len(self.training)

    def build(self) -> Hourglass:
        """A fresh network; the loop has seeded torch."""
        network = Hourglass(len(self.training[0].landmarks))
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it

    def batches(self, epoch: int, samples: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Views of the training scans from random directions."""
        rng = np.random.default_rng([self.seed, 3, epoch, rank])
        order = np.concatenate([rng.permutation(self.size) for _ in range(-(-samples // self.size))])[:samples]
        for chosen in split_batches(order, batch_size, rank, world):
            images, places = [], []
            for i in chosen:
                view = view_of(rng.uniform(-MOST_TURN, MOST_TURN), rng.uniform(-MOST_NOD, MOST_NOD))
                centre = self.centre + rng.normal(0, 4.0, 3)
                scan = self.training[i]
                images.append(render_view(*unpack(scan), view, centre))
                local = (scan.landmarks - centre) @ view[:2].T
                places.append(np.where(scan.visible[:, None], local / HEAT_PITCH_MM + (HEAT_PIXELS - 1) / 2, np.nan))
            yield Batch(torch.from_numpy(np.array(images)), torch.from_numpy(np.array(places, dtype=np.float32)))

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy between the heat maps and Gaussians at the landmarks, also those that the head hides."""
        logits = network(batch.images).float()
        pixel = torch.arange(HEAT_PIXELS, device=logits.device)
        known = ((batch.places >= 0) & (batch.places <= HEAT_PIXELS - 1)).all(dim=-1)
        places = torch.where(known[..., None], batch.places, 0.0)
        heat = torch.exp(-0.5 * ((pixel - places[..., None]) * HEAT_PITCH_MM / HEAT_MM) ** 2)
        target = heat[..., 1, :, None] * heat[..., 0, None, :]
        target = target / target.sum(dim=(-2, -1), keepdim=True)
        log_share = functional.log_softmax(logits.flatten(2), dim=-1)
        return -(target.flatten(2) * log_share).sum(dim=-1)[known].mean()

    def validate(self, network: Hourglass) -> dict[str, float]:
        """Error of the consensus on the validation scans."""
        return mean_error_mm(lambda points, normals: self.place(network, points, normals), self.validation)

    @torch.no_grad()
    def place(
        self, network: Hourglass, points: NDArray[np.float32], normals: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Landmarks (L, 3) of a scan's samples (n, 3), in their frame."""
        network.eval()
        device = next(network.parameters()).device
        images = np.array([render_view(points, normals, view, self.centre) for view in ASKED_VIEWS])
        logits = network(torch.from_numpy(images).to(device)).float()
        heat = functional.softmax(logits.flatten(2), dim=-1).cpu().numpy().reshape(logits.shape)
        places, weights = find_peaks(heat)
        return intersect_lines((places - (HEAT_PIXELS - 1) / 2) * HEAT_PITCH_MM, weights, ASKED_VIEWS) + self.centre


def find_peaks(heat: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the heat maps (V, L, h, w) peak, to a fraction of a pixel: (V, L, 2) as (column, row), and the heat there
    (V, L)."""
    views, landmarks, height, width = heat.shape
    row, column = np.divmod(heat.reshape(views, landmarks, -1).argmax(axis=-1), width)
    reach = np.arange(-WINDOW, WINDOW + 1)
    rows = (row[..., None] + reach)[..., :, None]
    columns = (column[..., None] + reach)[..., None, :]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    v, landmark = np.ogrid[:views, :landmarks]
    window = heat[
        v[..., None, None], landmark[..., None, None], rows.clip(0, height - 1), columns.clip(0, width - 1)
    ].astype(np.float64)
    window *= inside
    total = window.sum(axis=(-2, -1))
    x, y = ((window * axis).sum(axis=(-2, -1)) / np.maximum(total, 1e-12) for axis in (columns, rows))
    return np.stack([x, y], axis=-1), total
