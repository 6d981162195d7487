"""The published loss: where the landmarks are, and how far they are from one another."""

from __future__ import annotations

import torch
from torch import nn


class LandmarkLoss(nn.Module):
    """0.6 × mean point error + 0.4 × mean error of the distances between landmarks (paper, section on training).

    The second mean is taken over all L² ordered pairs, as in the authors' code: the L pairs of a landmark with itself
    count as zero.

    Parameters
    ----------
    point_weight, distance_weight : of the two errors.
    """

    def __init__(self, point_weight: float = 0.6, distance_weight: float = 0.4) -> None:
        super().__init__()
        self.point_weight = point_weight
        self.distance_weight = distance_weight

    def forward(self, predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean loss over a batch.

        Parameters
        ----------
        predicted, target : (B, L, 3), mm.

        Returns
        -------
        Scalar, mm.
        """
        point_error = torch.linalg.vector_norm(predicted - target, dim=-1).mean()
        landmarks = predicted.shape[-2]
        first, second = torch.triu_indices(landmarks, landmarks, offset=1, device=predicted.device)
        distances = [
            torch.linalg.vector_norm(points[:, first] - points[:, second], dim=-1) for points in (predicted, target)
        ]
        # Each unordered pair stands for two of the L² ordered ones.
        distance_error = 2 * (distances[0] - distances[1]).abs().sum() / (predicted.shape[0] * landmarks**2)
        return self.point_weight * point_error + self.distance_weight * distance_error
