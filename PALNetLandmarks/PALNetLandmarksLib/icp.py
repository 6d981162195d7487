"""Iterative closest point on many poses at once: a few steps, to rank them."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .coarse_alignment import Array, Poses, WeightedPoints, similarity_step
from .face_evidence import is_covered

#: Reach of the robust weights, mm, step by step.
_REACH_MM = (8.0, 6.0, 5.0)


def icp(start: Poses, target: WeightedPoints, tree: cKDTree, points: Array, normals: Array) -> Poses:
    """Three steps of point-to-plane ICP of a similarity (turn, shift, size) with robust weights (Geman-McClure).

    The planes are the reference's, which has no noise; the weights are the reference's as well, so that the middle of
    the face decides and neither hair nor collar pulls. Points of the reference that have no counterpart because the
    scan ends there do not count.

    Parameters
    ----------
    start : h poses to start from.
    target : weighted reference points.
    tree, points, normals : samples of the scan, mm; the normals (k, 3) only need to be smooth, not of one sign.
    """
    axes, origins, scales = start.axes, start.origins, start.scales
    for reach in _REACH_MM:
        current = Poses(axes, origins, scales, scales)
        places, planes = current.place(target.points), current.turn(target.normals)
        distance, nearest = tree.query(places.reshape(-1, 3))
        distance, nearest = distance.reshape(places.shape[:2]), nearest.reshape(places.shape[:2])
        offset, surface_normals = points.take(nearest, axis=0) - places, normals.take(nearest, axis=0)
        cosine = np.einsum("hni,hni->hn", surface_normals, planes)
        weights = target.weights * cosine**2 / (1 + (distance / reach) ** 2) ** 2
        weights = weights * is_covered(distance, offset, surface_normals, planes)
        axes, origins, scales = similarity_step(axes, origins, scales, places, planes, offset, weights)
    return Poses(axes, origins, scales, start.scores)
