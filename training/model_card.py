"""What a trained network is and how well it does: measures, and the model card that goes with its weights."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: Its name in the folder of a run, for programs; ``.md`` is for people.
MODEL_CARD = "model-card.json"


def measure(predicted: NDArray[np.float64], truth: NDArray[np.float64], labels: tuple[str, ...]) -> dict[str, Any]:
    """Errors as the paper reports them, in millimetres.

    Parameters
    ----------
    predicted, truth : (subjects, L, 3) mm; NaN in the truth where a landmark is undefined.

    Returns
    -------
    ``point_wise_mm``: mean distance over all defined landmarks, with ``median_mm`` and ``point_wise_sd_mm``.
    ``distance_wise_mm``: mean absolute error of the distances between the landmarks of a subject.
    ``landmarks``: for each label mean, standard deviation (``None`` where never defined) and number of subjects.
    """
    errors = np.linalg.norm(predicted - truth, axis=2)
    pairs = np.array(list(combinations(range(len(labels)), 2)), dtype=int).reshape(-1, 2)
    lengths = [np.linalg.norm(points[:, pairs[:, 0]] - points[:, pairs[:, 1]], axis=2) for points in (predicted, truth)]
    distances = np.abs(lengths[0] - lengths[1])
    per_landmark = {}
    for label, column in zip(labels, errors.T):
        known = column[np.isfinite(column)]
        per_landmark[label] = {
            "mean_mm": _rounded(known.mean()) if len(known) else None,
            "sd_mm": _rounded(known.std(ddof=1)) if len(known) > 1 else None,
            "subjects": len(known),
        }
    known = errors[np.isfinite(errors)]
    distances = distances[np.isfinite(distances)]
    return {
        "subjects": len(errors),
        "point_wise_mm": _rounded(known.mean()) if len(known) else None,
        "point_wise_sd_mm": _rounded(known.std(ddof=1)) if len(known) > 1 else None,
        "median_mm": _rounded(np.median(known)) if len(known) else None,
        "distance_wise_mm": _rounded(distances.mean()) if len(distances) else None,
        "landmarks": per_landmark,
    }


def software() -> dict[str, str]:
    """Versions that the result may depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def write_model_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write ``model-card.json`` and ``model-card.md`` into ``folder``.

    ``facts``: ``name``, ``architecture``, ``parameters``, ``weights`` (file, sha256, dtype, bytes), ``data`` (folders,
    subjects per split, blends, left_out), ``labels``, ``config``, ``seed``, ``commit``, ``device``, ``processes``,
    ``epochs``, ``best`` (the validation measures of the best epoch), ``test`` (from :func:`measure`, or ``None``) and,
    where there is one, ``calibration`` (see ``training.calibrate``), ``averaged_with`` and ``about``, paragraphs by
    heading (see ``training.export``).
    """
    card = {**facts, "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
    card["software"] = software()
    (folder / MODEL_CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")
    (folder / MODEL_CARD).with_suffix(".md").write_text(_markdown(card), encoding="utf-8")


def _markdown(card: Mapping[str, Any]) -> str:
    data, weights, test, best = card["data"], card["weights"], card["test"], card["best"]
    lines = [
        f"# Model card: {card['name']}",
        "",
        f"{card['architecture']}, {card['parameters']:,} parameters, {len(card['labels'])} landmarks.",
        "For research use; not a medical device.",
        "",
    ]
    for heading, paragraph in card.get("about", {}).items():
        lines += [f"## {heading}", "", paragraph, ""]
    lines += [
        "## Weights",
        "",
        "| | |",
        "|---|---|",
        f"| Weights | `{weights['file']}`, {weights['bytes'] / 1e6:.1f} MB, {weights['dtype']} |",
        f"| SHA-256 | `{weights['sha256']}` |",
        f"| Date | {card['date']} |",
        f"| Commit | {card['commit']} |",
        f"| Seed | {card['seed']} |",
        f"| Started from | {card.get('started_from', 'random weights')} |",
        f"| Device | {card['device']}, {card['processes']} process(es) |",
        f"| Software | {', '.join(f'{name} {version}' for name, version in card['software'].items())} |",
        "",
        "## Data",
        "",
        "| split | from | subjects |",
        "|---|---|---|",
        *(f"| {name} | `{split['folder']}` | {split['subjects']} |" for name, split in data["splits"].items()),
        "",
    ]
    if data.get("blends"):
        lines += [
            f"Besides, {data['blends']} subjects blended of those of the training split, see `training/blend.py`.",
            "",
        ]
    if data["left_out"]:
        lines += [f"Left out ({len(data['left_out'])}):", ""]
        lines += [f"- {name}: {reason}" for name, reason in data["left_out"].items()]
        lines.append("")
    lines += [
        "## Results",
        "",
        f"Best of {card['epochs']} epochs on the validation split (which chose it): epoch {best['epoch']}, "
        f"{best['error_mm']:.3f} mm."
        if card["epochs"]
        else f"Not trained: what it began with has {best['error_mm']:.3f} mm on the validation split.",
        "",
    ]
    start = card.get("start") or {}
    if start.get("moved_mm") is not None:
        moved = ", ".join(f"{label} {far:.1f}" for label, far in start["moved_mm"].items())
        lines += [
            f"Landmarks that the training scans have elsewhere than the start, moved before training (mm): {moved}."
            if moved
            else "The training scans have no landmark elsewhere than the start, as far as can be told from chance."
        ]
        lines.append("")
    if start.get("untaught"):
        lines += [
            f"On no training scan, kept as the start has them and tested nowhere: {', '.join(start['untaught'])}."
        ]
        lines.append("")
    if "averaged_with" in card:
        told = card["averaged_with"]
        lines += [
            f"The weights are the mean of that epoch's ({100 * told['share_of_the_run']:.0f} %) and of those with the "
            f"SHA-256 `{told['sha256']}`.",
            "",
        ]
    if "calibration" in card:
        told = card["calibration"]
        before = ", ".join(f"{name} {100 * share:.1f} %" for name, share in told["held_before"].items())
        lines += [
            "Standard deviations scaled for each landmark so that the 95 % regions hold "
            f"{100 * told['wanted']:.0f} % of the true positions on {told['captures']} clinic-like captures of "
            f"validation identities, by the whole detector (before: {before}).",
            "",
        ]
    if test is None:
        lines += ["No test split; `training.benchmark` tests weights for the bundled landmarks.", ""]
    else:
        lines += [
            f"Test split ({test['subjects']} subjects, used for no choice), network output before it is put on the "
            "surface, weights as stored:",
            "",
            f"- mean point-wise error {_text(test['point_wise_mm'])} mm (SD {_text(test['point_wise_sd_mm'])}, "
            f"median {_text(test['median_mm'])})",
            f"- mean distance-wise error {_text(test['distance_wise_mm'])} mm",
            "",
            "| landmark | mean (mm) | SD (mm) | subjects |",
            "|---|---|---|---|",
            *(
                f"| {label} | {_text(row['mean_mm'])} | {_text(row['sd_mm'])} | {row['subjects']} |"
                for label, row in test["landmarks"].items()
            ),
            "",
        ]
    settings = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in card["config"].items())
    lines += ["## Configuration", "", "```json", "{", settings, "}", "```", ""]
    return "\n".join(lines)


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def _text(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"
