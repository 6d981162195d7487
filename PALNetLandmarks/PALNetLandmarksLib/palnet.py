"""PAL-Net as published (arXiv 2510.00910), and its forward pass in numpy.

Input: one patch of K points per landmark (see ``patches.py``). Blocks of two point-wise 1×1 convolutions (32, 64, 128
channels, ReLU after each) are each followed by max-pooling (5, 5, 4) along the patch; attention looks at the output of
every block before its pool. The pooled features are flattened and, with what attention gathered, go through a
perceptron 1024-1024-3 per landmark to coordinates.

Readings taken, where the text leaves a choice. Its authors' code was read for facts; none of it is used.

* Attention ("softmax-tanh"): each point's score is tanh(x·w + b), with one weight vector w per block and one bias b per
  point of the input (L × points in the block). The softmax runs over all points of all landmarks together. The weighted
  sum of the features is the block's global descriptor. The features themselves go on unweighted.
* Head "flattened" (the authors' code): the three global descriptors (32 + 64 + 128) and the features of all landmarks
  are one vector; one perceptron gives all 3 L coordinates. 67.1 million parameters for 50 landmarks and 1,000 points,
  65.5 million of them between the flattened features and the first layer.
* Head "shared" (the text, H ∈ R^{m×n×h}): each landmark's own features with the global descriptors go through one
  perceptron, shared by the landmarks, that gives 3 coordinates.
* ReLU follows the first layer of the perceptron only; the second is linear (authors' code). Dropout of 0.1 before the
  last layer, in training.
* "top-k" (k = 10; authors' code): scores are per landmark, each landmark having its own w and b; the features of the
  k points with the highest scores, unweighted, join the flattened features (head "shared": those of their landmark).
  So no gradient reaches w and b: they stay as initialised. Points are ranked before tanh, which keeps their order but
  saturates in float32, and stand in patch order; their order by score would be arbitrary where scores tie. A block
  with fewer than k points gives all of them.
* "none": neither scores nor descriptors. Two blocks: the first two, with their pools 5 and 5.
* A pool that does not divide the patch drops the remainder (floor), as pooling without padding does.
* Flattening is landmark, point, channel (channels last), descriptors first. The authors' order differs by a permutation
  of the first layer's columns, which no result depends on.
* Coordinates go in and come out as they are: mm in the canonical frame, not centred, not scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .patches import PatchConfig
from .weights import check_shapes

_ATTENTIONS = ("softmax-tanh", "none", "top-k")
_HEADS = ("flattened", "shared")


@dataclass(frozen=True)
class PALNetConfig:
    """The architecture of a PAL-Net.

    Attributes
    ----------
    n_landmarks : L (50 in the LAFAS protocol, 68 for FaceScape).
    patch_size : K, points per patch.
    channels, pools : of each block; the first ``blocks`` are used.
    attention : ``"softmax-tanh"``, ``"none"`` or ``"top-k"``.
    top_k : k of ``"top-k"``.
    blocks : 3 as published, 2 in the ablation.
    head : ``"flattened"`` or ``"shared"``.
    hidden : width of both hidden layers of the head.
    dropout : before the last layer, in training.

    Raises
    ------
    ValueError
        If a value makes no sense, or the pools leave nothing of a patch.
    """

    n_landmarks: int = 50
    patch_size: int = 1000
    channels: tuple[int, ...] = (32, 64, 128)
    pools: tuple[int, ...] = (5, 5, 4)
    attention: str = "softmax-tanh"
    top_k: int = 10
    blocks: int = 3
    head: str = "flattened"
    hidden: int = 1024
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "pools", tuple(self.pools))
        if self.attention not in _ATTENTIONS:
            raise ValueError(f"The attention is one of {', '.join(_ATTENTIONS)}, not '{self.attention}'.")
        if self.head not in _HEADS:
            raise ValueError(f"The head is one of {', '.join(_HEADS)}, not '{self.head}'.")
        if not 1 <= self.blocks <= min(len(self.channels), len(self.pools)):
            raise ValueError(f"{self.blocks} blocks need as many channels and pools.")
        if min(self.n_landmarks, self.hidden, self.top_k, *self.channels, *self.pools) < 1:
            raise ValueError("Landmarks, channels, pools, k and widths must be positive.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"The dropout must lie in [0, 1), not {self.dropout}.")
        if self.lengths[-1] < 1:
            raise ValueError(
                f"A patch of {self.patch_size} points is too small for pools of {self.pools[: self.blocks]}."
            )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Points per patch in each block, and after the last pool: (1000, 200, 40, 10) as published."""
        result = [self.patch_size]
        for pool in self.pools[: self.blocks]:
            result.append(result[-1] // pool)
        return tuple(result)

    @property
    def input_width(self) -> int:
        """Numbers that enter the head: for all landmarks (``"flattened"``) or for each (``"shared"``)."""
        channels, lengths = self.channels[: self.blocks], self.lengths
        own = lengths[-1] * channels[-1]
        if self.attention == "top-k":
            own += sum(min(self.top_k, length) * channel for length, channel in zip(lengths, channels))
        gathered = sum(channels) if self.attention == "softmax-tanh" else 0
        return gathered + own * (self.n_landmarks if self.head == "flattened" else 1)

    def to_dict(self) -> dict[str, Any]:
        """For the metadata of a weights file; see :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PALNetConfig:
        """The inverse of :meth:`to_dict`, also after a passage through JSON.

        Raises
        ------
        ValueError
            If a field is unknown or of the wrong type.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"PAL-Net has no setting '{sorted(unknown)[0]}'.")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"A setting of PAL-Net has the wrong type: {error}.") from None


def parameter_shapes(config: PALNetConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, in the order of the forward pass. Matrices are (outputs, inputs)."""
    shapes: dict[str, tuple[int, ...]] = {}
    width = 3
    for i, (channel, length) in enumerate(zip(config.channels[: config.blocks], config.lengths)):
        shapes[f"blocks.{i}.convolution_1.weight"] = (channel, width)
        shapes[f"blocks.{i}.convolution_1.bias"] = (channel,)
        shapes[f"blocks.{i}.convolution_2.weight"] = (channel, channel)
        shapes[f"blocks.{i}.convolution_2.bias"] = (channel,)
        if config.attention != "none":
            vectors = config.n_landmarks if config.attention == "top-k" else 1
            shapes[f"blocks.{i}.attention.weight"] = (vectors, channel)
            shapes[f"blocks.{i}.attention.bias"] = (config.n_landmarks, length)
        width = channel
    outputs = 3 * (config.n_landmarks if config.head == "flattened" else 1)
    widths = (config.input_width, config.hidden, config.hidden, outputs)
    for i, (inputs, out) in enumerate(zip(widths, widths[1:]), start=1):
        shapes[f"head.layer_{i}.weight"] = (out, inputs)
        shapes[f"head.layer_{i}.bias"] = (out,)
    return shapes


def parameter_count(config: PALNetConfig) -> int:
    """Number of parameters: 67,064,262 as published (50 landmarks, 1,000 points, head "flattened")."""
    return sum(int(np.prod(shape)) for shape in parameter_shapes(config).values())


class PALNet:
    """The forward pass in numpy, float32.

    Parameters
    ----------
    config : the architecture.
    weights : parameter name -> array, as :func:`parameter_shapes` says.
    name : what messages call the weights.

    Raises
    ------
    WeightsError
        If the weights do not fit the architecture.
    """

    def __init__(self, config: PALNetConfig, weights: Mapping[str, NDArray[Any]], name: str = "weights") -> None:
        check_shapes(weights, parameter_shapes(config), name)
        self.config = config
        self._weights = {key: np.asarray(value, dtype=np.float32) for key, value in weights.items()}

    def forward(self, patches: NDArray[np.floating]) -> NDArray[np.float32]:
        """Landmarks for a batch of subjects.

        Parameters
        ----------
        patches : (B, L, K, 3), mm, canonical LPS.

        Returns
        -------
        (B, L, 3) float32, mm, canonical LPS; not yet snapped to the surface.

        Raises
        ------
        ValueError
            If the patches have another shape than the architecture expects.
        """
        config = self.config
        expected = (config.n_landmarks, config.patch_size, 3)
        if patches.ndim != 4 or patches.shape[1:] != expected:
            raise ValueError(
                f"PAL-Net expects patches of shape (B, {expected[0]}, {expected[1]}, 3), not {patches.shape}."
            )
        features = np.asarray(patches, dtype=np.float32)
        batch, landmarks = len(features), config.n_landmarks
        descriptors: list[NDArray[np.float32]] = []  # per subject
        selected: list[NDArray[np.float32]] = []  # per subject and landmark
        for i in range(config.blocks):
            features = self._linear(features, f"blocks.{i}.convolution_1", relu=True)
            features = self._linear(features, f"blocks.{i}.convolution_2", relu=True)
            if config.attention == "softmax-tanh":
                descriptors.append(self._global_descriptor(features, i))
            elif config.attention == "top-k":
                selected.append(_joined(self._top_k_features(features, i)))
            features = _max_pool(features, config.pools[i])
        own = _joined(features)
        if config.head == "flattened":
            parts = [*descriptors, *(_joined(part) for part in selected), _joined(own)]
        else:
            everyone = [np.repeat(part[:, None], landmarks, axis=1) for part in descriptors]
            parts = [*everyone, *selected, own]
        hidden = self._linear(np.concatenate(parts, axis=-1), "head.layer_1", relu=True)
        hidden = self._linear(hidden, "head.layer_2", relu=False)
        return self._linear(hidden, "head.layer_3", relu=False).reshape(batch, landmarks, 3)

    def _linear(self, features: NDArray[np.float32], layer: str, relu: bool) -> NDArray[np.float32]:
        result = features @ self._weights[f"{layer}.weight"].T
        result += self._weights[f"{layer}.bias"]
        return np.maximum(result, 0, out=result) if relu else result

    def _global_descriptor(self, features: NDArray[np.float32], block: int) -> NDArray[np.float32]:
        """Attention-weighted sum (B, C) of the features (B, L, K, C) of all points."""
        scores = features @ self._weights[f"blocks.{block}.attention.weight"][0]
        scores += self._weights[f"blocks.{block}.attention.bias"]
        # Scores lie in [-1, 1], so the exponential needs no shift.
        weights = np.exp(np.tanh(scores, out=scores), out=scores)
        weighted = (weights[:, :, None] @ features)[:, :, 0].sum(axis=1)
        return weighted / weights.sum(axis=(1, 2))[:, None]

    def _top_k_features(self, features: NDArray[np.float32], block: int) -> NDArray[np.float32]:
        """Features (B, L, k, C) of the k points of each patch that score highest, in patch order."""
        weight = self._weights[f"blocks.{block}.attention.weight"]
        scores = (features @ weight[:, :, None])[..., 0] + self._weights[f"blocks.{block}.attention.bias"]
        count = min(self.config.top_k, scores.shape[-1])
        best = np.sort(np.argsort(-scores, axis=-1, kind="stable")[..., :count], axis=-1)
        return np.take_along_axis(features, best[..., None], axis=2)


def _joined(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The last two axes as one."""
    return features.reshape(*features.shape[:-2], features.shape[-2] * features.shape[-1])


def _max_pool(features: NDArray[np.float32], pool: int) -> NDArray[np.float32]:
    """Maxima of consecutive groups of ``pool`` points, (B, L, K, C) -> (B, L, K // pool, C); a remainder is dropped."""
    batch, landmarks, length, channels = features.shape
    kept = features[:, :, : length // pool * pool]
    return kept.reshape(batch, landmarks, length // pool, pool, channels).max(axis=3)


def published_variants(n_landmarks: int = 50) -> dict[str, tuple[PatchConfig, PALNetConfig]]:
    """Every row of the paper's Table 6 as configuration, keyed as in ``paper-tables.json``."""
    variants: dict[str, tuple[PatchConfig, dict[str, Any]]] = {
        "baseline 1000 points": (PatchConfig(), {}),
        "patches 500 points": (PatchConfig(size=500), {}),
        "patches 1500 points": (PatchConfig(size=1500), {}),
        "patches radius 10 mm": (PatchConfig(radius_mm=10.0), {}),
        "patches radius 15 mm": (PatchConfig(radius_mm=15.0), {}),
        "patches radius 20 mm": (PatchConfig(radius_mm=20.0), {}),
        "coarse mesh": (PatchConfig(size=100, cloud_size=10_000), {}),
        "no spatial ordering": (PatchConfig(order="none"), {}),
        "without attention": (PatchConfig(), {"attention": "none"}),
        "top-k attention k=10": (PatchConfig(), {"attention": "top-k"}),
        "two blocks": (PatchConfig(), {"blocks": 2}),
    }
    return {
        key: (patch, PALNetConfig(**{"n_landmarks": n_landmarks, "patch_size": patch.size, **settings}))
        for key, (patch, settings) in variants.items()
    }
