"""Train a peer on a fold by the same loop as PAL-Net and our network, in the same budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.errors import LandmarkingError

from ...aligned_scans import AlignedScan
from ...loop import Recipe, Task, choose_device, train
from ...memory import keep_freed_memory
from ...prepared import PreparedScan
from ..methods import Budget, Method, Predict
from .graph_heat_maps import GraphTask
from .multi_view import MultiViewTask
from .placed_scans import predictor_of, prepare_placed_scans


class PeerTask(Task, Protocol):
    """A task whose network places landmarks from samples of a scan's surface."""

    def place(self, network: Any, points: NDArray[np.float32], normals: NDArray[np.float32]) -> NDArray[np.float64]:
        """Landmarks (L, 3) of samples (n, 3), in their frame."""
        ...


#: What makes a task of training scans, scans to stop by, and a seed.
TASKS: dict[str, Callable[[Sequence[PreparedScan], Sequence[PreparedScan], int], PeerTask]] = {
    "mvlm-style": MultiViewTask,
    "sgcn-style": GraphTask,
}


def train_peer(
    method: Method,
    training: Sequence[AlignedScan],
    validation: Sequence[AlignedScan],
    run: Path,
    budget: Budget,
    device: str,
) -> Predict:
    """Train, or go on with a run that was interrupted; what predicts.

    Raises
    ------
    LandmarkingError
        If no scan is left to train on or to stop by.
    """
    if not training or not validation:
        raise LandmarkingError(f"{method.title} needs scans to train on and scans to stop by; check the folder.")
    keep_freed_memory()
    config = method.read_config()
    recipe = Recipe(**config["recipe"])
    if budget.epochs is not None:
        recipe = replace(recipe, epochs=budget.epochs)
    task = TASKS[config["network"]](prepare_placed_scans(training), prepare_placed_scans(validation), recipe.seed)
    network, _ = train(task, recipe, run, choose_device(device), budget.minutes)
    return predictor_of(lambda points, normals: task.place(network, points, normals))
