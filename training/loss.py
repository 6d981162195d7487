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

    def forward(self, predicted: torch.Tensor, target: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
        """Mean loss over a batch.

        Parameters
        ----------
        predicted, target : (B, L, 3), mm.
        known : (B, L) bool, which landmarks the target has; all by default. The others, whatever they hold, and their
            distances have no part in the loss, and the means are taken over what is left.

        Returns
        -------
        Scalar, mm.
        """
        landmarks = predicted.shape[-2]
        if known is None:
            known = torch.ones(predicted.shape[:-1], dtype=torch.bool, device=predicted.device)
        # Not multiplied by zero: the target of an undefined landmark is NaN.
        target = torch.where(known[..., None], target, 0)
        predicted = torch.where(known[..., None], predicted, 0)
        share = known.to(predicted.dtype)
        count = share.sum(dim=1)
        point_error = torch.linalg.vector_norm(predicted - target, dim=-1).sum() / count.sum().clamp(min=1)
        first, second = torch.triu_indices(landmarks, landmarks, offset=1, device=predicted.device)
        distances = [
            torch.linalg.vector_norm(points[:, first] - points[:, second], dim=-1) for points in (predicted, target)
        ]
        # Each unordered pair stands for two of the L² ordered ones.
        errors = (distances[0] - distances[1]).abs() * share[:, first] * share[:, second]
        distance_error = 2 * errors.sum() / (count**2).sum().clamp(min=1)
        return self.point_weight * point_error + self.distance_weight * distance_error
