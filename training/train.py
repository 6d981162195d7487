"""Train a network on a folder of scans with landmarks.

    python -m training.train --config training/configs/palnet.json --data DIR --output runs/palnet
    python -m training.train --config training/configs/height-map-net.json --data POOL --validation POOL2 --output runs/h
    torchrun --nproc-per-node 2 -m training.train ...      # several processes, on CPUs or GPUs

Run the same command again to go on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.scheme import load_scheme

from .height_map_task import HeightMapTask
from .loop import Recipe, choose_device, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validation", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0: its own choice")
    a = parser.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    config = json.loads(a.config.read_text(encoding="utf-8"))
    recipe = Recipe(**config["recipe"])
    task = HeightMapTask(load_scheme(), load_reference(), a.data, a.validation, recipe.seed, 40)
    train(task, recipe, a.output, choose_device(a.device))


if __name__ == "__main__":
    main()
