"""Results on disk and on the screen; each benchmark has a file of its own, so a later run adds to an earlier one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .row import Row

#: Beside the report, from ``real_scans``.
REAL_SCANS_PICTURE = "real-scans.png"

_MARKS = {True: "yes", False: "NO", None: ""}


def save_rows(folder: Path, name: str, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    """Write the rows of one benchmark with the facts they depend on."""
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    document = {"benchmark": name, **facts, "rows": [asdict(row) for row in rows]}
    text = json.dumps(document, indent=1, ensure_ascii=False, default=_plain)
    (folder / "rows" / f"{name}.json").write_text(text, encoding="utf-8")


def collect(folder: Path, order: Sequence[str]) -> list[dict[str, Any]]:
    """What all runs so far have left, in this order."""
    paths = [folder / "rows" / f"{name}.json" for name in order]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def write_report(folder: Path, results: Sequence[dict[str, Any]]) -> None:
    """``benchmark.json`` with everything and ``benchmark.md`` with the tables."""
    text = json.dumps({"results": list(results)}, indent=1, ensure_ascii=False)
    (folder / "benchmark.json").write_text(text, encoding="utf-8")
    (folder / "benchmark.md").write_text(as_markdown(results), encoding="utf-8")


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """The table for people."""
    table = Table(title="Benchmark", show_lines=True)
    for column in ("what", "target", "measured", "met", "n"):
        table.add_column(column, overflow="fold")
    colours = {True: "green", False: "red", None: ""}
    for result in results:
        for row in result["rows"]:
            cells = [escape(row[key]) for key in ("what", "target", "value")]
            table.add_row(*cells, _MARKS[row["met"]], str(row["n"]), style=colours[row["met"]])
    console = Console()
    console.print(table, width=console.width if console.is_terminal else 160)


def as_markdown(results: Sequence[dict[str, Any]]) -> str:
    """The table, where each row comes from, and the error of each landmark."""
    lines = ["| what | target | measured | met | n |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['what']} | {row['target']} | {row['value']} | {_MARKS[row['met']]} | {row['n']} |"
        for result in results
        for row in result["rows"]
    ]
    lines += ["", "| rows | command | commit | seed | weights (SHA-256) | machine | when | took |", "|" + "---|" * 8]
    for result in results:
        machine = result["machine"]
        lines.append(
            f"| {result['benchmark']} | `{result['command']}` | {result['commit']} | {result['seed']} | "
            f"{result['weights_version']} ({result['weights_sha256'][:12]}) | {machine['processor']}, "
            f"{machine['cores']} cores, Python {machine['python']}, numpy {machine['numpy']} | {result['when']} | "
            f"{result['seconds']:.0f} s |"
        )
    for result in results:
        for row in result["rows"]:
            if "landmarks" in row["details"] and "mean" in row["details"]:
                lines += ["", f"### {row['what']}", "", *_landmark_table(row["details"]["landmarks"])]
            if result["benchmark"] == "real-scans":
                lines += ["", f"### {row['what']}: distance of each, mm", "", *_scan_table(row["details"]["scans"]), ""]
                lines += [f"![The scans with what was found on them]({REAL_SCANS_PICTURE})"]
    return "\n".join(lines) + "\n"


def _landmark_table(landmarks: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| landmark | mean ± SD, mm | median | 95 % | above 10 mm | n |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {label} | {f['mean']:.2f} ± {f['sd']:.2f} | {f['median']:.2f} | {f['p95']:.2f} | "
        f"{100 * f['share_above_10_mm']:.1f} % | {f['n']} |"
        for label, f in landmarks.items()
    ]
    return lines


def _scan_table(scans: dict[str, dict[str, Any]]) -> list[str]:
    placed = {name: scan["errors_mm"] for name, scan in scans.items() if "errors_mm" in scan}
    if not placed:
        return ["All were refused."]
    labels = dict.fromkeys(label for errors in placed.values() for label in errors)
    lines = ["| landmark | " + " | ".join(placed) + " |", "|---" * (1 + len(placed)) + "|"]
    for label in labels:
        cells = (f"{errors[label]:.1f}" if label in errors else "" for errors in placed.values())
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as JSON knows them."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not fit for JSON")
