"""A picture of a detection: the face from the right, the front and the left, with points and labels.

Drawn without OpenGL or a display, so that it works on a bare server, and without a plotting library, so that it costs
little time and memory: a z-buffer in numpy for the surface, Pillow for points, lines and text. The same scan and
detection give the same picture on every run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .align import UNITS, to_canonical
from .certainty import CERTAINTY_CLASSES, UNKNOWN_CERTAINTY, certainty_class
from .detector import MISSING_BEYOND_MM
from .drawn_surface import DrawnSurface, surface_to_draw
from .known_points import known_points
from .mesh import TriangleMesh
from .rasterise import rasterise

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

PIXELS_PER_MM = 2.3
SUPERSAMPLING = 2
#: In the file, so that a picture can be told from a texture.
_SIGNATURE = "PALNetLandmarks"
LARGEST_VIEW_MM = 340.0
#: Room around the landmarks in mm, as (below, above) along x, y and z of the canonical frame.
MARGIN_MM = ((14.0, 14.0), (14.0, 34.0), (18.0, 20.0))
#: A point this far behind the drawn surface is hidden in that view.
HIDDEN_BELOW_MM = 6.0
#: A point this far beyond the middle of the face belongs to the other side's view, even if nothing hides it.
OTHER_SIDE_BEYOND_MM = 15.0
#: For names beyond ASCII, in this order: of Linux, Windows and macOS; the later ones are Chinese, Japanese and Korean.
SYSTEM_FONTS = (
    *("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),
    *("msyh.ttc", "meiryo.ttc", "malgun.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc"),
)

PAGE = (255, 255, 255)
BACKDROP = np.array([233, 237, 241], dtype=np.float32)
SKIN = np.array([243, 221, 203], dtype=np.float32)
INSIDE = np.array([176, 183, 192], dtype=np.float32)
INK = (38, 44, 52)
FAINT_INK = (96, 106, 118)


class DrawableDetection(Protocol):
    """What the picture needs to know of a ``Detection``."""

    @property
    def scan_name(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def points(self) -> NDArray[np.float64]: ...
    @property
    def standard_deviation_mm(self) -> NDArray[np.float64]: ...
    @property
    def missing(self) -> NDArray[np.bool_]: ...
    @property
    def rigid_transform(self) -> NDArray[np.float64]: ...
    @property
    def unit(self) -> str: ...
    @property
    def unit_source(self) -> str: ...
    @property
    def fitness(self) -> float: ...


@dataclass(frozen=True)
class _View:
    """An orthographic view in the canonical LPS frame: which way the picture's right and the viewer lie."""

    title: str
    right: tuple[float, float, float]
    towards_viewer: tuple[float, float, float]

    def axes(self) -> NDArray[np.float64]:
        """(3, 3): rows are the picture's right, its up, and the direction towards the viewer."""
        return np.array([self.right, (0.0, 0.0, 1.0), self.towards_viewer])


VIEWS = (
    _View("right side", (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0)),
    _View("front", (1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    _View("left side", (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
)


def render_detection(mesh: TriangleMesh, detection: DrawableDetection, path: Path | str) -> None:
    """Write a PNG of the face from both sides and the front with the landmarks drawn on it.

    Parameters
    ----------
    mesh : the scan, in its own frame and unit, as given to the detector.
    detection : what the detector returned for it; missing landmarks are listed below the picture, not drawn.
    path : the PNG file to write.

    Raises
    ------
    OSError
        If the file cannot be written.
    ImportError
        If Pillow is not installed.
    """
    placement = np.asarray(detection.rigid_transform, dtype=np.float64), UNITS[detection.unit]
    landmarks = to_canonical(np.asarray(detection.points, dtype=np.float64), *placement)
    drawn = np.flatnonzero(~np.asarray(detection.missing, dtype=bool) & known_points(landmarks))
    box = _region_to_draw(landmarks[drawn])
    surface = surface_to_draw(mesh, *placement, box)

    def draw(view: _View) -> tuple[Image.Image, NDArray[np.intp]]:
        return _draw_panel(view, surface, box, landmarks, drawn, detection)

    with ThreadPoolExecutor(len(VIEWS)) as executor:
        panels, shown = zip(*executor.map(draw, VIEWS))
    hidden = np.setdiff1d(drawn, np.concatenate(shown))
    from PIL.PngImagePlugin import PngInfo

    signed = PngInfo()
    signed.add_text("Software", _SIGNATURE)
    _compose(panels, hidden, detection).save(path, format="PNG", compress_level=4, pnginfo=signed)


def is_own_picture(path: Path) -> bool:
    """Whether ``render_detection`` wrote the file; a texture is not its own."""
    with path.open("rb") as stream:
        return f"tEXtSoftware\0{_SIGNATURE}".encode("ascii") in stream.read(200)


def _region_to_draw(landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 3) lower and upper corner, canonical mm: the landmarks with a margin, symmetric in x, of bounded size."""
    if len(landmarks) == 0:
        landmarks = np.array([[-70.0, 0.0, -90.0], [70.0, 100.0, 90.0]])
    margin = np.array(MARGIN_MM).T
    box = np.array([landmarks.min(axis=0) - margin[0], landmarks.max(axis=0) + margin[1]])
    half_width = np.abs(box[:, 0] - np.median(landmarks[:, 0])).max()
    box[:, 0] = np.median(landmarks[:, 0]) + np.array([-half_width, half_width])
    excess = np.maximum(box[1] - box[0] - LARGEST_VIEW_MM, 0.0)
    return box + np.array([0.5, -0.5])[:, None] * excess


def _draw_panel(
    view: _View,
    surface: DrawnSurface,
    box: NDArray[np.float64],
    landmarks: NDArray[np.float64],
    drawn: NDArray[np.intp],
    detection: DrawableDetection,
) -> tuple[Image.Image, NDArray[np.intp]]:
    """One view with its points and labels, at SUPERSAMPLING times the final resolution, and which points it shows."""
    from PIL import Image, ImageDraw

    scale = PIXELS_PER_MM * SUPERSAMPLING
    axes = view.axes()
    corners = box @ axes.T
    left, top = corners[:, 0].min(), corners[:, 1].max()
    width = int(np.ceil((corners[:, 0].max() - left) * scale))
    height = int(np.ceil((top - corners[:, 1].min()) * scale))

    def to_picture(points: NDArray[Any]) -> NDArray[Any]:
        """Column, row (pixels) and nearness (mm) of canonical points."""
        seen = points @ axes.T.astype(points.dtype)
        seen[:, 0] = (seen[:, 0] - left) * scale
        seen[:, 1] = (top - seen[:, 1]) * scale
        return seen

    # The headlight shows shape; a little light from above keeps brows, nose and lips readable, as in a photograph.
    # The sign of the headlight's term also tells the inside of the surface from the outside.
    towards = np.array(view.towards_viewer, dtype=np.float32)
    position = to_picture(surface.points)
    facing, facing_up = surface.normals @ towards, surface.normals[:, 2]
    shade = np.where(facing >= 0, 0.30 + 0.62 * facing + 0.10 * facing_up, -0.45 + 0.30 * facing).astype(np.float32)
    depth, shade = rasterise(position, surface.triangles, shade, (height, width))
    picture = Image.fromarray(_colour_numbers(shade, np.isfinite(depth)))
    picture.putpalette(_palette())

    gutter = 46 * SUPERSAMPLING
    heading = 22 * SUPERSAMPLING
    panel = Image.new("RGB", (width + 2 * gutter, height + heading), PAGE)
    panel.paste(picture.convert("RGB"), (gutter, heading))
    pen = ImageDraw.Draw(panel)
    title_font = _font(13)
    pen.text((gutter + width / 2, heading / 2), view.title, fill=FAINT_INK, font=title_font, anchor="mm")

    spots = to_picture(landmarks)
    if view.towards_viewer[0]:
        drawn = drawn[spots[drawn, 2] > axes[2] @ box.mean(axis=0) - OTHER_SIDE_BEYOND_MM]
    visible = np.array([i for i in drawn if _is_visible(spots[i], depth)], dtype=np.intp)
    spots[:, :2] += (gutter, heading)
    _draw_labels(pen, spots, visible, detection.labels, gutter, width, (heading, height + heading))
    radius = 3.3 * SUPERSAMPLING
    for i in visible[np.argsort(spots[visible, 2])]:
        colour = certainty_class(float(detection.standard_deviation_mm[i])).colour
        _draw_dot(pen, spots[i, 0], spots[i, 1], radius, colour)
    return panel, visible


def _colour_numbers(shade: NDArray[np.float32], covered: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Palette numbers: 0 for the backdrop, 1 to 127 for the inside (dark to light), 128 to 255 for the skin."""
    brightness = np.clip(np.abs(shade), 0.0, 1.0)
    numbers = np.where(shade > 0, 128 + brightness * 127, 1 + brightness * 126)
    return np.where(covered, numbers, 0).astype(np.uint8)


def _palette() -> list[int]:
    brightness = np.linspace(0.0, 1.0, 128)[:, None]
    inside = INSIDE * np.clip(brightness[:127], 0.25, 1.0)
    skin = SKIN * np.clip(brightness, 0.12, 1.0) ** 0.8
    return np.concatenate([BACKDROP[None], inside, skin]).astype(np.uint8).ravel().tolist()


def _is_visible(spot: NDArray[np.float64], depth: NDArray[np.float32]) -> bool:
    """Whether no drawn surface lies well in front of a point given as column, row (pixels) and nearness (mm)."""
    column, row = (int(value) for value in np.rint(spot[:2]))
    if not (0 <= row < depth.shape[0] and 0 <= column < depth.shape[1]):
        return False
    return bool(spot[2] > depth[row, column] - HIDDEN_BELOW_MM)


def _draw_labels(
    pen: ImageDraw.ImageDraw,
    spots: NDArray[np.float64],
    visible: NDArray[np.intp],
    labels: Sequence[str],
    gutter: int,
    width: int,
    rows: tuple[int, int],
) -> None:
    """Labels in two columns beside the picture, in the order of their points' heights, joined to them by thin lines."""
    font = _font(11)
    spacing = 13.5 * SUPERSAMPLING
    # The nearer column keeps lines short; points close to the middle go left and right in turn.
    visible = visible[np.argsort(spots[visible, 1], kind="stable")]
    offset = (spots[visible, 0] - gutter) / width - 0.5
    central = np.abs(offset) < 0.02
    left = np.where(central, np.cumsum(central) % 2 == 1, offset < 0)
    for chosen, on_left in ((visible[left], True), (visible[~left], False)):
        heights = _spread(spots[chosen, 1], spacing, rows[0] + spacing / 2, rows[1] - spacing / 2)
        for i, height in zip(chosen, heights):
            edge = gutter if on_left else gutter + width
            inset = 4 * SUPERSAMPLING * (1 if on_left else -1)
            pen.line([(edge, height), (spots[i, 0], spots[i, 1])], fill=FAINT_INK, width=SUPERSAMPLING)
            pen.text((edge - inset, height), labels[i], fill=INK, font=font, anchor="rm" if on_left else "lm")


def _spread(wanted: NDArray[np.float64], spacing: float, lowest: float, highest: float) -> NDArray[np.float64]:
    """Positions nearest to the ascending ``wanted`` ones that lie at least ``spacing`` apart (less if there's no room).

    Least squares under the order constraint: subtracting k * spacing from the k-th turns "at least spacing apart" into
    "not decreasing", which pooling adjacent violators solves exactly.
    """
    count = len(wanted)
    if count == 0:
        return np.empty(0)
    spacing = min(spacing, (highest - lowest) / max(count - 1, 1))
    offsets = np.arange(count) * spacing
    pools: list[list[float]] = []
    for value in wanted - offsets:
        pools.append([float(value), 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean_a, size_a), (mean_b, size_b) = pools[-2:]
            pools[-2:] = [[(mean_a * size_a + mean_b * size_b) / (size_a + size_b), size_a + size_b]]
    level = np.concatenate([np.full(int(size), mean) for mean, size in pools])
    return np.clip(level, lowest, highest - offsets[-1]) + offsets


def _draw_dot(pen: ImageDraw.ImageDraw, column: float, row: float, radius: float, colour: tuple[int, int, int]) -> None:
    rim = radius + 1.0 * SUPERSAMPLING
    pen.ellipse((column - rim, row - rim, column + rim, row + rim), fill=(255, 255, 255))
    pen.ellipse((column - radius, row - radius, column + radius, row + radius), fill=colour)


def _compose(panels: Sequence[Image.Image], hidden: NDArray[np.intp], detection: DrawableDetection) -> Image.Image:
    """Title, the three panels side by side, the key to the colours, a scale bar, and the landmarks that are not drawn:
    missing ones, and those ``hidden`` in every view."""
    from PIL import Image, ImageDraw

    unit = SUPERSAMPLING
    margin, title_height = 14 * unit, 40 * unit
    width = sum(panel.width for panel in panels) + 2 * margin
    missing = [label for label, gone in zip(detection.labels, detection.missing) if gone]
    not_drawn = {
        f"Not placed, as no surface comes within {MISSING_BEYOND_MM:.0f} mm of the guess: ": missing,
        "Placed, but hidden in these views, by hair perhaps: ": [detection.labels[i] for i in hidden],
    }
    caption = [
        line
        for heading, labels in not_drawn.items()
        if labels
        for line in _wrapped(heading + ", ".join(labels), _font(12), width - 2 * margin)
    ]
    height = title_height + max(panel.height for panel in panels) + (34 + 18 * len(caption)) * unit + margin // 2
    page = Image.new("RGB", (width, height), PAGE)
    pen = ImageDraw.Draw(page)

    facts = f"{detection.unit} ({detection.unit_source})   fitness {detection.fitness:.2f}"
    facts_font, name_font = _font(13), _font(18, detection.scan_name)
    facts_width = pen.textlength(facts, font=facts_font)
    name = _shortened(detection.scan_name, name_font, width - 3 * margin - facts_width)
    pen.text((margin, title_height / 2), name, fill=INK, font=name_font, anchor="lm")
    pen.text((width - margin, title_height / 2), facts, fill=FAINT_INK, font=facts_font, anchor="rm")

    column = margin
    for panel in panels:
        page.paste(panel, (column, title_height))
        column += panel.width

    row = title_height + max(panel.height for panel in panels) + 18 * unit
    font = _font(12)
    heading = "Standard deviation: "
    pen.text((margin, row), heading, fill=INK, font=font, anchor="lm")
    at = margin + pen.textlength(heading, font=font) + 8 * unit
    unknown = np.isnan(detection.standard_deviation_mm).any()
    for one in (*CERTAINTY_CLASSES, UNKNOWN_CERTAINTY) if unknown else CERTAINTY_CLASSES:
        _draw_dot(pen, at, row, 4 * unit, one.colour)
        pen.text((at + 9 * unit, row), one.text, fill=INK, font=font, anchor="lm")
        at += pen.textlength(one.text, font=font) + 32 * unit
    bar = 50 * PIXELS_PER_MM * unit
    right = width - margin
    pen.line([(right - bar, row), (right, row)], fill=INK, width=2 * unit)
    for end in (right - bar, right):
        pen.line([(end, row - 4 * unit), (end, row + 4 * unit)], fill=INK, width=2 * unit)
    pen.text((right - bar - 8 * unit, row), "50 mm", fill=INK, font=font, anchor="rm")
    for line in caption:
        row += 18 * unit
        pen.text((margin, row), line, fill=INK, font=font, anchor="lm")
    return page.reduce(SUPERSAMPLING)


def _font(size: float, text: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow carries, so that pictures look alike everywhere; for ``text`` beyond ASCII a system font, if
    there is one with these letters."""
    from PIL import ImageFont

    found = []
    for name in () if text.isascii() else SYSTEM_FONTS:
        with contextlib.suppress(OSError):
            font = ImageFont.truetype(name, size * SUPERSAMPLING)
            if _has_letters(font, text):
                return font
            found.append(font)
    return found[0] if found else ImageFont.load_default(size * SUPERSAMPLING)


def _has_letters(font: ImageFont.FreeTypeFont, text: str) -> bool:
    unknown = bytes(font.getmask("\U0010ffff"))  # no letter
    return all(bytes(font.getmask(letter)) != unknown for letter in set(text) if not letter.isspace())


def _wrapped(text: str, font: Any, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _shortened(text: str, font: Any, width: float) -> str:
    """The text, with its middle replaced by dots if it is too long for ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(text[: keep // 2] + "..." + text[-(keep // 2) :]) > width:
        keep -= 1
    return text[: keep // 2] + "..." + text[-(keep // 2) :]
