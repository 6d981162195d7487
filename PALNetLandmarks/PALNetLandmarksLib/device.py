"""Which processor to compute on, found without importing torch where that would be in vain.

Importing torch costs two seconds and 200 MB, so ``auto`` first looks for signs of a graphics processor.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from pathlib import Path

from .errors import LandmarkingError

DEVICES = ("auto", "cpu", "cuda", "mps")

#: Device nodes that exist where a CUDA (NVIDIA; also in WSL) or ROCm (AMD) driver runs.
_GPU_SIGNS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")


class DeviceError(LandmarkingError):
    """The processor asked for isn't there, or torch, which drives it, isn't."""


def choose_device(wanted: str = "auto") -> str:
    """Turn ``"auto"`` into the fastest device at hand, and check one asked for by name.

    Parameters
    ----------
    wanted : one of ``DEVICES``.

    Returns
    -------
    ``"cpu"`` (numpy, no torch needed), ``"cuda"`` or ``"mps"`` (both by torch).

    Raises
    ------
    DeviceError
        If the device asked for by name cannot be used.
    ValueError
        If ``wanted`` is none of ``DEVICES``.
    """
    if wanted not in DEVICES:
        raise ValueError(f"unknown device {wanted!r}")
    if wanted == "cpu" or (wanted == "auto" and not _may_have_gpu()):
        return "cpu"
    found = _torch_devices()
    if wanted == "auto":
        return found[0] if found else "cpu"
    if wanted not in found:
        if importlib.util.find_spec("torch") is None:
            raise DeviceError(f"The device '{wanted}' needs the package torch; install it or choose --device cpu.")
        raise DeviceError(f"torch finds no '{wanted}' device on this computer; choose --device cpu.")
    return wanted


def _may_have_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return False
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll").exists()
    return any(Path(sign).exists() for sign in _GPU_SIGNS)


def _torch_devices() -> list[str]:
    """The graphics devices that torch can use; empty without torch or if it is broken."""
    try:
        import torch
    except (ImportError, OSError):
        return []
    usable = []
    if torch.cuda.is_available():
        usable.append("cuda")
    if torch.backends.mps.is_available():
        usable.append("mps")
    return usable
