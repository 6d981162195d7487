"""How much CPU time a training epoch takes, beside a plain PyTorch loop of the same network.

    python -m training.epoch_speed --output training/reports

Random patches of the published size (for our network, views of the reference face); a step is forward, loss, backward
and update of a batch of 16. All are timed in turns, so that what else goes on meets all of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.palnet import PALNetConfig
from PALNetLandmarksLib.palnet_torch import PALNetModule
from PALNetLandmarksLib.procrustes import SimilarityTransform
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.scheme import load_scheme
from torch.utils.data import DataLoader, TensorDataset

from .experiments.plain_palnet import PlainPALNet
from .height_map_task import HeightMapTask
from .loop import Recipe, _optimizer
from .loss import LandmarkLoss
from .model_card import commit
from .prepared import prepare_placed_scan, save_prepared

BATCH = 16
#: Steps of an epoch of the paper: 171 training subjects.
STEPS = 11


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder of epoch-speed.json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    rng = np.random.default_rng(0)
    patches = torch.from_numpy(rng.normal(0, 40, (2 * BATCH, 50, 1000, 3)).astype(np.float32))
    landmarks = torch.from_numpy(rng.normal(0, 40, (2 * BATCH, 50, 3)).astype(np.float32))
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(
            {
                "plain PyTorch loop of PAL-Net": plain_step(patches, landmarks),
                "PAL-Net, this trainer": palnet_step(patches, landmarks),
                "height-map network, this trainer": height_map_step(Path(folder)),
            },
            a.rounds,
        )
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    for name, value in medians.items():
        print(f"{name}: {value:.2f} s of CPU per step of {BATCH}, {STEPS * value:.1f} s per epoch of {STEPS} steps, "
              f"{value / first:.2f} of the plain loop")  # fmt: skip
    if a.output:
        a.output.mkdir(parents=True, exist_ok=True)
        document = {"commit": commit(), "threads": a.threads, "steps": STEPS, "cpu_seconds_per_step": medians}
        (a.output / "epoch-speed.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def measure(steps: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each step, over all threads, in turns; the first ones warm up and do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 3):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            if number >= 3:
                seconds[name].append(time.process_time() - begun)
    return seconds


def plain_step(patches: torch.Tensor, landmarks: torch.Tensor) -> Callable[[], None]:
    """One step of the plain loop."""
    network = PlainPALNet(PALNetConfig())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = iter(_forever(DataLoader(TensorDataset(patches, landmarks), batch_size=BATCH, shuffle=True)))
    loss = LandmarkLoss()

    def step() -> None:
        some, truth = next(loader)
        optimizer.zero_grad()
        loss(network(some), truth).backward()
        optimizer.step()

    return step


def palnet_step(patches: torch.Tensor, landmarks: torch.Tensor) -> Callable[[], None]:
    """One step as ``training.loop`` takes it."""
    network = PALNetModule(PALNetConfig(), torch.Generator().manual_seed(0))
    optimizer = _optimizer(network, Recipe())
    loss = LandmarkLoss()

    def step() -> None:
        value = loss(network(patches[:BATCH].contiguous()), landmarks[:BATCH])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return step


def height_map_step(folder: Path) -> Callable[[], None]:
    """One step of the shipped network as ``training.loop`` takes it, the drawing of its views and maps included."""
    reference = load_reference()
    mesh = TriangleMesh(reference.points, reference.triangles)
    visible = np.ones(len(reference.labels), dtype=bool)
    same = SimilarityTransform(1.0, np.eye(3), np.zeros(3))
    files = []
    for number in range(2 * BATCH):
        files.append(folder / f"{number}.prepared.npz")
        save_prepared(files[-1], prepare_placed_scan(mesh, reference.landmarks, visible, reference, same))
    task = HeightMapTask(load_scheme(), reference, files, files[:1], seed=0)
    network = task.build()
    optimizer = _optimizer(network, Recipe())
    batches = task.batches(0, 100 * BATCH, BATCH)

    def step() -> None:
        value = task.loss(network, next(batches))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return step


def _forever(loader: DataLoader):  # type: ignore[no-untyped-def, type-arg]
    while True:
        yield from loader


if __name__ == "__main__":
    main()
