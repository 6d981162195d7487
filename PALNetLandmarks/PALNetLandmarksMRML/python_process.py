"""Starting Slicer's Python beside Slicer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import slicer


def python_executable() -> str:
    """Slicer's Python (``PythonSlicer``, which sets its own environment up); outside Slicer the running interpreter."""
    return shutil.which("PythonSlicer") or sys.executable


def launch_python(arguments: Sequence[str], changes: Mapping[str, str]) -> subprocess.Popen[Any]:
    """Start a process without a console window; ``changes`` to the environment."""
    process: subprocess.Popen[Any] = slicer.util.launchConsoleProcess(
        list(arguments), useStartupEnvironment=False, updateEnvironment=dict(changes)
    )
    return process
