"""Landmark files: what the detector writes and 3D Slicer loads, and what the trainer learns from."""

from __future__ import annotations

import codecs
import contextlib
import csv
from pathlib import Path
from typing import Union

from .atomic_file import write_atomically
from .errors import UnreadableLandmarksError
from .landmark_formats.fcsv import read_fcsv, write_fcsv
from .landmark_formats.lafas import read_lafas, write_lafas
from .landmark_formats.markups_json import read_markups_json, write_markups_json
from .landmark_formats.table import read_table, write_table
from .landmark_set import LandmarkSet


def write_landmarks(path: Union[str, Path], landmarks: LandmarkSet) -> None:
    """Write landmarks; the suffix says how: ``.mrk.json`` or ``.json``, ``.fcsv`` (both for Slicer), ``.csv``, or
    ``.txt`` as LAFAS has it.

    Slicer shows the points on top of the model whatever the model's unit, as it takes the numbers of both for
    millimetres. Landmarks that are not defined are listed without a position in ``.mrk.json`` and ``.csv`` and left out
    of ``.fcsv`` and ``.txt``, which know no such thing. The file appears whole or not at all.

    Raises
    ------
    OutputError
        If the file cannot be written.
    ValueError
        If the suffix is none of these.
    """
    path = Path(path)
    writers = {".json": write_markups_json, ".fcsv": write_fcsv, ".csv": write_table, ".txt": write_lafas}
    suffix = path.suffix.lower()
    if suffix not in writers:
        raise ValueError(f"'{path.name}' should end in .mrk.json, .fcsv, .csv or .txt")
    write_atomically(path, writers[suffix](landmarks).encode("utf-8"))


def read_landmarks(path: Union[str, Path]) -> LandmarkSet:
    """Read landmarks from Slicer's ``.mrk.json`` (or ``.json``) and ``.fcsv``, from this library's ``.csv`` (also as a
    spreadsheet saves it, with semicolons or tabs and decimal commas), or from LAFAS's tab-separated ``.txt``.

    The points stay in the coordinate system of the file, which the result names; use
    :meth:`LandmarkSet.in_coordinate_system` to bring them into that of the scan. LAFAS files (``name<TAB>(x,y,z)`` on
    every line) and older tables have none; their points are those of the scan's own file, taken as LPS like scans
    without a header.

    Raises
    ------
    UnreadableLandmarksError
        If the file is missing, damaged, of another kind, or holds no points.
    """
    path = Path(path)
    readers = {".json": read_markups_json, ".fcsv": read_fcsv, ".csv": read_table, ".txt": read_lafas}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise UnreadableLandmarksError(
            f"'{path.name}' is no landmark file of a known kind; save the landmarks as .mrk.json, .fcsv, .csv or .txt."
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnreadableLandmarksError(f"'{path}' cannot be read ({reason}); check its name and folder.") from error
    try:
        landmarks = readers[suffix](_decode(data))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, csv.Error) as error:
        detail = str(error) if type(error) is ValueError else "its content is not of this form"
        raise UnreadableLandmarksError(
            f"'{path.name}' is damaged or not a {suffix[1:]} landmark file ({detail}); save the landmarks again."
        ) from error
    if len(landmarks) == 0:
        raise UnreadableLandmarksError(f"'{path.name}' holds no landmarks; place them and save the file again.")
    return landmarks


def holds_landmarks(path: Path) -> bool:
    """Whether ``read_landmarks`` can read the file."""
    try:
        read_landmarks(path)
    except UnreadableLandmarksError:
        return False
    return True


def _decode(data: bytes) -> str:
    """Text with line ends of one kind, in whatever encoding spreadsheets and editors write it."""
    encodings = ("utf-16",) if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ("utf-8-sig", "cp1252")
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    return data.decode("latin-1")
