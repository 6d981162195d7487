"""The files that a detection leaves: landmarks, table and picture, all of them or none."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .detection import Detection
from .errors import OutputError
from .landmark_files import holds_landmarks, write_landmarks
from .landmark_set import LandmarkSet
from .mesh import TriangleMesh
from .picture import is_own_picture, render_detection
from .scheme import load_scheme


def write_results(
    stem: str, folder: Path, suffixes: Sequence[str], mesh: TriangleMesh, detection: Detection, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write all files or none: they are made in a hidden folder beside their place and moved when complete.

    Landmarks that stand there already may have been corrected by hand: unless they are the same, or ``overwrite`` says
    so, they are not replaced. Pictures of other programs never are: they may be the scan's texture.

    Parameters
    ----------
    stem, folder : name of the files and where they go; the folder is made if it is missing.
    suffixes : some of ``.mrk.json``, ``.fcsv``, ``.csv`` and ``.png`` (which needs Pillow).
    mesh : the scan as given to the detector.

    Returns
    -------
    The files, in the order of ``suffixes``.

    Raises
    ------
    OutputError
        If something stands there that must not be replaced, or the files cannot be written; nothing has changed then.
    """
    landmarks = _landmark_set(detection)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".palnet-", dir=folder) as temporary:
            made = [Path(temporary) / f"{stem}{suffix}" for suffix in suffixes]
            for path in made:
                if path.suffix == ".png":
                    render_detection(mesh, detection, path)
                else:
                    write_landmarks(path, landmarks)
            targets = [folder / path.name for path in made]
            occupied = next((target for target in targets if target.is_dir()), None)
            if occupied is not None:
                raise OutputError(
                    f"'{occupied}' cannot be written because it is a folder; move it or choose another -o."
                )
            for path, target in zip(made, targets):
                if not target.exists():
                    continue
                if path.suffix == ".png":
                    if not is_own_picture(target):
                        raise OutputError(
                            f"'{target}' exists already and is another program's, perhaps the scan's texture; move it, "
                            "choose another folder with -o, or add --no-picture."
                        )
                elif target.read_bytes() == path.read_bytes():
                    continue
                elif not holds_landmarks(target):
                    raise OutputError(
                        f"'{target}' exists already and holds no landmarks that can be read; move it or choose another "
                        "folder with -o."
                    )
                elif not overwrite:
                    raise OutputError(
                        f"'{target}' exists already and holds other landmarks, perhaps corrected ones; move it, choose "
                        "another folder with -o, or add --overwrite to replace it."
                    )
            _move_together(made, targets, Path(temporary))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"The results for '{detection.scan_name}' cannot be written to '{folder}' ({reason}); "
            "choose another folder with -o or free some space."
        ) from error
    return tuple(targets)


def _move_together(made: Sequence[Path], targets: Sequence[Path], temporary: Path) -> None:
    """Put files in their places, all of them or none; what was there before goes only when all stand."""
    done: list[tuple[Path, Path | None]] = []
    try:
        for path, target in zip(made, targets):
            before = temporary / f"before-{target.name}" if target.exists() else None
            done.append((target, before))
            if before is not None:
                target.replace(before)
            path.replace(target)
    except BaseException:  # an interruption, too, must leave what was there
        for target, before in done:
            if before is None:
                target.unlink(missing_ok=True)
            elif before.exists():
                before.replace(target)
        raise


def _landmark_set(detection: Detection) -> LandmarkSet:
    names = {landmark.label: landmark.name for landmark in load_scheme().landmarks}
    return LandmarkSet(
        labels=detection.labels,
        points=np.where(detection.missing[:, None], np.nan, detection.points),
        coordinate_system=detection.coordinate_system,
        names=tuple(names.get(label, "") for label in detection.labels),
        standard_deviation_mm=detection.standard_deviation_mm,
        unit=detection.unit,
    )
