"""Where a training starts from that goes on with weights: the landmarks that they know, put where this laboratory
puts them.

Laboratories differ in where they see a landmark by more than a good network errs, and from some ten subjects that
difference is known much better than training can learn it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.detector import MISSING_BEYOND_MM
from PALNetLandmarksLib.height_map_net import OFFSET_UNIT_MM
from PALNetLandmarksLib.height_map_net_torch import HeightMapNetTorch
from PALNetLandmarksLib.known_points import known_points
from PALNetLandmarksLib.scheme import LandmarkScheme, load_scheme
from PALNetLandmarksLib.weights import load_weights
from scipy.spatial import cKDTree
from scipy.stats import f as variance_ratio

from .folder import TrainingDataError
from .height_map_task import HeightMapTask
from .palnet_task import PALNetTask
from .prepared import STEP_MM, load_prepared, save_prepared
from .training_scheme import meant_by

Arrays = dict[str, NDArray[np.float32]]

#: In the folder of a run: what it began with.
_START = "start.json"

#: Share of the landmarks without a habit that chance may give one.
_CHANCE = 0.05

#: Fewer subjects do not tell a habit from chance, more need not be asked.
LEAST_SUBJECTS, _MOST_SUBJECTS = 3, 200

#: How often is measured how far a shift carries, and between what parts of itself that is believed to be.
_ROUNDS, _GAINS = 3, (0.5, 4.0)


@dataclass(frozen=True)
class Start:
    """What a training began with. ``moved_mm`` (mm of the reference face) by label: how far a landmark was moved to
    where the training scans have it, ``None`` where that cannot be told; ``untaught``: landmarks that no training
    scan has."""

    moved_mm: dict[str, float] | None
    untaught: tuple[str, ...]

    def save(self, run: Path) -> None:
        """Keep it in the folder of a run that may go on."""
        (run / _START).write_text(json.dumps(vars(self), indent=1), encoding="utf-8")

    @staticmethod
    def load(run: Path) -> Start:
        """What ``save`` kept; that nothing can be told where it kept nothing.

        Raises
        ------
        TrainingDataError
            If the file is damaged.
        """
        note = run / _START
        if not note.exists():
            return Start(None, ())
        try:
            document = json.loads(note.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingDataError(f"'{note}' cannot be read as JSON ({error}); begin the run anew.") from error
        return Start(document["moved_mm"], tuple(document["untaught"]))


def check_network(path: Path, network: str) -> None:
    """Refuse weights of another network than the run's, before any scan is looked at.

    Raises
    ------
    TrainingDataError
        With the remedy.
    """
    theirs = load_weights(path).metadata.get("architecture", "unknown")
    if theirs != network:
        raise TrainingDataError(
            f"'{path}' are for the network '{theirs}' and not for '{network}'; choose that network (training.train: "
            f"--config training/configs/{theirs}.json, training.cross_validate: --methods {theirs}) or leave out "
            "--finetune."
        )


def initial_weights(path: Path, task: Union[PALNetTask, HeightMapTask]) -> Arrays:
    """Weights to go on from; refused where they are for other landmarks or a network of other settings.

    Raises
    ------
    TrainingDataError
        If they do not fit ``task``.
    """
    file = load_weights(path)
    metadata: dict[str, Any] = task.metadata()
    for key, what in (("labels", "other landmarks"), ("config", "other settings")):
        own, theirs = json.loads(json.dumps(metadata[key])), json.loads(file.metadata.get(key, "null"))
        if isinstance(own, dict) and isinstance(theirs, dict):
            # A part that weights were written too early to name is one that they do not have.
            own = {name: value for name, value in own.items() if value or name in theirs}
        if own != theirs:
            raise TrainingDataError(
                f"'{path}' has {what} than this run, so it cannot be the start of it; leave out --finetune."
            )
    return {name: array.astype(np.float32) for name, array in file.arrays.items()}


def scheme_to_finetune(path: Path, named: Collection[str], warn: Callable[[str], None]) -> LandmarkScheme | None:
    """All landmarks of height-map weights for the bundled scheme, for files that name ``named``; says where the two
    differ.

    ``None`` if the weights are for other landmarks or of another architecture.

    Raises
    ------
    TrainingDataError
        If the files name none of them.
    """
    scheme, weights = load_scheme(), load_weights(path)
    if weights.metadata.get("architecture") != "height-map-net" or tuple(weights.fact("labels")) != scheme.labels:
        return None
    lacking = [label for label in scheme.labels if label not in named]
    others = [label for label in named if label not in scheme.labels]
    if len(lacking) == len(scheme):
        raise TrainingDataError(
            f"The landmark files have none of the landmarks of '{path}' (N, Prn, Sn, Ex_R, ...); call them so or leave "
            "out --finetune."
        )
    if others:
        meant = ((label, meant_by(label, scheme.labels)) for label in others)
        said = [f"{label} ('{alike}' may be meant)" if alike else label for label, alike in meant]
        warn(f"Left out, as '{path.name}' does not know them: {', '.join(said)}.")
    if lacking:
        warn(f"No landmark file has {', '.join(lacking)}; they stay as '{path.name}' has them.")
    return scheme


def habits(residuals: NDArray[np.float64], kinds: Sequence[int]) -> NDArray[np.float64]:
    """How far from where a network puts them a laboratory puts its landmarks: (kinds, 3) mm.

    The mean over subjects, as far as it exceeds what chance makes of it (a positive-part James-Stein estimate), so that
    what is as the network has it stays there.

    Parameters
    ----------
    residuals : (n, L, 3) annotated minus predicted, in the landmarks' frames (mirrored on the two sides), NaN where
        unknown.
    kinds : of each landmark; the two sides of a kind share one habit.
    """
    found = np.zeros((max(kinds) + 1, 3))
    for kind in range(len(found)):
        own, known = _of_kind(residuals, kinds, kind)
        there = known.any(axis=1)  # both sides of one face are not two subjects
        if there.sum() < LEAST_SUBJECTS:
            continue
        each = np.where(known[..., None], own, 0).sum(axis=1)[there] / known.sum(axis=1)[there, None]
        mean = each.mean(axis=0)
        error = each.var(axis=0, ddof=1).sum() / len(each)
        limit = variance_ratio.ppf(1 - _CHANCE, 3, 3 * (len(each) - 1))
        found[kind] = max(0.0, 1 - limit * error / max(mean @ mean, 1e-12)) * mean
    return found


def _of_kind(
    off: NDArray[np.float64], kinds: Sequence[int], kind: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Those of the vectors (n, L, 3) that are of one kind (n, sides, 3), and which of them are known (n, sides)."""
    own = off[:, [i for i, other in enumerate(kinds) if other == kind]]
    return own, known_points(own)


def shift_that_carries(
    moved: NDArray[np.float64], carried: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """By what to shift a network's outputs (kinds, 3), so that landmarks end ``moved`` (kinds, 3) from where they were.

    Every pass adds the shift anew where the last one put the landmark, and the network pulls back what it sees: it
    carries less far than asked for, or farther, 1.7 times at the gonion's smooth skin. ``carried`` measures how far.
    """
    shift = moved
    for _ in range(_ROUNDS if moved.any() else 0):
        there = carried(shift)
        length = np.maximum((shift * shift).sum(axis=1, keepdims=True), 1e-12)
        gain = np.clip((there * shift).sum(axis=1, keepdims=True) / length, *_GAINS)
        shift = np.where(moved.any(axis=1, keepdims=True), shift + (moved - there) / gain, 0.0)
    return shift


def start_from(
    arrays: Arrays, task: HeightMapTask, files: Sequence[Path], taught: NDArray[np.bool_], passes: int
) -> tuple[Arrays, Start]:
    """``arrays`` with the habits of the prepared training scans ``files``, and what was changed.

    Fewer than ``LEAST_SUBJECTS`` scans tell of no habit. Landmarks that are not ``taught`` (L,), as no annotation of
    the scans has them, get, in the files, the places that the network gives them: training learns these along, so that
    they stay. ``passes`` as at detection.
    """
    network = task.build()
    network.load_arrays(arrays)
    network.eval()
    labels, kinds = task.scheme.labels, task.config.kinds
    asked = files[:: max(1, len(files) // _MOST_SUBJECTS)]
    # The files may hold places of the network's own already.
    before = np.where(taught[:, None], _residuals(network, task, asked, passes), np.nan)
    moved = habits(before, kinds)

    def carried(shift: NDArray[np.float64]) -> NDArray[np.float64]:
        network.load_arrays(_shifted(arrays, shift))
        return _mean_of_kinds(before - _residuals(network, task, asked, passes), kinds)

    start = _shifted(arrays, shift_that_carries(moved, carried))
    network.load_arrays(start)
    distance = np.linalg.norm(moved, axis=1)[list(kinds)]
    moved_mm = {label: round(float(far), 2) for label, far in zip(labels, distance) if far >= 0.05}
    if not taught.all():
        for file in files:
            _keep(network, task, file, ~taught)
    told = len(files) >= LEAST_SUBJECTS
    return start, Start(moved_mm if told else None, tuple(np.array(labels)[~taught].tolist()))


def _shifted(arrays: Arrays, shift: NDArray[np.float64]) -> Arrays:
    """The network with outputs shifted by (kinds, 3) mm of the reference face in the landmarks' frames."""
    bias = arrays["head.bias"].copy()
    bias[:, :3] += shift / OFFSET_UNIT_MM
    return {**arrays, "head.bias": bias}


def _mean_of_kinds(off: NDArray[np.float64], kinds: Sequence[int]) -> NDArray[np.float64]:
    """Mean (kinds, 3) over subjects and sides of vectors (n, L, 3) in the landmarks' frames; 0 where none is known."""
    means = np.zeros((max(kinds) + 1, 3))
    for kind in range(len(means)):
        own, known = _of_kind(off, kinds, kind)
        if known.any():
            means[kind] = own[known].mean(axis=0)
    return means


def _residuals(
    network: HeightMapNetTorch, task: HeightMapTask, files: Sequence[Path], passes: int
) -> NDArray[np.float64]:
    """Annotated minus predicted (n, L, 3), in the landmarks' frames and mm of the reference face."""
    predicted, truth, _ = task.predict(network, files, passes)
    size = np.array([load_prepared(file).size for file in files])
    off: NDArray[np.float64] = np.einsum("lij,nlj->nli", task.frames, (truth - predicted) / size[:, None, None])
    return off


def _keep(network: HeightMapNetTorch, task: HeightMapTask, file: Path, untaught: NDArray[np.bool_]) -> None:
    """Write the network's own places of the landmarks ``untaught`` (L,) into a prepared scan."""
    scan = load_prepared(file)
    predicted = task.predict(network, [file])[0][0] / scan.size
    distance, _ = cKDTree(scan.points * STEP_MM).query(predicted)
    landmarks = np.where(untaught[:, None], predicted, scan.landmarks).astype(np.float32)
    visible = np.where(untaught, distance * scan.size <= MISSING_BEYOND_MM, scan.visible)
    save_prepared(file, replace(scan, landmarks=landmarks, visible=visible))
