"""A z-buffer in numpy: triangles into a picture, without OpenGL or a display."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Work is cut into pieces of this many triangles or pixels, which bounds memory and stays in the cache.
CHUNK = 1 << 16


def rasterise(
    position: NDArray[np.float32], triangles: NDArray[np.int32], shade: NDArray[np.float32], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Z-buffer rendering of triangles with linearly interpolated shade.

    Parameters
    ----------
    position : (n, 3) column and row in pixels (pixel centres at whole numbers) and depth, larger is nearer.
    triangles : (m, 3) indices into ``position``.
    shade : (n,) the value to interpolate.
    size : (height, width) of the picture.

    Returns
    -------
    depth and shade, both (height, width); depth is -inf where there is no surface.
    """
    height, width = size
    depth_buffer = np.full(height * width, -np.inf, dtype=np.float32)
    shade_buffer = np.zeros(height * width, dtype=np.float32)
    for piece in pieces(triangles):
        corner = position[piece]
        # Rows from the highest corner to the lowest; sorting the corners makes the first-to-last edge the long one.
        order = np.argsort(corner[:, :, 1], axis=1)
        corner = np.take_along_axis(corner, order[:, :, None], axis=1)
        value = np.take_along_axis(shade[piece], order, axis=1)
        first_row = np.maximum(np.ceil(corner[:, 0, 1]), 0)
        last_row = np.minimum(np.floor(corner[:, 2, 1]), height - 1)
        edge, other = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
        determinant = edge[:, 0] * other[:, 1] - edge[:, 1] * other[:, 0]
        seen = (last_row >= first_row) & (np.abs(determinant) > 1e-6)
        seen &= (corner[:, :, 0].max(axis=1) >= 0) & (corner[:, :, 0].min(axis=1) <= width - 1)
        if not seen.any():
            continue
        corner, value, edge, other = corner[seen], value[seen], edge[seen], other[seen]
        determinant, first_row = determinant[seen], first_row[seen].astype(np.int32)
        row_count = last_row[seen].astype(np.int32) - first_row + 1
        # Depth and shade are planes over the picture: slopes along columns and rows.
        rise = np.stack([np.stack([edge[:, 2], other[:, 2]], 1), value[:, 1:] - value[:, :1]])
        slope_column = ((rise[:, :, 0] * other[:, 1] - rise[:, :, 1] * edge[:, 1]) / determinant).astype(np.float32)
        slope_row = ((rise[:, :, 1] * edge[:, 0] - rise[:, :, 0] * other[:, 0]) / determinant).astype(np.float32)

        # One span of pixels per triangle and row, between the long edge and the upper or the lower short edge.
        long, upper, lower = (_inverse_slope(corner[:, i], corner[:, j]) for i, j in ((0, 2), (0, 1), (1, 2)))
        triangle = np.repeat(np.arange(len(corner), dtype=np.int32), row_count)
        row = _counting(row_count) + first_row[triangle]
        column_a, row_a = corner[:, 0, 0][triangle], corner[:, 0, 1][triangle]
        row_b = corner[:, 1, 1][triangle]
        along = (row - row_a).astype(np.float32)
        in_upper = row < row_b
        at_long = column_a + along * long[triangle]
        at_short = np.where(
            in_upper,
            column_a + along * upper[triangle],
            corner[:, 1, 0][triangle] + (row - row_b).astype(np.float32) * lower[triangle],
        )
        first_column = np.maximum(np.ceil(np.minimum(at_long, at_short)), 0).astype(np.int32)
        last_column = np.minimum(np.floor(np.maximum(at_long, at_short)), width - 1).astype(np.int32)
        filled = np.flatnonzero(last_column >= first_column)
        triangle, row, along, first_column = triangle[filled], row[filled], along[filled], first_column[filled]
        pixel_count = last_column[filled] - first_column + 1
        start_pixel = row * width + first_column
        across = (first_column - column_a[filled]).astype(np.float32)
        depth_step, shade_step = slope_column[0][triangle], slope_column[1][triangle]
        start_depth = corner[:, 0, 2][triangle] + across * depth_step + along * slope_row[0][triangle]
        start_shade = value[:, 0][triangle] + across * shade_step + along * slope_row[1][triangle]
        for spans in _batches(pixel_count):
            counts = pixel_count[spans]
            step = _counting(counts)
            pixel = np.repeat(start_pixel[spans], counts) + step
            depth = np.repeat(depth_step[spans], counts)
            depth *= step
            depth += np.repeat(start_depth[spans], counts)
            # Assignment to a repeated pixel keeps the last value, not the nearest: repeat with what is nearer still.
            nearer = np.flatnonzero(depth > depth_buffer[pixel])
            pixel, depth, candidates = pixel[nearer], depth[nearer], np.arange(len(nearer))
            while len(candidates):
                depth_buffer[pixel[candidates]] = depth[candidates]
                candidates = candidates[depth[candidates] > depth_buffer[pixel[candidates]]]
            front = np.flatnonzero(depth == depth_buffer[pixel])
            shown = nearer[front]
            span = spans.start + np.repeat(np.arange(len(counts), dtype=np.int32), counts)[shown]
            shade_buffer[pixel[front]] = start_shade[span] + step[shown] * shade_step[span]
    return depth_buffer.reshape(size), shade_buffer.reshape(size)


def _inverse_slope(upper: NDArray[np.float32], lower: NDArray[np.float32]) -> NDArray[np.float32]:
    """Columns per row along edges from ``upper`` (m, 3) down to ``lower``; 0 for level edges, which span no rows."""
    rows = lower[:, 1] - upper[:, 1]
    slope = (lower[:, 0] - upper[:, 0]) / np.where(rows > 0, rows, np.inf)
    return slope.astype(np.float32)


def _counting(counts: NDArray[np.int32]) -> NDArray[np.int32]:
    """0 .. count - 1 for each count, one after the other."""
    ends = np.cumsum(counts, dtype=np.int32)
    return np.arange(ends[-1] if len(ends) else 0, dtype=np.int32) - np.repeat(ends - counts, counts)


def _batches(counts: NDArray[np.int32]) -> Iterator[slice]:
    """Slices of consecutive entries whose counts add up to about CHUNK."""
    ends = np.cumsum(counts, dtype=np.int64)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CHUNK, side="right")))
        yield slice(start, stop)
        start = stop


def pieces(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """``rows`` in pieces of CHUNK."""
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]
