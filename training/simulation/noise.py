"""Smooth random fields in space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def smooth_noise(
    points: NDArray[np.float64],
    wavelength_mm: float,
    rng: np.random.Generator,
    waves: int = 24,
    outputs: int = 1,
) -> NDArray[np.float64]:
    """A stationary random field of unit variance evaluated at ``points`` (n, 3): a sum of random plane waves.

    ``wavelength_mm`` is the typical distance between crests; returns (n,) or, for several ``outputs``, (n, outputs).
    """
    directions = rng.normal(size=(waves, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    wave_numbers = 2 * np.pi / (wavelength_mm * rng.uniform(0.6, 1.6, waves))
    phases = rng.uniform(0, 2 * np.pi, waves)
    amplitudes = rng.normal(size=(waves, outputs)) / np.sqrt(waves / 2)
    phase = (points.astype(np.float32) @ (directions * wave_numbers[:, None]).T.astype(np.float32)) + phases.astype(
        np.float32
    )
    field = (np.sin(phase) @ amplitudes.astype(np.float32)).astype(np.float64)
    return field[:, 0] if outputs == 1 else field
