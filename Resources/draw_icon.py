"""Draws the extension's icon: half a face in outline, half as a lattice of landmarks.

    python Resources/draw_icon.py

Writes it to both places where it is needed: beside this file (extension manager) and into the module's resources.
"""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = 128
#: Drawn larger and shrunk, which smooths the edges.
SCALE = 8

GROUND = (24, 61, 92)
SKIN = (244, 214, 190)
SHADE = (223, 183, 154)
LINE = (122, 77, 56)
POINT = (255, 138, 36)
RIM = (255, 255, 255)

#: Landmarks, in the icon's 128 x 128 pixels; mirrored at the middle, x = 64.
MIDLINE = [(64, 47), (64, 74), (64, 99)]
SIDE = [(43, 56), (45, 92), (33, 78)]


def draw_icon() -> Image.Image:
    """The icon, 128 x 128 pixels with a transparent ground."""
    image = Image.new("RGBA", (SIZE * SCALE, SIZE * SCALE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle(_scaled((2, 2), (125, 125)), radius=24 * SCALE, fill=GROUND)
    for ear in (19, 109):
        draw.ellipse(_scaled((ear - 8, 50), (ear + 8, 80)), fill=SHADE)
    draw.polygon([_at(*point) for point in face_outline()], fill=SKIN)
    for eye in (44, 84):
        draw.arc(_scaled((eye - 11, 49), (eye + 11, 66)), 200, 340, fill=LINE, width=3 * SCALE)
    draw.line([_at(64, 49), _at(56, 76), _at(64, 78)], fill=LINE, width=3 * SCALE, joint="curve")
    draw.arc(_scaled((47, 80), (81, 98)), 20, 160, fill=LINE, width=3 * SCALE)
    points = [*MIDLINE, *SIDE, *((2 * 64 - x, y) for x, y in SIDE)]
    for x, y in points:
        draw.ellipse(_scaled((x - 6.5, y - 6.5), (x + 6.5, y + 6.5)), fill=RIM)
        draw.ellipse(_scaled((x - 4.6, y - 4.6), (x + 4.6, y + 4.6)), fill=POINT)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def face_outline() -> list[tuple[float, float]]:
    """A closed egg, wider above and narrow at the chin."""
    outline = []
    for step in range(180):
        angle = 2 * math.pi * step / 180
        x, y = math.cos(angle), math.sin(angle)
        narrowing = 1 - 0.17 * max(y, 0.0) ** 1.5
        outline.append((64 + 44 * narrowing * x, 62 + 52 * y))
    return outline


def _at(x: float, y: float) -> tuple[float, float]:
    return x * SCALE, y * SCALE


def _scaled(low: tuple[float, float], high: tuple[float, float]) -> tuple[float, float, float, float]:
    return (*_at(*low), *_at(*high))


def main() -> None:
    """Write the icon to both places."""
    here = Path(__file__).resolve().parent
    icon = draw_icon()
    icons = here.parent / "PALNetLandmarks" / "Resources" / "Icons"
    icons.mkdir(exist_ok=True)
    for path in (here / "PALNetLandmarks.png", icons / "PALNetLandmarks.png"):
        icon.save(path, optimize=True)


if __name__ == "__main__":
    main()
