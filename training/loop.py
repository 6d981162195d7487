"""The training loop: any task, any device, one process or several, resumable."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pickle
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PALNetLandmarksLib.device import choose_device as choose_device_by_name
from PALNetLandmarksLib.errors import LandmarkingError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn


class Task(Protocol):
    """What a task tells the loop."""

    @property
    def size(self) -> int:
        """Number of training examples."""
        ...

    def build(self) -> Any:
        """A fresh network; its ``load_arrays`` takes weights by name."""
        ...

    def batches(self, epoch: int, samples: int, batch_size: int, rank: int, world: int) -> Iterator[Any]: ...

    def loss(self, network: nn.Module, batch: Any) -> Tensor: ...

    def validate(self, network: Any) -> dict[str, float]: ...


#: In the folder of a run: what it goes on from, and the weights of its best epoch so far.
CHECKPOINT, BEST = "checkpoint.pt", "best.pt"

#: Settings of the recipe that name one of a few things, and those that are above zero; all other numbers may be zero.
CHOICES = {"schedule": ("plateau", "cosine"), "precision": ("float32", "bfloat16", "float16", "auto")}
ABOVE_ZERO = ("batch_size", "learning_rate")


#: PAL-Net's 67 million weights take longer to write than an epoch on few subjects takes to compute.
SECONDS_BETWEEN_CHECKPOINTS = 30.0


@dataclass(frozen=True)
class Recipe:
    """How to train. ``schedule``: ``"plateau"`` halves the rate after ``patience`` epochs without gain (published);
    ``"cosine"`` falls to nothing over ``epochs``, or over the minutes that the run may take, whichever end sooner.
    ``early_stop`` epochs without gain end the run (0: never).
    ``samples_per_epoch`` 0 takes every training example once. ``batch_size`` is that of each process.
    ``average`` is the decay of the running mean of the weights that is validated and saved (0: none).
    ``precision``: ``"float32"``, ``"bfloat16"`` or ``"float16"`` (mixed), or ``"auto"``: float16 on CUDA, else float32
    (bfloat16 would round coordinates in millimetres to half a millimetre).
    ``watched`` is the value of ``Task.validate`` that decides; smaller is better. Without weight decay the optimiser is
    Adam as published.

    Raises
    ------
    ValueError
        If a setting is of the wrong kind or out of range.
    """

    epochs: int = 300
    samples_per_epoch: int = 0
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "plateau"
    patience: int = 8
    early_stop: int = 30
    warmup_steps: int = 0
    clip_norm: float = 0.0
    average: float = 0.0
    precision: str = "float32"
    seed: int = 0
    watched: str = "error_mm"

    def __post_init__(self) -> None:
        for setting in fields(self):
            name, value = setting.name, getattr(self, setting.name)
            if isinstance(setting.default, str):
                right = isinstance(value, str) and value in CHOICES.get(name, (value,))
                wanted = " or ".join(CHOICES.get(name, ("a name",)))
            else:
                whole = isinstance(setting.default, int)
                right = type(value) in ((int,) if whole else (int, float))
                right = right and (0 < value < np.inf if name in ABOVE_ZERO else 0 <= value < np.inf)
                wanted = f"a {'whole ' * whole}number {'above zero' if name in ABOVE_ZERO else 'of zero or more'}"
            if not right:
                raise ValueError(f"'{name}' of the recipe cannot be {value!r}; give {wanted}.")


def choose_device(name: str = "auto") -> torch.device:
    """``"auto"``: CUDA, else MPS, else the CPU. Under ``torchrun`` each process has a CUDA device of its own.

    Raises
    ------
    DeviceError
        If the device asked for by name is not there.
    """
    name = choose_device_by_name(name)
    return torch.device(name, int(os.environ.get("LOCAL_RANK", 0))) if name == "cuda" else torch.device(name)


def start_processes(device: torch.device) -> tuple[int, int]:
    """Join the processes that ``torchrun`` started, if it did; returns this one's rank and their number."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not torch.distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # The others wait while the first prepares the scans, which may take hours.
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=datetime.timedelta(days=2)
        )
    return rank, world


def split_batches(order: NDArray[np.int64], batch_size: int, rank: int, world: int) -> list[NDArray[np.int64]]:
    """This process's batches of one epoch: as many for every process, together all of ``order``.

    Where the numbers do not divide, batches are smaller by one rather than left out; the processes' batches of one
    step differ by at most one example.

    Raises
    ------
    ValueError
        If there are fewer examples than processes.
    """
    if len(order) < world:
        raise ValueError(f"{len(order)} examples are too few for {world} processes.")
    steps = min(-(-len(order) // (batch_size * world)), len(order) // world)
    return [np.array_split(step, world)[rank] for step in np.array_split(order, steps)]


def train(
    task: Task,
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    minutes: float = 0.0,
    initial: Mapping[str, NDArray[Any]] | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train ``task`` in ``folder``; go on from its last checkpoint if there is one.

    Under ``torchrun`` every process sees its share of each epoch's batches and rank 0 writes the files. Everything that
    is random follows from the seed, the epoch and the process, so a run that was interrupted gives the same weights as
    one that was not.

    Parameters
    ----------
    minutes : stop before the epoch that would take all epochs together beyond this (0: no limit). On a processor its
        own time counts, divided by torch's threads: interruptions and other work on the machine take nothing of it.
    initial : weights to start from, by name, instead of random ones. They are validated first (epoch 0) and kept where
        no epoch is better.

    Returns
    -------
    The best network, and what was measured after each epoch.

    Raises
    ------
    FloatingPointError
        If loss, weights or validation error are no longer numbers.
    """
    run = _Run(task, recipe, folder, device, minutes)
    run.begin(initial)
    written = time.monotonic()
    while not run.is_over():
        run.keep(run.epoch())
        if run.is_over() or time.monotonic() - written > SECONDS_BETWEEN_CHECKPOINTS:
            run.save()
            written = time.monotonic()
        run.wait()
    _note_agreement(run.network, folder, run.rank, run.world)
    return run.best_network(), run.history


class _Run:
    """A training on its way: its networks, its optimiser, and how far it has come. All of it is in the checkpoint."""

    def __init__(self, task: Task, recipe: Recipe, folder: Path, device: torch.device, minutes: float) -> None:
        self._task, self._recipe, self._folder, self._device, self._minutes = task, recipe, folder, device, minutes
        self.rank, self.world = start_processes(device)
        self._precision = recipe.precision
        if recipe.precision == "auto":
            self._precision = "float16" if device.type == "cuda" else "float32"
        torch.manual_seed(recipe.seed)
        self.network = task.build().to(device)
        self._averaged = task.build().to(device) if recipe.average else self.network
        self._optimizer = _optimizer(self.network, recipe)
        scaled = self._precision == "float16" and device.type == "cuda"
        self._scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        #: ``spent`` in seconds, see ``train``; ``best`` is the smallest error, ``rate`` the plateau's factor.
        self._state: dict[str, Any] = {
            "epoch": 0, "step": 0, "best": float("inf"), "since_best": 0, "since_drop": 0, "rate": 1.0, "spent": 0.0
        }  # fmt: skip
        self.history: list[dict[str, float]] = []
        # The best network since the last checkpoint, if there was a better one.
        self._best: dict[str, Tensor] = {}
        self._console = Console(stderr=True, quiet=self.rank > 0)
        self._samples = recipe.samples_per_epoch or task.size
        self._steps_per_epoch = max(1, -(-self._samples // (recipe.batch_size * self.world)))

    def begin(self, initial: Mapping[str, NDArray[Any]] | None) -> None:
        """Take up the checkpoint, or else the weights ``initial``, or else what the network is built with."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.exists():
            saved = self._saved()
            for name, part in self._parts().items():
                part.load_state_dict(saved[name])
            self._state, self.history = saved["state"], saved["history"]
        elif initial is not None:
            self.network.load_arrays(initial)
        # Every process builds its network alike, so the wrapper finds equal weights.
        self._wrapped = nn.parallel.DistributedDataParallel(self.network) if self.world > 1 else self.network
        if self._checkpoint.exists():
            return
        self._averaged.load_state_dict(self.network.state_dict())
        if initial is not None:
            # What training starts from is the first to beat: few or scattered annotations may make it worse.
            self._averaged.eval()
            measured = {"epoch": 0, **self._task.validate(self._averaged)} if self.rank == 0 else {}
            self.keep(_from_first([measured], self.world)[0])
            self.save()

    def epoch(self) -> dict[str, float]:
        """Train for one epoch; what was measured then."""
        recipe, state = self._recipe, self._state
        started, clock = time.monotonic(), _clock(self._device)
        # Dropout draws from the global state; each epoch starts anew, so that checkpoints need not hold it.
        seed = np.random.SeedSequence([recipe.seed, state["epoch"], self.rank]).generate_state(1)[0]
        torch.manual_seed(int(seed))
        self.network.train()
        losses = []
        with self._progress() as progress:
            bar = progress.add_task("", total=self._steps_per_epoch, loss=float("nan"))
            for batch in self._task.batches(state["epoch"], self._samples, recipe.batch_size, self.rank, self.world):
                losses.append(self._step(batch))
                progress.update(bar, advance=1, loss=float(np.mean(losses[-50:])))
        if not np.isfinite(losses).all() or not all(value.isfinite().all() for value in self._averaged.parameters()):
            raise FloatingPointError(
                f"The training diverged in epoch {state['epoch'] + 1} (its loss or weights are no longer numbers); use "
                "a lower learning rate."
            )
        state["epoch"] += 1
        self._averaged.eval()
        entry = {"epoch": state["epoch"], "loss": float(np.mean(losses)), "seconds": time.monotonic() - started}
        if self.rank == 0:
            entry |= self._task.validate(self._averaged)
            state["spent"] += _clock(self._device) - clock
        entry, state["spent"] = _from_first([entry, state["spent"]], self.world)
        return entry

    def keep(self, entry: dict[str, float]) -> None:
        """Note what was measured, and the network where it is the best so far."""
        self.history.append(entry)
        self._console.print(_line(entry))
        watched = entry[self._recipe.watched]
        if not np.isfinite(watched):
            raise FloatingPointError(
                f"The training diverged in epoch {entry['epoch']} (its validation error is {watched}); use a lower "
                "learning rate."
                if entry["epoch"]
                else f"The validation error of the weights to start from is {watched}; start from others."
            )
        _note_progress(self._state, watched, self._recipe)
        if self.rank == 0 and self._state["since_best"] == 0:
            self._best = {name: value.detach().cpu().clone() for name, value in self._averaged.state_dict().items()}

    def save(self) -> None:
        """Write all that it takes to go on; the best network with it, so that both are of the same moment."""
        if self.rank > 0:
            return
        if self._best:
            _save(self._folder / BEST, self._best)
            self._best = {}
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        _save(self._checkpoint, {**parts, "state": self._state, "history": self.history})
        (self._folder / "history.json").write_text(json.dumps(self.history, indent=1), encoding="utf-8")
        if self._state["epoch"]:
            draw_curves(self.history, self._recipe.watched, self._folder / "curves.png")

    def wait(self) -> None:
        """Let all processes come as far as this."""
        if self.world > 1:
            torch.distributed.barrier()

    def is_over(self) -> bool:
        """Whether the training ends after the epochs so far."""
        state, recipe = self._state, self._recipe
        return (
            state["epoch"] >= recipe.epochs
            or (recipe.early_stop > 0 and state["since_best"] >= recipe.early_stop)
            or _out_of_time(state, self._minutes)
        )

    def best_network(self) -> nn.Module:
        """The best of all epochs."""
        best = torch.load(self._folder / BEST, map_location=self._device, weights_only=True)
        self._averaged.load_state_dict(best)
        self._averaged.eval()
        averaged: nn.Module = self._averaged
        return averaged

    @property
    def _checkpoint(self) -> Path:
        return self._folder / CHECKPOINT

    def _saved(self) -> dict[str, Any]:
        """What the checkpoint holds; refused where the run cannot go on with it."""
        best = self._folder / BEST
        if not best.exists():
            raise LandmarkingError(
                f"'{best}' is gone, so the run cannot go on; delete '{self._checkpoint.name}', too, to begin anew."
            )
        try:
            saved: dict[str, Any] = torch.load(self._checkpoint, map_location=self._device, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise LandmarkingError(
                f"'{self._checkpoint}' is damaged, so the run cannot go on; delete it to begin anew."
            ) from error
        return saved

    def _parts(self) -> dict[str, Any]:
        """What the checkpoint holds the state of, by name."""
        return {
            "network": self.network,
            "averaged": self._averaged,
            "optimizer": self._optimizer,
            "scaler": self._scaler,
        }

    def _step(self, batch: Any) -> float:
        """One step of the optimiser; the loss before it."""
        recipe, state = self._recipe, self._state
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _rate(recipe, state, self._steps_per_epoch, self._minutes)
        mixed = self._precision != "float32"
        with torch.autocast(self._device.type, getattr(torch, self._precision), enabled=mixed):
            loss = self._task.loss(self._wrapped, batch.to(self._device))
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        if recipe.clip_norm:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        state["step"] += 1
        if recipe.average:
            _average(self._averaged, self.network, min(recipe.average, (1 + state["step"]) / (10 + state["step"])))
        return float(loss.detach())

    def _progress(self) -> Progress:
        return Progress(
            TextColumn(f"epoch {self._state['epoch'] + 1}/{self._recipe.epochs}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )


def _line(entry: Mapping[str, float]) -> str:
    return " ".join(f"{key} {value:.4g}" for key, value in entry.items())


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    try:  # one pass over PAL-Net's 67 million weights instead of a dozen
        return torch.optim.AdamW(network.parameters(), **settings, fused=True)
    except (RuntimeError, TypeError, ValueError):  # not on this device or with this torch
        return torch.optim.AdamW(network.parameters(), **settings)


def _from_first(values: list[Any], world: int) -> list[Any]:
    """The first process's ``values``, for all."""
    if world > 1:
        torch.distributed.broadcast_object_list(values, src=0)
    return values


def _note_agreement(network: nn.Module, folder: Path, rank: int, world: int) -> None:
    """Check that all processes hold the same weights at the end, and write their digests to ``processes.json``."""
    if world == 1:
        return
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.detach().cpu().numpy().tobytes())
    digests: list[Any] = [None] * world
    torch.distributed.all_gather_object(digests, digest.hexdigest())
    if rank == 0:
        (folder / "processes.json").write_text(json.dumps({"weights_sha256": digests}, indent=1), encoding="utf-8")
    if len(set(digests)) > 1:
        raise RuntimeError("The processes ended with different weights; this is a defect of the training loop.")


def _clock(device: torch.device) -> float:
    """Seconds that a run's budget is counted in."""
    return time.process_time() / torch.get_num_threads() if device.type == "cpu" else time.monotonic()


def _out_of_time(state: dict[str, Any], minutes: float) -> bool:
    """Whether one more epoch like those before would take longer than all may."""
    if not minutes or not state["epoch"]:
        return False
    return float(state["spent"]) * (1 + 1 / state["epoch"]) > 60 * minutes


def _rate(recipe: Recipe, state: dict[str, Any], steps_per_epoch: int, minutes: float) -> float:
    warm = min(1.0, (state["step"] + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.schedule == "plateau":
        return warm * float(state["rate"])
    done = state["step"] / max(1, recipe.epochs * steps_per_epoch)
    if minutes:
        # As it was when the epoch began, so that all processes take the same step.
        done = max(done, state["spent"] / (60 * minutes))
    return warm * float(0.5 * (1 + np.cos(np.pi * min(1.0, done))))


def _note_progress(state: dict[str, Any], value: float, recipe: Recipe) -> None:
    if value < state["best"]:
        state["best"], state["since_best"], state["since_drop"] = value, 0, 0
        return
    state["since_best"] += 1
    state["since_drop"] += 1
    if recipe.schedule == "plateau" and state["since_drop"] >= recipe.patience:
        state["rate"] *= 0.5
        state["since_drop"] = 0


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, value in zip(averaged.parameters(), network.parameters()):
        mean.lerp_(value, 1 - decay)


def _save(path: Path, content: Any) -> None:
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def draw_curves(history: list[dict[str, float]], watched: str, path: Path) -> None:
    """Draw training loss and validation error over the epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.add_subplot()
    epochs = [entry["epoch"] for entry in history]
    losses = [entry.get("loss", np.nan) for entry in history]  # none before the first epoch
    errors = [entry[watched] for entry in history]
    left.plot(epochs, losses, label="training loss")
    left.plot(epochs, errors, label=f"validation {watched}", marker="." if len(epochs) < 3 else None)
    left.set_xlabel("epoch")
    left.set_ylabel("loss; error in mm")
    left.set_ylim(bottom=0, top=1.1 * float(np.nanmax(losses[1:] + errors[1:] or losses + errors)))
    left.legend()
    left.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(str(path))
