"""How much CPU time a training epoch takes, beside a plain PyTorch loop of the same network.

    python -m training.epoch_speed --output training/reports

Random patches of the published size (for our network, views of the reference face); a step is forward, loss, backward
and update of a batch of 16 (for our network, of as many smaller ones as its recipe says). Each is timed in a process of
its own, as the trainer's way with memory is for the whole process; the plain loop leaves memory as it is. An epoch is
one view of each of the paper's training subjects; the recipe of our network calls more views than that an epoch.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
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

from .arguments import command_parser
from .benchmarks.environment import describe_environment
from .experiments.methods import METHODS
from .experiments.plain_palnet import PlainPALNet
from .height_map_task import HeightMapTask
from .loop import Recipe, _optimizer
from .loss import LandmarkLoss
from .memory import keep_freed_memory
from .prepared import prepare_placed_scan, save_prepared

BATCH = 16
#: Training subjects of the paper.
SUBJECTS = 171


def main() -> None:
    """See the module."""
    parser = command_parser(__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder of epoch-speed.json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    seconds = {name: measure_apart(name, a.threads, a.rounds) for name in STEP_MAKERS}
    rows = epochs({name: float(np.median(values)) for name, values in seconds.items()})
    for name, row in rows.items():
        print(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in row.items()))
    if a.output:
        a.output.mkdir(parents=True, exist_ok=True)
        facts = describe_environment("training.epoch_speed")
        document = {**facts, "threads": a.threads, "batch": BATCH, "subjects": SUBJECTS, "rows": rows}
        (a.output / "epoch-speed.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def epochs(step_seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What steps of ``BATCH`` views come to in an epoch, and beside the first one's, the plain loop's."""
    first = next(iter(step_seconds.values()))
    rows = {}
    for name, seconds in step_seconds.items():
        method = METHODS["height-map-net" if name == HEIGHT_MAPS else "pal-net"]
        views = method.read_config()["recipe"]["samples_per_epoch"] or SUBJECTS
        rows[name] = {
            "cpu_seconds_per_step": seconds,
            "of_the_plain_loop": seconds / first,
            "cpu_seconds_per_epoch": seconds * SUBJECTS / BATCH,
            "views_per_epoch_of_the_recipe": views,
            "cpu_seconds_per_epoch_of_the_recipe": seconds * views / BATCH,
        }
    return rows


def measure_apart(name: str, threads: int, rounds: int) -> list[float]:
    """``measure`` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(measure, name, threads, rounds).result()


def measure(name: str, threads: int, rounds: int) -> list[float]:
    """CPU seconds of steps, over all threads; the first ones warm up and do not count."""
    torch.set_num_threads(threads)
    if name != PLAIN:
        keep_freed_memory()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        step = STEP_MAKERS[name](Path(folder))
        for number in range(rounds + 3):
            begun = time.process_time()
            step()
            if number >= 3:
                seconds.append(time.process_time() - begun)
    return seconds


def random_batches() -> tuple[torch.Tensor, torch.Tensor]:
    """Patches and landmarks of two batches."""
    rng = np.random.default_rng(0)
    patches = torch.from_numpy(rng.normal(0, 40, (2 * BATCH, 50, 1000, 3)).astype(np.float32))
    return patches, torch.from_numpy(rng.normal(0, 40, (2 * BATCH, 50, 3)).astype(np.float32))


def plain_step(_folder: Path) -> Callable[[], None]:
    """One step of the plain loop."""
    patches, landmarks = random_batches()
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


def palnet_step(_folder: Path) -> Callable[[], None]:
    """One step as ``training.loop`` takes it."""
    patches, landmarks = random_batches()
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
    """The shipped network's steps through ``BATCH`` views as ``training.loop`` takes them, drawing of maps included."""
    recipe = Recipe(**METHODS["height-map-net"].read_config()["recipe"])
    reference = load_reference()
    mesh = TriangleMesh(reference.points, reference.triangles)
    visible = np.ones(len(reference.labels), dtype=bool)
    same = SimilarityTransform(1.0, np.eye(3), np.zeros(3))
    files = []
    for number in range(2 * BATCH):
        files.append(folder / f"{number}.prepared.npz")
        save_prepared(files[-1], prepare_placed_scan(mesh, reference.landmarks, visible, reference, same))
    task = HeightMapTask(load_scheme(), reference, files, files[:1], seed=0, across=True)
    network = task.build()
    optimizer = _optimizer(network, recipe)
    batches = task.batches(0, 100 * BATCH, recipe.batch_size)

    def step() -> None:
        for _ in range(BATCH // recipe.batch_size):
            value = task.loss(network, next(batches))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()

    return step


PLAIN = "plain PyTorch loop of PAL-Net"
HEIGHT_MAPS = "height-map network, this trainer"
STEP_MAKERS: dict[str, Callable[[Path], Callable[[], None]]] = {
    PLAIN: plain_step,
    "PAL-Net, this trainer": palnet_step,
    HEIGHT_MAPS: height_map_step,
}


def _forever(loader: DataLoader):  # type: ignore[no-untyped-def, type-arg]
    while True:
        yield from loader


if __name__ == "__main__":
    main()
