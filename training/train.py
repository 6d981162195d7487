"""Train a network on a folder of scans with landmarks.

    python -m training.train --data DIR --output runs/palnet       # PAL-Net as published
    python -m training.train --config training/configs/height-map-net.json --data DIR --output runs/height-maps
    torchrun --nproc-per-node 2 -m training.train ...              # several processes, on GPUs or CPUs

DIR holds <subject>.ply (or another mesh) and <subject>.mrk.json (.json, .fcsv, .csv or LAFAS's .txt) for each, or
<subject>.prepared.npz from training.cohort. Subjects are split into training, validation and test unless --validation
(and --test) name folders. Run the same command again to go on from the last checkpoint.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PALNetLandmarksLib.atomic_file import write_atomically
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.known_points import known_points
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.weights import load_weights
from rich.console import Console

from .arguments import add_unit, at_least_one, command_parser, not_negative
from .build_task import AnyTask, build_task
from .commit import commit
from .finetuning import LEAST_SUBJECTS, Arrays, Start, check_network, initial_weights, start_from
from .folder import TrainingDataError, check_apart, make_folder
from .height_map_task import HeightMapTask
from .loop import CHECKPOINT, Recipe, choose_device, start_processes, train
from .memory import keep_freed_memory
from .messages import say_note
from .source import Source, open_source
from .training_options import TrainingOptions
from .training_scheme import read_scheme
from .write_run import write_run

DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "palnet.json"

Prepared = TypeVar("Prepared")
_console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see ``python -m training.train --help``."""
    options = _parse(arguments)
    commit()  # of now, whatever happens to the checkout meanwhile
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        _run(options)
    except (LandmarkingError, FloatingPointError) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        kept = (options.output / CHECKPOINT).exists()
        sys.exit(f"Interrupted; the same command {'goes on from the last checkpoint' if kept else 'begins anew'}.")
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _parse(arguments: Sequence[str] | None) -> TrainingOptions:
    parser = command_parser(__doc__)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="by default PAL-Net's published recipe")
    parser.add_argument("--data", type=Path, required=True, help="folder to train on")
    parser.add_argument("--validation", type=Path, help="folder to stop early by, instead of a share of --data")
    parser.add_argument("--test", type=Path, help="folder to report errors on, instead of a share of --data")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--scheme", type=Path, help="JSON with the landmarks; by default those of the landmark files")
    add_unit(parser)
    parser.add_argument("--limit", type=at_least_one, help="train on this many subjects at most")
    parser.add_argument("--finetune", type=Path, metavar="WEIGHTS", help="weights to start from instead of random ones")
    parser.add_argument(
        "--minutes", type=not_negative, default=0.0, help="for all epochs, of the processor's own time; 0: no limit"
    )
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change the recipe"
    )
    parser.add_argument("--alignments", type=Path, help="keep the scans' alignments here, for several runs to share")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0: its own choice")
    parser.add_argument("--workers", type=at_least_one, default=2, help="scans prepared at once")
    parser.add_argument("--version", help="of the weights; by default the name of the run's folder")
    return TrainingOptions(**vars(parser.parse_args(arguments)))


def _run(options: TrainingOptions) -> None:
    keep_freed_memory()
    config, recipe = _read_config(options.config, options.changes, options.finetune is not None)
    if options.finetune:
        check_network(options.finetune, config["network"])
    device = choose_device(options.device)
    rank, world = start_processes(device)
    _console.quiet = rank > 0  # the first process says what is left out

    def build() -> tuple[AnyTask, Source]:
        _check_same_run(config, options)
        reference = load_reference()
        source = open_source(config, recipe.seed, reference, options, _console)
        if source.scans:  # a pool may grow, and its new subjects go to no other side
            _check_same_subjects(options.output, source)
        return build_task(config, recipe, reference, source, options, _console), source

    task, source = _first_before_others(build, rank, world)
    initial, start = None, None
    if options.finetune:
        initial, start = _first_before_others(
            partial(_start, task, source, options.finetune, options.output), rank, world
        )
    network, history = train(task, recipe, options.output, device, options.minutes, initial)
    if rank == 0:
        write_run(task, network, history, source, config, recipe, device, world, start, options, _console)


def _first_before_others(prepare: Callable[[], Prepared], rank: int, world: int) -> Prepared:
    """What ``prepare`` returns: the first process prepares what the others then open."""
    if rank == 0:
        prepared = prepare()
    if world > 1:
        torch.distributed.barrier()
    if rank > 0:
        prepared = prepare()
    if world > 1:
        torch.distributed.barrier()
    return prepared


def _read_config(path: Path, changes: Sequence[str], finetune: bool) -> tuple[dict[str, Any], Recipe]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config = {**config, "recipe": dict(config["recipe"])}
    except OSError as error:
        raise TrainingDataError(f"'{path}' cannot be read ({error.strerror}); see training/configs.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise TrainingDataError(f"'{path}' is no configuration ({error}); see training/configs.") from error
    known = {field.name: field for field in fields(Recipe)}
    for change in changes:
        key, _, value = change.partition("=")
        try:
            config["recipe"][key] = json.loads(value)
        except ValueError:
            config["recipe"][key] = value
    unknown = sorted(set(config["recipe"]) - set(known))
    if unknown or config.get("network") not in ("pal-net", "height-map-net"):
        what = f"the recipe has no setting '{unknown[0]}'" if unknown else "its network is unknown"
        raise TrainingDataError(f"'{path}': {what}; see training/configs.")
    try:
        recipe = Recipe(**config["recipe"])
    except ValueError as error:
        raise TrainingDataError(str(error)) from error
    if not recipe.epochs and not finetune:
        raise TrainingDataError("Without an epoch nothing is learnt; give 'epochs' of the recipe above zero.")
    return config, recipe


def _start(task: AnyTask, source: Source, weights: Path, folder: Path) -> tuple[Arrays, Start]:
    """What the run begins with, unless it goes on; says where the laboratory differs from the weights."""
    arrays = initial_weights(weights, task)
    if (folder / CHECKPOINT).exists():
        return arrays, Start.load(folder)
    start = Start(None, ())
    if isinstance(task, HeightMapTask) and source.scans:
        taught = np.any([known_points(scan.landmarks) for scan in source.scans["training"]], axis=0)
        files = source.files["training"]
        arrays, start = start_from(arrays, task, files, taught, int(load_weights(weights).fact("passes")))
        say_note(_console, _taken_over(start, len(files), weights.name))
    start.save(folder)
    return arrays, start


def _taken_over(start: Start, count: int, weights: str) -> str:
    """What ``count`` scans of a laboratory changed of the places that the ``weights`` have."""
    if start.moved_mm is None:
        return (
            f"{count} scan{'s' * (count != 1)} to train on cannot tell where you put landmarks, so nothing was taken "
            f"over; it takes {LEAST_SUBJECTS} (one each is kept for validation and test, unless --validation and "
            "--test name other folders)."
        )
    if not start.moved_mm:
        return (
            f"These scans have no landmark elsewhere than '{weights}', as far as that can be told from chance: all are "
            "left where they are."
        )
    moved = ", ".join(f"{label} {far:.1f}" for label, far in start.moved_mm.items())
    return f"These scans have landmarks elsewhere than '{weights}'; moved by (mm): {moved}."


def _check_same_run(config: dict[str, Any], options: TrainingOptions) -> None:
    """A run goes on only as it began; how long it may take can change."""
    folder = options.output
    check_apart(folder, options.data, options.validation, options.test)
    make_folder(folder)
    recipe = {key: value for key, value in config["recipe"].items() if key not in ("epochs", "early_stop")}
    if config["recipe"].get("schedule") == "cosine":
        recipe["epochs"] = config["recipe"]["epochs"]
    now = {
        **config,
        "recipe": recipe,
        "data": str(options.data.resolve()),
        "validation": str(options.validation.resolve()) if options.validation else None,
        "test": str(options.test.resolve()) if options.test else None,
        "limit": options.limit,
        "unit": options.unit,
        "scheme": list(read_scheme(options.scheme).labels) if options.scheme else None,
        "finetune": load_weights(options.finetune).sha256 if options.finetune else None,
    }
    note = folder / "settings.json"
    before = _noted(note, now)
    different = sorted(key for key in {*now, *before} if now.get(key) != before.get(key))
    if different:
        raise TrainingDataError(
            f"'{folder}' holds a run with other settings ({', '.join(different)}); choose another output folder, or "
            "use the same ones to go on with it."
        )
    _note(note, now)


def _check_same_subjects(folder: Path, source: Source) -> None:
    """A run goes on only with each subject on its side, one more scan would shuffle trained ones into the test; and
    with the scans and landmarks that it began with."""
    note, splits = folder / "subjects.json", source.splits
    before = _noted(note, {**splits, "digests": source.digests})
    digests = before.pop("digests", source.digests)  # older runs noted none
    if before != splits:
        raise TrainingDataError(
            f"The subjects are not those that the run in '{folder}' was trained and tested on; choose another output "
            "folder, or put the scans back as they were to go on with it."
        )
    if digests != source.digests:
        raise TrainingDataError(
            f"Scans or landmarks have changed since the run in '{folder}' began; choose another output folder."
        )
    _note(note, {**splits, "digests": digests})


def _note(note: Path, what: dict[str, Any]) -> None:
    """Every process of a run comes by here: what is there already stays."""
    content = json.dumps(what, indent=1).encode()
    if not note.exists() or note.read_bytes() != content:
        write_atomically(note, content)


def _noted(note: Path, now: dict[str, Any]) -> dict[str, Any]:
    """What the run in the note's folder noted when it began; ``now`` where it begins now."""
    goes_on = note.with_name(CHECKPOINT).exists() and note.exists()
    before: dict[str, Any] = json.loads(note.read_text(encoding="utf-8")) if goes_on else now
    return before


if __name__ == "__main__":
    main()
