"""``qt``: PySide6 with the habits of PythonQt.

- Qt's properties are attributes: ``button.text = "Go"``; ``name`` is the object's name. Other getters stay methods.
- Setting an attribute that is no property of a Qt object is an error, as in PythonQt: misspelt properties show.
- ``sender.connect("clicked(bool)", function)`` and ``disconnect`` take signals by their C++ signature; a signature that
  the object does not have is an error.
- File dialogs return the path alone.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

#: Signal argument types by their C++ names.
_TYPES = {"bool": bool, "int": int, "double": float, "QString": str}
_MODULES = (QtCore, QtGui, QtWidgets)


def make_qt() -> types.ModuleType:
    """The module ``qt``; changes PySide6's classes for the whole process."""
    module = types.ModuleType("qt")
    for source in _MODULES:
        for name in dir(source):
            if not name.startswith("_"):
                setattr(module, name, getattr(source, name))
    for value in list(vars(module).values()):
        if isinstance(value, type) and issubclass(value, QtCore.QObject):
            install_properties(value)
    QtCore.QObject.name = property(lambda self: self.objectName(), lambda self, value: self.setObjectName(value))
    QtCore.QObject.connect = _connect
    QtCore.QObject.disconnect = _disconnect
    QtCore.QObject.className = lambda self: self.metaObject().className()
    module.QUiLoader = _UiLoader
    module.QFileDialog = _FileDialog
    sys.modules["qt"] = module
    return module


def install_properties(kind: type) -> None:
    """Make the Qt properties that ``kind`` itself declares attributes, and refuse other ones."""
    meta = kind.staticMetaObject
    for i in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(i).name()
        present = getattr(kind, name, None)
        if isinstance(present, types.BuiltinFunctionType) or name == "objectName":  # static functions: QTimer.singleShot
            continue
        setattr(kind, name, _property(name))
    kind.__setattr__ = _set_attribute


def _property(name: str) -> property:
    def read(self: QtCore.QObject) -> Any:
        return self.property(name)

    def write(self: QtCore.QObject, value: Any) -> None:
        if not self.setProperty(name, value):
            raise TypeError(f"{type(self).__name__}.{name} cannot be {value!r}")

    return property(read, write)


def _set_attribute(self: QtCore.QObject, name: str, value: Any) -> None:
    kind = type(self)
    own = kind.__module__.split(".")[0] == "PySide6"
    if (own or not name.startswith("_")) and not isinstance(getattr(kind, name, None), property):
        raise AttributeError(f"{kind.__name__} has no property '{name}'")
    object.__setattr__(self, name, value)


def _signal(sender: QtCore.QObject, signature: str) -> Any:
    normal = QtCore.QMetaObject.normalizedSignature(signature)
    text = normal.decode() if isinstance(normal, bytes) else bytes(normal.data()).decode()
    name, _, arguments = text.rstrip(")").partition("(")
    meta = sender.metaObject()
    if meta.indexOfSignal(text) < 0:
        # Stand-ins written in Python pass MRML nodes as objects.
        python = [meta.method(i).name() for i in range(meta.methodCount())]
        if not type(sender).__module__.startswith(__package__) or name.encode() not in [bytes(n) for n in python]:
            raise ValueError(f"{type(sender).__name__} has no signal {signature}")
    signal = getattr(sender, name)
    kinds = [argument for argument in arguments.split(",") if argument]
    if len(kinds) == 1 and kinds[0] in _TYPES:
        try:
            return signal[_TYPES[kinds[0]]]
        except (KeyError, IndexError):
            return signal
    return signal


def _connect(self: QtCore.QObject, signature: str, slot: Any) -> bool:
    return bool(_signal(self, signature).connect(slot))


def _disconnect(self: QtCore.QObject, signature: str, slot: Any) -> bool:
    return bool(_signal(self, signature).disconnect(slot))


class _UiLoader(QtUiTools.QUiLoader):
    """Makes the widgets of CTK and MRML that a ``.ui`` file names."""

    def createWidget(self, class_name: str, parent: QtWidgets.QWidget | None = None, name: str = "") -> Any:
        from . import ctk_widgets, mrml_widgets

        for module in (ctk_widgets, mrml_widgets):
            if hasattr(module, class_name):
                widget = getattr(module, class_name)(parent)
                widget.setObjectName(name)
                return widget
        if class_name.startswith(("q", "ctk")):
            raise ValueError(f"The harness has no {class_name}")
        return super().createWidget(class_name, parent, name)


class _FileDialog(QtWidgets.QFileDialog):
    """Paths alone, as PythonQt returns them. ``answer`` is what the next dialog returns."""

    answer = ""

    @staticmethod
    def getOpenFileName(*arguments: Any) -> str:
        return _FileDialog.answer

    @staticmethod
    def getSaveFileName(*arguments: Any) -> str:
        return _FileDialog.answer
