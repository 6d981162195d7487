"""Draws the panel after a detection of the sample, as Slicer shows it: ``python Testing/panel_screenshot.py``.

Writes ``Resources/Panel.png``. Needs slicer-core and PySide6; no display.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "PALNetLandmarks")]
import harness  # noqa: E402

WIDTH, HEIGHT = 460, 1010
#: So that the picture hardly needs space and can be read.
COLOURS = 96


def draw_panel(path: Path) -> None:
    """Detect the sample's landmarks, correct one, and write the panel's picture."""
    application = harness.start()
    panel = harness.load_module(ROOT / "PALNetLandmarks", "PALNetLandmarks")
    panel._parameterNode.source = panel.logic.loadSample()
    panel._parameterNode.device = "cpu"
    panel.ui.detectButton.click()
    while panel._run is not None:
        application.processEvents()
    node = panel._landmarks.node
    index = panel._landmarks.index()["Pg"]
    x, y, z = node.GetNthControlPointPositionWorld(index)
    node.SetNthControlPointPositionWorld(index, [x + 2.0, y, z])
    panel.ui.advancedSection.collapsed = False
    panel._table.choose("Ex_R")
    panel._updateTable()
    panel.parent.resize(WIDTH, HEIGHT)
    panel.parent.show()
    application.processEvents()
    panel.parent.grab().save(str(path))
    panel.cleanup()
    shrink(path)


def shrink(path: Path) -> None:
    """Fewer colours: a tenth of the bytes."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    draw_panel(ROOT / "Resources" / "Panel.png")
