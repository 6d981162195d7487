"""The shipped network in torch: for training, and for detection on a GPU. See ``height_map_net`` for what it is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .height_map_net import OFFSET_UNIT_MM, HeightMapNetConfig


class HeightMapNetTorch(nn.Module):
    """Batched twin of ``HeightMapNet``.

    Parameters
    ----------
    config : architecture.
    generator : source of the initial weights.
    """

    def __init__(self, config: HeightMapNetConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self._names = {name: name.replace(".", "_") for name in config.shapes()}
        for name, shape in config.shapes().items():
            self.register_parameter(self._names[name], nn.Parameter(_initial(name, shape, generator)))
        self.register_buffer("_kinds", torch.tensor(config.kinds), persistent=False)
        self.register_buffer("_sides", torch.tensor(config.sides), persistent=False)

    _kinds: Tensor
    _sides: Tensor

    def _w(self, name: str) -> Tensor:
        return getattr(self, self._names[name])  # type: ignore[no-any-return]

    def forward(self, maps: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (B, L, 3) and standard deviations (B, L), millimetres in each landmark's frame.

        ``maps`` (B, scales, L, pixels, pixels, CHANNELS), ``centres`` (B, L, 3) as in ``HeightMapNet.forward``.
        """
        features = [self._trunk(scale, maps[:, scale]) for scale in range(maps.shape[1])]
        tokens = torch.cat([*features, centres / OFFSET_UNIT_MM], dim=-1)
        x = functional.linear(tokens, self._w("token.weight"), self._w("token.bias"))
        x = x + self._w("kind.embedding")[self._kinds] + self._w("side.embedding")[self._sides]
        for i in range(self.config.layers):
            x = x + self._attention(i, self._norm(x, f"layer{i}.norm1"))
            y = functional.gelu(self._linear(self._norm(x, f"layer{i}.norm2"), f"layer{i}.up"))
            x = x + self._linear(y, f"layer{i}.down")
            if self.config.mixing:
                y = self._norm(x, f"layer{i}.norm3").transpose(1, 2)
                y = functional.gelu(self._linear(y, f"layer{i}.gather"))
                x = x + self._linear(y, f"layer{i}.scatter").transpose(1, 2)
        x = self._norm(x, "norm")
        out = torch.einsum("blw,low->blo", x, self._w("head.weight")[self._kinds])
        out = out + self._w("head.bias")[self._kinds]
        offsets = out[..., :3]
        if self.config.joint:
            read = functional.linear(x, self._w("joint.features.weight")).flatten(1)
            joint = functional.linear(read / read.shape[1] ** 0.5, self._w("joint.offsets.weight"))
            offsets = offsets + joint.reshape(offsets.shape)
        return offsets * OFFSET_UNIT_MM, torch.exp(out[..., 3].clamp(-6, 4)) * OFFSET_UNIT_MM

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self._w(f"{name}.weight"), self._w(f"{name}.bias"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (self.config.width,), self._w(f"{name}.weight"), self._w(f"{name}.bias"))

    def _trunk(self, scale: int, maps: Tensor) -> Tensor:
        batch, landmarks = maps.shape[:2]
        # (B * L, channels, h, w) without a copy: channels-last memory is what the maps are.
        x = maps.reshape(batch * landmarks, *maps.shape[2:]).permute(0, 3, 1, 2)
        for i, stride in enumerate(self.config.strides):
            x = functional.conv2d(
                x, self._w(f"conv{i}.weight")[scale], self._w(f"conv{i}.bias")[scale], stride, padding=1
            )
            gain = self._w(f"conv{i}.kind_gain")[scale][self._kinds].repeat(batch, 1)[:, :, None, None]
            shift = self._w(f"conv{i}.kind_shift")[scale][self._kinds].repeat(batch, 1)[:, :, None, None]
            x = functional.relu(torch.addcmul(shift, x, 1 + gain))
        flat = x.flatten(1)
        read = functional.linear(flat, self._w("read.weight")[scale], self._w("read.bias")[scale])
        return functional.relu(read).reshape(batch, landmarks, -1)

    def _attention(self, layer: int, x: Tensor) -> Tensor:
        batch, landmarks, width = x.shape
        heads = self.config.heads
        qkv = self._linear(x, f"layer{layer}.qkv").reshape(batch, landmarks, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self._linear(mixed.transpose(1, 2).reshape(batch, landmarks, width), f"layer{layer}.mix")

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """The weights as numpy arrays, named as the numpy network takes them."""
        return {name: self._w(name).detach().cpu().numpy().astype(np.float32) for name in self._names}

    def load_arrays(self, arrays: Mapping[str, NDArray[np.floating]]) -> None:
        """Take weights as ``to_arrays`` gives them."""
        with torch.no_grad():
            for name in self._names:
                self._w(name).copy_(torch.from_numpy(np.asarray(arrays[name], dtype=np.float32)))


def _initial(name: str, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """He-normal convolutions and readers, Glorot-normal attention, zero shifts and ends of what is added."""
    if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "norm3.weight")):
        return torch.ones(shape)
    if name.endswith((".bias", ".kind_gain", ".kind_shift", "scatter.weight", "joint.offsets.weight", "head.weight")):
        return torch.zeros(shape)
    if name.endswith("embedding"):
        return 0.02 * torch.randn(shape, generator=generator)
    if name.startswith("conv"):
        return torch.randn(shape, generator=generator) * (2.0 / np.prod(shape[2:])) ** 0.5
    if name.startswith("read"):
        return torch.randn(shape, generator=generator) * (2.0 / shape[-1]) ** 0.5
    return torch.randn(shape, generator=generator) * (2.0 / (shape[0] + shape[1])) ** 0.5
