"""PALNetLandmarks: 50 anatomical soft-tissue landmarks on a 3D face scan.

>>> from PALNetLandmarksLib import LandmarkDetector
>>> detection = LandmarkDetector.load().detect("scan.ply")
>>> dict(zip(detection.labels, detection.points))["Prn"]  # in the scan's own coordinates

Needs numpy, scipy and vtk; torch only for GPUs. See ARCHITECTURE.md for the way a scan takes through the modules.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Detection", "LandmarkDetector", "LandmarkingError", "TriangleMesh"]

_HOMES = {
    "Detection": "detection",
    "LandmarkDetector": "detector",
    "LandmarkingError": "errors",
    "TriangleMesh": "mesh",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that the command line starts without scipy and vtk.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
