"""Patches: the points around each initial landmark, in the order the published network expects.

Readings taken (paper: arXiv 2510.00910; facts checked against its authors' published code, none of which is used):

* The cloud the patches are cut from holds 100,000 points sampled on the surface of the face. So 1,000 of 100,000 and
  100 of 10,000 ("coarse mesh" in Table 6) cover the same area. ``cloud_size=None`` takes the mesh's vertices instead.
* A patch is ordered by distance from the reference origin (near the nose tip), not from its landmark: pooling along the
  patch then joins points on the same shell around the nose.
* "All points within D mm resampled to K": the authors draw K at random with replacement. Here K are taken evenly along
  the ordered points, which repeats or skips points just as often but is deterministic.
* "No spatial ordering": points stand in the order of the cloud (``order="none"``). Leaving out only the sorting step of
  the authors' code gives nearest-to-the-landmark first: ``order="landmark"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import UnreadableScanError
from .mesh import TriangleMesh
from .sample_surface import sample_surface
from .surface import nearest_points, points_within

_ORDERS = ("reference", "landmark", "none")


@dataclass(frozen=True)
class PatchConfig:
    """How patches are cut.

    Attributes
    ----------
    size : points per patch, K.
    radius_mm : ``None`` for the K nearest points; else all points within this distance of the landmark, resampled to K.
    cloud_size : points sampled evenly on the surface before cutting (see :func:`sample_cloud`); ``None``: the vertices.
    order : ``"reference"`` by distance from the reference origin, ``"landmark"`` by distance from the patch's landmark,
        ``"none"`` as the points lie in the cloud.

    Raises
    ------
    ValueError
        If a value makes no sense.
    """

    size: int = 1000
    radius_mm: Optional[float] = None  # noqa: UP045 - Python 3.9
    cloud_size: Optional[int] = 100_000  # noqa: UP045
    order: str = "reference"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"A patch needs at least one point, not {self.size}.")
        if self.radius_mm is not None and not self.radius_mm > 0:
            raise ValueError(f"The radius of a patch must be positive, not {self.radius_mm} mm.")
        if self.cloud_size is not None and self.cloud_size < 1:
            raise ValueError(f"A cloud needs at least one point, not {self.cloud_size}.")
        if self.order not in _ORDERS:
            raise ValueError(f"The order of a patch is one of {', '.join(_ORDERS)}, not '{self.order}'.")


def sample_cloud(mesh: TriangleMesh, config: PatchConfig) -> NDArray[np.float64]:
    """The points patches are cut from: about ``config.cloud_size`` even surface samples, or the vertices.

    Crop the mesh to the region of interest first: shoulders would take their share of the samples.

    Parameters
    ----------
    mesh : aligned scan, mm, canonical LPS.

    Returns
    -------
    (n, 3), n about ``cloud_size``, or the vertices; mm, canonical LPS.

    Raises
    ------
    UnreadableScanError
        If samples are asked for and the mesh has no area.
    """
    if config.cloud_size is None:
        return mesh.points
    points = sample_surface(mesh, config.cloud_size).points
    if len(points) == 0:
        raise UnreadableScanError(f"'{mesh.name}' has no surface to sample; export it as a triangle mesh.")
    return points


def extract_patches(
    cloud: NDArray[np.floating],
    centres: ArrayLike,
    config: PatchConfig,
    reference_origin: ArrayLike = (0.0, 0.0, 0.0),
    name: str = "scan",
) -> NDArray[np.float32]:
    """Cut a patch around each initial landmark.

    Apart from ``order="none"`` the result does not depend on the order of the cloud: points at the same distance are
    ordered by their coordinates.

    Parameters
    ----------
    cloud : (n, 3) aligned points, mm, canonical LPS (see :func:`sample_cloud`).
    centres : (L, 3) initial landmarks, same frame; any number of them.
    reference_origin : (3,) the origin for ``order="reference"``, same frame.
    name : what messages call the scan.

    Returns
    -------
    (L, K, 3) float32 coordinates in the canonical frame (not relative to the landmark), mm.

    Raises
    ------
    UnreadableScanError
        If the cloud has fewer than K points, or no point lies within ``radius_mm`` of a landmark.
    """
    centre_points = np.asarray(centres, dtype=np.float64).reshape(-1, 3)
    if config.radius_mm is None:
        if len(cloud) < config.size:
            raise UnreadableScanError(
                f"'{name}' has only {len(cloud)} points on the face, but a patch takes {config.size}; "
                "use a scan of higher resolution."
            )
        indices, _ = nearest_points(cloud, centre_points, config.size)
        # Neighbours come nearest first; ascending indices restore the order of the cloud.
        return _ordered(cloud[np.sort(indices, axis=1)], centre_points, config, reference_origin).astype(np.float32)

    patches = np.empty((len(centre_points), config.size, 3), dtype=np.float32)
    for i, indices_in_ball in enumerate(points_within(cloud, centre_points, config.radius_mm)):
        if len(indices_in_ball) == 0:
            raise UnreadableScanError(
                f"'{name}' has no points within {config.radius_mm:g} mm of landmark {i + 1}; "
                "use a scan without gaps there."
            )
        ball = _ordered(cloud[indices_in_ball][None], centre_points[i : i + 1], config, reference_origin)[0]
        evenly = (2 * np.arange(config.size) + 1) * len(ball) // (2 * config.size)
        patches[i] = ball[evenly]
    return patches


def _ordered(
    patches: NDArray[np.floating], centres: NDArray[np.float64], config: PatchConfig, reference_origin: ArrayLike
) -> NDArray[np.floating]:
    """Order the points (L, n, 3) of each patch; equal distances are resolved by x, then y, then z."""
    if config.order == "none":
        return patches
    if config.order == "landmark":
        origins = centres[:, None]
    else:
        origins = np.asarray(reference_origin, dtype=np.float64).reshape(1, 1, 3)
    offsets = patches - origins
    distances = np.einsum("lki,lki->lk", offsets, offsets)
    order = np.argsort(distances, axis=1, kind="stable")
    in_order = np.take_along_axis(distances, order, axis=1)
    for i in np.flatnonzero((in_order[:, 1:] == in_order[:, :-1]).any(axis=1)):
        order[i] = np.lexsort((patches[i, :, 2], patches[i, :, 1], patches[i, :, 0], distances[i]))
    return np.take_along_axis(patches, order[..., None], axis=1)
