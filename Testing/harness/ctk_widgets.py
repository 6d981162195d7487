"""Stand-ins for the CTK widgets that the panel uses, with CTK's property and signal names."""

from __future__ import annotations

import fnmatch
import re

import qt
from PySide6.QtCore import Property, Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QDoubleSpinBox, QHBoxLayout, QSlider, QToolButton, QWidget

from .qt_like_pythonqt import install_properties


class ctkCollapsibleButton(QWidget):
    """A titled box that folds."""

    contentsCollapsed = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._button = QToolButton(self)
        self._button.setToolButtonStyle(Qt.ToolButtonTextBesideIcon)
        self._collapsed = False
        self.setContentsMargins(0, 26, 0, 0)
        self._show()

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._button.resize(event.size().width(), 24)

    def _show(self) -> None:
        self._button.setArrowType(Qt.RightArrow if self._collapsed else Qt.DownArrow)
        self.setMaximumHeight(26 if self._collapsed else 16777215)

    def _get_text(self) -> str:
        return self._button.property("text")

    def _set_text(self, text: str) -> None:
        self._button.setText(text)

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def _set_collapsed(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        self._show()
        self.contentsCollapsed.emit(collapsed)

    text = Property(str, _get_text, _set_text)
    collapsed = Property(bool, _get_collapsed, _set_collapsed)


class ctkSliderWidget(QWidget):
    """A slider beside a spin box."""

    valueChanged = Signal(float)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider, self._spin = QSlider(Qt.Horizontal, self), QDoubleSpinBox(self)
        self._slider.setRange(0, 1000)
        layout.addWidget(self._slider)
        layout.addWidget(self._spin)
        self._spin.valueChanged.connect(self._from_spin)
        self._slider.valueChanged.connect(self._from_slider)

    def _from_spin(self, value: float) -> None:
        low, high = self._get_minimum(), self._get_maximum()
        blocked = self._slider.blockSignals(True)
        self._slider.setValue(round(1000 * (value - low) / max(high - low, 1e-9)))
        self._slider.blockSignals(blocked)
        self.valueChanged.emit(value)

    def _from_slider(self, value: int) -> None:
        self._spin.setValue(self._get_minimum() + value / 1000 * (self._get_maximum() - self._get_minimum()))

    def _get_value(self) -> float:
        return self._spin.property("value")

    def _set_value(self, value: float) -> None:
        self._spin.setValue(value)

    def _get_minimum(self) -> float:
        return self._spin.property("minimum")

    def _set_minimum(self, value: float) -> None:
        self._spin.setMinimum(value)

    def _get_maximum(self) -> float:
        return self._spin.property("maximum")

    def _set_maximum(self, value: float) -> None:
        self._spin.setMaximum(value)

    def _get_step(self) -> float:
        return self._spin.property("singleStep")

    def _set_step(self, value: float) -> None:
        self._spin.setSingleStep(value)

    def _get_decimals(self) -> int:
        return self._spin.property("decimals")

    def _set_decimals(self, value: int) -> None:
        self._spin.setDecimals(value)

    value = Property(float, _get_value, _set_value)
    minimum = Property(float, _get_minimum, _set_minimum)
    maximum = Property(float, _get_maximum, _set_maximum)
    singleStep = Property(float, _get_step, _set_step)
    decimals = Property(int, _get_decimals, _set_decimals)


class ctkPathLineEdit(QWidget):
    """A line with a path. As CTK's, it tells paths that fit its filters alone, and so not that it was emptied."""

    currentPathChanged = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._edit, self._filters = qt.QLineEdit(self), []
        layout.addWidget(self._edit)
        self._edit.textChanged.connect(self._on_text)

    def _on_text(self, text: str) -> None:
        patterns = re.findall(r"\*\.\w+", " ".join(self._filters)) or ["?*"]
        if any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns):
            self.currentPathChanged.emit(text)

    def _get_path(self) -> str:
        return self._edit.property("text")

    def _set_path(self, path: str) -> None:
        self._edit.setText(path)

    def _get_filters(self) -> list:
        return self._filters

    def _set_filters(self, filters: list) -> None:
        self._filters = filters

    currentPath = Property(str, _get_path, _set_path)
    nameFilters = Property("QStringList", _get_filters, _set_filters)


for _kind in (ctkCollapsibleButton, ctkSliderWidget, ctkPathLineEdit):
    install_properties(_kind)
