"""Corners of many triangles in pieces: all of them, in order, whichever thread fetched them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PALNetLandmarksLib.triangle_corners import PIECE, corners_in_pieces, triangle_corners


@pytest.mark.parametrize("count", [0, 1, PIECE, PIECE + 1, 60 * PIECE + 7])
def test_pieces_are_all_triangles_in_order(count: int) -> None:
    rng = np.random.default_rng(count)
    columns, triangles = rng.normal(size=(3, 5000)), rng.integers(0, 5000, (count, 3))
    pieces, corners = zip(*corners_in_pieces(columns, triangles))
    assert [piece.start for piece in pieces] == list(range(0, max(count, 1), PIECE))
    np.testing.assert_array_equal(np.concatenate(corners, axis=2), triangle_corners(columns, triangles))


def test_who_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    pieces = corners_in_pieces(np.zeros((3, 1)), np.zeros((100 * PIECE, 3), dtype=np.int64))
    assert next(pieces)[1].shape == (3, 3, PIECE)
    assert threading.active_count() > before
    pieces.close()
    assert threading.active_count() == before
