"""The paper's tables, from predictions on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PALNetLandmarksLib.known_points import known_points
from PALNetLandmarksLib.measurements import Measurement, load_measurements
from PALNetLandmarksLib.resources import resource_path

from ..benchmarks.metrics import GROSS_MM, calibration, failures
from ..landmark_groups import ear_landmarks
from .methods import ABLATIONS, METHODS, PARTS
from .predictions import Predictions

Array = NDArray[np.float64]

#: The methods that those of ``ABLATIONS`` and of ``PARTS`` are variants of.
ABLATED, TAKEN_APART = "pal-net", "height-map-net"

#: Steps of the library's stopwatch by the columns of the paper's Table 2.
STAGES = {
    "input": ("read", "align", "sampling", "initial landmarks", "patches"),
    "inference": ("network", "landmarks"),
    "final": ("surface",),
}


@dataclass(frozen=True)
class Results:
    """All folds of one method, one after the other; ``fold`` (n,) says which."""

    method: str
    predictions: tuple[Predictions, ...]
    numbers: tuple[int, ...]

    @property
    def title(self) -> str:
        return METHODS[self.method].title

    @property
    def labels(self) -> tuple[str, ...]:
        return self.predictions[0].labels

    @property
    def fold(self) -> NDArray[np.int64]:
        return np.repeat(self.numbers, [len(fold.names) for fold in self.predictions])

    def stack(self, name: str) -> NDArray[Any]:
        """``points``, ``truth``, ``annotated``, ``deviations`` or ``missing`` of all folds."""
        return np.concatenate([getattr(fold, name) for fold in self.predictions])

    @property
    def scattered(self) -> bool:
        """Whether the annotations scatter around a truth that is known, as in simulated cohorts alone."""
        off = self.stack("annotated") - self.stack("truth")
        return bool(np.abs(off[np.isfinite(off)]).max(initial=0.0) > 0)

    def errors(self, against: str = "truth") -> Array:
        """(n, L) distances in mm, NaN where either is unknown."""
        return np.linalg.norm(self.stack("points") - self.stack(against), axis=2)


def fold_files(folder: Path) -> dict[int, Path]:
    """The predictions of one method, by the number of the fold, in that order."""
    named = ((re.fullmatch(r"fold-(\d+)", file.stem), file) for file in folder.glob("fold-*.npz"))
    return dict(sorted((int(name[1]), file) for name, file in named if name))


def load_results(folder: Path) -> dict[str, Results]:
    """What is there, by method, in the order of ``METHODS``."""
    found = {}
    for method in METHODS:
        files = fold_files(folder / method)
        if files:
            found[method] = Results(method, tuple(Predictions.load(file) for file in files.values()), tuple(files))
    return found


def that_place(results: Mapping[str, Results]) -> dict[str, Results]:
    """The methods that placed a landmark on any subject: one that is hardly trained has all of its faces refused."""
    return {name: result for name, result in results.items() if np.isfinite(result.errors()).any()}


def on_common_folds(results: Mapping[str, Results]) -> dict[str, Results]:
    """The same methods on the folds that all of them have; nothing where there is no such fold."""
    common = set.intersection(*(set(result.numbers) for result in results.values())) if results else set()
    cut = {}
    for name, result in results.items():
        kept = [i for i, number in enumerate(result.numbers) if number in common]
        cut[name] = Results(name, tuple(result.predictions[i] for i in kept), tuple(result.numbers[i] for i in kept))
    return cut if common else {}


def without_variants(results: Mapping[str, Results]) -> dict[str, Results]:
    """Without Table 6's variants of PAL-Net, and those of the height-map network."""
    variants = {*ABLATIONS, *PARTS} - {ABLATED, TAKEN_APART}
    return {name: result for name, result in results.items() if name not in variants}


def on_most_folds(results: Mapping[str, Results]) -> dict[str, Results]:
    """The methods, without variants, that were run on more folds than the others, on the folds that they share."""
    chosen = without_variants(results) or dict(results)
    most = max(len(result.numbers) for result in chosen.values())
    widest = {name: result for name, result in chosen.items() if len(result.numbers) == most}
    return on_common_folds(widest) or widest


def distance_errors(points: Array, truth: Array) -> Array:
    """(n, L, L) absolute errors of all inter-landmark distances, mm; NaN on the diagonal and where unknown."""
    found = np.linalg.norm(points[:, :, None] - points[:, None], axis=3)
    known = np.linalg.norm(truth[:, :, None] - truth[:, None], axis=3)
    error = np.abs(found - known)
    error[:, np.arange(error.shape[1]), np.arange(error.shape[1])] = np.nan
    return error


def table_1(results: Mapping[str, Results], runs: Path, chosen: Sequence[int] | None = None) -> pd.DataFrame:
    """Point-wise and distance-wise error (mean and SD over all points, as in the paper), the SD of the folds' means,
    failures, and what the training took. ``chosen``: landmarks by index; all by default."""
    rows = []
    for result in results.values():
        keep = list(range(len(result.labels))) if chosen is None else list(chosen)
        points, truth = result.stack("points")[:, keep], result.stack("truth")[:, keep]
        error = np.linalg.norm(points - truth, axis=2)
        distance = distance_errors(points, truth)
        folds = [_mean(error[result.fold == number]) for number in result.numbers]
        annotated = result.errors("annotated")[:, keep]
        deviations = result.stack("deviations")[:, keep]
        failed, silent = failures(error, result.stack("missing")[:, keep], deviations)
        epochs, seconds = _training(runs, result)
        rows.append(
            {
                "method": result.title,
                "point mm": _mean_sd(error),
                "distance mm": _mean_sd(distance),
                **({"against annotations mm": f"{_mean(annotated):.3f}"} if result.scattered else {}),
                "SD of folds mm": f"{np.std(folds, ddof=1):.3f}" if len(folds) > 1 else "one fold",
                f"above {GROSS_MM:.0f} mm %": f"{100 * failed / max(1, np.isfinite(error).sum()):.2f}",
                "of them silent": f"{silent} of {failed}" if np.isfinite(deviations).any() else "states no doubt",
                "refused": sum(len(fold.refused) for fold in result.predictions),
                "subjects": len(points),
                "folds": len(result.numbers),
                "epochs": epochs,
                "views per epoch": _views_per_epoch(result.method) if epochs else "",
                "s per epoch": seconds,
            }
        )
    return pd.DataFrame(rows)


def table_2(results: Mapping[str, Results]) -> pd.DataFrame:
    """Median seconds per stage and subject, one scan at a time."""
    rows = []
    for result in results.values():
        laps = [laps for fold in result.predictions for laps in fold.seconds if laps]
        row: dict[str, Any] = {"method": result.title}
        for stage, steps in STAGES.items():
            row[stage] = f"{np.median([sum(lap.get(step, 0.0) for step in steps) for lap in laps]):.3f}"
        row["total"] = f"{np.median([sum(lap.values()) for lap in laps]):.3f}"
        rows.append(row)
    return pd.DataFrame(rows)


def table_3(results: Mapping[str, Results]) -> pd.DataFrame:
    """Mean error of each landmark, mm, with the SD of the folds' means, beside the annotator's."""
    first = next(iter(results.values()))
    published = scheme_facts("intra_observer_mm")
    scatter = np.linalg.norm(first.stack("annotated") - first.stack("truth"), axis=2)
    rows = []
    for i, label in enumerate(first.labels):
        row: dict[str, Any] = {"landmark": label}
        if label in published:
            row["two annotations apart (published)"] = f"{published[label]:.2f}"
        if first.scattered:
            row["annotation off the truth"] = f"{_mean(scatter[:, i]):.2f}"
        for result in results.values():
            error = result.errors()[:, i]
            means = [_mean(error[result.fold == number]) for number in result.numbers]
            spread = f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
            row[result.title] = f"{_mean(error):.2f}{spread}"
        rows.append(row)
    return pd.DataFrame(rows)


def table_4(results: Mapping[str, Results]) -> pd.DataFrame | None:
    """Errors of the 20 linear distances that clinicians use: mm, and per cent of the distance."""
    return _measured(results, [one for one in load_measurements() if not one.is_angle])


def table_5(results: Mapping[str, Results]) -> pd.DataFrame | None:
    """Errors of the nine angles: degrees, and per cent of the angle."""
    return _measured(results, [one for one in load_measurements() if one.is_angle])


def table_6(results: Mapping[str, Results], runs: Path) -> pd.DataFrame | None:
    """The variants of PAL-Net, on the folds that all of them have, and what they start from, if it has these, too."""
    folds = {number for name in ABLATIONS if name in results for number in results[name].numbers}
    start = ("template",) if "template" in results and folds <= {*results["template"].numbers} else ()
    return _variants(results, runs, (*start, *ABLATIONS), ABLATED)


def parts_table(results: Mapping[str, Results], runs: Path) -> pd.DataFrame | None:
    """The height-map network without its parts, with others, and used otherwise, on the folds that all have."""
    return _variants(results, runs, PARTS, TAKEN_APART)


def _variants(results: Mapping[str, Results], runs: Path, wanted: Sequence[str], baseline: str) -> pd.DataFrame | None:
    """Table 1 of some methods with how much each differs from the baseline, if it has variants here."""
    there = on_common_folds({name: results[name] for name in wanted if name in results})
    if not {*there} - {baseline, "template"}:
        return None
    table = table_1(there, runs)
    if baseline in there:
        table.insert(
            2, "more than the baseline, mm ± SEM", [_more(result, there[baseline]) for result in there.values()]
        )
    return table


def _more(result: Results, baseline: Results) -> str:
    """Mean over subjects of how much more a method errs, on the landmarks that both place, and its standard error."""
    if result.method == baseline.method:
        return "baseline"
    differences = result.errors() - baseline.errors()
    known = np.isfinite(differences)
    subjects = np.flatnonzero(known.any(axis=1))
    means = np.array([differences[i][known[i]].mean() for i in subjects])
    return f"{means.mean():+.3f} ± {means.std(ddof=1) / np.sqrt(len(means)):.3f}" if len(means) > 1 else ""


def table_7(results: Mapping[str, Results], runs: Path) -> pd.DataFrame | None:
    """Table 1 without the eight points of the ears' rims."""
    first = next(iter(results.values()))
    ears = set(ear_landmarks())
    if not ears <= set(first.labels):
        return None
    table = table_1(results, runs, [i for i, label in enumerate(first.labels) if label not in ears])
    return table[["method", "point mm", "distance mm"]]


def hard_table(results: Mapping[str, Results], baseline: str = "pal-net") -> pd.DataFrame | None:
    """Mean error of the landmarks that are hardest, mm, and its ratio to the baseline's."""
    groups = _hard_groups(next(iter(results.values())).labels)
    if not groups:
        return None
    means = {
        name: {group: _mean(errors[:, chosen]) for group, chosen in groups.items()}
        for name, errors in ((name, result.errors()) for name, result in results.items())
    }
    rows = []
    for name, result in results.items():
        row: dict[str, Any] = {"method": result.title}
        for group, mean in means[name].items():
            row[f"{group} mm"] = f"{mean:.2f}"
            if baseline in means:
                row[f"{group}, ratio to {METHODS[baseline].title}"] = f"{mean / means[baseline][group]:.2f}"
        rows.append(row)
    return pd.DataFrame(rows)


def certainty_table(results: Mapping[str, Results]) -> pd.DataFrame | None:
    """How far the predicted standard deviations tell the errors, over all landmarks and where it is hard."""
    rows = []
    for result in results.values():
        error, deviation = result.errors(), result.stack("deviations")
        annotated = result.errors("annotated")
        if not np.isfinite(deviation).any():
            continue
        for group, chosen in {"all": list(range(len(result.labels))), **_hard_groups(result.labels)}.items():
            told = calibration(error[:, chosen], deviation[:, chosen])
            seen = calibration(annotated[:, chosen], deviation[:, chosen])
            rows.append(
                {
                    "method": result.title,
                    "landmarks": group,
                    **(
                        {"truth inside the 95 % region %": f"{100 * told['within_95']:.1f}"} if result.scattered else {}
                    ),
                    "annotation inside the 95 % region %": f"{100 * seen['within_95']:.1f}",
                    "most certain fifth mm": f"{told['most_certain_mm']:.2f}",
                    "least certain fifth mm": f"{told['least_certain_mm']:.2f}",
                    **_called_missing(result, chosen),
                }
            )
    return pd.DataFrame(rows) if rows else None


def _called_missing(result: Results, chosen: Sequence[int]) -> dict[str, str]:
    """How many of the landmarks that a scan lacks, and of those that it shows, a method calls missing."""
    missing, shown = result.stack("missing")[:, chosen], known_points(result.stack("truth")[:, chosen])
    done = known_points(result.stack("points")).any(axis=1, keepdims=True)
    lacking = ~shown & done
    return {
        "undefined on the scan, called missing": f"{(missing & lacking).sum()} of {lacking.sum()}",
        "on the scan, called missing": f"{(missing & shown & done).sum()} of {(shown & done).sum()}",
    }


def _hard_groups(labels: Sequence[str]) -> dict[str, list[int]]:
    """Indices of the landmarks that hair covers or that nothing marks, by group; groups that are not there left out."""
    wanted = {"ears": set(ear_landmarks()), "trichion": {"Tr"}, "gonion": {"Go_R", "Go_L"}}
    groups = {name: [i for i, label in enumerate(labels) if label in those] for name, those in wanted.items()}
    return {name: chosen for name, chosen in groups.items() if chosen}


def _measured(results: Mapping[str, Results], wanted: Sequence[Measurement]) -> pd.DataFrame | None:
    first = next(iter(results.values()))
    index = {label: i for i, label in enumerate(first.labels)}
    rows = []
    for one in wanted:
        if not index.keys() >= set(one.landmarks):
            return None
        chosen = [index[label] for label in one.landmarks]
        known = one.of(first.stack("truth")[:, chosen])
        unit = one.unit
        row = {"measure": one.name, f"{'true' if first.scattered else 'annotated'} {unit}": f"{_mean(known):.1f}"}
        if first.scattered:
            annotated = np.abs(one.of(first.stack("annotated")[:, chosen]) - known)
            row[f"annotations {unit}"] = f"{_mean(annotated):.2f}"
        for result in results.values():
            known = one.of(result.stack("truth")[:, chosen])
            off = np.abs(one.of(result.stack("points")[:, chosen]) - known)
            row[f"{result.title} {unit}"] = f"{_mean(off):.2f}"
            row[f"{result.title} %"] = f"{100 * _mean(off / known):.2f}"
        rows.append(row)
    table = pd.DataFrame(rows)
    means = {column: f"{table[column].astype(float).mean():.2f}" for column in table.columns if column != "measure"}
    return pd.concat([table, pd.DataFrame([{"measure": "mean", **means}])], ignore_index=True)


def _mean(values: Array) -> float:
    """Of the values that are known; NaN if there is none, as where every subject of a fold was refused."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _mean_sd(values: Array) -> str:
    known = values[np.isfinite(values)]
    spread = f" ± {known.std():.3f}" if known.size > 1 else ""
    return f"{_mean(values):.3f}{spread}"


def _training(runs: Path, result: Results) -> tuple[str, str]:
    """Epochs of each fold's run and the median seconds of an epoch; nothing where nothing was trained."""
    epochs, seconds = [], []
    for number in result.numbers:
        note = runs / f"{METHODS[result.method].run}-{number}" / "history.json"
        if note.exists():
            history = json.loads(note.read_text(encoding="utf-8"))
            epochs.append(int(history[-1]["epoch"]))
            seconds += [entry["seconds"] for entry in history if "seconds" in entry]
    return ", ".join(map(str, epochs)), f"{np.median(seconds):.1f}" if seconds else ""


@cache
def _views_per_epoch(method: str) -> str:
    """How many views of scans the method's recipe takes an epoch to be."""
    return str(METHODS[method].read_config()["recipe"]["samples_per_epoch"] or "each subject once")


@cache
def scheme_facts(key: str) -> dict[str, Any]:
    """One of the published figures that the landmark scheme holds, by label."""
    document = json.loads(resource_path("LandmarkScheme.json").read_text(encoding="utf-8"))
    return {entry["label"]: entry[key] for entry in document["landmarks"]}
