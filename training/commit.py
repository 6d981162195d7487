"""Which commit of the project a figure or a file was made by."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def commit() -> str:
    """The checkout's commit, "+" behind it if tracked files have uncommitted changes; "unknown" outside a checkout.

    As it is at the first call: long runs make that when they begin, as the checkout may move on meanwhile.
    """
    try:
        name = _git("rev-parse", "--short=12", "HEAD")
        return name + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    root = str(Path(__file__).resolve().parents[1])
    return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True).stdout.strip()
