"""Groups of landmarks that tables speak of; facts are in the JSON beside."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from PALNetLandmarksLib.scheme import LandmarkScheme


@lru_cache(maxsize=1)
def ear_landmarks() -> tuple[str, ...]:
    """The eight labels of the ears' rims."""
    return tuple(json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))["ears"])


def inner_landmarks(scheme: LandmarkScheme) -> list[int]:
    """Indices of eyes, nose, mouth and midline, less the trichion: what every scan shows."""
    return [
        i
        for i, landmark in enumerate(scheme.landmarks)
        if (landmark.region in ("eyes", "nose", "mouth") or landmark.side == "midline") and landmark.label != "Tr"
    ]
