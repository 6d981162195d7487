"""Stand-ins for Slicer's MRML widgets, wired to a real scene."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6.QtCore import Property, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QWidget

from .qt_like_pythonqt import install_properties


class qMRMLWidget(QWidget):
    """A widget that knows its scene."""

    mrmlSceneChanged = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene = None

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._scene

    def reload(self) -> None:
        """Where this holds a module's panel: make it anew, as ``qSlicerScriptedLoadableModuleWidget`` does."""
        self._reload()


class qMRMLNodeComboBox(QWidget):
    """Chooses a node of the scene; follows nodes that come and go, as Slicer's does with Qt 6.

    Where the chosen node goes, its neighbour is chosen. When a scene has been imported, all rows are made anew and none
    is chosen. ``currentNodeChanged`` follows the text: it is silent between two nodes of one name, but
    ``nodeActivated`` tells what the user chose.
    """

    currentNodeChanged = Signal(object)
    nodeActivated = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._box = QComboBox(self)
        layout.addWidget(self._box)
        self._flags = {"addEnabled": True, "removeEnabled": True, "noneEnabled": False, "showChildNodeTypes": True}
        self._types, self._scene, self._tags, self._current = [], None, [], None
        self._box.currentIndexChanged.connect(self._on_index)

    def setMRMLScene(self, scene: Any) -> None:
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        self._tags = [
            scene.AddObserver(event, lambda *_: self._fill()) for event in (scene.NodeAddedEvent, scene.EndCloseEvent)
        ]
        self._tags.append(scene.AddObserver(scene.EndImportEvent, lambda *_: self._refill()))
        self._tags.append(scene.AddObserver(scene.NodeAboutToBeRemovedEvent, self._leave, -10.0))
        self._fill()

    def mrmlScene(self) -> Any:
        return self._scene

    def currentNode(self) -> Any:
        return self._current

    def setCurrentNode(self, node: Any) -> None:
        identity = node.GetID() if node is not None else ""
        index = self._box.findData(identity)
        if index < 0:
            raise ValueError(f"{node.GetName()} cannot be chosen here")
        self._box.setCurrentIndex(index)

    def activate(self, node: Any) -> None:
        """The user chooses ``node``."""
        self.setCurrentNode(node)
        self.nodeActivated.emit(node)

    def _fill(self) -> None:
        if self._scene.IsImporting():
            return
        chosen = self._current
        blocked = self._box.blockSignals(True)
        self._box.clear()
        if self._flags["noneEnabled"]:
            self._box.addItem("None", "")
        for i in range(self._scene.GetNumberOfNodes()):
            node = self._scene.GetNthNode(i)
            if any(self._fits(node, kind) for kind in self._types) and not node.GetHideFromEditors():
                self._box.addItem(node.GetName(), node.GetID())
        self._box.setCurrentIndex(max(self._box.findData(chosen.GetID() if chosen is not None else ""), 0))
        self._box.blockSignals(blocked)
        self._on_index(self._box.currentIndex())

    def _refill(self) -> None:
        self._box.setCurrentIndex(0)
        self._fill()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _leave(self, scene: Any, event: str, node: Any) -> None:
        index = self._box.findData(node.GetID())
        if index >= 0:
            self._box.removeItem(index)

    def _fits(self, node: Any, kind: str) -> bool:
        return node.IsA(kind) if self._flags["showChildNodeTypes"] else node.GetClassName() == kind

    def _on_index(self, index: int) -> None:
        identity = self._box.itemData(index) if index >= 0 else ""
        self._take(self._scene.GetNodeByID(identity) if identity else None)

    def _take(self, node: Any) -> None:
        before, self._current = self._current, node
        names = [one.GetName() if one is not None else None for one in (before, node)]
        if names[0] != names[1]:
            self.currentNodeChanged.emit(node)

    def _get_types(self) -> list:
        return self._types

    def _set_types(self, kinds: list) -> None:
        self._types = [str(kind) for kind in kinds]
        if self._scene is not None:
            self._fill()

    def _flag(name: str) -> Property:
        def read(self: qMRMLNodeComboBox) -> bool:
            return self._flags[name]

        def write(self: qMRMLNodeComboBox, value: bool) -> None:
            self._flags[name] = value

        return Property(bool, read, write)

    nodeTypes = Property("QStringList", _get_types, _set_types)
    addEnabled = _flag("addEnabled")
    removeEnabled = _flag("removeEnabled")
    noneEnabled = _flag("noneEnabled")
    showChildNodeTypes = _flag("showChildNodeTypes")


for _kind in (qMRMLWidget, qMRMLNodeComboBox):
    install_properties(_kind)
    setattr(slicer, _kind.__name__, _kind)
