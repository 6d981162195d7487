"""Iterative closest point: the last step of the alignment, to the bottom of the valley."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .coarse_alignment import Array, Poses, WeightedPoints, similarity_step
from .face_evidence import is_covered

#: Reach of the robust weights, mm: wide at first, then held until nothing moves.
_REACH_MM = (8.0, 6.0, 5.0)
_FINAL_REACH_MM = 4.0
_MOST_STEPS = 60
_STILL_MM = 0.004
_STILL_RADIAN = 4e-5


def icp(
    start: Poses, target: WeightedPoints, tree: cKDTree, points: Array, normals: Array, to_the_end: bool = True
) -> Poses:
    """Point-to-plane ICP of a similarity (turn, shift, size) with robust weights (Geman-McClure).

    The planes are the reference's, which has no noise; the weights are the reference's as well, so that the middle of
    the face decides and neither hair nor collar pulls. Points of the reference that have no counterpart because the
    scan ends there do not count.

    Parameters
    ----------
    start : h poses to start from.
    target : weighted reference points.
    tree, points, normals : samples of the scan, mm; the normals (k, 3) only need to be smooth, not of one sign.
    to_the_end : iterate until nothing moves by more than 0.004 mm; otherwise stop after the annealing.
    """
    axes, origins, scales = start.axes, start.origins, start.scales
    for step in range(_MOST_STEPS):
        annealing = step < len(_REACH_MM)
        if not annealing and not to_the_end:
            break
        reach = _REACH_MM[step] if annealing else _FINAL_REACH_MM
        current = Poses(axes, origins, scales, scales)
        places, planes = current.place(target.points), current.turn(target.normals)
        distance, nearest = tree.query(places.reshape(-1, 3))
        distance, nearest = distance.reshape(places.shape[:2]), nearest.reshape(places.shape[:2])
        offset, surface_normals = points[nearest] - places, normals[nearest]
        cosine = np.einsum("hni,hni->hn", surface_normals, planes)
        weights = target.weights * cosine**2 / (1 + (distance / reach) ** 2) ** 2
        weights = weights * is_covered(distance, offset, surface_normals, planes)
        new_axes, new_origins, new_scales = similarity_step(axes, origins, scales, places, planes, offset, weights)
        turned = np.abs(new_axes - axes).max()
        moved = np.abs(new_origins - origins).max()
        grown = np.abs(new_scales - scales).max()
        axes, origins, scales = new_axes, new_origins, new_scales
        if not annealing and moved < _STILL_MM and turned < _STILL_RADIAN and grown < _STILL_RADIAN:
            break
    return Poses(axes, origins, scales, start.scores)
