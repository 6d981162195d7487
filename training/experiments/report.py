"""Tables as Markdown and JSON, figures as PNG, each with what made them.

    python -m training.experiments.report training/reports/lafas-sim/predictions --output training/reports/lafas-sim

makes a report again from the predictions that lie beside it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PALNetLandmarksLib.scheme import load_scheme

from ..arguments import command_parser
from . import figures, tables
from .methods import METHODS
from .predictions import Predictions

#: In a folder of predictions: what the run was, as the report says it.
FACTS = "facts.json"

#: Beside it, where the runs had it: which commit made each result.
COMMITS = "commits.json"

TITLES = {
    "table_1": "Table 1: point-wise and distance-wise error against {}",
    "table_1_all": "Table 1 with the peers, on the folds that every method has",
    "table_2": "Table 2: seconds per stage and subject, one scan at a time (medians)",
    "table_3": "Table 3: mean error of each landmark, mm{}",
    "table_4": "Table 4: linear distances",
    "table_5": "Table 5: angles",
    "table_6": "Table 6: variants of PAL-Net",
    "table_7": "Table 7: without the eight points of the ears (Table 1's predictions; nothing is trained anew)",
    "parts": "What each part of the height-map network is worth",
    "hard": "Where it is hard: ears without the tragia, trichion, gonion",
    "certainty": "What the standard deviations are worth",
}


#: What to know before figures are compared.
NOTES = {
    "table_1": "Seconds per epoch are those of the clock, on whatever machine and beside whatever else ran there; the "
    "budget is processor time. An epoch takes as many views of the training scans as the table says.",
    "table_2": "Taken while the predictions were made: rows of one run on an idle machine can be compared, others not.",
}


def write_report(runs: Path, report: Path, facts: Mapping[str, Any], published: Path | None = None) -> None:
    """Make everything that the predictions below ``runs`` allow; write ``tables.md``, ``tables.json`` and figures.

    Parameters
    ----------
    facts : of the run: command, commit, seed, budget, cohort.
    published : JSON with the paper's own figures, shown as measured elsewhere on other data.
    """
    found = tables.load_results(runs)
    results = tables.that_place(found)
    if not results:
        return
    report.mkdir(parents=True, exist_ok=True)
    main, common = tables.on_most_folds(results), tables.on_common_folds(tables.without_variants(results))
    histories = runs / "runs"
    made: dict[str, pd.DataFrame | None] = {
        "table_1": tables.table_1(main, histories),
        "table_1_all": tables.table_1(common, histories) if len(common) > len(main) else None,
        "table_2": tables.table_2(main),
        "table_3": tables.table_3(main),
        "table_4": tables.table_4(main),
        "table_5": tables.table_5(main),
        "table_6": tables.table_6(results, histories),
        "table_7": tables.table_7(main, histories),
        "parts": tables.parts_table(results, histories),
        "hard": tables.hard_table(main),
        "certainty": tables.certainty_table(main),
    }
    scattered = any(result.scattered for result in main.values())
    against = "the truth without annotator's scatter" if scattered else "the landmark files"
    paper = None if published is None else json.loads(published.read_text(encoding="utf-8"))
    titles = {**TITLES, "table_1": TITLES["table_1"].format(against)}
    folds = next(iter(main.values())).numbers
    titles["table_3"] = TITLES["table_3"].format(" (± SD of the folds' means)" if len(folds) > 1 else "")
    parts = ["# Cross-validation", "", *_facts(facts, main, _by_method(read_commits(runs))), ""]
    for title in [result.title for name, result in found.items() if name not in results]:
        parts += [f"{title} placed none of these landmarks: it knows none of them, or all faces were refused.", ""]
    for name, table in made.items():
        if table is None:
            continue
        parts += [f"## {titles[name]}", "", _markdown(table), ""]
        parts += [NOTES[name], ""] if name in NOTES else []
        if paper is not None:
            parts += _published(name, paper)
    drawn = {name: result for name, result in main.items() if name != "template"} or main
    figures.figure_4(drawn, report / "figure-4.png")
    bundled = {landmark.label: landmark.side for landmark in load_scheme().landmarks}
    figures.figure_5(drawn, facts.get("sides", bundled), report / "figure-5.png")
    figures.figure_6(common or main, report / "figure-6.png")
    for number, shown, what in (
        (4, drawn, "error of inter-landmark distances"),
        (5, drawn, "Bland-Altman"),
        (6, common or main, f"error per landmark, {_folds(common or main)}"),
    ):
        parts += [f"![Figure {number}: {what}](figure-{number}.png)", ""]
        parts += [f"*{figures.caption(number, shown, results)}*", ""]
    scans = Path(str(facts.get("scans") or "nowhere"))
    if scans.is_dir():
        figures.figure_7(drawn, scans, facts.get("unit"), report / "figure-7.png")
    if (report / "figure-7.png").exists():
        parts += ["![Figure 7: prediction and truth](figure-7.png)", ""]
        # A picture from before may show another subject.
        parts += [f"*{figures.caption(7, drawn, results)}*", ""] if scans.is_dir() else []
    (report / "tables.md").write_text("\n".join(parts), encoding="utf-8")
    document = {
        "facts": {key: value for key, value in facts.items() if key != "scans"},
        "folds": {name: list(result.numbers) for name, result in main.items()},
        **{name: table.to_dict("records") for name, table in made.items() if table is not None},
    }
    (report / "tables.json").write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


def read_commits(runs: Path) -> dict[str, str]:
    """By result, which commit made it (and with which weights, where it began with some)."""
    note = runs / COMMITS
    return json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}  # type: ignore[no-any-return]


def _by_method(commits: Mapping[str, str]) -> dict[str, str]:
    """The different commits of each method's results."""
    grouped: dict[str, list[str]] = {}
    for result, commit in commits.items():
        grouped.setdefault(result.split("/")[0], []).append(commit)
    return {method: ", ".join(dict.fromkeys(own)) for method, own in grouped.items()}


def _facts(facts: Mapping[str, Any], results: Mapping[str, tables.Results], commits: Mapping[str, str]) -> list[str]:
    budget = [
        f"{facts['minutes']:g} minutes" if facts.get("minutes") else "",
        f"{facts['epochs']} epochs" if facts.get("epochs") is not None else "",
    ]
    said = " and ".join(filter(None, budget)) or "the recipe's own stop"
    put = {"vertex": "nearest vertex", "centroid": "centroid of the ten nearest vertices"}.get(facts.get("surface", ""))
    refused = {
        name: reason
        for result in results.values()
        for fold in result.predictions
        for name, reason in fold.refused.items()
    }
    each = {frozenset(name for fold in result.predictions for name in fold.refused) for result in results.values()}
    unequal = " (their figures are without them, so not of the same subjects)" if len(each) > 1 else ""
    made_by = [f"- {METHODS[method].title}: {commit}" for method, commit in sorted(commits.items())]
    return [
        f"Cohort {facts['data']}, {facts['subjects']} subjects split into {facts['folds']} folds ({facts['protocol']} "
        f"protocol); tested, where a table says nothing else: {_folds(results)}. "
        f"Budget of each training: {said}. Seed of the split {facts['seed']}, of each training as its recipe says."
        + ("" if made_by else f" Commit {facts['commit']}.")
        + (f" Points of trained networks are put on the {put} of the scan." if put else ""),
        "",
        f"`{facts['command']}`",
        *(["", "Commit that made the results of each method:", "", *made_by] if made_by else []),
        *_reasons("Left out:", facts.get("left_out", {})),
        *_reasons(f"Refused by at least one method{unequal}:", refused),
    ]


def _reasons(heading: str, reasons: Mapping[str, str]) -> list[str]:
    return ["", heading, "", *(f"- {name}: {reason}" for name, reason in sorted(reasons.items()))] if reasons else []


def _folds(results: Mapping[str, tables.Results]) -> str:
    numbers = next(iter(results.values())).numbers
    return f"fold{'s' * (len(numbers) > 1)} {', '.join(str(number + 1) for number in numbers)}"


def keep_predictions(runs: Path, facts: Mapping[str, Any], kept: Path) -> None:
    """Copy what a report is made of to ``kept``: predictions, how the trainings went, and ``facts``.

    ``training.cross_validate`` takes up such a folder as its own.
    """
    kept.mkdir(parents=True, exist_ok=True)
    for name in tables.load_results(runs):
        for number, file in tables.fold_files(runs / name).items():
            copy = kept / name / file.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists() or copy.stat().st_mtime < file.stat().st_mtime:
                Predictions.load(file).save(copy)
            history = runs / "runs" / f"{METHODS[name].run}-{number}" / "history.json"
            if history.exists():
                copy = kept / "runs" / history.parent.name / history.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                entries = json.loads(history.read_text(encoding="utf-8"))
                short = [{key: float(f"{value:.4g}") for key, value in entry.items()} for entry in entries]
                copy.write_text(json.dumps(short), encoding="utf-8")
    (kept / FACTS).write_text(json.dumps(dict(facts), indent=1), encoding="utf-8")
    if (runs / COMMITS).exists():
        (kept / COMMITS).write_text((runs / COMMITS).read_text(encoding="utf-8"), encoding="utf-8")


def main() -> None:
    """Make a report again."""
    parser = command_parser(__doc__)
    parser.add_argument("predictions", type=Path, help="folder that training.cross_validate --report left")
    parser.add_argument("--output", type=Path, required=True, help="folder of tables and figures")
    parser.add_argument("--scans", type=Path, help="folder of the cohort, for figure 7")
    parser.add_argument("--published", type=Path, help="JSON with the paper's own tables, shown beside")
    a = parser.parse_args()
    try:
        facts = json.loads((a.predictions / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        sys.exit(
            f"Error: '{a.predictions}' holds no predictions to report on; give the folder 'predictions' that "
            "training.cross_validate --report left beside its tables."
        )
    write_report(a.predictions, a.output, {**facts, "scans": str(a.scans or "")}, a.published)
    without = [
        what
        for given, what in ((a.scans, "figure 7 (--scans)"), (a.published, "the paper's own figures (--published)"))
        if not given
    ]
    print(f"{a.output / 'tables.md'}{': without ' + ' and '.join(without) if without else ''}")


def _markdown(table: pd.DataFrame) -> str:
    rows = [
        list(table.columns),
        ["---"] * len(table.columns),
        *table.astype(object).where(table.notna(), "").values.tolist(),
    ]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


def _published(name: str, paper: Mapping[str, Any]) -> list[str]:
    """The paper's own rows of a table, marked as such."""
    if name == "table_1":
        head = ["published", "cohort", "point mm", "distance mm", "epoch (Tesla T4)"]
        rows = [
            [method, cohort, *("{:.3f} ± {:.3f}".format(*row[kind]) for kind in ("point", "distance")), row["epoch"]]
            for cohort in ("lafas", "facescape")
            for method, row in paper["table1"][cohort].items()
        ]
    elif name == "table_2":
        head = ["published (Tesla T4)", *tables.STAGES, "total"]
        rows = [[method, *(row.get(key, "") for key in head[1:])] for method, row in paper["table2_seconds"].items()]
    elif name == "table_3":
        head = ["landmark", "PAL-Net, published (LAFAS) mm"]
        published = tables.scheme_facts("palnet_lafas_error_mm")
        rows = [[label, f"{error['mean']:.2f} ± {error['sd']:.2f}"] for label, error in published.items()]
    elif name in ("table_4", "table_5"):
        key, unit = ("table4_distances", "mm") if name == "table_4" else ("table5_angles", "deg")
        head = ["published (LAFAS)", f"two annotations apart {unit}", f"PAL-Net {unit}", "PAL-Net %"]
        columns = (f"intra_{unit}", f"error_{unit}", "error_percent")
        measured = [*paper[key], {"from": "mean", **paper[f"{key.split('_')[0]}_mean"]}]
        rows = [
            ["-".join(row[end] for end in ("from", "vertex", "to") if end in row), *(row[column] for column in columns)]
            for row in measured
        ]
    elif name in ("table_6", "table_7"):
        head = ["published (LAFAS)", "point mm", "distance mm"]
        found = paper["table6_mm" if name == "table_6" else "table7_mm_without_ears"]
        rows = [
            [method, f"{row['point']:.3f}", f"{row['distance']:.3f}"]
            for method, row in found.items()
            if isinstance(row, dict)
        ]
    else:
        return []
    table = _markdown(pd.DataFrame(rows, columns=head))
    return ["Measured elsewhere, on other data (PAL-Net, arXiv 2510.00910):", "", table, ""]


if __name__ == "__main__":
    main()
