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
#: Widgets that a loader made: without a reference in Python they would come back as PySide6's own classes.
_made: list[QtWidgets.QWidget] = []
#: Their getters are virtual (those of ``text`` in a progress bar): Qt itself would call the attribute in their place.
_SKIPPED = ("objectName", "sizeHint", "minimumSizeHint")
_MODULES = (QtCore, QtGui, QtWidgets)


def make_qt() -> types.ModuleType:
    """The module ``qt``."""
    module = types.ModuleType("qt")
    for source in _MODULES:
        for name in dir(source):
            if not name.startswith("_"):
                setattr(module, name, getattr(source, name))
    for name, value in list(vars(module).items()):
        if isinstance(value, type) and issubclass(value, QtCore.QObject):
            # A subclass: PySide6 ignores what is set on its own classes where it has a method of that name.
            setattr(module, name, install_properties(type(name, (value,), {})))
    module.QUiLoader = _UiLoader
    module.QFileDialog = _FileDialog
    sys.modules["qt"] = module
    return module


def install_properties(kind: type) -> type:
    """Make the Qt properties of ``kind``, a class written in Python, attributes, and refuse other ones."""
    meta = kind.staticMetaObject
    for i in range(meta.propertyCount()):
        name = meta.property(i).name()
        present = getattr(kind, name, None)
        if isinstance(present, (types.BuiltinFunctionType, QtCore.Property)) or name in _SKIPPED:
            continue  # static functions, like QTimer.singleShot; properties written in Python are attributes anyway
        if not (name == "text" and issubclass(kind, QtWidgets.QProgressBar)):
            setattr(kind, name, _property(name))
    kind.name = property(lambda self: self.objectName(), lambda self, value: self.setObjectName(value))
    kind.className = lambda self: self.metaObject().className()
    kind.connect, kind.disconnect = _connect, _disconnect
    kind.__setattr__ = _set_attribute
    return kind


def _property(name: str) -> property:
    def read(self: QtCore.QObject) -> Any:
        return self.property(name)

    def write(self: QtCore.QObject, value: Any) -> None:
        if not self.setProperty(name, value):
            raise TypeError(f"{type(self).__name__}.{name} cannot be {value!r}")

    return property(read, write)


def _set_attribute(self: QtCore.QObject, name: str, value: Any) -> None:
    kind = type(self)
    if isinstance(value, QtCore.QObject) and value.objectName() == name:
        return  # PySide6's loader of .ui files hangs the children on the parent; PythonQt's does not
    present = getattr(kind, name, None)
    if isinstance(present, property):
        present.__set__(self, value)
    elif isinstance(present, QtCore.Property):
        self.setProperty(name, value)
    elif name.startswith("_"):
        self.__dict__[name] = value
    else:
        raise AttributeError(f"{kind.__name__} has no property '{name}'")


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
            if class_name.startswith(("ctk", "qMRML")) and hasattr(module, class_name):
                widget = getattr(module, class_name)(parent)
                widget.setObjectName(name)
                _made.append(widget)
                return widget
        if not hasattr(sys.modules["qt"], class_name):
            raise ValueError(f"The harness has no {class_name}")
        widget = getattr(sys.modules["qt"], class_name)(parent)
        widget.setObjectName(name)
        _made.append(widget)
        return widget


class _FileDialog(QtWidgets.QFileDialog):
    """Paths alone, as PythonQt returns them. ``answer`` is what the next dialog returns."""

    answer = ""

    @staticmethod
    def getOpenFileName(*arguments: Any) -> str:
        return _FileDialog.answer

    @staticmethod
    def getSaveFileName(*arguments: Any) -> str:
        return _FileDialog.answer
