"""What a training is told on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingOptions:
    """The options of ``training.train``, which explains them (``--help``); ``changes`` are those of ``--set``."""

    config: Path
    data: Path
    validation: Path | None
    test: Path | None
    output: Path
    scheme: Path | None
    unit: str | None
    limit: int | None
    finetune: Path | None
    minutes: float
    changes: list[str]
    alignments: Path | None
    device: str
    threads: int
    workers: int
    version: str | None
