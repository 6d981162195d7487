"""The panel's table of landmarks."""

import qt
from PALNetLandmarksLib.certainty import certainty_class
from PALNetLandmarksLib.scheme import load_scheme
from slicer.i18n import tr as _

#: Height of a row, in pixels.
ROW_HEIGHT = 22


class LandmarkTable:
    """The landmarks in a ``QTableWidget``, right beside left, with their states.

    ``on_chosen`` is called with the label of the landmark that the user chose.
    """

    #: Text colours of what is not as detected; detected landmarks have a dot in the colour of their certainty.
    COLOURS = {"corrected": "#1565c0", "missing": "#757575"}  # noqa: RUF012

    #: Width of the columns of states, in pixels.
    STATE_WIDTH = 118
    DOT_SIZE = 10

    def __init__(self, table, on_chosen):
        self.chosen = None
        self._widget, self._on_chosen = table, on_chosen
        self._landmarks = load_scheme().landmarks
        self._cells = {}
        self._items = {}
        self._dots = {}
        self._names = []
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels([_("Landmark"), _("Right, middle"), _("Left")])
        for column in (1, 2):
            table.horizontalHeaderItem(column).setToolTip(_("State; standard deviation in mm of what was detected"))
        table.setWordWrap(False)
        table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        table.setRowCount(sum(landmark.side != "left" for landmark in self._landmarks))
        rows = {}
        for landmark in self._landmarks:
            stem = landmark.label.rsplit("_", 1)[0]
            if stem not in rows:
                rows[stem] = len(rows)
                name = landmark.name.rsplit(" ", 1)[0] if landmark.side != "midline" else landmark.name
                self._names.append(f"{stem} {name}")
                head = qt.QTableWidgetItem(f"{stem}  {name}")
                head.setToolTip(f"{name}: {landmark.definition}")
                table.setItem(rows[stem], 0, head)
            cell = (rows[stem], 2 if landmark.side == "left" else 1)
            item = qt.QTableWidgetItem("")
            item.setToolTip(f"{landmark.name}: {landmark.definition}")
            table.setItem(cell[0], cell[1], item)
            self._cells[landmark.label] = cell
            self._items[landmark.label] = item
        # The states are always readable; names are cut off where the panel is narrow.
        header = table.horizontalHeader()
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for column in (1, 2):
            header.setSectionResizeMode(column, qt.QHeaderView.Fixed)
            table.setColumnWidth(column, self.STATE_WIDTH)
        table.connect("cellClicked(int,int)", self._on_clicked)
        # Keys: to the next landmark and back.
        self._shortcuts = []
        for key, step in (("N", 1), ("P", -1)):
            shortcut = qt.QShortcut(qt.QKeySequence(key), table)
            shortcut.setContext(qt.Qt.WidgetWithChildrenShortcut)
            shortcut.connect("activated()", lambda step=step: self.go(step))
            self._shortcuts.append(shortcut)

    def show(self, states, deviations):
        """Write ``states`` (by label; none at all empties the table) and standard deviations (mm) into the cells."""
        words = {"detected": _("detected"), "corrected": _("corrected"), "missing": _("missing")}
        plain = self._widget.palette.color(qt.QPalette.Text)
        for label, item in self._items.items():
            state = states.get(label)
            text, dot = words.get(state, ""), qt.QIcon()
            if state == "detected":
                deviation = deviations.get(label, float("nan"))
                dot = self._dot(deviation)
                if deviation == deviation:
                    text += f" ±{deviation:.1f}"
            if item.text() != text:
                item.setText(text)
            item.setIcon(dot)
            item.setForeground(qt.QBrush(qt.QColor(self.COLOURS[state]) if state in self.COLOURS else plain))

    def _dot(self, deviation):
        """The icon for a standard deviation in mm, in the colour that the library's pictures have, too."""
        certainty = certainty_class(deviation)
        if certainty not in self._dots:
            pixmap = qt.QPixmap(self.DOT_SIZE, self.DOT_SIZE)
            pixmap.fill(qt.QColor(*certainty.colour))
            self._dots[certainty] = qt.QIcon(pixmap)
        return self._dots[certainty]

    def search(self, text):
        """Show the landmarks whose name or abbreviation holds ``text``."""
        for row, name in enumerate(self._names):
            self._widget.setRowHidden(row, text.strip().lower() not in name.lower())

    def choose(self, label):
        """Choose a landmark, as a click does."""
        self.chosen = label
        self._widget.setCurrentCell(*self._cells[label])
        self._on_chosen(label)

    def go(self, step):
        """Choose the next (or, with -1, the previous) landmark in the order of the table."""
        labels = [landmark.label for landmark in self._landmarks]
        order = sorted(labels, key=lambda label: self._cells[label])
        at = order.index(self.chosen) + step if self.chosen in order else 0
        self.choose(order[at % len(order)])

    def _on_clicked(self, row, column):
        for label, cell in self._cells.items():
            if cell == (row, max(1, column)):
                self.choose(label)
