"""Long work in short pieces, for those who must look after a window meanwhile.

A piece of work is a generator: it yields between its pieces and returns its result. Whoever drives it may drop it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


def finish(steps: Generator[Any, None, Result]) -> Result:
    """Take all steps at once; the generator's result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
