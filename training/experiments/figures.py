"""The paper's figures, from predictions on disk."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PALNetLandmarksLib.align import DOUBTFUL_FITNESS, align_to_reference, to_canonical
from PALNetLandmarksLib.drawn_surface import DrawnSurface, surface_to_draw
from PALNetLandmarksLib.known_points import known_points
from PALNetLandmarksLib.picture import HIDDEN_BELOW_MM
from PALNetLandmarksLib.rasterise import rasterise
from PALNetLandmarksLib.read_scan import read_scan
from PALNetLandmarksLib.reference import load_reference
from PIL import Image

from ..few_colours import save_with_few_colours
from ..folder import find_subjects
from .tables import Results, distance_errors

REGIONS = ("midline", "right", "left")
#: Points of a Bland-Altman picture; more would hide one another.
MOST_POINTS = 2000
#: Where its axis ends on both sides, mm: the same for all methods, so that they can be compared.
AGREEMENT_MM = 12.0
#: Panels in a row, inches of each: GitHub shows a row 900 pixels wide, where 7 points of type are still legible.
PANELS = 3
PANEL_INCHES = 3.0
#: Names along one side of a panel, at most.
MOST_NAMES = 17
#: Nearly twice what is shown there, for who looks closer.
DOTS_PER_INCH = 180
#: Of the face in figure 7: room around the landmarks, and how finely it is drawn.
MARGIN_MM = 24.0
PIXELS_PER_MM = 4.0
#: The truth is a ring, the prediction a dot: neither covers the other, and the ring's radius is a measure of the error.
RING_MM = 2.0
#: Colours of dot and ring, where both can be seen and where the surface hides one of them.
SEEN, BEHIND = ("#e3120b", "#0047c8"), ("#f2a6a3", "#a3bdf0")
DOT: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 2.6, "markeredgewidth": 0}
RING: dict[str, Any] = {"fillstyle": "none", "linestyle": "", "marker": "o", "markersize": 6, "markeredgewidth": 0.8}


def figure_4(results: Mapping[str, Results], path: Path) -> None:
    """Mean error of every inter-landmark distance, one matrix for each method."""
    matrices = [_mean_distance_errors(result) for result in results.values()]
    known = [one for one in (matrix[np.isfinite(matrix)] for matrix in matrices) if one.size]
    # One bad landmark would leave all others in the dark.
    highest = max((float(np.quantile(one, 0.98)) for one in known), default=1.0)
    figure, panels = _panels(len(results), height=3.1, below=0.8)
    for axes, result, matrix in zip(panels, results.values(), matrices):
        image = axes.imshow(matrix, vmin=0, vmax=highest, cmap="viridis", interpolation="nearest")
        axes.set_title(result.title, fontsize=9)
        every = -(-len(result.labels) // MOST_NAMES)
        ticks, names = range(0, len(result.labels), every), result.labels[::every]
        axes.set_xticks(ticks, names, rotation=90, fontsize=7)
        axes.set_yticks(ticks, names, fontsize=7)
    said = f"colours end at the 98 % quantile, {highest:.1f} mm"
    if known:
        said += f"; the largest is {max(one.max() for one in known):.1f} mm"
    bar = figure.colorbar(image, ax=figure.axes, location="bottom", extend="max", fraction=0.04, aspect=40)
    bar.set_label(f"mean error of the distance, mm\n({said})", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    _save(figure, path)


def figure_5(results: Mapping[str, Results], sides: Mapping[str, str], path: Path) -> None:
    """Bland-Altman: error of inter-landmark distances against the distance, within midline, right and left.

    ``sides``: one of ``REGIONS`` for each label.
    """
    figure, panels = _panels(len(REGIONS) * len(results), height=2.5, compressed=False)
    known_as = _known_as(results)
    for axes, (result, region) in zip(panels, product(results.values(), REGIONS)):
        points, truth = result.stack("points"), result.stack("truth")
        chosen = np.array([i for i, label in enumerate(result.labels) if sides.get(label) == region], dtype=int)
        first, second = chosen[np.array(np.triu_indices(len(chosen), 1))]
        found = np.linalg.norm(points[:, first] - points[:, second], axis=2).ravel()
        known = np.linalg.norm(truth[:, first] - truth[:, second], axis=2).ravel()
        there = np.isfinite(found) & np.isfinite(known)
        if there.any():
            _bland_altman(axes, found[there], known[there])
        axes.set_title(f"{result.title}: {region}", fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in panels[:: len(REGIONS)]:
        axes.set_ylabel(f"predicted minus {known_as}, mm", fontsize=7)
    for axes in panels[-len(REGIONS) :]:
        axes.set_xlabel(f"mean of predicted and {known_as} distance, mm", fontsize=7)
    _save(figure, path)


def _bland_altman(axes: Axes, found: NDArray[np.float64], known: NDArray[np.float64]) -> None:
    """``found`` and ``known`` (n,) distances, mm."""
    mean, off = (found + known) / 2, found - known
    some = np.random.default_rng(0).permutation(len(off))[:MOST_POINTS]
    axes.plot(mean[some], off[some], ".", markersize=2, markeredgewidth=0)
    limits = off.mean() + 1.96 * off.std() * np.array([-1, 0, 1])
    for height, style in zip(limits, ("--", "-", "--")):
        axes.axhline(height, color="black", linestyle=style, linewidth=0.8)
    beyond = int((np.abs(off) > AGREEMENT_MM).sum())
    drawn = f"{len(some):,} of {len(off):,} drawn, at random" if len(some) < len(off) else f"all {len(off):,} drawn"
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
    for height, side, text in (
        (0.97, "top", f"bias {limits[1]:.2f} mm, limits {limits[0]:.2f} to {limits[2]:.2f} mm"),
        (0.03, "bottom", f"{drawn}\nbeyond ±{AGREEMENT_MM:.0f} mm: {beyond:,} ({100 * beyond / len(off):.2f} %)"),
    ):
        axes.text(0.02, height, text, transform=axes.transAxes, fontsize=6.5, va=side, bbox=box)
    axes.set_ylim(-AGREEMENT_MM, AGREEMENT_MM)


def figure_6(results: Mapping[str, Results], path: Path) -> None:
    """Mean error of each landmark, one bar for each method."""
    first = next(iter(results.values()))
    size = (max(PANELS * PANEL_INCHES, 0.13 * len(first.labels)), 3.6)
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(results)
    for i, result in enumerate(results.values()):
        places = np.arange(len(result.labels)) + (i - (len(results) - 1) / 2) * width
        axes.bar(places, np.nanmean(result.errors(), axis=0), width, label=result.title)
    axes.set_xticks(range(len(first.labels)), first.labels, rotation=90, fontsize=7)
    axes.set_ylabel("mean error, mm")
    axes.set_xlim(-0.6, len(first.labels) - 0.4)
    figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    axes.grid(axis="y", alpha=0.3)
    _save(figure, path)


def figure_7(results: Mapping[str, Results], scans: Path, unit: str | None, path: Path) -> None:
    """Prediction and truth on the face of the subject whose error is the median one, for each method.

    ``unit`` of the scans, ``None`` where it is to be found out.
    """
    name = _median_subject(results)
    scan = next((one.scan for one in find_subjects(scans)[0] if one.name == name), None)
    if scan is None:
        raise ValueError(f"'{scans}' has no scan '{name}', which figure 7 shows; give the folder that was tested.")
    mesh = read_scan(scan)
    # As doubtful as a network may take it: its landmarks vouch for the face.
    alignment = align_to_reference(mesh, load_reference(), unit, DOUBTFUL_FITNESS)
    rows = {
        method: [own for fold in result.predictions for own in fold.names].index(name)
        for method, result in results.items()
    }
    found, known = (
        {
            method: to_canonical(result.stack(which)[rows[method]], alignment.transform, 1.0)
            for method, result in results.items()
        }
        for which in ("points", "truth")
    )
    first = next(iter(known.values()))
    box = np.array([np.nanmin(first, axis=0) - MARGIN_MM, np.nanmax(first, axis=0) + MARGIN_MM])
    surface = surface_to_draw(mesh, alignment.transform, alignment.mm_per_unit, box)
    depth, shade = _seen_from_the_front(surface, box)
    (left, _, bottom), (right, _, top) = box
    shape = (top - bottom) / (right - left)
    figure, panels = _panels(len(results), height=PANEL_INCHES * shape + 0.4, below=0.3)
    for axes, (method, result) in zip(panels, results.items()):
        points, truth, error = found[method], known[method], result.errors()[rows[method]]
        axes.imshow(shade, cmap="gray", vmin=0, vmax=1, extent=(left, right, bottom, top))
        points[np.isnan(truth)] = np.nan  # a dot without a ring would seem wrong
        hidden = _hidden(points, depth, box) | _hidden(truth, depth, box)
        for some, (dots, rings) in ((hidden, BEHIND), (~hidden, SEEN)):
            ends = np.stack([points[some], truth[some]])[:, :, [0, 2]]
            axes.plot(*ends.T.swapaxes(1, 2), color=dots, linewidth=0.8)
            axes.plot(*ends[0].T, color=dots, **DOT)
            size = np.full(some.sum(), 2 * RING_MM)
            ring = EllipseCollection(size, size, 0 * size, units="xy", offsets=ends[1], offset_transform=axes.transData)
            ring.set(facecolor="none", edgecolor=rings, linewidth=0.8)
            axes.add_collection(ring)
        count = np.isfinite(error).sum()
        said = f"{count} landmarks: {np.nanmean(error):.2f} mm" if count else "no landmarks placed"
        axes.set_title(f"{result.title}\n{name}, {said}", fontsize=8)
        axes.set(xlim=(left, right), ylim=(bottom, top))
        axes.set_axis_off()
    handles = [
        Line2D([], [], label="predicted", color=SEEN[0], **DOT),
        Line2D([], [], label=f"{_known_as(results)}, ring of {RING_MM:.0f} mm radius", color=SEEN[1], **RING),
        Line2D([], [], label=f"pale: one is > {HIDDEN_BELOW_MM:.0f} mm behind the surface", color=BEHIND[1], **RING),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    _save(figure, path)


def caption(number: int, shown: Mapping[str, Results], results: Mapping[str, Results]) -> str:
    """What figure ``number`` shows, of how many subjects, and which of all ``results`` are not ``shown``."""
    known_as = _known_as(shown)
    what = {
        4: "Mean absolute error of the distance between every two landmarks, named in part, in the order of Table 3; "
        "colours end at the 98 % quantile of the method where it is largest",
        5: "Bland-Altman: error of the distances between landmarks of the midline, of the right and of the left side; "
        "lines at the bias and at the 95 % limits of agreement (bias ± 1.96 SD) of all distances, drawn or not",
        6: "Mean error of each landmark",
        7: f"Landmarks, predicted and {known_as}, seen from the front, with the mean error of each method; "
        "those that the scan's file does not define are not drawn",
    }[number]
    first = next(iter(shown.values()))
    names = [name for fold in first.predictions for name in fold.names]
    folds = len(first.numbers)
    sample = f"{len(names)} subjects of {folds} fold{'s' * (folds > 1)}"
    refused = {name for result in shown.values() for fold in result.predictions for name in fold.refused}
    if refused:
        sample += f", {len(refused)} of them refused by at least one method"
    if number == 7:
        last = list(shown.values())[-1]
        sample = f"Subject {_median_subject(shown)}, whose error by {last.title} is the median of {sample}"
    left_out = [result.title for name, result in results.items() if name not in shown]
    return f"Figure {number}. {what}. {sample}." + f" Left out: {'; '.join(left_out)}." * bool(left_out)


def _known_as(results: Mapping[str, Results]) -> str:
    """How the landmarks that predictions are measured against are called: a truth is known of simulated faces alone."""
    return "true" if any(result.scattered for result in results.values()) else "annotated"


def _mean_distance_errors(result: Results) -> NDArray[np.float64]:
    """(L, L) mm, mean over the subjects; NaN on the diagonal and where no subject has both landmarks."""
    error = distance_errors(result.stack("points"), result.stack("truth"))
    known = np.isfinite(error)
    with np.errstate(invalid="ignore"):
        return np.where(known, error, 0).sum(axis=0) / known.sum(axis=0)


def _median_subject(results: Mapping[str, Results]) -> str:
    """Name of the subject whose mean error by the last method is the median one, without those refused."""
    last = list(results.values())[-1]
    error = last.errors()
    done = np.flatnonzero(np.isfinite(error).any(axis=1))
    names = [name for fold in last.predictions for name in fold.names]
    return names[done[np.argsort(np.nanmean(error[done], axis=1))[len(done) // 2]]]


def _seen_from_the_front(
    surface: DrawnSurface, box: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Depth (mm, larger is nearer) and shade (0 to 1, NaN where there is no surface) of the pixels within ``box``.

    ``box``: (2, 3) lower and upper corner, canonical mm.
    """
    width, height = (int(np.ceil(size * PIXELS_PER_MM)) for size in (box[1] - box[0])[[0, 2]])
    # The inside of a surface, as seen through holes, is lit too: it is not a hole.
    light = np.abs(surface.normals[:, 1])
    shade = 0.15 + 0.7 * light + 0.15 * surface.normals[:, 2]
    depth, shade = rasterise(_pixels(surface.points, box), surface.triangles, shade.astype(np.float32), (height, width))
    return depth, np.where(np.isfinite(depth), shade, np.nan)


def _pixels(points: NDArray[Any], box: NDArray[np.float64]) -> NDArray[np.float32]:
    """Column, row and nearness (mm) of canonical points (n, 3) in the picture of ``box`` from the front."""
    x, y, z = points.T
    columns, rows = (x - box[0, 0]) * PIXELS_PER_MM, (box[1, 2] - z) * PIXELS_PER_MM
    return np.stack([columns - 0.5, rows - 0.5, -y], axis=1).astype(np.float32)


def _hidden(points: NDArray[np.float64], depth: NDArray[np.float32], box: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) whether the surface lies well in front of canonical points (n, 3); not where they are unknown."""
    column, row, near = _pixels(np.nan_to_num(points), box).T
    height, width = depth.shape
    row, column = (np.clip(np.rint(at), 0, size - 1).astype(int) for at, size in ((row, height), (column, width)))
    return known_points(points) & (near < depth[row, column] - HIDDEN_BELOW_MM)


def _panels(count: int, height: float, below: float = 0.0, compressed: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, ``PANELS`` in a row, each ``height`` inches high, with room ``below`` them."""
    columns = min(PANELS, count)
    rows = -(-count // columns)
    size = (PANEL_INCHES * max(columns, 2), height * rows + below)  # one panel, too, needs room for what is said below
    layout = ConstrainedLayoutEngine(compress=compressed, w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout=layout)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def _save(figure: Figure, path: Path) -> None:
    """As PNG of few colours: reports are kept with the code."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_with_few_colours(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), path)
