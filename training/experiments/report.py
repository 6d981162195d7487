"""Tables as Markdown and JSON, figures as PNG, each with what made them.

    python -m training.experiments.report training/reports/lafas-sim/predictions --output training/reports/lafas-sim

makes a report again from the predictions that lie beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PALNetLandmarksLib.scheme import load_scheme

from . import figures, tables
from .predictions import Predictions

#: In a folder of predictions: what the run was, as the report says it.
FACTS = "facts.json"

#: Beside it, where the runs had it: which commit made each result.
COMMITS = "commits.json"

TITLES = {
    "table_1": "Table 1: point-wise and distance-wise error against {}",
    "table_1_all": "Table 1 with the peers, on the folds that every method has",
    "table_2": "Table 2: seconds per stage and subject, one scan at a time (medians)",
    "table_3": "Table 3: mean error of each landmark, mm (± SD of the folds' means)",
    "table_4": "Table 4: linear distances",
    "table_5": "Table 5: angles",
    "table_6": "Table 6: variants of PAL-Net",
    "table_7": "Table 7: without the eight points of the ears",
    "hard": "Where it is hard: ears without the tragia, trichion, gonion",
    "certainty": "What the standard deviations are worth",
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
        "hard": tables.hard_table(main),
        "certainty": tables.certainty_table(main),
    }
    scattered = any(result.scattered for result in main.values())
    against = "the truth without annotator's scatter" if scattered else "the landmark files"
    parts = ["# Cross-validation", "", *_facts(facts, main), ""]
    for title in [result.title for name, result in found.items() if name not in results]:
        parts += [f"{title} placed none of these landmarks: it knows none of them, or all faces were refused.", ""]
    for name, table in made.items():
        if table is None:
            continue
        parts += [f"## {TITLES[name].format(against)}", "", _markdown(table), ""]
        if published is not None:
            parts += _published(name, json.loads(published.read_text(encoding="utf-8")))
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
    if facts.get("scans") and Path(str(facts["scans"])).is_dir():
        figures.figure_7(drawn, Path(str(facts["scans"])), facts.get("unit"), report / "figure-7.png")
    if (report / "figure-7.png").exists():
        parts += ["![Figure 7: prediction and truth](figure-7.png)", ""]
        parts += [f"*{figures.caption(7, drawn, results)}*", ""]
    (report / "tables.md").write_text("\n".join(parts), encoding="utf-8")
    document = {
        "facts": {key: value for key, value in facts.items() if key != "scans"},
        "folds": {name: list(result.numbers) for name, result in main.items()},
        **{name: table.to_dict("records") for name, table in made.items() if table is not None},
    }
    (report / "tables.json").write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


def _facts(facts: Mapping[str, Any], results: Mapping[str, tables.Results]) -> list[str]:
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
    return [
        f"Cohort {facts['data']}, {facts['subjects']} subjects, {facts['folds']} folds ({facts['protocol']} protocol); "
        f"shown, where a table says nothing else: {_folds(results)}. "
        f"Budget of each training: {said}. Seed {facts['seed']}, commit {facts['commit']}."
        + (f" Points of trained networks are put on the {put} of the scan." if put else ""),
        "",
        f"`{facts['command']}`",
        *_reasons("Left out:", facts.get("left_out", {})),
        *_reasons("Refused by at least one method:", refused),
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
        for file in sorted((runs / name).glob("fold-?.npz")):
            copy = kept / name / file.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists() or copy.stat().st_mtime < file.stat().st_mtime:
                Predictions.load(file).save(copy)
            history = runs / "runs" / f"{name}-{file.stem.split('-')[1]}" / "history.json"
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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


def _markdown(table: pd.DataFrame) -> str:
    rows = [
        list(table.columns),
        ["---"] * len(table.columns),
        *table.astype(object).where(table.notna(), "").values.tolist(),
    ]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


def _published(name: str, paper: Mapping[str, Any]) -> list[str]:
    """The paper's own rows of a table, marked as such."""
    lines: list[str] = []
    if name == "table_1":
        for cohort in ("lafas", "facescape"):
            for method, row in paper["table1"][cohort].items():
                lines.append(
                    f"| {method} | {cohort} | {row['point'][0]:.3f} ± {row['point'][1]:.3f} | "
                    f"{row['distance'][0]:.3f} ± {row['distance'][1]:.3f} | {row['epoch']} |"
                )
        head = ["| published | cohort | point mm | distance mm | epoch (Tesla T4) |", "|---|---|---|---|---|"]
    elif name in ("table_6", "table_7"):
        rows = paper["table6_mm" if name == "table_6" else "table7_mm_without_ears"]
        for method, row in rows.items():
            if isinstance(row, dict):
                lines.append(f"| {method} | {row['point']:.3f} | {row['distance']:.3f} |")
        head = ["| published (LAFAS) | point mm | distance mm |", "|---|---|---|"]
    else:
        return []
    return ["Measured elsewhere, on other data (PAL-Net, arXiv 2510.00910):", "", *head, *lines, ""]


if __name__ == "__main__":
    main()
