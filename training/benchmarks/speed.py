"""Seconds and memory: the pipeline at 100,000 vertices, the command from a cold start, and five million vertices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import fast_simplification
import numpy as np
from PALNetLandmarksLib.detector import LandmarkDetector
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.resources import resource_path

from ..simulation.surfaces import compact, find_edges, split_triangles
from ..write_ply import write_ply
from .row import Row, Settings

PIPELINE_TARGET_SECONDS = 0.6
COLD_TARGET_SECONDS, COLD_TARGET_BYTES = 2.4, 400e6
LARGE_TARGET_SECONDS, LARGE_TARGET_BYTES = 15.0, 4 * 2**30


def measure_pipeline(settings: Settings, vertices: int = 100_000) -> list[Row]:
    """``detect`` on a mesh in memory, on two cores, over and over."""
    mesh = with_vertices(read_scan(resource_path("SampleScan.ply")), vertices)
    detector = LandmarkDetector.load(settings.weights, device="cpu")
    with _TwoCores() as cores:
        detector.detect(mesh)  # the first run pays for lazy imports; the cold start measures it
        laps = []
        for _ in range(settings.repetitions):
            begin = time.perf_counter()
            # A mesh of its own: nothing may be remembered from the run before.
            detection = detector.detect(TriangleMesh(mesh.points, mesh.triangles, mesh.name))
            laps.append({**detection.seconds, "total": time.perf_counter() - begin})
    medians = {step: float(np.median([lap[step] for lap in laps])) for step in laps[0]}
    steps = ", ".join(f"{step} {1000 * value:.0f}" for step, value in medians.items() if step not in ("total", "read"))
    totals = [lap["total"] for lap in laps]
    return [
        Row(
            f"whole pipeline, {len(mesh.points):,} vertices, {cores} CPU cores, reading excluded",
            f"≤ {PIPELINE_TARGET_SECONDS} s median",
            f"{medians['total']:.2f} s median of {len(laps)} ({min(totals):.2f} to {max(totals):.2f}); "
            f"steps in ms: {steps}",
            medians["total"] <= PIPELINE_TARGET_SECONDS,
            len(laps),
            {"median_seconds": medians, "laps": laps, "cores": cores, "load_average": os.getloadavg()[0]},
        )
    ]


def measure_cold_start(settings: Settings, faces: int = 12_000) -> list[Row]:
    """The command on an OBJ of 12,000 faces, in a process of its own each time, picture included."""
    mesh = with_faces(read_scan(resource_path("SampleScan.ply")), faces)
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.obj"
        write_obj(scan, mesh)
        runs = [run_command(scan, settings.weights) for _ in range(settings.repetitions)]
    seconds, peak = float(np.median([run.seconds for run in runs])), max(run.peak_bytes for run in runs)
    failed = [run.message for run in runs if run.status]
    return [
        Row(
            f"from a cold start (`palnet-landmarks detect` of a {len(mesh.triangles):,}-face OBJ)",
            f"≤ {COLD_TARGET_SECONDS} s, ≤ {COLD_TARGET_BYTES / 1e6:.0f} MB",
            failed[0] if failed else f"{seconds:.2f} s median of {len(runs)}, {peak / 1e6:.0f} MB",
            seconds <= COLD_TARGET_SECONDS and peak <= COLD_TARGET_BYTES and not failed,
            len(runs),
            {"runs": [vars(run) for run in runs], "load_average": os.getloadavg()[0]},
        )
    ]


def measure_large(settings: Settings, vertices: int = 5_000_000) -> list[Row]:
    """The command on a PLY of five million vertices: reading, landmarks, files and picture."""
    mesh = with_vertices(read_scan(resource_path("SampleScan.ply")), vertices)
    count = len(mesh.points)
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.ply"
        write_ply(scan, mesh.points, mesh.triangles)
        del mesh
        run = run_command(scan, settings.weights)
    steps = ", ".join(f"{step} {value:.1f}" for step, value in run.steps.items())
    return [
        Row(
            f"{count:,} vertices (the whole command, reading and picture included)",
            f"≤ {LARGE_TARGET_SECONDS:.0f} s, ≤ {LARGE_TARGET_BYTES / 2**30:.0f} GiB",
            run.message if run.status else f"{run.seconds:.1f} s, {run.peak_bytes / 2**30:.2f} GiB ({steps})",
            run.seconds <= LARGE_TARGET_SECONDS and run.peak_bytes <= LARGE_TARGET_BYTES and not run.status,
            1,
            {**vars(run), "load_average": os.getloadavg()[0]},
        )
    ]


#: Runs a command and prints its exit status, seconds, peak memory and output. Linux counts as a process's peak what it
#: had mapped before it became another program, that is all of its parent: so a small parent starts the command.
_STARTER = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
run = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
seconds = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([run.returncode, seconds, peak, run.stdout]))
"""


@dataclass(frozen=True)
class CommandRun:
    """One run of the command in a process of its own: wall time, peak resident memory, exit status, its own laps."""

    seconds: float
    peak_bytes: int
    status: int
    steps: dict[str, float]
    message: str = ""


def run_command(scan: Path, weights: Optional[Path] = None) -> CommandRun:  # noqa: UP045
    """Run ``palnet-landmarks detect`` on ``scan`` and wait for it."""
    installed = Path(sys.executable).with_name("palnet-landmarks")
    command = [str(installed)] if installed.exists() else [sys.executable, "-m", "PALNetLandmarksLib.command_line"]
    with tempfile.TemporaryDirectory() as output:
        command += ["detect", str(scan), "-o", output, "--json", "--device", "cpu"]
        command += [] if weights is None else ["--weights", str(weights)]
        library = str(Path(__file__).resolve().parents[2] / "PALNetLandmarks")
        run = subprocess.run(
            [sys.executable, "-c", _STARTER, *command],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": library},
        )
    status, seconds, peak_kib, text = json.loads(run.stdout)
    peak = peak_kib * (1 if sys.platform == "darwin" else 1024)
    if status:
        return CommandRun(seconds, peak, status, {}, text.strip()[-300:])
    document: dict[str, Any] = json.loads(text)
    return CommandRun(seconds, peak, 0, document["scans"][0]["seconds"])


def with_vertices(mesh: TriangleMesh, count: int) -> TriangleMesh:
    """About ``count`` vertices (within 1 %): decimated, or decimated as little as possible and subdivided."""
    splits = 0
    while vertices_after(mesh, splits) < count:
        splits += 1
    surplus = vertices_after(mesh, splits) / count
    if surplus > 1.01:
        mesh = with_faces(mesh, int(len(mesh.triangles) / surplus * 1.003))
    for _ in range(splits):
        mesh = subdivide(mesh)
    return mesh


def vertices_after(mesh: TriangleMesh, splits: int) -> int:
    """How many vertices the mesh has after so many subdivisions."""
    faces = len(mesh.triangles)
    vertices, edges = len(mesh.points), len(find_edges(mesh.triangles, len(mesh.points))[0])
    for _ in range(splits):
        vertices, edges, faces = vertices + edges, 2 * edges + 3 * faces, 4 * faces
    return vertices


def with_faces(mesh: TriangleMesh, count: int) -> TriangleMesh:
    """Decimated to about ``count`` triangles."""
    points, triangles = fast_simplification.simplify(
        mesh.points.astype(np.float32), mesh.triangles.astype(np.int32), target_count=count, agg=7.0
    )
    return TriangleMesh(*compact(points.astype(np.float64), triangles.astype(np.int64)), mesh.name)


def subdivide(mesh: TriangleMesh) -> TriangleMesh:
    """Each triangle cut into four at the middles of its edges; the surface stays what it is."""
    triangles, edges = split_triangles(mesh.triangles, len(mesh.points))
    points = np.concatenate([mesh.points, mesh.points[edges].mean(axis=1)])
    return TriangleMesh(points, triangles, mesh.name)


def write_obj(path: Path, mesh: TriangleMesh) -> None:
    """Write a Wavefront OBJ."""
    with path.open("w", encoding="ascii") as stream:
        np.savetxt(stream, mesh.points, fmt="v %.4f %.4f %.4f")
        np.savetxt(stream, mesh.triangles + 1, fmt="f %d %d %d")


class _TwoCores:
    """Keeps this process on two processor cores, where the system can; ``as`` gives how many it has."""

    def __enter__(self) -> int:
        if not hasattr(os, "sched_setaffinity"):
            return os.cpu_count() or 1
        self._before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(self._before)[:2])
        return len(os.sched_getaffinity(0))

    def __exit__(self, *_: object) -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self._before)
