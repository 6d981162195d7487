"""Pictures of few colours: a third of the bytes, for what is kept with the code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

#: Those of most pixels, and those of few, such as the marks of certainty.
COLOURS, RARE_COLOURS = 232, 24


def save_with_few_colours(picture: Image.Image, path: Path) -> None:
    """Write an RGB picture as PNG of 256 colours; what is almost white becomes white."""
    common = picture.quantize(COLOURS, Image.Quantize.MEDIANCUT).getpalette() or []
    rare = picture.quantize(RARE_COLOURS, Image.Quantize.MAXCOVERAGE).getpalette() or []
    colours = np.reshape([*common[: 3 * COLOURS], *rare[: 3 * RARE_COLOURS]], (-1, 3))
    colours[colours.min(axis=1) >= 250] = 255  # means of white and its neighbours would make the page grey
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.ravel().tolist())
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)
