"""Scans prepared for training: dense surface samples in the reference frame, a few hundred kilobytes each.

A prepared scan holds what the patches of any landmark, pose and scale can be cut from, so that augmentation needs
neither the mesh nor a second alignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PALNetLandmarksLib.mesh import TriangleMesh
from PALNetLandmarksLib.procrustes import SimilarityTransform, fit_similarity
from PALNetLandmarksLib.reference import ReferenceFace
from PALNetLandmarksLib.sample_surface import sample_surface

#: Samples on the region of interest: about 1.4 mm apart on an adult face.
SAMPLE_COUNT = 48_000

#: Positions are kept as multiples of this many millimetres in 16 bits.
STEP_MM = 0.006


@dataclass(frozen=True)
class PreparedScan:
    """One scan in the reference frame scaled to the reference's size (LPS mm of the reference).

    ``points`` (SAMPLE_COUNT, 3) int16 in steps of ``STEP_MM``; ``normals`` (SAMPLE_COUNT, 3) int8 in 1/127;
    ``landmarks`` (L, 3) float32; ``visible`` (L,) bool; ``size`` millimetres per reference millimetre.
    """

    points: NDArray[np.int16]
    normals: NDArray[np.int8]
    landmarks: NDArray[np.float32]
    visible: NDArray[np.bool_]
    size: float


def prepare_scan(
    mesh: TriangleMesh, landmarks: NDArray[np.float64], visible: NDArray[np.bool_], reference: ReferenceFace
) -> PreparedScan:
    """Sample ``mesh`` (mm) where the reference's region of interest lies, by Procrustes on its annotated landmarks.

    Raises
    ------
    ValueError
        If the scan has no surface in the region of interest.
    """
    known = np.isfinite(landmarks).all(axis=1)
    to_reference: SimilarityTransform = fit_similarity(landmarks[known], reference.landmarks[known])
    placed = mesh.with_points(to_reference.apply(mesh.points))
    samples = sample_region(placed, reference)
    if not len(samples[0]):
        raise ValueError(f"'{mesh.name}' has no surface around its landmarks.")
    return PreparedScan(
        points=np.clip(np.round(samples[0] / STEP_MM), -32767, 32767).astype(np.int16),
        normals=np.round(samples[1] * 127).astype(np.int8),
        landmarks=to_reference.apply(landmarks).astype(np.float32),
        visible=np.asarray(visible, dtype=bool) & known,
        size=1.0 / to_reference.scale,
    )


def sample_region(
    mesh: TriangleMesh, reference: ReferenceFace, count: int = SAMPLE_COUNT, margin_mm: float = 10.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and normals (count, 3) spread over the part of ``mesh`` (reference frame) in the region of interest."""
    low, high = reference.region_of_interest[0] - margin_mm, reference.region_of_interest[1] + margin_mm
    inside = ((mesh.points > low) & (mesh.points < high)).all(axis=1)
    chosen = np.flatnonzero(inside[mesh.triangles].all(axis=1))
    samples = sample_surface(mesh, count, chosen)
    return samples.points, samples.normals


def save_prepared(path: Path, scan: PreparedScan) -> None:
    """Write one prepared scan; the file appears whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez(stream, **vars(scan))
    partial.replace(path)


@dataclass(frozen=True)
class PreparedPool:
    """Many prepared scans, memory-mapped: the arrays of ``PreparedScan`` with a first axis of subjects."""

    points: NDArray[np.int16]
    normals: NDArray[np.int8]
    landmarks: NDArray[np.float32]
    visible: NDArray[np.bool_]
    size: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.landmarks)


def gather(folder: Path, limit: int | None = None) -> PreparedPool:
    """Join the prepared scans of ``folder`` into memory-mapped arrays beside them, in the order of their names."""
    files = sorted(folder.glob("*.prepared.npz"))[:limit]
    if not files:
        raise FileNotFoundError(f"No prepared scans in '{folder}'.")
    target = folder / f"pool-{len(files)}"
    names = ("points", "normals", "landmarks", "visible", "size")
    if not (target / "done").exists():
        target.mkdir(exist_ok=True)
        for name in names:
            with np.load(files[0]) as first:
                array = first[name]
            store = np.lib.format.open_memmap(
                target / f"{name}.npy", mode="w+", dtype=array.dtype, shape=(len(files), *array.shape)
            )
            for i, file in enumerate(files):
                with np.load(file) as data:
                    store[i] = data[name]
            store.flush()
        (target / "done").touch()
    return PreparedPool(**{name: np.load(target / f"{name}.npy", mmap_mode="r") for name in names})
