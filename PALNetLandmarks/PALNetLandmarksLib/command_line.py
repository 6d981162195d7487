"""The command ``palnet-landmarks``: landmarks for one scan or many, and what is installed.

Everything that costs time to load (numpy, scipy, vtk, torch, Pillow) is imported only when it is used.
"""

# Typer evaluates the annotations, and Python 3.9 knows no `X | None`, nor shows Typer the options in postponed ones.
import importlib.metadata
import importlib.util
import io
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

from .errors import LandmarkingError, OutputError

_INSTALL_CLI = "The command line needs the package '{}'; install it by: pip install 'palnet-landmarks[cli]'"
try:
    import typer
    from rich.console import Console
except ImportError as error:
    # Ends the program with this one sentence on standard error and status 1.
    raise SystemExit(_INSTALL_CLI.format(error.name)) from error

if TYPE_CHECKING:
    from .detection import Detection
    from .detector import LandmarkDetector
    from .measurements import MeasuredValue

#: What the files are called in messages, by the end of their names.
_FILE_KINDS = {".json": "landmarks", ".csv": "table", ".png": "picture"}
EXIT_FAILED = 1
EXIT_USAGE = 2


class Unit(str, Enum):
    """Length units that a scan may be stored in."""

    MILLIMETRE = "mm"
    CENTIMETRE = "cm"
    METRE = "m"
    INCH = "inch"


class Device(str, Enum):
    """What computes the network; the CPU needs no torch."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Surface(str, Enum):
    """How the network's points are put onto the scan."""

    TRIANGLE = "triangle"
    VERTEX = "vertex"
    CENTROID = "centroid"


app = typer.Typer(
    name="palnet-landmarks",
    help="50 anatomical soft-tissue landmarks on 3D face scans. For research use; not a medical device.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the command ``palnet-landmarks``."""
    # For numpy, which is not loaded yet. Products of matrices as small as here gain nothing by a second thread but wait
    # for it where another program keeps a core busy; on two cores the network then took ten times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Ended from outside, it leaves nothing half-done behind either.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # A pipe or a file takes the letters of the system's own alphabet alone on Windows; a name must not end the work.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    app()


def load_detector(weights: Optional[Path], device: str, surface: str) -> "LandmarkDetector":
    """The detector that the commands use."""
    from .detector import LandmarkDetector

    return LandmarkDetector.load(weights=weights, device=device, surface=surface)


@dataclass(frozen=True)
class _Result:
    """What became of one scan: a detection and the files written, or an error."""

    scan: Path
    detection: Optional["Detection"] = None
    files: tuple[Path, ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()
    error: str = ""


@dataclass(frozen=True)
class _Face:
    """What is measured on the face of one landmark file, and what is to be said of it."""

    file: str
    unit: str
    values: tuple["MeasuredValue", ...]
    notes: list[str]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"palnet-landmarks {_version('palnet-landmarks') or 'of an uninstalled checkout'}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def detect(
    scans: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCAN",
            help="Face scans: OBJ, PLY, STL, VTP, VTK, GLB, glTF or OFF.",
            show_default=False,
            readable=False,  # a scan that may not be read fails like any other, without stopping the others
        ),
    ],
    output: Annotated[
        Optional[Path],
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Folder for the results (made if missing).",
            show_default="beside each scan",
        ),
    ] = None,
    unit: Annotated[
        Optional[Unit],
        typer.Option(help="The unit of the scans' coordinates.", show_default="found from the size of the face"),
    ] = None,
    device: Annotated[Device, typer.Option(help="What computes the network.")] = Device.AUTO,
    weights: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="Other weights than the bundled ones.", show_default=False)
    ] = None,
    surface: Annotated[
        Surface,
        typer.Option(
            help="Put points on the nearest point of the triangles, the nearest vertex, or the centroid of 10 vertices."
        ),
    ] = Surface.TRIANGLE,
    picture: Annotated[bool, typer.Option("--picture/--no-picture", help="Draw the PNG.")] = True,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace landmark files that hold other landmarks, perhaps corrected ones."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Place the landmarks on every SCAN; write NAME.mrk.json (for 3D Slicer), NAME.csv and NAME.png.

    A scan that fails doesn't stop the others and leaves no files. Exit status: 0 all well, 1 some scan failed, 2 wrong
    usage.
    """
    suffixes = (".mrk.json", ".csv", *((".png",) if picture else ()))
    clash = _name_clash(scans, output)
    if clash:
        _fail(clash, as_json)
    if picture and importlib.util.find_spec("PIL") is None:
        _fail(_INSTALL_CLI.format("Pillow") + ", or add --no-picture.", as_json)
    try:
        _check_writable(output)
        detector = load_detector(weights, device.value, surface.value)
    except (LandmarkingError, FileNotFoundError) as error:
        _fail(str(error), as_json)

    results = []
    with _progress(len(scans)) as advance:
        for scan in scans:
            advance(scan.name)
            result = _detect_one(detector, scan, output, unit.value if unit else None, suffixes, overwrite)
            results.append(result)
            if result.error:
                typer.echo(f"Error: {result.error}", err=True)
            elif not as_json:
                _show(result)
    failed = [result for result in results if result.error]
    if as_json:
        typer.echo(json.dumps(_document(results), indent=1, allow_nan=False))
    else:
        _list_failures({str(result.scan): result.error for result in failed}, len(results), "scans")
    if failed:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def measure(
    landmarks: Annotated[
        list[Path],
        typer.Argument(
            metavar="LANDMARKS",
            help="Landmark files, perhaps corrected: .mrk.json, .fcsv, .csv or .txt.",
            show_default=False,
            readable=False,
        ),
    ],
    output: Annotated[
        Optional[Path],
        typer.Option("-o", "--output", metavar="FILE", help="Write all values into one CSV table.", show_default=False),
    ] = None,
    unit: Annotated[
        Optional[Unit],
        typer.Option(help="The unit of the landmarks' coordinates.", show_default="found from the size of the face"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Measure distances (mm) and angles (degrees) between the landmarks of every file.

    A file that fails doesn't stop the others. Exit status: 0 all well, 1 some file failed, 2 wrong usage.
    """
    from .measurements import check_table_name, write_measurements

    twice = _given_twice(landmarks)
    if twice:
        _fail(twice, as_json)
    if output is not None:
        try:
            check_table_name(output)
        except OutputError as error:
            _fail(str(error), as_json)
    faces = []
    failed = {}
    for path in landmarks:
        try:
            face = _measure_one(path, unit.value if unit else None)
        except LandmarkingError as error:
            failed[str(path)] = str(error)
            typer.echo(f"Error: {error}", err=True)
            continue
        for note in face.notes:
            typer.echo(f"Note: {note}", err=True)
        faces.append(face)
    # Before the text, whose reader may stop anywhere (`| head`), and the text all the same if it cannot be written.
    written = False
    if output is not None and faces:
        try:
            write_measurements(output, [(face.file, face.values) for face in faces])
            written = True
        except OutputError as error:
            failed[str(output)] = str(error)
            typer.echo(f"Error: {error}", err=True)
    if as_json:
        document = {
            "version": _version("palnet-landmarks"),
            "files": [
                {"file": face.file, "unit": face.unit, "notes": face.notes, "measurements": _measured(face.values)}
                for face in faces
            ],
            "failed": failed,
        }
        typer.echo(json.dumps(document, indent=1, allow_nan=False))
    else:
        for face in faces:
            typer.echo("\n".join(_measured_lines(face)))
        if written:
            typer.echo(f"table      {output}")
        _list_failures(failed, len(landmarks), "files")
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _measure_one(path: Path, unit: Optional[str]) -> _Face:
    """Measure the face of a landmark file; refused if its unit is another than the one that is given."""
    from .align import UNITS
    from .landmark_files import read_landmarks
    from .measurements import check_sides, doubts, unit_of_landmarks
    from .measurements import measure as take
    from .reference import load_reference

    reference = load_reference()
    read = read_landmarks(path)
    found = read.known(reference.labels, path.name)
    check_sides(found, reference, path.name)
    used = unit_of_landmarks(found, reference, path.name, unit)
    deviations = {} if found.standard_deviation_mm is None else dict(zip(found.labels, found.standard_deviation_mm))
    values = take(dict(zip(found.labels, found.points * UNITS[used])), deviations)
    return _Face(str(path), used, values, doubts(read, reference, path.name))


def _measured_lines(face: _Face) -> list[str]:
    lines = [f"{face.file}: coordinates in {face.unit}"]
    group = ""
    for one in face.values:
        if one.measurement.group != group:
            group = one.measurement.group
            lines.append(f"  {group}")
        known = math.isfinite(one.value)
        spread = f" ± {one.standard_deviation:.1f}" if math.isfinite(one.standard_deviation) else ""
        number = f"{one.value:7.1f}{spread} {one.measurement.unit}" if known else "      - (a landmark is missing)"
        lines.append(f"    {one.measurement.name:<20} {number}")
    return lines


def _measured(values: Sequence["MeasuredValue"]) -> list[dict[str, Any]]:
    return [
        {
            "group": one.measurement.group,
            "landmarks": list(one.measurement.landmarks),
            "value": one.value if math.isfinite(one.value) else None,
            "standard_deviation": one.standard_deviation if math.isfinite(one.standard_deviation) else None,
            "unit": one.measurement.unit,
        }
        for one in values
    ]


@app.command()
def info(
    device: Annotated[Device, typer.Option(help="What computes the network.")] = Device.AUTO,
    weights: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="Other weights than the bundled ones.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Show versions, the device, and the weights with their landmarks."""
    packages = ("palnet-landmarks", "numpy", "scipy", "vtk", "torch")
    facts: dict[str, Any] = {
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "packages": {package: _version(package) for package in packages},
    }
    try:
        detector = load_detector(weights, device.value, Surface.TRIANGLE.value)
    except (LandmarkingError, FileNotFoundError) as error:
        _fail(str(error), as_json, facts)
    facts["device"] = detector.device
    facts["weights"] = {"version": detector.weights_version, "sha256": detector.weights_sha256}
    facts["landmarks"] = list(detector.labels)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    rows = [("Python", facts["python"])]
    rows += [(package, version or "not installed") for package, version in facts["packages"].items()]
    rows += [
        ("device", facts["device"]),
        ("weights", facts["weights"]["version"]),
        ("SHA-256", facts["weights"]["sha256"]),
        ("landmarks", f"{len(facts['landmarks'])}: {' '.join(facts['landmarks'])}"),
    ]
    for name, value in rows:
        typer.echo(f"{name:<17} {value}")


def _version(package: str) -> Optional[str]:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fail(message: str, as_json: bool, facts: Optional[dict[str, Any]] = None) -> NoReturn:
    """End before any file was looked at."""
    if as_json:
        typer.echo(json.dumps({**(facts or {}), "error": message}, indent=1, ensure_ascii=False))
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(EXIT_USAGE)


def _list_failures(reasons: dict[str, str], total: int, what: str) -> None:
    """Say once more, after many results, which of them failed."""
    if reasons and total > 1:
        typer.echo(f"{len(reasons)} of {total} {what} failed:", err=True)
        for name, reason in reasons.items():
            typer.echo(f"  {name}: {reason}", err=True)


def _output_folder(scan: Path, output: Optional[Path]) -> Path:
    return scan.parent if output is None else output


def _given_twice(files: Sequence[Path]) -> str:
    """One sentence if a file is given twice, else nothing."""
    seen = set()
    for file in files:
        place = os.path.abspath(file)  # noqa: PTH100
        if place in seen:
            return f"'{file}' is given twice; name each file once."
        seen.add(place)
    return ""


def _name_clash(scans: Sequence[Path], output: Optional[Path]) -> str:
    """One sentence if two scans would write the same files, else nothing."""
    twice = _given_twice(scans)
    if twice:
        return twice
    taken: dict[tuple[str, str], Path] = {}
    for scan in scans:
        # Many file systems do not tell upper from lower case.
        key = (os.path.abspath(_output_folder(scan, output)), scan.stem.casefold())  # noqa: PTH100
        other = taken.setdefault(key, scan)
        if other is scan:
            continue
        remedy = "rename one of them, or run them separately with different -o folders"
        if other.parent != scan.parent:
            remedy += ", or leave out -o to write beside each scan"
        return f"'{other}' and '{scan}' would both write '{scan.stem}.mrk.json' in '{key[0]}'; {remedy}."
    return ""


def _check_writable(folder: Optional[Path]) -> None:
    """Refuse an output folder that cannot be made or written, before any work is done."""
    if folder is None:
        return
    existing = Path(os.path.abspath(folder))  # noqa: PTH100
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(
            f"The output folder '{folder}' cannot be made because '{existing}' is a file; choose another."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"The output folder '{folder}' cannot be written; choose another or ask for the right to it.")


@contextmanager
def _progress(count: int) -> Iterator[Any]:
    """A progress bar on standard error where that is a terminal; yields what to call at the start of each scan."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda name: None
        return
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Text printed meanwhile appears above the bar; but not where standard output goes to a file or another program.
    to_terminal = sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=to_terminal) as bar:
        task = bar.add_task("", total=count)
        begun = 0

        def advance(name: str) -> None:
            nonlocal begun
            bar.update(task, completed=begun, description=escape(name))
            begun += 1

        yield advance


def _detect_one(
    detector: "LandmarkDetector",
    scan: Path,
    output: Optional[Path],
    unit: Optional[str],
    suffixes: Sequence[str],
    overwrite: bool,
) -> _Result:
    """Read, detect and write one scan; whatever goes wrong becomes a sentence."""
    from .read_scan import read_scan
    from .write_results import write_results

    try:
        start = time.perf_counter()
        mesh = read_scan(scan)
        read = time.perf_counter()
        detection = detector.detect(mesh, unit=unit)
        detected = time.perf_counter()
        files = write_results(scan.stem, _output_folder(scan, output), suffixes, mesh, detection, overwrite)
        written = time.perf_counter()
    except LandmarkingError as error:
        return _Result(scan, error=str(error))
    except MemoryError:
        return _Result(scan, error=f"'{scan}' does not fit into memory; reduce the number of its triangles.")
    except Exception as error:  # one scan's failure, whatever it is, must not stop the others
        return _Result(scan, error=f"'{scan}' failed ({type(error).__name__}: {error}); please report this as a bug.")
    # The detector was given a mesh, so only this function knows how long reading took.
    seconds = {"read": 0.0, **detection.seconds, "write": written - detected}
    seconds["read"] += read - start
    return _Result(scan, detection, files, tuple(seconds.items()))


def _missing(detection: "Detection") -> list[str]:
    return [label for label, gone in zip(detection.labels, detection.missing) if gone]


def _uncertain(detection: "Detection") -> list[str]:
    from .certainty import UNCERTAIN_ABOVE_MM

    rows = zip(detection.labels, detection.standard_deviation_mm, detection.missing)
    return [label for label, deviation, gone in rows if deviation > UNCERTAIN_ABOVE_MM and not gone]


def _uncertainty(detection: "Detection") -> str:
    """Which landmarks are uncertain, or that these weights do not say."""
    from .certainty import UNCERTAIN_ABOVE_MM

    if all(math.isnan(deviation) for deviation in detection.standard_deviation_mm):
        return "unknown: these weights state no standard deviations"
    uncertain = _uncertain(detection)
    return f"{len(uncertain)} above {UNCERTAIN_ABOVE_MM:g} mm" + "".join(f" {label}" for label in uncertain)


def _show(result: _Result) -> None:
    """A few lines on one scan for people."""
    detection = result.detection
    assert detection is not None
    missing = _missing(detection)
    placed = len(detection.labels) - len(missing)
    total = sum(value for _, value in result.seconds)
    lines = [
        f"{result.scan}: {placed} of {len(detection.labels)} landmarks placed",
        f"  unit       {detection.unit} ({detection.unit_source})",
        f"  fitness    {detection.fitness:.3f}",
        f"  seconds    {total:.2f} ({', '.join(f'{name} {value:.2f}' for name, value in result.seconds)})",
        f"  missing    {', '.join(missing) or 'none'}",
        f"  uncertain  {_uncertainty(detection)}",
        *(f"  warning    {warning}" for warning in detection.warnings),
        *(f"  {_FILE_KINDS[path.suffix]:<10} {path}" for path in result.files),
    ]
    typer.echo("\n".join(lines))


def _document(results: Sequence[_Result]) -> dict[str, Any]:
    return {
        "version": _version("palnet-landmarks"),
        "scans": [_entry(result) for result in results],
        "failed": [str(result.scan) for result in results if result.error],
    }


def _entry(result: _Result) -> dict[str, Any]:
    detection = result.detection
    if detection is None:
        return {"scan": str(result.scan), "error": result.error}
    from .align import UNITS
    from .measurements import measure as take

    rows = list(zip(detection.labels, detection.points, detection.standard_deviation_mm, detection.missing))
    there = {label: point * UNITS[detection.unit] for label, point, _, gone in rows if not gone}
    return {
        "scan": str(result.scan),
        "files": [str(path) for path in result.files],
        "unit": detection.unit,
        "unit_source": detection.unit_source,
        "coordinate_system": detection.coordinate_system,
        "fitness": float(detection.fitness),
        "face_scale": float(detection.face_scale),
        "rigid_transform": [[float(value) for value in row] for row in detection.rigid_transform],
        "landmarks": [
            {
                "label": label,
                "position": None if gone else [float(value) for value in point],
                "standard_deviation_mm": float(deviation) if math.isfinite(deviation) else None,
            }
            for label, point, deviation, gone in rows
        ],
        "measurements": _measured(take(there, dict(zip(detection.labels, detection.standard_deviation_mm)))),
        "missing": _missing(detection),
        "uncertain": _uncertain(detection),
        "seconds": {name: round(float(value), 4) for name, value in result.seconds},
        "weights": {"version": detection.weights_version, "sha256": detection.weights_sha256},
        "device": detection.device,
        "warnings": list(detection.warnings),
    }


if __name__ == "__main__":
    main()
