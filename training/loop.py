"""The training loop: any task, any device, one process or several, resumable."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn


class Task(Protocol):
    """What a task tells the loop."""

    def build(self) -> nn.Module: ...

    def batches(self, epoch: int, samples: int, batch_size: int, rank: int, world: int) -> Iterator[Any]: ...

    def loss(self, network: nn.Module, batch: Any) -> Tensor: ...

    def validate(self, network: Any) -> dict[str, float]: ...


@dataclass(frozen=True)
class Recipe:
    """How to train. ``schedule``: ``"plateau"`` halves the rate after ``patience`` epochs without gain (published);
    ``"cosine"`` falls to nothing over ``epochs``. ``early_stop`` epochs without gain end the run (0: never).
    ``average`` is the decay of the running mean of the weights that is validated and saved (0: none).
    ``precision``: ``"float32"``, or ``"bfloat16"`` / ``"float16"`` for mixed precision.
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


def choose_device(name: str = "auto") -> torch.device:
    """``"auto"``: CUDA, else MPS, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def train(task: Task, recipe: Recipe, folder: Path, device: torch.device) -> nn.Module:
    """Train ``task`` in ``folder``; go on from its last checkpoint if there is one; return the best network.

    Under ``torchrun`` every process sees its share of each epoch's batches and rank 0 writes the files.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    network = task.build().to(device)
    averaged = task.build().to(device) if recipe.average else network
    averaged.load_state_dict(network.state_dict())
    wrapped = nn.parallel.DistributedDataParallel(network) if world > 1 else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16" and device.type == "cuda")
    state: dict[str, Any] = {"epoch": 0, "step": 0, "best": float("inf"), "since_best": 0, "since_drop": 0, "rate": 1.0}
    history: list[dict[str, float]] = []
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(saved["network"])
        averaged.load_state_dict(saved["averaged"])
        optimizer.load_state_dict(saved["optimizer"])
        scaler.load_state_dict(saved["scaler"])
        state, history = saved["state"], saved["history"]

    steps_per_epoch = recipe.samples_per_epoch // (recipe.batch_size * world)
    console = Console(stderr=True, quiet=rank > 0)
    while state["epoch"] < recipe.epochs and not (recipe.early_stop and state["since_best"] >= recipe.early_stop):
        started, losses = time.monotonic(), []
        network.train()
        with Progress(
            TextColumn(f"epoch {state['epoch'] + 1}/{recipe.epochs}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        ) as progress:
            bar = progress.add_task("", total=steps_per_epoch, loss=float("nan"))
            for batch in task.batches(state["epoch"], recipe.samples_per_epoch, recipe.batch_size, rank, world):
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * _rate(recipe, state, steps_per_epoch)
                with torch.autocast(
                    device.type, getattr(torch, recipe.precision), enabled=recipe.precision != "float32"
                ):
                    loss = task.loss(wrapped, batch.to(device))
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                if recipe.clip_norm:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
                scaler.step(optimizer)
                scaler.update()
                state["step"] += 1
                if recipe.average:
                    _average(averaged, network, min(recipe.average, (1 + state["step"]) / (10 + state["step"])))
                losses.append(float(loss.detach()))
                progress.update(bar, advance=1, loss=float(np.mean(losses[-50:])))
        state["epoch"] += 1
        averaged.eval()
        entry = {"epoch": state["epoch"], "loss": float(np.mean(losses)), "seconds": time.monotonic() - started}
        entry |= task.validate(averaged)
        history.append(entry)
        console.print(" ".join(f"{key} {value:.4g}" for key, value in entry.items()))
        _note_progress(state, entry[recipe.watched], recipe)
        if rank == 0:
            if state["since_best"] == 0:
                _save(folder / "best.pt", averaged.state_dict())
            _save(
                checkpoint,
                {
                    "network": network.state_dict(),
                    "averaged": averaged.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scaler": scaler.state_dict(),
                    "state": state,
                    "history": history,
                },
            )
            (folder / "history.json").write_text(json.dumps(history, indent=1), encoding="utf-8")
            draw_curves(history, recipe.watched, folder / "curves.png")
        if world > 1:
            torch.distributed.barrier()
    averaged.load_state_dict(torch.load(folder / "best.pt", map_location=device, weights_only=True))
    averaged.eval()
    return averaged


def _rate(recipe: Recipe, state: dict[str, Any], steps_per_epoch: int) -> float:
    warm = min(1.0, (state["step"] + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.schedule == "plateau":
        return warm * float(state["rate"])
    done = state["step"] / max(1, recipe.epochs * steps_per_epoch)
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
    left.plot(epochs, [entry["loss"] for entry in history], label="training loss")
    left.plot(epochs, [entry[watched] for entry in history], label=f"validation {watched}")
    left.set_xlabel("epoch")
    left.set_ylim(bottom=0, top=1.1 * float(np.nanmax([max(e["loss"], e[watched]) for e in history[1:] or history])))
    left.legend()
    left.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(str(path))
