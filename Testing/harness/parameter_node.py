"""Stand-in for ``slicer.parameterNodeWrapper``: typed attributes of a parameter node, bound to widgets."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Any

import slicer
import vtk
from PySide6 import QtWidgets

PROPERTY = "SlicerParameterName"


@dataclass(frozen=True)
class WithinRange:
    """Bounds of a number."""

    minimum: float
    maximum: float

    def check(self, value: float) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} and {self.maximum}")


@dataclass(frozen=True)
class _Parameter:
    name: str
    kinds: tuple[type, ...]
    bounds: WithinRange | None
    default: Any

    @property
    def is_node(self) -> bool:
        return issubclass(self.kinds[0], slicer.vtkMRMLNode)

    def read(self, node: Any) -> Any:
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.kinds[0] is bool:
            return text == "True"
        return self.kinds[0](text)

    def write(self, node: Any, value: Any) -> None:
        if self.is_node:
            if value is not None and not isinstance(value, self.kinds):
                raise TypeError(f"{self.name} cannot be a {type(value).__name__}")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            return
        if not isinstance(value, self.kinds):
            raise TypeError(f"{self.name} cannot be {value!r}")
        if self.bounds:
            self.bounds.check(value)
        node.SetParameter(self.name, str(value))


def parameterNodeWrapper(kind: type) -> type:
    """Class decorator, as Slicer's."""
    parameters = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        bounds = None
        if typing.get_origin(hint) is typing.Annotated:
            hint, bounds = typing.get_args(hint)[0], typing.get_args(hint)[1]
        kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        default = getattr(kind, name, None if issubclass(kinds[0], slicer.vtkMRMLNode) else kinds[0]())
        parameters[name] = _Parameter(name, kinds, bounds, default)
        setattr(kind, name, _property(parameters[name]))

    def init(self: Any, node: Any) -> None:
        self.parameterNode, self._guis, self._busy = node, {}, False
        for parameter in parameters.values():
            there = parameter.is_node or parameter.name in node.GetParameterNames()
            if not there:
                parameter.write(node, parameter.default)

    def connect_gui(self: Any, gui: Any) -> int:
        widgets = {w.property(PROPERTY): w for w in vars(gui).values() if w.property(PROPERTY)}
        unknown = set(widgets) - set(parameters)
        if unknown:
            raise ValueError(f"Cannot find a param with the given name: {unknown}")
        tag = len(self._guis)
        self._guis[tag] = [_Binding(widget, parameters[name], self) for name, widget in widgets.items()]
        for binding in self._guis[tag]:
            binding.show()
            binding.connect()
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: show_all(self))
        self._guis[tag].append(observer)
        return tag

    def show_all(self: Any) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            for bindings in self._guis.values():
                for binding in bindings[:-1]:
                    binding.show()
        finally:
            self._busy = False

    def disconnect_gui(self: Any, tag: int) -> None:
        *bindings, observer = self._guis.pop(tag)
        self.RemoveObserver(observer)
        for binding in bindings:
            binding.disconnect()

    kind.__init__, kind.connectGui, kind.disconnectGui = init, connect_gui, disconnect_gui
    for name in ("StartModify", "EndModify", "AddObserver", "RemoveObserver", "HasObserver", "Modified"):
        setattr(kind, name, _forward(name))
    return kind


def _forward(name: str) -> Any:
    return lambda self, *arguments: getattr(self.parameterNode, name)(*arguments)


def _property(parameter: _Parameter) -> property:
    return property(
        lambda self: parameter.read(self.parameterNode),
        lambda self, value: parameter.write(self.parameterNode, value),
    )


class _Binding:
    """One widget and one parameter."""

    def __init__(self, widget: QtWidgets.QWidget, parameter: _Parameter, wrapper: Any) -> None:
        from .ctk_widgets import ctkSliderWidget
        from .mrml_widgets import qMRMLNodeComboBox

        self.widget, self.parameter, self.wrapper = widget, parameter, wrapper
        if parameter.is_node and type(widget) is qMRMLNodeComboBox:
            widget.nodeTypes = [kind.__name__ for kind in parameter.kinds]
            self.signal, self.read, self.put = widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode
        elif parameter.kinds == (bool,) and isinstance(widget, QtWidgets.QCheckBox):
            self.signal, self.read, self.put = widget.toggled, widget.isChecked, widget.setChecked
        elif parameter.kinds == (float,) and type(widget) is ctkSliderWidget:
            widget.minimum, widget.maximum = parameter.bounds.minimum, parameter.bounds.maximum
            self.signal, self.read = widget.valueChanged, lambda: widget.value
            self.put = lambda value: setattr(widget, "value", value)
        else:
            raise RuntimeError(f"Unable to create GUI connector from {parameter} to widget type '{type(widget)}'")

    def show(self) -> None:
        self.put(self.parameter.read(self.wrapper.parameterNode))

    def connect(self) -> None:
        self.signal.connect(self._changed)

    def disconnect(self) -> None:
        self.signal.disconnect(self._changed)

    def _changed(self, *_: Any) -> None:
        if not self.wrapper._busy:
            self.parameter.write(self.wrapper.parameterNode, self.read())
