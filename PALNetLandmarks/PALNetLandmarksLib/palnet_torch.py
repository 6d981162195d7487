"""PAL-Net as a torch module, for training and for devices; the only module of the published baseline that needs torch.

The architecture and the readings taken are those of ``palnet.py``, and so are the parameters' names and shapes: arrays
go from one to the other unchanged, and both give the same landmarks to 1e-3 mm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from .palnet import PALNetConfig, parameter_shapes
from .weights import check_shapes


class _Attention(nn.Module):
    def __init__(self, vectors: int, channels: int, landmarks: int, length: int, trainable: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vectors, channels), requires_grad=trainable)
        self.bias = nn.Parameter(torch.zeros(landmarks, length), requires_grad=trainable)


class _Block(nn.Module):
    def __init__(self, config: PALNetConfig, index: int) -> None:
        super().__init__()
        channels = config.channels[index]
        self.convolution_1 = nn.Linear(config.channels[index - 1] if index else 3, channels)
        self.convolution_2 = nn.Linear(channels, channels)
        self.attention: Optional[_Attention] = None  # noqa: UP045
        if config.attention != "none":
            top_k = config.attention == "top-k"
            self.attention = _Attention(
                config.n_landmarks if top_k else 1,
                channels,
                config.n_landmarks,
                config.lengths[index],
                # Selection passes no gradient; frozen, so that weight decay and torchrun leave them alone.
                trainable=not top_k,
            )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, L, K, inputs) -> (B, L, K, channels)."""
        # Neither product gives a view, whose in-place ReLU autograd would copy.
        patches = functional.relu(_patchwise(features.flatten(0, 1), self.convolution_1), inplace=True)
        rows = functional.relu(self.convolution_2(patches.flatten(0, 1)), inplace=True)
        return rows.view(*features.shape[:3], -1)


def _patchwise(patches: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    """``layer`` on patches (n, K, inputs) as n products: with three inputs a single product of all points takes a
    processor seven times as long, most of it for the weights' gradient."""
    weight = layer.weight.t().expand(len(patches), -1, -1)
    return torch.baddbmm(layer.bias.expand(len(patches), patches.shape[1], -1), patches, weight)


class _Head(nn.Module):
    def __init__(self, config: PALNetConfig) -> None:
        super().__init__()
        self.layer_1 = nn.Linear(config.input_width, config.hidden)
        self.layer_2 = nn.Linear(config.hidden, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.layer_3 = nn.Linear(config.hidden, 3 * (config.n_landmarks if config.head == "flattened" else 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(self.layer_1(features), inplace=True)
        return self.layer_3(self.dropout(self.layer_2(hidden)))


class PALNetModule(nn.Module):
    """PAL-Net (see ``palnet.py``), Glorot-normal weights and zero biases.

    Parameters
    ----------
    config : the architecture.
    generator : source of the initial weights; ``None`` leaves the memory uninitialised, for :meth:`from_arrays`.
    """

    def __init__(self, config: PALNetConfig, generator: Optional[torch.Generator] = None) -> None:  # noqa: UP045
        super().__init__()
        self.config = config
        # Made on the meta device: torch's own initialisation would draw 67 million numbers from global state.
        with torch.device("meta"):
            self.blocks = nn.ModuleList(_Block(config, index) for index in range(config.blocks))
            self.head = _Head(config)
        self.to_empty(device="cpu")
        if generator is not None:
            self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif name.endswith("attention.weight"):
                # Each row is a matrix (C, 1) of its own.
                parameter.normal_(0.0, (2.0 / (parameter.shape[1] + 1)) ** 0.5, generator=generator)
            else:
                nn.init.xavier_normal_(parameter, generator=generator)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Landmarks (B, L, 3) from patches (B, L, K, 3), mm, canonical LPS."""
        config = self.config
        batch, landmarks = patches.shape[0], config.n_landmarks
        features = patches
        descriptors: list[torch.Tensor] = []
        selected: list[torch.Tensor] = []
        for module, pool in zip(self.blocks, config.pools):
            block = cast(_Block, module)
            features = block(features)
            if config.attention == "softmax-tanh":
                attention = cast(_Attention, block.attention)
                # Half precision (autocast) cannot hold shares of 1/50,000 well.
                if features.dtype in (torch.float16, torch.bfloat16):
                    features = features.float()
                features, descriptor = _PoolAndGather.apply(features, attention.weight, attention.bias, pool)
                descriptors.append(descriptor)
                continue
            if config.attention == "top-k":
                best = _top_k_features(features, cast(_Attention, block.attention), config.top_k)
                selected.append(best.flatten(2))
            features = functional.max_pool2d(_as_image(features), (1, pool)).permute(0, 2, 3, 1)
        own = features.flatten(2)
        if config.head == "flattened":
            parts = [*descriptors, *(part.flatten(1) for part in selected), own.flatten(1)]
        else:
            parts = [*(part[:, None].expand(-1, landmarks, -1) for part in descriptors), *selected, own]
        return self.head(torch.cat(parts, dim=-1)).view(batch, landmarks, 3)

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Copies of the parameters for ``palnet.PALNet`` or a weights file."""
        return {
            name: parameter.detach().to("cpu", torch.float32).numpy().copy()
            for name, parameter in self.named_parameters()
        }

    def load_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take weights as :meth:`to_arrays` gives them."""
        with torch.no_grad():
            for key, parameter in self.named_parameters():
                parameter.copy_(torch.from_numpy(np.array(arrays[key], dtype=np.float32)))

    @classmethod
    def from_arrays(
        cls, config: PALNetConfig, arrays: Mapping[str, NDArray[Any]], name: str = "weights"
    ) -> PALNetModule:
        """The inverse of :meth:`to_arrays`.

        Raises
        ------
        WeightsError
            If the arrays do not fit the architecture.
        """
        check_shapes(arrays, parameter_shapes(config), name)
        module = cls(config)
        module.load_arrays(arrays)
        return module


class _PoolAndGather(torch.autograd.Function):
    """Max-pooling of, and attention over, the same features in one differentiable step.

    Both send a gradient of the size of the features back; left to autograd, these largest tensors of the network are
    written three times and added twice, a fifth of a training step on a processor. Here they share one buffer.
    """

    @staticmethod
    def forward(
        context: Any, features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, pool: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, L, K, C), w (1, C), b (L, K) -> pooled (B, L, K // pool, C), global descriptor (B, C)."""
        points = features.flatten(1, 2)
        with torch.autocast(features.device.type, enabled=False):
            scores = torch.tanh((points @ weight[0]).add_(bias.flatten()))
            shares = torch.softmax(scores, dim=1)
            descriptor = torch.bmm(shares[:, None], points)[:, 0]
        pooled, indices = functional.max_pool2d(_as_image(features), (1, pool), return_indices=True)
        context.save_for_backward(features, weight, scores, shares, descriptor, indices)
        context.pool = pool
        return pooled.permute(0, 2, 3, 1), descriptor

    @staticmethod
    def backward(
        context: Any, pooled_gradient: torch.Tensor, descriptor_gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """With descriptor d = Σ aᵢ xᵢ, a = softmax(s), s = tanh(x·w + b) and its gradient g:

        ∂sᵢ = aᵢ (xᵢ - d)·g, ∂zᵢ = ∂sᵢ (1 - sᵢ²), ∂xᵢ = aᵢ g + ∂zᵢ w, ∂w = Σ ∂zᵢ xᵢ, ∂b = ∂z.
        """
        features, weight, scores, shares, descriptor, indices = context.saved_tensors
        points = features.flatten(1, 2)
        centred = torch.bmm(points, descriptor_gradient[:, :, None])[:, :, 0]
        centred -= (descriptor * descriptor_gradient).sum(dim=1, keepdim=True)
        before_tanh = shares * centred * (1 - scores * scores)
        window = [1, context.pool]
        gradient = torch.ops.aten.max_pool2d_with_indices_backward(
            _as_image(pooled_gradient), _as_image(features), window, window, [0, 0], [1, 1], False, indices
        )
        gradient = gradient.permute(0, 2, 3, 1).contiguous()
        left = torch.stack([shares, before_tanh], dim=2)
        right = torch.stack([descriptor_gradient, weight.expand_as(descriptor_gradient)], dim=1)
        gradient.flatten(1, 2).baddbmm_(left, right)
        weight_gradient = torch.bmm(before_tanh[:, None], points).sum(dim=0)
        return gradient, weight_gradient, before_tanh.sum(dim=0).view(features.shape[1:3]), None


def _top_k_features(features: torch.Tensor, attention: _Attention, top_k: int) -> torch.Tensor:
    """Features (B, L, k, C) of the k points of each patch that score highest, in patch order."""
    with torch.no_grad():
        scores = (features @ attention.weight[:, :, None])[..., 0] + attention.bias
        count = min(top_k, scores.shape[-1])
        best = torch.sort(torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :count], dim=-1).values
    return torch.gather(features, 2, best[..., None].expand(-1, -1, -1, features.shape[-1]))


def _as_image(features: torch.Tensor) -> torch.Tensor:
    """(B, L, K, C) as an image batch (B, C, L, K) in channels-last layout: a view, with the quickest kernels."""
    return features.permute(0, 3, 1, 2)
