"""What a landmark's standard deviation means to the eye: classes, their limits and colours, the same in panel and
picture."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CertaintyClass:
    """Landmarks whose standard deviation is at most ``limit_mm`` (and above the class before); ``colour`` is red, green
    and blue from 0 to 255, ``text`` what a key to the colours says."""

    limit_mm: float
    colour: tuple[int, int, int]
    text: str


#: From certain to doubtful. The colours stay apart for viewers with colour-vision deficiency (after the palette of
#: Okabe and Ito).
CERTAINTY_CLASSES = (
    CertaintyClass(1.0, (0, 114, 178), "below 1 mm"),
    CertaintyClass(2.0, (0, 158, 115), "1 to 2 mm"),
    CertaintyClass(3.0, (240, 190, 30), "2 to 3 mm"),
    CertaintyClass(math.inf, (213, 74, 0), "above 3 mm: check"),
)

#: A landmark whose standard deviation exceeds this many mm is called uncertain: the last class above.
UNCERTAIN_ABOVE_MM = CERTAINTY_CLASSES[-2].limit_mm

#: Where the network says no standard deviation (PAL-Net as published).
UNKNOWN_CERTAINTY = CertaintyClass(math.nan, (120, 126, 134), "unknown")


def certainty_class(standard_deviation_mm: float) -> CertaintyClass:
    """The class of a standard deviation in mm; ``UNKNOWN_CERTAINTY`` for NaN."""
    for one in CERTAINTY_CLASSES:
        if standard_deviation_mm <= one.limit_mm:
            return one
    return UNKNOWN_CERTAINTY
