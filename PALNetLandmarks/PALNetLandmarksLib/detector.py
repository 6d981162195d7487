"""The whole way from a scan to its landmarks."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .align import DOUBTFUL_FITNESS, LEAST_FITNESS, Alignment, align_stepwise, canonical_mesh, no_face_found
from .alignment_target import AlignmentTarget
from .detection import Detection
from .device import choose_device
from .errors import LandmarkingError, NotAFaceError
from .mesh import TriangleMesh
from .placers import Placed, Placer, build_placer
from .procrustes import fit_similarity
from .read_scan import read_scan
from .reference import ReferenceFace, load_reference
from .resources import resource_path
from .stepwise import Result, finish
from .stopwatch import Stopwatch
from .surface import SURFACES, SurfaceLocator
from .weights import load_weights

#: What ``detect_stepwise`` says, in order.
STEPS = ("read", "align", "landmarks", "surface")

#: A landmark this far (mm) from any surface lies where the scan has none.
MISSING_BEYOND_MM = 4.0

#: Root mean square distance (mm at the reference's size) of the landmarks from the mean face beyond which they are no
#: face; set from the benchmark's distributions of faces and other shapes.
IMPLAUSIBLE_BEYOND_MM = 12.0

#: Median standard deviation (mm at the reference's size) of the landmarks up to which what the alignment doubts is a
#: face: on faces far from the mean 0.8 to 1.3 (one of 19: 1.8), on wrong poses and what is no face 1.5 to 10.
SURE_BELOW_MM = 1.35


class LandmarkDetector:
    """Places landmarks on scans; may be used from several threads.

    Use ``LandmarkDetector.load()``.

    Attributes
    ----------
    labels : the landmarks, in the order of every result.
    weights_version, weights_sha256 : which weights are in use.
    device : ``"cpu"``, ``"cuda"`` or ``"mps"``.
    """

    def __init__(
        self, placer: Placer, reference: ReferenceFace, version: str, sha256: str, device: str, surface: str
    ) -> None:
        self.labels = placer.labels
        self.weights_version, self.weights_sha256 = version, sha256
        self.device = device
        self._placer, self._target, self._surface = placer, AlignmentTarget.of(reference), surface

    @classmethod
    def load(
        cls, weights: Path | str | None = None, device: str = "auto", surface: str = "triangle"
    ) -> LandmarkDetector:
        """Make a detector.

        Parameters
        ----------
        weights : weights file; the bundled one by default.
        device : ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``; anything but the CPU needs torch.
        surface : one of ``SURFACES``.

        Raises
        ------
        WeightsError
            If the weights are damaged, or not for a network and landmarks known here.
        DeviceError
            If the device asked for cannot be used.
        ValueError
            If ``device`` or ``surface`` is not one of the known ones.
        """
        if surface not in SURFACES:
            raise ValueError(f"surface is one of {', '.join(SURFACES)}, not {surface!r}")
        chosen = choose_device(device)
        file = load_weights(resource_path("Weights.safetensors") if weights is None else weights)
        reference = load_reference()
        placer = build_placer(file, reference, chosen)
        return cls(placer, reference, file.metadata.get("version", "unknown"), file.sha256, chosen, surface)

    def detect(self, scan: TriangleMesh | Path | str, unit: str | None = None) -> Detection:
        """Place the landmarks on one scan.

        Parameters
        ----------
        scan : a mesh, or the path of a file that ``read_scan`` reads.
        unit : ``"mm"``, ``"cm"``, ``"m"`` or ``"inch"``; found from the size of the face by default.

        Raises
        ------
        UnreadableScanError, NotAFaceError, UnknownUnitError
            One sentence for the user each.
        """
        return finish(self.detect_stepwise(scan, unit))

    def detect_stepwise(
        self, scan: TriangleMesh | Path | str, unit: str | None = None
    ) -> Generator[str, None, Detection]:
        """``detect`` for those who must look after a window meanwhile: yields the name of what comes next, one of
        ``STEPS``, several times for steps that take long.

        The generator's return value is the detection; to cancel, drop it. Raises as ``detect`` does.
        """
        stopwatch = Stopwatch()
        yield "read"
        mesh = scan if isinstance(scan, TriangleMesh) else read_scan(scan)
        stopwatch.lap("read")
        yield "align"
        alignment = yield from _named("align", align_stepwise(mesh, self._target, unit, DOUBTFUL_FITNESS))
        rotation, translation = alignment.transform[:3, :3], alignment.transform[:3, 3]
        aligned = canonical_mesh(mesh, alignment.transform, alignment.mm_per_unit, alignment.inside_out)
        stopwatch.lap("align")
        yield "landmarks"
        placed = yield from _named("landmarks", self._placer.place(aligned, alignment.face_scale, stopwatch))
        doubts = _doubts(alignment, placed, mesh.name, unit)
        self._check_shape(placed, mesh.name)
        yield "surface"
        points, distance = SurfaceLocator(aligned).put(placed.points, self._surface, placed.outward)
        missing = distance > MISSING_BEYOND_MM
        points = np.where(missing[:, None], placed.points, points)
        # A landmark that had to be moved to reach the surface may be off by as much along each axis: the skin that the
        # network thought of is not there. To a vertex it is moved further, along skin that is there.
        moved = np.maximum(distance, np.linalg.norm(points - placed.points, axis=1) / np.sqrt(3))
        deviation = np.hypot(placed.standard_deviation_mm, np.where(missing, 0.0, moved))
        stopwatch.lap("surface")
        return Detection(
            scan_name=mesh.name,
            labels=self.labels,
            points=((points - translation) @ rotation) / alignment.mm_per_unit,
            standard_deviation_mm=deviation,
            missing=missing,
            rigid_transform=alignment.transform,
            unit=alignment.unit,
            unit_source=alignment.unit_source,
            face_scale=alignment.face_scale,
            fitness=alignment.fitness,
            coordinate_system=mesh.coordinate_system,
            seconds=stopwatch.seconds,
            weights_version=self.weights_version,
            weights_sha256=self.weights_sha256,
            device=self.device,
            warnings=(*mesh.warnings, *alignment.warnings, *doubts),
        )

    def detect_many(
        self, scans: Iterable[TriangleMesh | Path | str], unit: str | None = None, workers: int = 1
    ) -> Iterator[Detection | LandmarkingError]:
        """Place the landmarks on many scans, in their order; a scan that fails yields its error and stops nothing.

        ``workers`` threads work at once; numpy and scipy release the interpreter lock for most of the time.
        """

        def attempt(scan: TriangleMesh | Path | str) -> Detection | LandmarkingError:
            try:
                return self.detect(scan, unit)
            except LandmarkingError as error:
                return error

        with ThreadPoolExecutor(workers) as executor:
            yield from executor.map(attempt, scans)

    def _check_shape(self, placed: Placed, name: str) -> None:
        """Refuse landmarks that do not lie like a face's: registration or network was misled."""
        if not np.isfinite(placed.points).all():
            raise NotAFaceError(f"The landmarks on '{name}' could not be computed; check the scan for damage.")
        mean = self._placer.mean_landmarks
        if len(mean) < 4:  # any three points fit a face
            return
        shape = fit_similarity(placed.points, mean).apply(placed.points)
        distance = float(np.sqrt(((shape - mean) ** 2).sum(axis=1).mean()))
        if distance > IMPLAUSIBLE_BEYOND_MM:
            raise NotAFaceError(
                f"The landmarks found on '{name}' do not lie like those of a face (they differ from the mean face by "
                f"{distance:.0f} mm, more than {IMPLAUSIBLE_BEYOND_MM:.0f} mm); check that the scan shows one face "
                "and that weights of your own, if you use any, are trained well."
            )


def _doubts(alignment: Alignment, placed: Placed, name: str, unit: str | None) -> tuple[str, ...]:
    """Let the network judge what the alignment doubts: refuse it, or take it for an unusual face and say so."""
    if alignment.fitness >= LEAST_FITNESS:
        return ()
    if not np.median(placed.standard_deviation_mm) <= SURE_BELOW_MM * alignment.face_scale:
        raise no_face_found(name, alignment.fitness, unit)
    return (
        f"The face differs much from the faces that the network has seen (fitness {alignment.fitness:.2f}); check "
        "every landmark.",
    )


def _named(name: str, steps: Generator[None, None, Result]) -> Generator[str, None, Result]:
    """``steps`` that yield ``name``."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield name
