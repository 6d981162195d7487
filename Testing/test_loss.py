"""The published loss against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch (extra 'training') is not installed")

from training.loss import LandmarkLoss  # noqa: E402


def direct_formula(predicted: np.ndarray, target: np.ndarray, point_weight: float, distance_weight: float) -> float:
    batch, landmarks, _ = predicted.shape
    points = distances = 0.0
    for b in range(batch):
        for i in range(landmarks):
            points += math.dist(predicted[b, i], target[b, i])
            for j in range(landmarks):
                predicted_distance = math.dist(predicted[b, i], predicted[b, j])
                distances += abs(predicted_distance - math.dist(target[b, i], target[b, j]))
    return point_weight * points / (batch * landmarks) + distance_weight * distances / (batch * landmarks**2)


@pytest.mark.parametrize(
    ("shape", "weights"), [((3, 50, 3), (0.6, 0.4)), ((2, 68, 3), (0.3, 0.7)), ((4, 1, 3), (1, 1))]
)
def test_loss_is_the_formula(shape, weights):
    rng = np.random.default_rng(0)
    target = rng.normal(size=shape) * 60
    predicted = target + rng.normal(size=shape) * 3
    loss = LandmarkLoss(*weights)(torch.from_numpy(predicted), torch.from_numpy(target))
    assert loss.item() == pytest.approx(direct_formula(predicted, target, *weights), rel=1e-12)


def test_default_weights_are_the_published_ones():
    """All landmarks 5 mm off in the same direction: distances are right, 0.6 × 5 mm remain."""
    target = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 60
    shifted = target + torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    assert LandmarkLoss()(shifted, target).item() == pytest.approx(3.0, abs=1e-9)


def test_loss_does_not_change_when_both_are_moved():
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(2, 20, 3, generator=generator, dtype=torch.float64) * 60
    predicted = target + torch.randn(2, 20, 3, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    before = LandmarkLoss()(predicted, target)
    after = LandmarkLoss()(predicted @ rotation.T + 7, target @ rotation.T + 7)
    assert after.item() == pytest.approx(before.item(), rel=1e-10)


def test_gradient_is_right_and_finite_where_landmarks_coincide():
    generator = torch.Generator().manual_seed(2)
    target = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    predicted = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: LandmarkLoss()(p, target), (predicted,))
    collapsed = torch.zeros(2, 5, 3, dtype=torch.float64, requires_grad=True)
    LandmarkLoss()(collapsed, target).backward()
    assert torch.isfinite(collapsed.grad).all()
    assert (collapsed.grad.abs().sum(dim=-1) > 0).all()
