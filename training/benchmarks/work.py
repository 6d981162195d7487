"""Work spread over processes, and the detector each of them uses."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Optional, TypeVar

from PALNetLandmarksLib.detector import LandmarkDetector
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from rich.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread_work(work: Callable[[Item], Result], items: Sequence[Item], workers: int, description: str) -> list[Result]:
    """``work`` on every item, in order, in ``workers`` processes (in this one, if it is one)."""
    if workers <= 1 or len(items) <= 1:
        return [work(item) for item in track(items, description=description)]
    with multiprocessing.get_context("spawn").Pool(min(workers, len(items))) as pool:
        return list(track(pool.imap(work, items), total=len(items), description=description))


@lru_cache(maxsize=2)
def detector(weights: Optional[Path] = None) -> LandmarkDetector:  # noqa: UP045
    """The detector on the CPU with these weights, loaded once per process."""
    return LandmarkDetector.load(weights, device="cpu")


@lru_cache(maxsize=1)
def reference() -> ReferenceFace:
    """The bundled reference face, loaded once per process."""
    return load_reference()
