"""Tables as Markdown and JSON, figures as PNG, each with what made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from . import figures, tables

TITLES = {
    "table_1": "Table 1: point-wise and distance-wise error against the truth without annotator's scatter",
    "table_2": "Table 2: seconds per stage and subject, one scan at a time (medians)",
    "table_3": "Table 3: mean error of each landmark, mm (± SD of the folds' means)",
    "table_4": "Table 4: linear distances",
    "table_5": "Table 5: angles",
    "table_6": "Table 6: variants of PAL-Net",
    "table_7": "Table 7: without the eight points of the ears",
    "certainty": "What the standard deviations are worth",
}


def write_report(runs: Path, report: Path, facts: Mapping[str, Any], published: Path | None = None) -> None:
    """Make everything that the predictions below ``runs`` allow; write ``tables.md``, ``tables.json`` and figures.

    Parameters
    ----------
    facts : of the run: command, commit, seed, budget, cohort.
    published : JSON with the paper's own figures, shown as measured elsewhere on other data.
    """
    results = tables.load_results(runs)
    if not results:
        return
    report.mkdir(parents=True, exist_ok=True)
    compared = figures.worth_drawing(results)
    main = compared or results
    made: dict[str, pd.DataFrame | None] = {
        "table_1": tables.table_1(main, runs / "runs"),
        "table_2": tables.table_2(main),
        "table_3": tables.table_3(main),
        "table_4": tables.table_4(main),
        "table_5": tables.table_5(main),
        "table_6": tables.table_6(results, runs / "runs"),
        "table_7": tables.table_7(main, runs / "runs"),
        "certainty": tables.certainty_table(main),
    }
    parts = ["# Cross-validation", "", *_facts(facts, main), ""]
    for name, table in made.items():
        if table is None:
            continue
        parts += [f"## {TITLES[name]}", "", _markdown(table), ""]
        if published is not None:
            parts += _published(name, json.loads(published.read_text(encoding="utf-8")))
    if compared:
        drawn = {name: result for name, result in compared.items() if name != "template"} or compared
        figures.figure_4(drawn, report / "figure-4.png")
        figures.figure_5(drawn, report / "figure-5.png")
        figures.figure_6(compared, report / "figure-6.png")
        for number, what in ((4, "error of inter-landmark distances"), (5, "Bland-Altman"), (6, "error per landmark")):
            parts += [f"![Figure {number}: {what}](figure-{number}.png)", ""]
        if facts.get("scans"):
            figures.figure_7(drawn, Path(str(facts["scans"])), report / "figure-7.png")
            parts += ["![Figure 7: prediction and truth](figure-7.png)", ""]
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
        f"{facts['epochs']} epochs" if facts.get("epochs") else "",
    ]
    said = " and ".join(filter(None, budget)) or "the recipe's own stop"
    first = next(iter(results.values()))
    return [
        f"Cohort {facts['data']}, {facts['subjects']} subjects, {facts['folds']} folds ({facts['protocol']} protocol); "
        f"shown: fold{'s' * (len(first.numbers) > 1)} {', '.join(str(number + 1) for number in first.numbers)}. "
        f"Budget of each training: {said}. Seed {facts['seed']}, commit {facts['commit']}.",
        "",
        f"`{facts['command']}`",
    ]


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
