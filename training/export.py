"""Write a trained network as the weights file that the library loads, with its model card.

python -m training.export --run runs/shipped --output PALNetLandmarks/Resources/Weights.safetensors --version 0.1.0
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PALNetLandmarksLib.height_map_net_torch import HeightMapNetTorch
from PALNetLandmarksLib.scheme import load_scheme
from PALNetLandmarksLib.weights import save_weights

from .height_map_task import network_config


def commit() -> str:
    """The checkout's commit, with a plus sign if it has uncommitted changes; "unknown" outside a checkout."""
    try:
        name = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + ("+" if changed.stdout.strip() else "")


def export_height_map_net(
    run: Path, output: Path, version: str, passes: int, deviation_scale: list[float], facts: dict[str, Any]
) -> str:
    """Write ``best.pt`` of a run as float16 safetensors; returns its SHA-256."""
    scheme = load_scheme()
    config = network_config(scheme)
    network = HeightMapNetTorch(config)
    network.load_state_dict(torch.load(run / "best.pt", map_location="cpu", weights_only=True))
    metadata = {
        "architecture": "height-map-net",
        "version": version,
        "config": _plain(config),
        "labels": list(scheme.labels),
        "mirrored": list(scheme.mirrored),
        "scheme": scheme.name,
        "passes": passes,
        "deviation_scale": deviation_scale,
        "training": facts,
    }
    digest = save_weights(output, network.to_arrays(), metadata, dtype="float16")
    output.with_name(output.name + ".sha256").write_text(f"{digest}  {output.name}\n", encoding="utf-8")
    return digest


def _plain(config: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--calibration", type=Path, help="JSON with deviation_scale, from training.calibrate")
    a = parser.parse_args()
    scale = [1.0] * len(load_scheme())
    if a.calibration:
        scale = json.loads(a.calibration.read_text(encoding="utf-8"))["deviation_scale"]
    history = json.loads((a.run / "history.json").read_text(encoding="utf-8"))
    best = min(history, key=lambda entry: entry["error_mm"])
    facts = {"commit": commit(), "epochs": len(history), "best_validation": best}
    digest = export_height_map_net(a.run, a.output, a.version, a.passes, list(np.round(scale, 4)), facts)
    print(f"{a.output}: {a.output.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")


if __name__ == "__main__":
    main()
