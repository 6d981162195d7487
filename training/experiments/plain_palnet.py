"""PAL-Net as one would first write it in PyTorch: what the trainer's speed is measured against.

The same function of the same parameters as ``PALNetLandmarksLib.palnet_torch`` (attention "softmax-tanh", head
"flattened"), with image-like convolutions, autograd for everything, and torch's plain Adam.
"""

from __future__ import annotations

import torch
from PALNetLandmarksLib.palnet import PALNetConfig
from torch import nn


class PlainPALNet(nn.Module):
    """(B, L, K, 3) patches, mm -> (B, L, 3) landmarks, mm."""

    def __init__(self, config: PALNetConfig) -> None:
        super().__init__()
        self.config = config
        inputs = (3, *config.channels[:-1])
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 1), nn.ReLU(), nn.Conv2d(after, after, 1), nn.ReLU())
            for before, after in zip(inputs, config.channels)
        )
        self.scores = nn.ModuleList(nn.Linear(channels, 1, bias=False) for channels in config.channels)
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(config.n_landmarks * length)) for length in config.lengths[:-1]
        )
        self.pools = nn.ModuleList(nn.MaxPool2d((1, pool)) for pool in config.pools)
        self.head = nn.Sequential(
            nn.Linear(config.input_width, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, 3 * config.n_landmarks),
        )

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """See the class."""
        features = patches.permute(0, 3, 1, 2)
        descriptors = []
        for convolutions, score, bias, pool in zip(self.convolutions, self.scores, self.biases, self.pools):
            features = convolutions(features)
            points = features.flatten(2).transpose(1, 2)
            shares = torch.softmax(torch.tanh(score(points)[..., 0] + bias), dim=1)
            descriptors.append((shares[..., None] * points).sum(dim=1))
            features = pool(features)
        own = features.permute(0, 2, 3, 1).flatten(1)
        return self.head(torch.cat([*descriptors, own], dim=1)).view(len(patches), -1, 3)

    def take(self, arrays: dict[str, torch.Tensor]) -> None:
        """Take the library's parameters by their names."""
        names: dict[str, str] = {}
        layers = {"head.0": "head.layer_1", "head.2": "head.layer_2", "head.4": "head.layer_3"}
        for i in range(len(self.convolutions)):
            layers |= {f"convolutions.{i}.0": f"blocks.{i}.convolution_1"}
            layers |= {f"convolutions.{i}.2": f"blocks.{i}.convolution_2"}
            names |= {f"scores.{i}.weight": f"blocks.{i}.attention.weight", f"biases.{i}": f"blocks.{i}.attention.bias"}
        for own, theirs in layers.items():
            names |= {f"{own}.weight": f"{theirs}.weight", f"{own}.bias": f"{theirs}.bias"}
        parameters = self.state_dict()
        self.load_state_dict({own: arrays[theirs].reshape(parameters[own].shape) for own, theirs in names.items()})
