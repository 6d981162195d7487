"""What a figure depends on besides the code that prints it: commit, machine, weights, command."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

import numpy as np
import scipy
from PALNetLandmarksLib.resources import resource_path
from PALNetLandmarksLib.weights import load_weights
from vtkmodules.vtkCommonCore import vtkVersion

from ..commit import commit
from .row import Settings


def describe_environment(module: str) -> dict[str, Any]:
    """Facts that go beside every figure that a ``module`` makes when it is run, fit for JSON."""
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "commit": commit(),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": _memory_gib(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "vtk": vtkVersion.GetVTKVersion(),
        },
    }


def describe_run(settings: Settings) -> dict[str, Any]:
    """The same of a row of the benchmark, with its seed and weights."""
    weights = settings.weights or resource_path("Weights.safetensors")
    return {
        **describe_environment("training.benchmark"),
        "seed": settings.seed,
        "weights_sha256": hashlib.sha256(Path(weights).read_bytes()).hexdigest(),
        "weights_version": load_weights(weights).metadata.get("version", "unknown"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> Optional[float]:  # noqa: UP045
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
