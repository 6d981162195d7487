"""The last step of the alignment: ICP to the bottom of the valley, with the shape of the face as an unknown.

A rigid ICP explains a long chin or a flat nose by a turn of the head: on half faces it ends 5 degrees from the pose of
the landmarks in the median and 19 at worst. With the first modes of face shape among the unknowns these become 3 and 7,
and on whole faces the worst of 60 falls from 13 to 6 degrees.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .coarse_alignment import LIKELY_SCALE, Array, Poses, rotations
from .face_evidence import SHAPE_CERTAINTY, EvidenceTarget, is_covered

#: Reach of the robust weights, mm: wide at first, then held until nothing moves.
_REACH_MM = (8.0, 6.0, 5.0)
_FINAL_REACH_MM = 4.0
_MOST_STEPS = 60
_STILL_MM = 0.004
_STILL_RADIAN = 4e-5
_LARGEST_TURN = 0.35


def shape_icp(start: Poses, target: EvidenceTarget, tree: cKDTree, points: Array, normals: Array) -> Poses:
    """Point-to-plane ICP of one similarity and the shape coefficients together, until nothing moves.

    Each step is a Gauss-Newton step of the most probable pose and shape: shape coefficients have unit variance, sizes
    the spread of people, and the weighted points together count as ``SHAPE_CERTAINTY``.

    Parameters
    ----------
    start : one pose.
    target : weighted reference points and how faces vary there.
    tree, points, normals : samples of the scan, mm; the normals (k, 3) only need to be smooth, not of one sign.
    """
    axes, origin, scale = start.axes[0], start.origins[0], float(start.scales[0])
    modes = target.shape.offset_modes
    coefficients = np.zeros(modes.shape[1])
    likely_scale, scale_deviation = LIKELY_SCALE
    precision = np.concatenate([np.zeros(6), [scale_deviation**-2], np.ones(len(coefficients))])
    for step in range(_MOST_STEPS):
        annealing = step < len(_REACH_MM)
        reach = _REACH_MM[step] if annealing else _FINAL_REACH_MM
        stands_off = target.shape.mean_offset + modes @ coefficients
        places = scale * (target.points + stands_off[:, None] * target.normals) @ axes.T + origin
        planes = target.normals @ axes.T
        distance, nearest = tree.query(places)
        offset, surface_normals = points.take(nearest, axis=0) - places, normals.take(nearest, axis=0)
        cosine = np.einsum("ni,ni->n", surface_normals, planes)
        weights = SHAPE_CERTAINTY * target.weights * cosine**2 / (1 + (distance / reach) ** 2) ** 2
        weights = weights * is_covered(distance, offset.T, surface_normals.T, planes.T)
        arm = places - origin
        growth = np.einsum("ni,ni->n", arm, planes)[:, None]
        rows = np.concatenate([np.cross(arm, planes), planes, growth, scale * modes], axis=1)
        weighted = rows.T * weights
        expected = np.concatenate([np.zeros(6), [likely_scale / scale - 1], -coefficients])
        right = weighted @ np.einsum("ni,ni->n", offset, planes) + precision * expected
        change = np.linalg.solve(weighted @ rows + np.diag(precision + 1e-9), right)
        angle = float(np.linalg.norm(change[:3]))
        turn = change[:3] * min(1.0, _LARGEST_TURN / max(angle, 1e-12))
        axes = rotations(turn[None])[0] @ axes
        origin = origin + change[3:6]
        scale *= float(np.clip(1 + change[6], 0.9, 1.1))
        coefficients = coefficients + change[7:]
        still = np.abs(change[3:6]).max() < _STILL_MM and max(angle, abs(change[6])) < _STILL_RADIAN
        if still and not annealing:
            break
    return Poses(axes[None], origin[None], np.array([scale]), start.scores)
