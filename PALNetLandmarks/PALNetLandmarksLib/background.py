"""A detection in a process of its own: for scans and devices that would hold up a window for too long.

    python -m PALNetLandmarksLib.background FOLDER

does the job that ``detect_in_background`` left in the folder. The two share files only: the job and the surface, then
``step`` (what is being done), and at last ``detection.npz`` or ``error.json``. A file ``cancel``, or the end of the
folder, ends the process within a fraction of a second, wherever it is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import errors
from .detection import Detection
from .detector import LandmarkDetector
from .errors import LandmarkingError
from .read_scan import Integers, clean_scan

#: Above this many points a detection has steps that hold up a window by more than 0.3 s.
MOST_POINTS_IN_FOREGROUND = 300_000

#: (arguments, changes to the environment) -> process; ``subprocess`` or Slicer's own way to start one.
Launch = Callable[[Sequence[str], Mapping[str, str]], "subprocess.Popen[Any]"]

_CANCEL, _STEP, _RESULT, _ERROR, _LOG = "cancel", "step", "detection.npz", "error.json", "log.txt"
_ARRAYS = ("points", "standard_deviation_mm", "missing", "rigid_transform")


class BackgroundError(LandmarkingError):
    """The process could not do its work, for a reason that has nothing to do with the scan."""


@dataclass(frozen=True)
class Job:
    """What to detect with; see ``LandmarkDetector.load``. ``name`` and ``coordinate_system`` are the scan's."""

    name: str
    coordinate_system: str = "LPS"
    weights: str | None = None
    device: str = "auto"
    surface: str = "triangle"
    unit: str | None = None


def detect_in_background(
    points: NDArray[np.floating], triangles: Integers, job: Job, launch: Launch, python: str = sys.executable
) -> Generator[str, None, Detection]:
    """Detect landmarks in another process; yields the name of the present step, at once and again and again.

    To cancel, close the generator: that returns at once, and the process ends soon after.

    Parameters
    ----------
    points : (n, 3) coordinates in the unit of the scan; triangles : (m, 3).
    launch : starts the process.
    python : the interpreter.

    Raises
    ------
    LandmarkingError
        As ``LandmarkDetector.load`` and ``detect`` do, or if the process dies.
    """
    folder = Path(tempfile.mkdtemp(prefix="PALNetLandmarks-"))
    process = None
    try:
        yield "read"
        try:
            np.save(folder / "points.npy", points)
            yield "read"
            np.save(folder / "triangles.npy", triangles)
            (folder / "job.json").write_text(json.dumps(asdict(job)), encoding="utf-8")
            place = str(Path(__file__).resolve().parents[1])
            path = os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH")]))
            # Why one thread: see command_line.main.
            changes = {"PYTHONPATH": path, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
            process = launch([python, "-m", "PALNetLandmarksLib.background", str(folder)], changes)
        except OSError as error:
            reason = error.strerror or str(error)
            raise BackgroundError(
                f"The detection on '{job.name}' could not be started ({reason}); free some space on the disk."
            ) from error
        while process.poll() is None:
            yield _step(folder)
        return _result(folder, job.name)
    finally:
        if process is None or process.poll() is not None:
            shutil.rmtree(folder, ignore_errors=True)
        else:  # the process removes the folder, unless it has just done its work
            (folder / _CANCEL).touch()
            threading.Thread(target=_remove_after, args=[process, folder], daemon=True).start()


def start_process(arguments: Sequence[str], changes: Mapping[str, str]) -> subprocess.Popen[Any]:
    """The plain way to launch, outside Slicer."""
    return subprocess.Popen(list(arguments), env={**os.environ, **changes}, stdin=subprocess.DEVNULL)


def detect_or_fall_back(
    points: NDArray[np.floating],
    triangles: Integers,
    job: Job,
    say: Callable[[str], None],
    load: Callable[..., LandmarkDetector] = LandmarkDetector.load,
) -> Detection:
    """Detect as ``job`` says; on the CPU, with a warning, if the graphics processor has too little memory."""
    scan = clean_scan(points, triangles, job.name, job.coordinate_system)

    def attempt(device: str) -> Detection:
        steps = load(job.weights, device, job.surface).detect_stepwise(scan, job.unit)
        while True:
            try:
                say(next(steps))
            except StopIteration as end:
                detection: Detection = end.value
                return detection

    try:
        return attempt(job.device)
    except RuntimeError as error:  # torch's own kinds of error differ between its versions
        if "out of memory" not in str(error).lower() or job.device == "cpu":
            raise
    detection = attempt("cpu")
    warning = "The graphics processor has too little free memory; the landmarks were computed on the CPU."
    return replace(detection, warnings=(*detection.warnings, warning))


def _remove_after(process: subprocess.Popen[Any], folder: Path) -> None:
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _step(folder: Path) -> str:
    try:
        return (folder / _STEP).read_text(encoding="utf-8") or "read"
    except OSError:  # not written yet
        return "read"


def _result(folder: Path, name: str) -> Detection:
    try:
        if (folder / _ERROR).exists():
            said = json.loads((folder / _ERROR).read_text(encoding="utf-8"))
            kind = getattr(errors, said["kind"], BackgroundError)
            if kind is BackgroundError:
                _pass_log_on(folder)
            raise kind(said["sentence"])
        with np.load(folder / _RESULT) as arrays:
            facts = json.loads(str(arrays["facts"]))
            content = {key: arrays[key] for key in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _pass_log_on(folder)
        raise BackgroundError(
            f"The detection on '{name}' ended without a result, perhaps for want of memory; reduce the number of the "
            "scan's points."
        ) from error
    return Detection(**content, **{**facts, "labels": tuple(facts["labels"]), "warnings": tuple(facts["warnings"])})


def _pass_log_on(folder: Path) -> None:
    """Into this process's log goes what the other had to say before it failed."""
    with contextlib.suppress(OSError):
        logging.getLogger(__name__).error((folder / _LOG).read_text(encoding="utf-8", errors="replace"))


def _send_output_to(path: Path | str) -> None:
    """All that this process says goes to a file: it may have been started with a pipe that nobody reads."""
    with Path(path).open("wb") as file:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


def _work(folder: Path) -> None:
    job = Job(**json.loads((folder / "job.json").read_text(encoding="utf-8")))
    points, triangles = np.load(folder / "points.npy"), np.load(folder / "triangles.npy")

    def say(step: str) -> None:
        (folder / _STEP).write_text(step, encoding="utf-8")

    detection = detect_or_fall_back(points, triangles, job, say)
    facts = {f.name: getattr(detection, f.name) for f in fields(detection) if f.name not in _ARRAYS}
    np.savez(folder / _RESULT, facts=np.array(json.dumps(facts)), **{key: getattr(detection, key) for key in _ARRAYS})


def _watch(folder: Path, ending: threading.Lock) -> None:
    """End this process when nobody waits for its result any more."""
    while _wanted(folder):
        time.sleep(0.1)
    with ending:
        _give_up(folder)


def _wanted(folder: Path) -> bool:
    return folder.exists() and not (folder / _CANCEL).exists()


def _give_up(folder: Path) -> None:
    try:
        _send_output_to(os.devnull)  # Windows removes no file that is open
        for _ in range(20):  # the work goes on meanwhile, and may put a file there
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)
    finally:
        os._exit(3)


def main() -> None:
    """Do the job in the folder that the command line names."""
    folder = Path(sys.argv[1])
    _send_output_to(folder / _LOG)
    ending = threading.Lock()  # held by who ends the process: the watch, which removes the folder, or the work
    threading.Thread(target=_watch, args=[folder, ending], daemon=True).start()
    failure = None
    try:
        _work(folder)
    except Exception as error:  # also where the watch has taken the folder away
        failure = error
    with ending:
        if not _wanted(folder):
            _give_up(folder)
        elif isinstance(failure, LandmarkingError):
            _tell(folder, type(failure).__name__, str(failure))
        elif failure is not None:
            traceback.print_exception(type(failure), failure, failure.__traceback__)
            _tell(folder, "", f"The detection failed ({type(failure).__name__}: {failure}); details are in the log.")


def _tell(folder: Path, kind: str, sentence: str) -> None:
    (folder / _ERROR).write_text(json.dumps({"kind": kind, "sentence": sentence}), encoding="utf-8")


if __name__ == "__main__":
    main()
