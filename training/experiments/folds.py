"""Who trains, who stops the training, who tests: the folds of a cross-validation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..folder import Subject

PROTOCOLS = ("strict", "paper")

#: Share of the training folds that stops the training in the strict protocol.
STOPPING_SHARE = 0.15


@dataclass(frozen=True)
class Fold:
    """Names of the subjects in each split of one fold.

    In the strict protocol ``validation`` is carved from the training folds; in the paper's it is the test fold itself,
    which then decides when the training stops.
    """

    number: int
    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def make_folds(
    names: Sequence[str], count: int, protocol: str, seed: int, only_tested: Collection[str] = ()
) -> list[Fold]:
    """``count`` folds of ``names``, by a seeded shuffle; every name is in exactly one test fold.

    ``only_tested``: names of which nothing can be learnt, as no face was found on the scan.

    Raises
    ------
    ValueError
        If there are too few names, or no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"The protocol is one of {', '.join(PROTOCOLS)}, not '{protocol}'.")
    if count < 2:
        raise ValueError(f"{count} folds leave nobody to train on; give two --folds or more.")
    if len(names) < 2 * count:
        raise ValueError(f"{len(names)} subjects are too few for {count} folds of two or more; give fewer --folds.")
    order = [sorted(names)[i] for i in np.random.default_rng([seed, 7]).permutation(len(names))]
    parts = [order[start::count] for start in range(count)]
    folds = []
    for number, test in enumerate(parts):
        others = [name for other, part in enumerate(parts) if other != number for name in part]
        if protocol == "paper":
            training, validation = others, test
        else:
            stopping = max(1, round(STOPPING_SHARE * len(others)))
            mixed = [others[i] for i in np.random.default_rng([seed, 8, number]).permutation(len(others))]
            validation, training = mixed[:stopping], mixed[stopping:]
        training, validation = ([name for name in split if name not in only_tested] for split in (training, validation))
        if not validation:
            training, validation = training[1:], training[:1]
        if not training:
            raise ValueError("Too few scans are usable for training; give fewer --folds or add subjects.")
        folds.append(Fold(number, tuple(sorted(training)), tuple(sorted(validation)), tuple(sorted(test))))
    return folds


def link_fold(fold: Fold, subjects: Mapping[str, Subject], folder: Path) -> dict[str, Path]:
    """Folders of links to the files of each split, as ``training.train`` takes them; returns them by split.

    Links of another time go; where the system makes none (Windows without developer mode), copies take their place.
    What is right already stays untouched: another training may be reading it.
    """
    folders = {}
    for split in ("training", "validation", "test"):
        folders[split] = folder / split
        folders[split].mkdir(parents=True, exist_ok=True)
        files = [file for name in getattr(fold, split) for file in (subjects[name].scan, subjects[name].landmarks)]
        sources = {file.name: file.resolve() for file in files}
        for there in folders[split].iterdir():
            if there.name not in sources and not there.name.startswith("."):
                there.unlink(missing_ok=True)
        for name, source in sources.items():
            _link(folders[split] / name, source)
    return folders


def _link(link: Path, source: Path) -> None:
    """Let ``link`` lead to ``source``, or be its copy; it changes at one stroke."""
    if link.is_symlink() and link.resolve() == source:
        return
    if link.exists() and not link.is_symlink():
        old, new = link.stat(), source.stat()
        if (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns):
            return
    made = link.with_name(f".{os.getpid()}-{link.name}")  # no subject's name begins with a dot
    made.unlink(missing_ok=True)
    try:
        made.symlink_to(source)
    except OSError:
        shutil.copy2(source, made)
    made.replace(link)
