"""From a landmark file to the markups node of a scan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PALNetLandmarksLib.align import UNITS
from PALNetLandmarksLib.errors import UnreadableLandmarksError
from PALNetLandmarksLib.landmark_files import read_landmarks
from PALNetLandmarksLib.landmark_set import LandmarkSet
from PALNetLandmarksLib.measurements import ENOUGH_FOR_A_UNIT, check_sides, unit_of_landmarks
from PALNetLandmarksLib.reference import load_reference
from PALNetLandmarksLib.scheme import load_scheme
from PALNetLandmarksLib.surface import SurfaceLocator

from .landmark_node import LandmarkNode
from .model_scan import chosen_segment, surface_of, to_world
from .place_landmarks import add_landmark_node, find_landmark_node

#: Landmarks lie on their scan's surface, or on a copy's with fewer triangles. Those of one average head lie 0.9 mm
#: and more (median) off another one in the same pose (the four facefuns heads), those of other faces much more.
OFF_THE_SCAN_BEYOND_MM = 0.5


def load_landmarks(source, path: Path | str, segment_id: str | None = None) -> LandmarkNode:  # type: ignore[no-untyped-def]
    """Put the landmarks of a file, from the command line or exported earlier, onto the scan that they belong to.

    Where the scan has been transformed, they may be in the coordinates of its file or in those of the world: they are
    taken as what brings them nearer to the surface. The node is that of an earlier detection on ``source``, if there
    was one. See ``LandmarkNode.adopt``.

    Raises
    ------
    LandmarkingError
        If the file cannot be read, has none of the module's landmarks, has right and left exchanged, or they do not
        lie on the scan; the scene is unchanged.
    """
    path = Path(path)
    segment_id = chosen_segment(source, segment_id)
    raw = surface_of(source, segment_id)
    read = read_landmarks(path)
    in_world = read.in_coordinate_system("RAS").known(load_scheme().labels, path.name)
    of_file = replace(in_world, points=to_world(in_world.points, source))
    locator = SurfaceLocator(raw.scan())
    reference = load_reference()
    check_sides(in_world, reference, path.name)
    off, placed = min(
        ((_median_distance(locator, candidate), candidate) for candidate in (in_world, of_file)),
        key=lambda found: found[0],
    )
    landmarks = find_landmark_node(source, segment_id)
    # Few landmarks are no face whose size would tell the unit, but an earlier detection has told it.
    told = landmarks.unit if landmarks and placed.defined.sum() < ENOUGH_FOR_A_UNIT else None
    unit = told or unit_of_landmarks(placed, reference, path.name)
    if off * UNITS[unit] > OFF_THE_SCAN_BEYOND_MM:
        raise UnreadableLandmarksError(
            f"The landmarks of '{path.name}' do not lie on '{raw.name}' (half of them are more than "
            f"{off * UNITS[unit]:.1f} mm away); choose the file that belongs to this scan."
        )
    landmarks = landmarks or add_landmark_node(source, segment_id, raw.name)
    landmarks.adopt(placed, unit)
    return landmarks


def _median_distance(locator: SurfaceLocator, landmarks: LandmarkSet) -> float:
    """From the surface, in units of the scene."""
    return float(np.median(locator.nearest_on_surface(landmarks.points[landmarks.defined])[1]))
