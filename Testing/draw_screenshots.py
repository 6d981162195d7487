"""Draws what the README shows of Slicer, without Slicer: ``python Testing/draw_screenshots.py``.

Writes ``Resources/Panel.png``, the panel after a detection of the sample, and ``Resources/Tutorial.png``, four moments
of the 3D view. Needs slicer-core, PySide6 and Pillow; no display.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing"), str(ROOT / "PALNetLandmarks")]
import harness  # noqa: E402
import slicer  # noqa: E402
from harness.view import ThreeDView  # noqa: E402

from training.few_colours import save_with_few_colours  # noqa: E402

WIDTH, HEIGHT = 460, 1340
#: Width and height of each moment of the 3D view.
MOMENT = (380, 440)


def draw(resources: Path) -> None:
    """Load the sample, detect, centre a landmark, drag another; a picture of each."""
    application = harness.start()
    panel = harness.load_module(ROOT / "PALNetLandmarks", "PALNetLandmarks")
    model = panel.logic.loadSample()
    model.GetDisplayNode().SetColor(0.91, 0.76, 0.66)
    panel._parameterNode.source = model
    panel._parameterNode.device = "cpu"
    view = ThreeDView(slicer.mrmlScene, *application.logics, MOMENT)
    bounds = np.zeros(6)
    model.GetRASBounds(bounds)
    view.look_at(bounds.reshape(3, 2).mean(axis=1), distance=520.0)
    moments = [("1  the scan", view.picture())]
    panel.ui.detectButton.click()
    while panel._run is not None:
        application.processEvents()
    moments.append(("3  detected", view.picture()))
    panel._table.choose("Ex_L")
    node, index = panel._landmarks.node, panel._landmarks.index()
    eye = np.array(node.GetNthControlPointPositionWorld(index["Ex_L"]))
    view.look_at(eye, (-0.55, 0.83, 0.05), 260.0)
    moments.append(("4  Ex_L in the centre", view.picture()))
    chin = np.array(node.GetNthControlPointPositionWorld(index["Pg"]))
    view.look_at(chin, (0.0, 0.97, -0.2), 240.0)
    view.drag(view.display(chin), (4, -14))  # some 4 mm
    moments.append(("5  Pg corrected", view.picture()))
    save_with_few_colours(strip(moments), resources / "Tutorial.png")

    panel.ui.measurementSection.collapsed = False
    panel.ui.advancedSection.collapsed = False
    panel._table.choose("Ex_R")
    panel._updateTable()
    panel.parent.resize(WIDTH, HEIGHT)
    panel.parent.show()
    application.processEvents()
    panel.parent.grab().save(str(resources / "Panel.png"))
    with Image.open(resources / "Panel.png") as image:
        save_with_few_colours(image.convert("RGB"), resources / "Panel.png")
    panel.cleanup()


def strip(moments: list[tuple[str, np.ndarray]]) -> Image.Image:
    """The moments side by side, each with its caption."""
    width, height = MOMENT
    image = Image.new("RGB", (width * len(moments) + 8 * (len(moments) - 1), height), "white")
    for number, (caption, picture) in enumerate(moments):
        part = Image.fromarray(picture)
        ImageDraw.Draw(part).text((10, 8), caption, fill="white", font_size=20)
        image.paste(part, (number * (width + 8), 0))
    return image


if __name__ == "__main__":
    draw(ROOT / "Resources")
