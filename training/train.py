"""Train a network on a folder of scans with landmarks.

    python -m training.train --data DIR --output runs/palnet       # PAL-Net as published
    python -m training.train --config training/configs/height-map-net.json --data DIR --output runs/height-maps
    torchrun --nproc-per-node 2 -m training.train ...              # several processes, on GPUs or CPUs

DIR holds <subject>.ply (or another mesh) and <subject>.mrk.json (.json, .fcsv, .csv or LAFAS's .txt) for each, or
<subject>.prepared.npz from training.cohort. Subjects are split into training, validation and test unless --validation
(and --test) name folders. Run the same command again to go on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, Union

import numpy as np
import torch
from numpy.typing import NDArray
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.landmark_files import LandmarkSet, write_landmarks
from PALNetLandmarksLib.palnet import PALNetConfig
from PALNetLandmarksLib.patches import PatchConfig
from PALNetLandmarksLib.procrustes import SimilarityTransform
from PALNetLandmarksLib.reference import ReferenceFace, load_reference
from PALNetLandmarksLib.scheme import LandmarkScheme, load_scheme
from PALNetLandmarksLib.weights import WeightsFile, load_weights
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .aligned_scans import AlignedScan, align_scans, reference_digest
from .arguments import at_least_one, not_negative
from .deviation_scale import fit_deviation_scale
from .export import write_weights
from .finetuning import Arrays, Start, check_network, initial_weights, scheme_to_finetune, start_from
from .folder import (
    TrainingDataError,
    check_apart,
    find_subjects,
    read_landmark_files,
    shared_subjects,
    split_names,
    twins,
)
from .height_map_task import HeightMapTask, has_across
from .loop import Recipe, choose_device, start_processes, train
from .memory import keep_freed_memory
from .messages import say_note, say_reasons
from .model_card import commit, measure, write_model_card
from .palnet_task import SPLITS, PALNetTask, examples_of_pool, examples_of_scans, prepare_patches
from .prepared import PREPARATION, prepare_placed_scan, save_prepared
from .training_scheme import counterparts, mean_landmarks, read_scheme, reference_with, scheme_of, without_rare

PREPARED = ".prepared.npz"
DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "palnet.json"

AnyTask = Union[PALNetTask, HeightMapTask]
Prepared = TypeVar("Prepared")
_console = Console(stderr=True)


@dataclass(frozen=True)
class Source:
    """Where the subjects of each split come from: ``folders[split]``, and ``files`` (prepared scans) or ``scans``."""

    folders: dict[str, Path]
    files: dict[str, list[Path]]
    scans: dict[str, list[AlignedScan]]
    scheme: LandmarkScheme
    left_out: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see ``python -m training.train --help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="by default PAL-Net's published recipe")
    parser.add_argument("--data", type=Path, required=True, help="folder to train on")
    parser.add_argument("--validation", type=Path, help="folder to stop early by, instead of a share of --data")
    parser.add_argument("--test", type=Path, help="folder to report errors on, instead of a share of --data")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--scheme", type=Path, help="JSON with the landmarks; by default those of the landmark files")
    parser.add_argument("--unit", choices=["mm", "cm", "m", "inch"], help="unit of the scans; by default found out")
    parser.add_argument("--limit", type=at_least_one, help="train on this many subjects at most")
    parser.add_argument("--finetune", type=Path, metavar="WEIGHTS", help="weights to start from instead of random ones")
    parser.add_argument(
        "--minutes", type=not_negative, default=0.0, help="for all epochs, of the processor's own time; 0: no limit"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--alignments", type=Path, help="keep the scans' alignments here, for several runs to share")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0: its own choice")
    parser.add_argument("--workers", type=at_least_one, default=2, help="scans prepared at once")
    parser.add_argument("--version", help="of the weights; by default the name of the run's folder")
    a = parser.parse_args(arguments)
    if a.threads:
        torch.set_num_threads(a.threads)
    try:
        _run(a)
    except (LandmarkingError, FloatingPointError) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on from the last checkpoint.")
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _run(a: argparse.Namespace) -> None:
    keep_freed_memory()
    config, recipe = _read_config(a.config, a.set, a.finetune is not None)
    if a.finetune:
        check_network(a.finetune, config["network"])
    device = choose_device(a.device)
    rank, world = start_processes(device)
    _console.quiet = rank > 0  # the first process says what is left out

    def build() -> tuple[AnyTask, Source]:
        _check_same_run(a.output, config, a)
        return _build_task(config, recipe, a)

    task, source = _first_before_others(build, rank, world)
    initial, start = None, None
    if a.finetune:
        initial, start = _first_before_others(lambda: _start(task, source, a), rank, world)
    network, history = train(task, recipe, a.output, device, a.minutes, initial)
    if rank == 0:
        _finish(task, network, history, source, config, recipe, device, world, start, a)


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
    except (OSError, ValueError, TypeError, KeyError) as error:
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


def _start(task: AnyTask, source: Source, a: argparse.Namespace) -> tuple[Arrays, Start]:
    """What the run begins with, unless it goes on; says where the laboratory differs from the weights."""
    arrays, note = initial_weights(a.finetune, task), a.output / "start.json"
    if (a.output / "checkpoint.pt").exists():
        return arrays, Start.load(note) if note.exists() else Start({}, ())
    start = Start({}, ())
    if isinstance(task, HeightMapTask) and source.scans:
        taught = np.any([np.isfinite(scan.landmarks).all(axis=1) for scan in source.scans["training"]], axis=0)
        arrays, start = start_from(arrays, task, source.files["training"], taught)
    start.save(note)
    if start.moved_mm:
        moved = ", ".join(f"{label} {far:.1f}" for label, far in start.moved_mm.items())
        say_note(_console, f"These scans have landmarks elsewhere than '{a.finetune.name}'; moved by (mm): {moved}.")
    return arrays, start


def _check_same_run(folder: Path, config: dict[str, Any], a: argparse.Namespace) -> None:
    """A run goes on only as it began; how long it may take can change."""
    check_apart(folder, a.data, a.validation, a.test)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingDataError(f"'{folder}' cannot hold a run ({error.strerror}); choose another --output.") from error
    recipe = {key: value for key, value in config["recipe"].items() if key not in ("epochs", "early_stop")}
    if config["recipe"].get("schedule") == "cosine":
        recipe["epochs"] = config["recipe"]["epochs"]
    now = {
        **config,
        "recipe": recipe,
        "data": str(a.data.resolve()),
        "validation": str(a.validation.resolve()) if a.validation else None,
        "test": str(a.test.resolve()) if a.test else None,
        "limit": a.limit,
        "unit": a.unit,
        "scheme": list(read_scheme(a.scheme).labels) if a.scheme else None,
        "finetune": load_weights(a.finetune).sha256 if a.finetune else None,
    }
    note = folder / "settings.json"
    before = _noted(note, now)
    different = sorted(key for key in {*now, *before} if now.get(key) != before.get(key))
    if different:
        raise TrainingDataError(
            f"'{folder}' holds a run with other settings ({', '.join(different)}); choose another output folder, or "
            "use the same ones to go on with it."
        )
    note.write_text(json.dumps(now, indent=1), encoding="utf-8")


def _check_same_subjects(folder: Path, splits: dict[str, list[str]]) -> None:
    """A run goes on only with each subject on its side: one more scan would shuffle trained ones into the test."""
    note = folder / "subjects.json"
    if _noted(note, splits) != splits:
        raise TrainingDataError(
            f"The subjects are not those that the run in '{folder}' was trained and tested on; choose another output "
            "folder, or put the scans back as they were to go on with it."
        )
    note.write_text(json.dumps(splits, indent=1), encoding="utf-8")


def _noted(note: Path, now: dict[str, Any]) -> dict[str, Any]:
    """What the run in the note's folder noted when it began; ``now`` where it begins now."""
    goes_on = note.with_name("checkpoint.pt").exists() and note.exists()
    before: dict[str, Any] = json.loads(note.read_text(encoding="utf-8")) if goes_on else now
    return before


# ---------------------------------------------------------------------------------------------------------------------
# Data


def _build_task(config: dict[str, Any], recipe: Recipe, a: argparse.Namespace) -> tuple[AnyTask, Source]:
    reference = load_reference()
    source = _open_source(config, recipe.seed, reference, a)
    if source.scans:  # a pool may grow, and its new subjects go to no other side
        _check_same_subjects(a.output, _splits(source))
    if config["network"] == "pal-net":
        return _palnet_task(config, recipe, reference, source, a)
    return _height_map_task(config, recipe, reference, source, a)


def _palnet_task(
    config: dict[str, Any], recipe: Recipe, reference: ReferenceFace, source: Source, a: argparse.Namespace
) -> tuple[PALNetTask, Source]:
    patches = PatchConfig(**config.get("patches", {}))
    if source.scans:
        examples = {split: examples_of_scans(scans, patches, reference) for split, scans in source.scans.items()}
        key = [[_stamp(s.subject.scan), _stamp(s.subject.landmarks)] for scans in source.scans.values() for s in scans]
    else:
        examples = {
            split: examples_of_pool(files, patches, reference, recipe.seed) for split, files in source.files.items()
        }
        key = [_stamp(file) for files in source.files.values() for file in files]
    if any(len(example.landmarks) != len(source.scheme) for example in examples["training"]):
        raise TrainingDataError(f"The prepared scans do not have the {len(source.scheme)} landmarks of the scheme.")
    splits, face = _splits(source), reference_digest(reference)
    name = _digest([PREPARATION, vars(patches), recipe.seed, source.scheme.labels, a.unit, key, splits, face])
    with _progress("patches", sum(map(len, examples.values()))) as advance:
        arrays = prepare_patches(a.output / f"patches-{name}", examples, patches, source.left_out, a.workers, advance)
    _leave_out(source.left_out, {name: arrays.left_out[name] for name in sorted(arrays.left_out)})
    network = PALNetConfig.from_dict(
        {"n_landmarks": len(source.scheme), "patch_size": patches.size, **config.get("model", {})}
    )
    return PALNetTask(source.scheme, arrays, network, patches, recipe.seed), source


def _height_map_task(
    config: dict[str, Any], recipe: Recipe, reference: ReferenceFace, source: Source, a: argparse.Namespace
) -> tuple[HeightMapTask, Source]:
    if not source.scans:
        # A pool may grow during training, unless its share of subjects is fixed.
        training = source.files["training"] if a.limit or not a.validation else a.data
        validation = source.files["validation"]
        task = HeightMapTask(source.scheme, reference, training, validation, recipe.seed, 40, across=_across(a))
        return task, source
    bundled = source.scheme.labels == reference.labels
    mirrored = None
    if not bundled:
        means = mean_landmarks(scan.landmarks / scan.face_scale for scan in source.scans["training"])
        if len(means) < 4 or np.linalg.svd(means - means.mean(axis=0), compute_uv=False)[1] < 5.0:
            raise TrainingDataError(
                "The height-map network aligns faces by their landmarks and needs four or more that do not lie on a "
                "line; train PAL-Net instead (training/configs/palnet.json)."
            )
        reference = reference_with(reference, source.scheme.labels, means)
        mirrored = counterparts(means)
    key = [[_stamp(s.subject.scan), _stamp(s.subject.landmarks)] for scans in source.scans.values() for s in scans]
    face, start = reference_digest(reference), load_weights(a.finetune).sha256 if a.finetune else None
    name = _digest([PREPARATION, source.scheme.labels, a.unit, key, _splits(source), face, start])
    folder = a.output / f"scans-{name}"
    folder.mkdir(exist_ok=True)
    files: dict[str, list[Path]] = {split: [] for split in SPLITS}
    with _progress("prepare", len(key)) as advance:
        for split, scans in source.scans.items():
            for scan in scans:
                file = folder / f"{split}-{scan.subject.name}{PREPARED}"
                try:
                    if not file.exists():
                        visible = np.isfinite(scan.landmarks).all(axis=1)
                        to_size = SimilarityTransform(1.0 / scan.face_scale, np.eye(3), np.zeros(3))
                        save_prepared(
                            file, prepare_placed_scan(scan.mesh(), scan.landmarks, visible, reference, to_size)
                        )
                    files[split].append(file)
                except (LandmarkingError, ValueError) as error:
                    _leave_out(source.left_out, {scan.subject.name: str(error)})
                advance(scan.subject.name)
    source.files.update(files)
    task = HeightMapTask(
        source.scheme,
        reference,
        files["training"],
        files["validation"],
        recipe.seed,
        None,
        mirrored,
        registration_error=False,
        across=_across(a),
    )
    return task, source


def _across(a: argparse.Namespace) -> bool | None:
    """What a run begins with or goes on with says whether its network has the parts that many subjects teach."""
    checkpoint = a.output / "checkpoint.pt"
    if checkpoint.exists():
        return has_across(torch.load(checkpoint, map_location="cpu", weights_only=True)["network"])
    return has_across(load_weights(a.finetune).arrays) if a.finetune else None


def _open_source(config: dict[str, Any], seed: int, reference: ReferenceFace, a: argparse.Namespace) -> Source:
    """Find the subjects of each split."""
    folders = {"training": a.data, "validation": a.validation or a.data, "test": a.test or a.data}
    if a.validation and not a.test:
        del folders["test"]  # all of --data is for training then
    shares = {"validation": 0.15, "test": 0.15, **config.get("split", {})}
    for split in ("validation", "test"):
        if folders.get(split) != a.data:
            shares[split] = 0.0
    if shares["validation"] <= 0 and not a.validation:
        raise TrainingDataError("Without a share of the subjects for validation, name a folder by --validation.")
    if any(a.data.glob(f"*{PREPARED}")):
        return _open_pool(folders, shares, seed, a)
    return _open_scans(folders, shares, seed, reference, a)


def _open_pool(folders: dict[str, Path], shares: dict[str, float], seed: int, a: argparse.Namespace) -> Source:
    scheme = read_scheme(a.scheme) if a.scheme else load_scheme()
    files = {split: sorted(folder.glob(f"*{PREPARED}")) for split, folder in folders.items() if folder != a.data}
    own = {file.name: file for file in sorted(a.data.glob(f"*{PREPARED}"))}
    if shares["validation"] or shares["test"]:
        for split, names in split_names(list(own), shares["validation"], shares["test"], seed).items():
            files.setdefault(split, [own[name] for name in names])
    files.setdefault("training", list(own.values()))
    files["training"] = files["training"][: a.limit]
    if not files["validation"]:
        raise TrainingDataError(f"'{a.validation}' holds no prepared scans ({PREPARED}).")
    return Source(folders, files, {}, scheme, {})


def _open_scans(
    folders: dict[str, Path], shares: dict[str, float], seed: int, reference: ReferenceFace, a: argparse.Namespace
) -> Source:
    subjects, sets, left_out = {}, {}, {}
    for folder in dict.fromkeys(folders.values()):
        subjects[folder], apart = find_subjects(folder)
        sets[folder], unreadable = read_landmark_files(subjects[folder])
        _leave_out(left_out, {**apart, **unreadable})
    own = list(sets[a.data])
    for first, second in twins(sets[a.data]):
        say_note(
            _console,
            f"{first} and {second} have the same landmarks and may end on two sides of the split; keep one of them.",
        )
    names = split_names(own, shares["validation"], shares["test"], seed)
    names["training"] = names["training"][: a.limit]
    for split, folder in folders.items():
        if folder != a.data:
            names[split] = list(sets[folder])
            shared = shared_subjects(sets[a.data], sets[folder])
            if shared:
                say_note(
                    _console,
                    f"{len(shared)} scans of '{folder}' are in '{a.data}', too ({shared[0]}, ...), so their errors say "
                    "little of other people; take them out of one of the folders.",
                )
    training = [sets[a.data][name] for name in names["training"]]
    scheme = read_scheme(a.scheme) if a.scheme else scheme_of([sets[a.data][name] for name in own], a.data.name)
    warn = partial(say_note, _console)
    # Weights to go on with keep what they know of landmarks that the laboratory does not place.
    whole = None
    if a.finetune and not a.scheme:
        whole = scheme_to_finetune(a.finetune, scheme.labels, warn)
    scheme = whole or without_rare(scheme, training, warn)
    scans: dict[str, list[AlignedScan]] = {}
    with _progress("align", sum(len(names[split]) for split in folders)) as advance:
        for split, folder in folders.items():
            chosen = [subject for subject in subjects[folder] if subject.name in set(names[split])]
            cache = a.alignments or a.output / "alignments" / (split if folder != a.data else "data")
            scans[split], refused = align_scans(
                chosen, sets[folder], scheme.labels, reference, cache, a.unit, a.workers, advance
            )
            _leave_out(left_out, {name: str(error) for name, error in refused.items()})
    for split in ("training", "validation"):
        if not scans[split]:
            reasons = "; ".join(left_out.values())
            raise TrainingDataError(f"No scan of the {split} split can be used: {reasons}")
    kept = whole or without_rare(scheme, [_as_set(scan, scheme) for scan in scans["training"]], warn, 1)
    if kept is not scheme:  # its only subjects were refused
        chosen = [scheme.labels.index(label) for label in kept.labels]
        for split in scans:
            scans[split] = [_with_landmarks(scan, chosen) for scan in scans[split]]
    return Source(folders, {}, scans, kept, left_out)


def _leave_out(left_out: dict[str, str], reasons: Mapping[str, str]) -> None:
    """Note who is left out, and say it at once: what follows may fail for want of subjects."""
    new = {name: reason for name, reason in reasons.items() if left_out.get(name) != reason}
    left_out.update(new)
    say_reasons(_console, "Left out", new)


def _as_set(scan: AlignedScan, scheme: LandmarkScheme) -> LandmarkSet:
    return LandmarkSet(scheme.labels, scan.landmarks)


def _with_landmarks(scan: AlignedScan, chosen: list[int]) -> AlignedScan:
    return replace(scan, landmarks=scan.landmarks[chosen])


def _splits(source: Source) -> dict[str, list[str]]:
    if source.scans:
        return {split: [scan.subject.name for scan in scans] for split, scans in source.scans.items()}
    return {split: [file.name for file in files] for split, files in source.files.items()}


def _stamp(path: Path) -> list[Any]:
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[str], None]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console, transient=True) as progress:
        bar = progress.add_task("", total=total)
        yield lambda name: progress.advance(bar)


# ---------------------------------------------------------------------------------------------------------------------
# Results


def _finish(
    task: AnyTask,
    network: Any,
    history: list[dict[str, float]],
    source: Source,
    config: dict[str, Any],
    recipe: Recipe,
    device: torch.device,
    world: int,
    start: Start | None,
    a: argparse.Namespace,
) -> None:
    """Write weights, mean landmarks and model card."""
    dtype = "float16"
    before = load_weights(a.finetune) if a.finetune else None
    with torch.no_grad():  # what is measured is what is written
        for parameter in network.parameters():
            parameter.copy_(parameter.half().to(parameter.dtype))
    best = min(history, key=lambda entry: entry[recipe.watched])
    metadata = task.metadata()
    test = None
    if isinstance(task, PALNetTask):
        counts = {split: len(task.arrays.names[split]) for split in source.folders}
        means = task.arrays.template
        if counts.get("test"):
            test = measure(*task.predict(network, "test"), task.scheme.labels)
    else:
        counts = {split: len(source.files[split]) for split in source.folders}
        counts["training"] = task.size
        means = task.reference.landmarks
        passes = int(before.fact("passes") if before else metadata["passes"])
        scale = _deviation_scale(task, network, passes, before, start.untaught if start else ())
        metadata |= {"passes": passes, "deviation_scale": np.round(scale, 4).tolist()}
        if counts.get("test"):
            test = measure(*task.predict(network, source.files["test"], passes)[:2], task.scheme.labels)
    version = a.version or a.output.resolve().name
    facts = {
        "started_from": before.sha256 if before else "random weights",
        "commit": commit(),
        "seed": recipe.seed,
        "epochs": history[-1]["epoch"],
        # How long it took would make another file of the same weights.
        "best_validation": {key: value for key, value in best.items() if key != "seconds"},
        "subjects": counts,
    }
    weights = a.output / "weights.safetensors"
    digest = write_weights(weights, network.to_arrays(), metadata, version, facts, dtype)
    write_landmarks(a.output / "mean-landmarks.mrk.json", LandmarkSet(task.scheme.labels, means))
    if task.scheme.labels != load_reference().labels:
        _write_reference(a.output / "ReferenceFace.npz", reference_with(load_reference(), task.scheme.labels, means))
    write_model_card(
        a.output,
        {
            "name": version,
            "architecture": config["network"],
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "labels": list(task.scheme.labels),
            "weights": {
                "file": weights.name,
                "sha256": digest,
                "dtype": dtype,
                "bytes": weights.stat().st_size,
            },
            "data": {
                "splits": {
                    split: {"folder": str(folder), "subjects": counts[split]}
                    for split, folder in source.folders.items()
                },
                "left_out": source.left_out,
            },
            "config": config,
            "started_from": facts["started_from"],
            "start": vars(start) if start else None,
            "seed": recipe.seed,
            "commit": facts["commit"],
            "device": str(device),
            "processes": world,
            "epochs": history[-1]["epoch"],
            "best": best,
            "test": test,
        },
    )
    _console.print(f"{weights}: SHA-256 {digest}", highlight=False, soft_wrap=True)
    if history[-1]["epoch"] and not best["epoch"]:
        say_note(_console, "No epoch did better on the validation subjects than the start, so the weights are its.")
    error = f", test {test['point_wise_mm']:.3f} mm" if test and test["point_wise_mm"] is not None else ""
    _console.print(f"validation {best[recipe.watched]:.3f} mm{error}; see {a.output / 'model-card.md'}", soft_wrap=True)


def _deviation_scale(
    task: HeightMapTask, network: Any, passes: int, before: WeightsFile | None, untaught: Sequence[str]
) -> NDArray[np.float64]:
    """What the network's deviations (L,) are worth on the validation scans, after as many passes as a user's scan gets.

    A few scans say little of a single landmark, so what the weights that the run started from say of it counts along;
    of landmarks ``untaught``, nothing else does.
    """
    stated = np.ones(len(task.scheme)) if before is None else np.array(before.fact("deviation_scale"))
    errors, deviations = task.run(network, passes)
    scale = stated * fit_deviation_scale(errors, deviations * stated, task.mirrored)
    return np.where(np.isin(task.scheme.labels, untaught), stated, scale)


def _write_reference(path: Path, reference: ReferenceFace) -> None:
    np.savez_compressed(path, **{**vars(reference), "labels": np.array(reference.labels)})


if __name__ == "__main__":
    main()
