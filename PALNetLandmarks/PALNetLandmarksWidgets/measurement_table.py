"""The panel's table of distances and angles."""

import qt
from PALNetLandmarksLib.measurements import load_measurements
from PALNetLandmarksLib.scheme import load_scheme
from slicer.i18n import tr as _

from .landmark_table import ROW_HEIGHT


class MeasurementTable:
    """Distances and angles in a ``QTableWidget``."""

    VALUE_WIDTH = 118

    def __init__(self, table):
        measurements = load_measurements()
        names = {landmark.label: landmark.name for landmark in load_scheme().landmarks}
        table.setColumnCount(2)
        table.setHorizontalHeaderLabels([_("Distance or angle"), _("Value")])
        table.horizontalHeaderItem(1).setToolTip(
            _("mm or degrees; with the standard deviation where all its landmarks are as detected")
        )
        table.setWordWrap(False)
        table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        table.setRowCount(len(measurements))
        self._items = []
        for row, one in enumerate(measurements):
            head = qt.QTableWidgetItem(one.name)
            head.setToolTip(f"{one.group}: " + " - ".join(names[label] for label in one.landmarks))
            table.setItem(row, 0, head)
            self._items.append(qt.QTableWidgetItem(""))
            table.setItem(row, 1, self._items[row])
        header = table.horizontalHeader()
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        header.setSectionResizeMode(1, qt.QHeaderView.Fixed)
        table.setColumnWidth(1, self.VALUE_WIDTH)

    def show(self, values):
        """Write the values, in the order of the library's list, into the rows; none at all empties them."""
        texts = [self._text(one) for one in values] or [""] * len(self._items)
        for item, text in zip(self._items, texts):
            if item.text() != text:
                item.setText(text)

    @staticmethod
    def _text(one):
        if one.value != one.value:
            return _("missing")
        spread = f" ±{one.standard_deviation:.1f}" if one.standard_deviation == one.standard_deviation else ""
        return f"{one.value:.1f}{spread}" + ("°" if one.measurement.is_angle else " mm")
