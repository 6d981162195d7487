"""Iterative closest point on many poses at once: a few steps, to rank them."""

from __future__ import annotations

from scipy.spatial import cKDTree

from .coarse_alignment import Array, Poses, WeightedPoints, dot, similarity_step
from .face_evidence import is_covered, partners

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
    poses = start
    for reach in _REACH_MM:
        places, planes = poses.place(target.points), poses.turn(target.normals)
        distance, offset, surface_normals = partners(places, tree, points, normals)
        weights = target.weights * dot(surface_normals, planes) ** 2 / (1 + (distance / reach) ** 2) ** 2
        weights = weights * is_covered(distance, offset, surface_normals, planes)
        poses = similarity_step(poses, places, planes, offset, weights)
    return poses
