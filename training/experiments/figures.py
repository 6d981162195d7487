"""The paper's figures, from predictions on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PALNetLandmarksLib.align import align_to_reference, to_canonical
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import load_reference

from ..folder import find_subjects
from .tables import Results, distance_errors

REGIONS = ("midline", "right", "left")
#: Points of a Bland-Altman picture; more would hide one another.
MOST_POINTS = 6000


def figure_4(results: Mapping[str, Results], path: Path) -> None:
    """Mean error of every inter-landmark distance, one matrix for each method."""
    figure = Figure(figsize=(5.2 * len(results), 5.2), layout="constrained")
    matrices = []
    for result in results.values():
        error = distance_errors(result.stack("points"), result.stack("truth"))
        with np.errstate(invalid="ignore"):
            known = np.isfinite(error)
            matrices.append(np.where(known, error, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
    highest = max(float(np.quantile(matrix, 0.98)) for matrix in matrices)
    for i, (result, matrix) in enumerate(zip(results.values(), matrices)):
        axes = figure.add_subplot(1, len(results), i + 1)
        image = axes.imshow(matrix, vmin=0, vmax=highest, cmap="viridis")
        axes.set_title(result.title, fontsize=10)
        ticks = range(len(result.labels))
        axes.set_xticks(ticks, result.labels, rotation=90, fontsize=5)
        axes.set_yticks(ticks, result.labels, fontsize=5)
    figure.colorbar(image, ax=figure.axes, label="mean error of the distance, mm", shrink=0.8)
    _save(figure, path)


def figure_5(results: Mapping[str, Results], sides: Mapping[str, str], path: Path) -> None:
    """Bland-Altman: error of inter-landmark distances against the distance, within midline, right and left.

    ``sides``: one of ``REGIONS`` for each label.
    """
    figure = Figure(figsize=(12, 3.6 * len(results)), layout="constrained")
    for row, result in enumerate(results.values()):
        points, truth = result.stack("points"), result.stack("truth")
        for column, region in enumerate(REGIONS):
            chosen = [i for i, label in enumerate(result.labels) if sides.get(label) == region]
            axes = figure.add_subplot(len(results), 3, 3 * row + column + 1)
            if len(chosen) > 1:
                first, second = np.array(chosen)[np.array(np.triu_indices(len(chosen), 1))]
                found = np.linalg.norm(points[:, first] - points[:, second], axis=2).ravel()
                known = np.linalg.norm(truth[:, first] - truth[:, second], axis=2).ravel()
                there = np.isfinite(found) & np.isfinite(known)
                mean, off = (found + known)[there] / 2, (found - known)[there]
                some = np.random.default_rng(0).permutation(len(off))[:MOST_POINTS]
                axes.plot(mean[some], off[some], ".", markersize=1.5, alpha=0.35)
                limits = off.mean() + 1.96 * off.std() * np.array([-1, 0, 1])
                for height, style in zip(limits, ("--", "-", "--")):
                    axes.axhline(height, color="black", linestyle=style, linewidth=0.8)
                text = f"bias {limits[1]:.2f} mm, limits {limits[0]:.2f} to {limits[2]:.2f} mm"
                axes.text(0.02, 0.95, text, transform=axes.transAxes, fontsize=8, va="top")
                axes.set_ylim(-12, 12)
            axes.set_title(f"{result.title}: {region}", fontsize=9)
            axes.set_xlabel("mean of predicted and true distance, mm", fontsize=8)
            axes.set_ylabel("predicted minus true, mm", fontsize=8)
    _save(figure, path)


def figure_6(results: Mapping[str, Results], path: Path) -> None:
    """Mean error of each landmark, one bar for each method."""
    first = next(iter(results.values()))
    figure = Figure(figsize=(max(8.0, 0.28 * len(first.labels)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(results)
    for i, result in enumerate(results.values()):
        places = np.arange(len(result.labels)) + (i - (len(results) - 1) / 2) * width
        axes.bar(places, np.nanmean(result.errors(), axis=0), width, label=result.title)
    axes.set_xticks(range(len(first.labels)), first.labels, rotation=90, fontsize=7)
    axes.set_ylabel("mean error, mm")
    axes.set_xlim(-0.6, len(first.labels) - 0.4)
    axes.legend(fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    _save(figure, path)


def figure_7(results: Mapping[str, Results], scans: Path, unit: str | None, path: Path) -> None:
    """Prediction and truth on the face of the subject whose error is the median one, for each method.

    ``unit`` of the scans, ``None`` where it is to be found out.
    """
    first = next(iter(results.values()))
    names = [name for fold in first.predictions for name in fold.names]
    error = next(reversed(results.values())).errors()
    done = np.flatnonzero(np.isfinite(error).any(axis=1))  # without those refused
    means = np.nanmean(error[done], axis=1)
    subject = int(done[np.argsort(means)[len(done) // 2]])
    mesh = read_scan(next(one.scan for one in find_subjects(scans)[0] if one.name == names[subject]))
    found = align_to_reference(mesh, load_reference(), unit)
    rotation, shift = found.transform[:3, :3], found.transform[:3, 3]
    skin = to_canonical(mesh.points, found.transform, found.mm_per_unit)
    normals = mesh.vertex_normals @ rotation.T
    triangles = mesh.triangles[(normals[mesh.triangles, 1] < 0.2).all(axis=1)]
    triangles = triangles[np.argsort(-skin[triangles, 1].mean(axis=1))]  # what lies behind is drawn first
    shade = np.clip(0.25 - 0.75 * normals @ (0.3, 0.9, -0.3), 0, 1)
    figure = Figure(figsize=(4 * len(results), 4.8), layout="constrained")
    for i, result in enumerate(results.values()):
        axes = figure.add_subplot(1, len(results), i + 1)
        axes.tripcolor(*skin[:, [0, 2]].T, triangles, shade, shading="gouraud", cmap="gray", vmin=0, vmax=1.2)
        own = [name for fold in result.predictions for name in fold.names].index(names[subject])
        for points, colour, label in (
            (result.stack("truth")[own], "#1b9e3c", "truth"),
            (result.stack("points")[own], "#d62728", "predicted"),
        ):
            placed = points @ rotation.T + shift
            axes.plot(placed[:, 0], placed[:, 2], "o", markersize=3, color=colour, label=label, alpha=0.85)
        mean = np.nanmean(result.errors()[own])
        axes.set_title(f"{result.title}: {mean:.2f} mm", fontsize=10)
        axes.set(aspect="equal", xlim=(-110, 110), ylim=(-130, 130))
        axes.set_axis_off()
    figure.axes[0].legend(fontsize=8, loc="lower left")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(str(path))
