"""Detection in a process of its own: same result, cancel, errors, too little memory on the graphics processor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PALNetLandmarksLib.background import (
    BackgroundError,
    Job,
    detect_in_background,
    detect_or_fall_back,
    start_process,
)
from PALNetLandmarksLib.detector import STEPS, LandmarkDetector
from PALNetLandmarksLib.errors import UnreadableScanError
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.resources import resource_path
from PALNetLandmarksLib.stepwise import finish


@pytest.fixture(scope="module")
def sample() -> TriangleMesh:
    return read_scan(resource_path("SampleScan.ply"))


def test_the_process_finds_what_the_detector_finds(sample: TriangleMesh) -> None:
    def launch(arguments: Sequence[str], changes: Mapping[str, str]) -> subprocess.Popen[Any]:
        # As many threads multiply matrices there as here: other numbers round otherwise.
        return start_process(arguments, {name: value for name, value in changes.items() if name != "OMP_NUM_THREADS"})

    found = finish(detect_in_background(sample.points, sample.triangles, Job("anna", device="cpu"), launch))
    here = LandmarkDetector.load(device="cpu").detect(sample)
    assert found.labels == here.labels
    assert np.array_equal(found.points, here.points)
    assert np.array_equal(found.missing, here.missing)
    assert found.weights_sha256 == here.weights_sha256


def test_cancel_answers_at_once_and_ends_the_process(sample: TriangleMesh) -> None:
    processes: list[subprocess.Popen[Any]] = []

    def launch(arguments: Sequence[str], changes: Mapping[str, str]) -> subprocess.Popen[Any]:
        processes.append(start_process(arguments, changes))
        return processes[-1]

    steps = detect_in_background(sample.points, sample.triangles, Job("anna", device="cpu"), launch)
    while not processes:
        assert next(steps) in STEPS
    next(steps)
    begun = time.perf_counter()
    steps.close()
    assert time.perf_counter() - begun < 0.3
    assert processes[0].wait(timeout=20) == 3


def test_a_cancel_after_the_work_leaves_nothing_behind(sample: TriangleMesh) -> None:
    started: list[list[str]] = []

    def launch(arguments: Sequence[str], changes: Mapping[str, str]) -> subprocess.Popen[Any]:
        started.append(list(arguments))
        # As if its libraries took a second to be torn down.
        program = "from PALNetLandmarksLib import background; import time; background.main(); time.sleep(1)"
        return start_process([arguments[0], "-c", program, arguments[-1]], changes)

    steps = detect_in_background(sample.points, sample.triangles, Job("anna", device="cpu"), launch)
    while not started or not (Path(started[0][-1]) / "detection.npz").exists():
        next(steps)
    time.sleep(0.3)
    steps.close()
    give_up = time.perf_counter() + 20
    while Path(started[0][-1]).exists():
        assert time.perf_counter() < give_up
        time.sleep(0.05)


@pytest.mark.parametrize(
    "work",
    [
        "(folder / 'cancel').touch()",
        "(folder / 'cancel').touch(); time.sleep(0.05); raise OSError",
        "(folder / 'cancel').touch(); [(folder / f'{i}').touch() or time.sleep(0.01) for i in range(500)]",
    ],
    ids=["it is done", "it fails", "it goes on"],
)
def test_a_cancel_leaves_nothing_behind_whatever_the_work_does_meanwhile(tmp_path: Path, work: str) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    program = f"""
import sys, time
from PALNetLandmarksLib import background

def work(folder):
    {work}

background._work = work
background.main()
"""
    ended = subprocess.run([sys.executable, "-c", program, str(folder)], timeout=60)
    assert ended.returncode == 3
    assert not folder.exists()


def test_its_errors_are_those_of_the_detector(sample: TriangleMesh) -> None:
    with pytest.raises(UnreadableScanError, match=r"'empty' holds no points"):
        finish(detect_in_background(np.zeros((0, 3)), sample.triangles[:0], Job("empty"), start_process))


def test_what_went_wrong_reaches_the_log_though_nobody_reads_the_pipe(
    sample: TriangleMesh, caplog: pytest.LogCaptureFixture
) -> None:
    """As Slicer starts processes."""
    processes: list[subprocess.Popen[Any]] = []

    def launch(arguments: Sequence[str], changes: Mapping[str, str]) -> subprocess.Popen[Any]:
        process = subprocess.Popen(
            list(arguments), env={**os.environ, **changes}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        processes.append(process)
        return process

    with pytest.raises(BackgroundError, match="details are in the log"):
        finish(detect_in_background(sample.points, sample.triangles, Job("anna", surface="nowhere"), launch))
    assert "Traceback" in caplog.text and "nowhere" in caplog.text
    with processes[0].stdout as pipe:
        assert pipe.read() == b""


@pytest.mark.parametrize("half", ["", "PK\\x03\\x04 and no more"])
def test_a_process_that_dies_is_said(sample: TriangleMesh, half: str) -> None:
    work = f"open(sys.argv[1] + '/detection.npz', 'wb').write(b'{half}')" if half else "pass"

    def launch(arguments: Sequence[str], changes: Mapping[str, str]) -> subprocess.Popen[Any]:
        return start_process([arguments[0], "-c", f"import sys; {work}; sys.exit(9)", arguments[-1]], changes)

    with pytest.raises(BackgroundError, match="'anna' ended without a result"):
        finish(detect_in_background(sample.points, sample.triangles, Job("anna"), launch))


def test_too_little_graphics_memory_falls_back_to_the_cpu(sample: TriangleMesh) -> None:
    asked = []

    def load(weights: str | None, device: str, surface: str) -> LandmarkDetector:
        asked.append(device)
        if device == "cuda":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return LandmarkDetector.load(weights, device, surface)

    job = Job("anna", device="cuda")
    found = detect_or_fall_back(sample.points, sample.triangles, job, lambda step: None, load)
    assert asked == ["cuda", "cpu"]
    assert found.device == "cpu"
    assert "computed on the CPU" in found.warnings[-1]
