"""The shipped network: height maps around first guesses in, landmark offsets and their certainty out (numpy forward).

A small convolutional trunk reads each landmark's height maps, told by a landmark-specific scaling of its channels
which landmark it looks at; a few layers of attention, each followed by a small network across the landmarks
("mixing", after MLP-Mixer, arXiv 2105.01601), let the landmarks agree on a face; a landmark-specific linear head gives
the offset from the map's centre and its standard deviation, and a last linear map from all landmarks to all offsets
("joint") adds what a shape regression would. One network serves every pass: centres are re-drawn on the previous
prediction. ``height_map_net_torch`` is the same in torch, for training and GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from .height_maps import CHANNELS, HeightMapConfig

#: Millimetres (of the reference face) that one unit of the network's output stands for.
OFFSET_UNIT_MM = 5.0


@dataclass(frozen=True)
class HeightMapNetConfig:
    """Architecture. ``kinds`` numbers the landmarks' kinds: a left and a right landmark of one name share theirs.

    ``sides`` is 0 for the midline, 1 for the right, 2 for the left. ``mixing`` is the number of combinations of all
    landmarks that each layer forms, ``joint`` the number of features of each landmark that a last linear map from all
    landmarks to all offsets reads (0: none, as in weights up to 0.3.0).
    """

    kinds: tuple[int, ...]
    sides: tuple[int, ...]
    maps: HeightMapConfig = field(default_factory=HeightMapConfig)
    channels: tuple[int, ...] = (16, 24, 48, 48)
    strides: tuple[int, ...] = (2, 1, 2, 1)
    map_features: int = 128
    width: int = 160
    layers: int = 3
    heads: int = 4
    mixing: int = 0
    joint: int = 0

    @property
    def landmarks(self) -> int:
        """Number of landmarks."""
        return len(self.kinds)

    @property
    def map_size(self) -> int:
        """Side of the last feature map."""
        size = self.maps.pixels
        for stride in self.strides:
            size = (size - 1) // stride + 1
        return size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight array."""
        kinds, scales = max(self.kinds) + 1, len(self.maps.pitch_mm)
        shapes: dict[str, tuple[int, ...]] = {}
        previous = CHANNELS
        for i, width in enumerate(self.channels):
            shapes[f"conv{i}.weight"] = (scales, width, previous, 3, 3)
            shapes[f"conv{i}.bias"] = (scales, width)
            shapes[f"conv{i}.kind_gain"] = (scales, kinds, width)
            shapes[f"conv{i}.kind_shift"] = (scales, kinds, width)
            previous = width
        shapes["read.weight"] = (scales, self.map_features, previous * self.map_size**2)
        shapes["read.bias"] = (scales, self.map_features)
        shapes["token.weight"] = (self.width, scales * self.map_features + 3)
        shapes["token.bias"] = (self.width,)
        shapes["kind.embedding"] = (kinds, self.width)
        shapes["side.embedding"] = (3, self.width)
        matrices = [
            ("qkv", 3 * self.width, self.width),
            ("mix", self.width, self.width),
            ("up", 2 * self.width, self.width),
            ("down", self.width, 2 * self.width),
        ]
        norms = ["norm1", "norm2"]
        if self.mixing:
            matrices += [("gather", self.mixing, self.landmarks), ("scatter", self.landmarks, self.mixing)]
            norms.append("norm3")
        for i in range(self.layers):
            for name, rows, columns in matrices:
                shapes[f"layer{i}.{name}.weight"] = (rows, columns)
                shapes[f"layer{i}.{name}.bias"] = (rows,)
            for name in norms:
                shapes[f"layer{i}.{name}.weight"] = (self.width,)
                shapes[f"layer{i}.{name}.bias"] = (self.width,)
        shapes["norm.weight"] = (self.width,)
        shapes["norm.bias"] = (self.width,)
        shapes["head.weight"] = (kinds, 4, self.width)
        shapes["head.bias"] = (kinds, 4)
        if self.joint:
            shapes["joint.features.weight"] = (self.joint, self.width)
            shapes["joint.offsets.weight"] = (3 * self.landmarks, self.landmarks * self.joint)
        return shapes


class HeightMapNet:
    """Numpy forward pass; safe to use from several threads.

    Parameters
    ----------
    config : architecture.
    weights : arrays named and shaped as ``config.shapes()``.
    """

    def __init__(self, config: HeightMapNetConfig, weights: Mapping[str, NDArray[np.floating]]) -> None:
        self.config = config
        self._weights = {name: np.asarray(weights[name], dtype=np.float32) for name in config.shapes()}
        self._kinds = np.asarray(config.kinds)

    def forward(
        self, maps: NDArray[np.float32], centres: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Offsets and their standard deviation.

        Parameters
        ----------
        maps : (scales, L, pixels, pixels, CHANNELS) from ``cut_height_maps``.
        centres : (L, 3) of the maps relative to the mean landmarks, in each landmark's frame, millimetres.

        Returns
        -------
        (L, 3) millimetres in each landmark's frame, and (L,) millimetres (per axis).
        """
        w = self._weights
        features = [self._trunk(scale, maps[scale]) for scale in range(len(maps))]
        tokens = np.concatenate([*features, centres / np.float32(OFFSET_UNIT_MM)], axis=1)
        x = tokens @ w["token.weight"].T + w["token.bias"]
        x = x + w["kind.embedding"][self._kinds] + w["side.embedding"][list(self.config.sides)]
        for layer in range(self.config.layers):
            x = x + self._attention(
                layer, _normalise(x, w[f"layer{layer}.norm1.weight"], w[f"layer{layer}.norm1.bias"])
            )
            y = _normalise(x, w[f"layer{layer}.norm2.weight"], w[f"layer{layer}.norm2.bias"])
            y = _gelu(y @ w[f"layer{layer}.up.weight"].T + w[f"layer{layer}.up.bias"])
            x = x + y @ w[f"layer{layer}.down.weight"].T + w[f"layer{layer}.down.bias"]
            if self.config.mixing:
                y = _normalise(x, w[f"layer{layer}.norm3.weight"], w[f"layer{layer}.norm3.bias"])
                y = _gelu(w[f"layer{layer}.gather.weight"] @ y + w[f"layer{layer}.gather.bias"][:, None])
                x = x + w[f"layer{layer}.scatter.weight"] @ y + w[f"layer{layer}.scatter.bias"][:, None]
        x = _normalise(x, w["norm.weight"], w["norm.bias"])
        out = np.einsum("lw,low->lo", x, w["head.weight"][self._kinds]) + w["head.bias"][self._kinds]
        if self.config.joint:
            # Divided by its size, so that a step of training moves it no more than any other part.
            features = (x @ w["joint.features.weight"].T).ravel()
            features /= np.float32(np.sqrt(features.size))
            out[:, :3] += (w["joint.offsets.weight"] @ features).reshape(-1, 3)
        return out[:, :3] * np.float32(OFFSET_UNIT_MM), np.exp(np.clip(out[:, 3], -6, 4)) * np.float32(OFFSET_UNIT_MM)

    def _trunk(self, scale: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        w = self._weights
        for i, stride in enumerate(self.config.strides):
            x = _convolve(x, w[f"conv{i}.weight"][scale], stride)
            x += w[f"conv{i}.bias"][scale]
            x *= 1 + w[f"conv{i}.kind_gain"][scale][self._kinds][:, None, None]
            x += w[f"conv{i}.kind_shift"][scale][self._kinds][:, None, None]
            np.maximum(x, 0, out=x)
        # Channels first when flattened, as torch does.
        flat = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        return np.maximum(flat @ w["read.weight"][scale].T + w["read.bias"][scale], 0)

    def _attention(self, layer: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        w, heads = self._weights, self.config.heads
        size = self.config.width // heads
        qkv = x @ w[f"layer{layer}.qkv.weight"].T + w[f"layer{layer}.qkv.bias"]
        q, k, v = qkv.reshape(len(x), 3, heads, size).transpose(1, 2, 0, 3)
        score = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(size))
        score = np.exp(score - score.max(axis=-1, keepdims=True))
        mixed = (score / score.sum(axis=-1, keepdims=True)) @ v
        mixed = mixed.transpose(1, 0, 2).reshape(len(x), -1)
        return mixed @ w[f"layer{layer}.mix.weight"].T + w[f"layer{layer}.mix.bias"]


def _convolve(x: NDArray[np.float32], weight: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """3 x 3 convolution with a margin of one zero: x (n, h, w, c), weight (out, c, 3, 3)."""
    n, height, width, channels = x.shape
    padded = np.zeros((n, height + 2, width + 2, channels), dtype=x.dtype)
    padded[:, 1:-1, 1:-1] = x
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::stride, ::stride]
    # Channels last, as they lie in memory: copied so, a row of the window is one piece.
    rows, columns = windows.shape[1:3]
    flat = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * rows * columns, 9 * channels)
    kernel = weight.transpose(2, 3, 1, 0).reshape(9 * channels, -1)
    return (flat @ kernel).reshape(n, rows, columns, -1)


def _normalise(x: NDArray[np.float32], gain: NDArray[np.float32], shift: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + np.float32(1e-5)) * gain + shift


def _gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return (0.5 * x * (1 + erf(x / np.sqrt(2)))).astype(np.float32)
