"""Passes of the shipped network: each re-aligns the face on its landmarks and looks again around them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .height_maps import HeightMapConfig, cut_height_maps
from .procrustes import SimilarityTransform, fit_similarity
from .stepwise import finish

#: A first guess with no surface within this distance stays where the mean face has it.
REACH_MM = 15.0

#: maps (scales, L, p, p, c) and centres (L, 3) -> offsets (L, 3) and standard deviations (L,), as HeightMapNet.forward
Forward = Callable[[NDArray[np.float32], NDArray[np.float32]], "tuple[NDArray[np.float32], NDArray[np.float32]]"]
#: the library's cut_height_maps or a faster twin
CutMaps = Callable[..., "NDArray[np.float32]"]


@dataclass(frozen=True)
class RefinedLandmarks:
    """``points`` (L, 3) in the frame of the samples; ``standard_deviation`` (L,) per axis, in millimetres of that
    frame; ``shift`` (L,) how far the last pass moved each landmark; ``to_reference`` from the samples' frame to the
    reference, as the last pass had it.
    """

    points: NDArray[np.float64]
    standard_deviation: NDArray[np.float64]
    shift: NDArray[np.float64]
    to_reference: SimilarityTransform


def refine_landmarks(*arguments: Any, **options: Any) -> RefinedLandmarks:
    """``refine_stepwise`` at one go."""
    return finish(refine_stepwise(*arguments, **options))


def refine_stepwise(
    points: NDArray[np.float32],
    normals: NDArray[np.float32],
    initial: NDArray[np.float64],
    mean_landmarks: NDArray[np.float64],
    frames: NDArray[np.float32],
    forward: Forward,
    config: HeightMapConfig,
    passes: int = 3,
    cut: CutMaps = cut_height_maps,
) -> Generator[None, None, RefinedLandmarks]:
    """Move ``initial`` landmarks to where the network sees them; yields before each pass (see ``stepwise``).

    Parameters
    ----------
    points, normals : (n, 3) surface samples, roughly aligned to the reference face in pose and size (LPS mm).
    initial : (L, 3) first guesses in the same frame.
    mean_landmarks : (L, 3) of the reference face.
    frames : (L, 3, 3) directions of view, from ``landmark_frames``.
    forward : the network.
    passes : how many times to look; the frame of the maps is re-aligned before each but the first.
    """
    to_reference = SimilarityTransform(1.0, np.eye(3), np.zeros(3))
    landmarks = np.asarray(initial, dtype=np.float64)
    deviation = np.full(len(landmarks), np.nan)
    shift = np.full(len(landmarks), np.nan)
    for number in range(passes):
        yield
        if number:
            # Certain landmarks say where the face is; uncertain ones follow.
            to_reference = fit_similarity(landmarks, mean_landmarks, 1.0 / (1.0 + deviation**2))
        centres = to_reference.apply(landmarks)
        maps = cut(
            to_reference.apply(points).astype(np.float32),
            to_reference.apply_to_vectors(normals).astype(np.float32),
            centres.astype(np.float32),
            frames,
            config,
        )
        relative = np.einsum("lij,lj->li", frames, (centres - mean_landmarks).astype(np.float32))
        offsets, spread = forward(maps, relative)
        moved = centres + np.einsum("lij,li->lj", frames, offsets)
        found = to_reference.inverse().apply(moved)
        shift = np.linalg.norm(found - landmarks, axis=1)
        landmarks = found
        deviation = spread.astype(np.float64) / to_reference.scale
    return RefinedLandmarks(landmarks, deviation, shift, to_reference)
