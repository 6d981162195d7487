"""Who is trained, validated and tested on: a pool of prepared scans, or a laboratory's scans with landmark files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.reference import ReferenceFace
from PALNetLandmarksLib.scheme import LandmarkScheme, load_scheme
from rich.console import Console

from .aligned_scans import AlignedScan, align_scans
from .finetuning import scheme_to_finetune
from .folder import (
    Subject,
    TrainingDataError,
    digest_of,
    find_subjects,
    read_landmark_files,
    shared_subjects,
    split_names,
    twins,
)
from .messages import progress, say_note, say_reasons
from .training_options import TrainingOptions
from .training_scheme import read_scheme, scheme_of, without_rare

#: How the files of a pool end (``training.cohort`` makes them).
PREPARED = ".prepared.npz"


@dataclass(frozen=True)
class Source:
    """Where the subjects of each split come from: ``folders[split]``, and ``files`` (prepared scans) or ``scans``.

    ``digests[split]`` tells whether scans or landmarks have changed.
    """

    folders: dict[str, Path]
    files: dict[str, list[Path]]
    scans: dict[str, list[AlignedScan]]
    scheme: LandmarkScheme
    left_out: dict[str, str]
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, list[str]]:
        """The names of the subjects in each split."""
        if self.scans:
            return {split: [scan.subject.name for scan in scans] for split, scans in self.scans.items()}
        return {split: [file.name for file in files] for split, files in self.files.items()}


def open_source(
    config: dict[str, Any], seed: int, reference: ReferenceFace, options: TrainingOptions, console: Console
) -> Source:
    """Find the subjects of each split, as the options of ``training.train`` say.

    Raises
    ------
    TrainingDataError
        If a split has no subject that can be used.
    """
    data = options.data
    folders = {"training": data, "validation": options.validation or data, "test": options.test or data}
    if options.validation and not options.test:
        del folders["test"]  # all of --data is for training then
    shares = {"validation": 0.15, "test": 0.15, **config.get("split", {})}
    for split in ("validation", "test"):
        if folders.get(split) != data:
            shares[split] = 0.0
    if shares["validation"] <= 0 and not options.validation:
        raise TrainingDataError("Without a share of the subjects for validation, name a folder by --validation.")
    if any(data.glob(f"*{PREPARED}")):
        return _open_pool(folders, shares, seed, options)
    return _open_scans(folders, shares, seed, reference, options, console)


def _open_pool(folders: dict[str, Path], shares: dict[str, float], seed: int, options: TrainingOptions) -> Source:
    data = options.data
    scheme = read_scheme(options.scheme) if options.scheme else load_scheme()
    files = {split: sorted(folder.glob(f"*{PREPARED}")) for split, folder in folders.items() if folder != data}
    own = {file.name: file for file in sorted(data.glob(f"*{PREPARED}"))}
    if shares["validation"] or shares["test"]:
        for split, names in split_names(list(own), shares["validation"], shares["test"], seed).items():
            files.setdefault(split, [own[name] for name in names])
    files.setdefault("training", list(own.values()))
    files["training"] = files["training"][: options.limit]
    if not files["validation"]:
        raise TrainingDataError(f"'{options.validation}' holds no prepared scans ({PREPARED}).")
    return Source(folders, files, {}, scheme, {})


def _open_scans(
    folders: dict[str, Path],
    shares: dict[str, float],
    seed: int,
    reference: ReferenceFace,
    options: TrainingOptions,
    console: Console,
) -> Source:
    data = options.data
    subjects: dict[Path, list[Subject]] = {}
    sets: dict[Path, dict[str, LandmarkSet]] = {}
    left_out: dict[str, str] = {}
    for folder in dict.fromkeys(folders.values()):
        subjects[folder], apart = find_subjects(folder)
        sets[folder], unreadable = read_landmark_files(subjects[folder])
        leave_out(left_out, {**apart, **unreadable}, console)
    own = list(sets[data])
    for first, second in twins(sets[data]):
        say_note(
            console,
            f"{first} and {second} have the same landmarks and may end on two sides of the split; keep one of them.",
        )
    names = split_names(own, shares["validation"], shares["test"], seed)
    names["training"] = names["training"][: options.limit]
    for split, folder in folders.items():
        if folder != data:
            names[split] = list(sets[folder])
            shared = shared_subjects(sets[data], sets[folder])
            if shared:
                say_note(
                    console,
                    f"{len(shared)} scans of '{folder}' are in '{data}', too ({shared[0]}, ...), so their errors say "
                    "little of other people; take them out of one of the folders.",
                )
    training = [sets[data][name] for name in names["training"]]
    scheme = read_scheme(options.scheme) if options.scheme else scheme_of([sets[data][name] for name in own], data.name)
    warn = partial(say_note, console)
    # Weights to go on with keep what they know of landmarks that the laboratory does not place.
    whole = None
    if options.finetune and not options.scheme:
        whole = scheme_to_finetune(options.finetune, scheme.labels, warn)
    scheme = whole or without_rare(scheme, training, warn)
    scans: dict[str, list[AlignedScan]] = {}
    with progress(console, "align", sum(len(names[split]) for split in folders)) as advance:
        for split, folder in folders.items():
            chosen = [subject for subject in subjects[folder] if subject.name in set(names[split])]
            cache = options.alignments or options.output / "alignments" / (split if folder != data else "data")
            scans[split], refused = align_scans(
                chosen, sets[folder], scheme.labels, reference, cache, options.unit, options.workers, advance
            )
            leave_out(left_out, {name: str(error) for name, error in refused.items()}, console)
    for split in ("training", "validation"):
        if not scans[split]:
            first = next((f"{name}: {left_out[name]}" for name in names[split] if name in left_out), "see above")
            raise TrainingDataError(f"No scan of the {split} split can be used. The first that was left out: {first}")
    kept = whole or without_rare(scheme, [_as_set(scan, scheme) for scan in scans["training"]], warn, 1)
    if kept is not scheme:  # its only subjects were refused
        known = [scheme.labels.index(label) for label in kept.labels]
        for split in scans:
            scans[split] = [_with_landmarks(scan, known) for scan in scans[split]]
    digests = {split: digest_of((scan.subject for scan in own), sets[folders[split]]) for split, own in scans.items()}
    return Source(folders, {}, scans, kept, left_out, digests)


def leave_out(left_out: dict[str, str], reasons: Mapping[str, str], console: Console) -> None:
    """Note who is left out, and say it at once: what follows may fail for want of subjects."""
    new = {name: reason for name, reason in reasons.items() if left_out.get(name) != reason}
    left_out.update(new)
    say_reasons(console, "Left out", new)


def _as_set(scan: AlignedScan, scheme: LandmarkScheme) -> LandmarkSet:
    return LandmarkSet(scheme.labels, scan.landmarks)


def _with_landmarks(scan: AlignedScan, chosen: list[int]) -> AlignedScan:
    return replace(scan, landmarks=scan.landmarks[chosen])
