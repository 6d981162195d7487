"""Cross-validate methods on a folder of scans with landmarks, and make the paper's tables and figures of it.

    python -m training.cross_validate --data DIR --output RUNS
    python -m training.cross_validate --data DIR --output RUNS --methods pal-net height-map-net --minutes 30
    python -m training.cross_validate --data DIR --output RUNS --ablations --folds-run 0 --epochs 60
    python -m training.cross_validate --data DIR --output RUNS --parts --folds-run 0 --minutes 10

DIR as for ``training.train``. What is there already is kept: the same command goes on where it was interrupted, and the
report is made anew after every fold. Every method in a run gets the same budget.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PALNetLandmarksLib.atomic_file import write_atomically
from PALNetLandmarksLib.errors import LandmarkingError
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.resources import resource_path
from PALNetLandmarksLib.surface import SURFACES
from PALNetLandmarksLib.weights import load_weights
from rich.console import Console

from .aligned_scans import AlignedScan, align_scans
from .arguments import add_unit, at_least_one, command_parser, not_negative
from .commit import commit
from .experiments.folds import PROTOCOLS, Fold, link_fold, make_folds
from .experiments.methods import (
    ABLATIONS,
    FINE_TUNED,
    METHODS,
    PARTS,
    Budget,
    Method,
    Predict,
    predictor_of_shape_model,
    predictor_of_template,
    predictor_of_weights,
    train_network,
)
from .experiments.peers.train_peer import train_peer
from .experiments.predictions import predict_subjects
from .experiments.report import COMMITS, FACTS, keep_predictions, read_commits, write_report
from .experiments.uses import mean_with_mirrored, with_passes, with_shape_prior
from .finetuning import check_network
from .folder import (
    Subject,
    TrainingDataError,
    check_apart,
    digest_of,
    find_subjects,
    make_folder,
    read_landmark_files,
)
from .messages import say_note, say_reasons
from .training_scheme import counterparts, mean_landmarks, scheme_of, sides_of, without_rare

DEFAULT_METHODS = ("template", "shape-model", "pal-net", "height-map-net", "shipped")


@dataclass(frozen=True)
class CrossValidationOptions:
    """What is asked for on the command line (``--help`` explains it); ``methods`` with those of whole tables."""

    data: Path
    output: Path
    report: Path | None
    methods: list[str]
    protocol: str
    folds: int
    folds_run: list[int] | None
    minutes: float
    epochs: int | None
    finetune: Path | None
    surface: str
    unit: str | None
    limit: int | None
    published: Path | None
    device: str
    threads: int
    seed: int


_console = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see ``python -m training.cross_validate --help``."""
    options = _parse(arguments)
    commit()  # of now, whatever happens to the checkout meanwhile
    try:
        run(options)
    except (LandmarkingError, ValueError) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on from here.")
    except subprocess.CalledProcessError:
        sys.exit("Error: a training failed for the reason above; mend it and give the same command again to go on.")


def run(options: CrossValidationOptions) -> None:
    """Train and test every method on every fold that is asked for."""
    check_apart(options.output, options.data)
    if options.finetune:
        for method in (METHODS[name] for name in options.methods if METHODS[name].kind == "network"):
            check_network(options.finetune, method.read_config()["network"])
    found, left_out = find_subjects(options.data)
    sets, unreadable = read_landmark_files(found)
    left_out |= unreadable
    say_reasons(_console, "Left out", left_out)
    subjects = {subject.name: subject for subject in found if subject.name in sets}
    if options.threads:
        torch.set_num_threads(options.threads)
    names = sorted(subjects)[: options.limit]
    chosen = [sets[name] for name in names]
    labels = without_rare(scheme_of(chosen, options.data.name), chosen, partial(say_note, _console)).labels
    make_folder(options.output)
    aligned, refused = align_scans(
        [subjects[name] for name in names],
        sets,
        labels,
        load_reference(),
        _alignments(options),
        options.unit,
        workers=2,
    )
    # What the landmark file says cannot be tested against; a scan that is not aligned counts as refused in the tests.
    wrong = {name: str(error) for name, error in refused.items() if isinstance(error, TrainingDataError)}
    say_reasons(_console, "Left out", wrong)
    if not aligned and refused:
        raise ValueError(f"No scan in '{options.data}' can be used. The first: {next(iter(refused.values()))}")
    scans = {scan.subject.name: scan for scan in aligned}
    mm_per_unit = {name: scan.mm_per_unit for name, scan in scans.items()}
    names = [name for name in names if name not in wrong]
    absent = [number for number in options.folds_run or () if not 0 <= number < options.folds]
    if absent:
        raise ValueError(f"There is no fold {absent[0]}; --folds-run counts from 0 to {options.folds - 1}.")
    folds = make_folds(names, options.folds, options.protocol, options.seed, refused)
    settings = {
        "data": options.data.resolve().name,
        "subjects": len(names),
        "files": digest_of([subjects[name] for name in names], sets),
        "labels": list(labels),
        "folds": options.folds,
        "protocol": options.protocol,
        "seed": options.seed,
        "minutes": options.minutes,
        "epochs": options.epochs,
        "finetune": options.finetune.name if options.finetune else None,
        "weights": load_weights(options.finetune).sha256[:12] if options.finetune else None,
        "surface": options.surface,
        "unit": options.unit,
    }
    _check_same(options.output / "settings.json", settings)
    facts = {
        **settings,
        "left_out": {**left_out, **wrong},
        "sides": sides_of(labels, mean_landmarks(scan.landmarks / scan.face_scale for scan in aligned)),
        "scans": str(options.data),
        "command": "python -m training.cross_validate " + " ".join(sys.argv[1:]),
    }
    _report(facts, options)
    for fold in folds:
        if options.folds_run is not None and fold.number not in options.folds_run:
            continue
        for name in options.methods:
            result = options.output / name / f"fold-{fold.number}.npz"
            if result.exists():
                continue
            _console.print(f"fold {fold.number + 1} of {options.folds}: {METHODS[name].title}", highlight=False)
            predict = _prepare(METHODS[name], fold, subjects, scans, labels, options)
            predictions = predict_subjects(
                predict,
                [subjects[subject] for subject in fold.test],
                labels,
                METHODS[name].title,
                mm_per_unit,
                options.unit,
            )
            say_reasons(_console, "Refused", predictions.refused)
            result.parent.mkdir(parents=True, exist_ok=True)
            predictions.save(result)
            _note_commit(options.output, result, _start(METHODS[name], options))
            _report(facts, options)
    report = (options.report or options.output) / "tables.md"
    said = f"Report: {report}" if report.exists() else "No report: no method has placed a landmark on any test subject."
    _console.print(said, soft_wrap=True)


def _prepare(
    method: Method,
    fold: Fold,
    subjects: dict[str, Subject],
    scans: Mapping[str, AlignedScan],
    labels: tuple[str, ...],
    options: CrossValidationOptions,
) -> Predict:
    """Train ``method`` on a fold; what predicts. ``scans``: those that could be aligned."""
    if method.kind == "weights":
        return predictor_of_weights(None, labels, options.device, options.surface)
    run_folder, budget = (
        options.output / "runs" / f"{method.run}-{fold.number}",
        Budget(options.minutes, options.epochs),
    )
    if method.kind == "network":
        folders = link_fold(fold, subjects, options.output / "folds" / str(fold.number))
        weights = train_network(
            method,
            folders,
            run_folder,
            _alignments(options),
            budget,
            options.device,
            options.threads,
            _start(method, options),
            options.unit,
        )
        if method.passes:
            weights = with_passes(weights, method.passes)
        predict = predictor_of_weights(weights, labels, options.device, options.surface)
        if method.afterwards == "mirror":
            means = mean_landmarks(scans[name].landmarks / scans[name].face_scale for name in fold.training)
            return mean_with_mirrored(predict, counterparts(means), options.surface)
        if method.afterwards == "shape-prior":
            return with_shape_prior(predict, [scans[name].landmarks for name in fold.training], options.surface)
        return predict

    def aligned(names: Sequence[str]) -> list[AlignedScan]:
        return [scans[name] for name in names]

    if method.kind == "peer":
        return train_peer(method, aligned(fold.training), aligned(fold.validation), run_folder, budget, options.device)
    known = aligned(fold.training + fold.validation * (options.protocol == "strict"))
    return predictor_of_template(known) if method.kind == "template" else predictor_of_shape_model(known)


def _start(method: Method, options: CrossValidationOptions) -> Path | None:
    """The weights that ``method`` uses or that its trainings begin with, if not random ones."""
    if method.kind == "weights" or (method.name == FINE_TUNED and not options.finetune):
        return resource_path("Weights.safetensors")
    return options.finetune


def _alignments(options: CrossValidationOptions) -> Path:
    """Where all trainings of a run find how the scans lie."""
    return options.output / "alignments"


def _note_commit(output: Path, result: Path, start: Path | None) -> None:
    """Remember which commit made a result, and from which weights it did: a report may hold results of several."""
    said = commit()
    if start:
        file = load_weights(start)
        said += f" with weights {file.metadata.get('version', 'unknown')} ({file.sha256[:12]})"
    made_by = {**read_commits(output), result.relative_to(output).as_posix(): said}
    write_atomically(output / COMMITS, json.dumps(made_by, indent=1).encode())


def _report(facts: dict[str, object], options: CrossValidationOptions) -> None:
    facts = {**facts, "commit": ", ".join(dict.fromkeys(read_commits(options.output).values())) or commit()}
    write_report(options.output, options.report or options.output, facts, options.published)
    if options.report:
        keep_predictions(options.output, {**facts, "scans": ""}, options.report / "predictions")


def _check_same(note: Path, settings: dict[str, object]) -> None:
    """A folder holds the results of one set of settings."""
    kept = note if note.exists() else note.with_name(FACTS)  # a report's predictions were taken up
    if kept.exists():
        # What older folders do not say went without saying.
        unsaid = {key: settings[key] for key in ("files", "weights")}
        before = {"surface": "triangle", "unit": None, **unsaid, **json.loads(kept.read_text(encoding="utf-8"))}
        different = sorted(key for key in settings if before.get(key) != settings[key])
        if different:
            raise ValueError(
                f"'{note.parent}' holds results with other settings ({', '.join(different)}); choose another --output."
            )
    write_atomically(note, json.dumps(settings, indent=1).encode())


def _parse(arguments: Sequence[str] | None) -> CrossValidationOptions:
    parser = command_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with scans and landmark files")
    parser.add_argument("--output", type=Path, required=True, help="folder of runs, predictions and report")
    parser.add_argument("--report", type=Path, help="folder of tables, figures and what they were made of (OUTPUT)")
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), metavar="NAME",
                        help=f"some of {', '.join(sorted(METHODS))} ({' '.join(DEFAULT_METHODS)})")  # fmt: skip
    parser.add_argument(
        "--ablations",
        action="store_true",
        help="the template and the variants of the paper's Table 6: with --methods besides, otherwise alone",
    )
    parser.add_argument(
        "--parts",
        action="store_true",
        help="the height-map network without each of its parts and with others: likewise",
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, default="strict", help="who stops the training")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--folds-run", type=int, nargs="+", metavar="N", help="these folds alone, from 0")
    parser.add_argument("--minutes", type=not_negative, default=0.0, help="of each training; 0: no limit")
    parser.add_argument("--epochs", type=int, help="of each training; by default as the recipe says")
    parser.add_argument(
        "--finetune",
        type=Path,
        metavar="WEIGHTS",
        help="start networks from these; 'fine-tuned' has the bundled ones otherwise",
    )
    parser.add_argument("--surface", choices=SURFACES, default="triangle", help="how networks' points are put on scans")
    add_unit(parser)
    parser.add_argument("--limit", type=at_least_one, help="this many subjects at most")
    parser.add_argument("--published", type=Path, help="JSON with the paper's own tables, shown beside")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    values = vars(parser.parse_args(arguments))
    chosen = [
        *(values["methods"] or ()),
        *(("template", *ABLATIONS) if values.pop("ablations") else ()),
        *(PARTS if values.pop("parts") else ()),
    ]
    options = CrossValidationOptions(**{**values, "methods": list(dict.fromkeys(chosen or DEFAULT_METHODS))})
    if options.finetune and set(options.methods) & {name for name in PARTS if METHODS[name].changes}:
        parser.error("--finetune: the height-map network without one of its parts learns from random weights")
    if options.epochs is not None and options.epochs < 1:
        learnt = all(
            METHODS[name].kind not in ("peer", "network") or _start(METHODS[name], options) for name in options.methods
        )
        if options.epochs < 0 or not learnt:
            parser.error("--epochs 0 is for networks that start from weights; others learn nothing without an epoch")
    return options


if __name__ == "__main__":
    main()
