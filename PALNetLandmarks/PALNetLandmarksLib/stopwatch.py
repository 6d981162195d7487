"""Seconds per step."""

from __future__ import annotations

import time


class Stopwatch:
    """Notes the time since the previous lap under a step's name; laps of one name add up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        """End the step ``step`` now."""
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._last
        self._last = now
