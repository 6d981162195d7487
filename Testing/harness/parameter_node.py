"""Stand-in for ``slicer.parameterNodeWrapper``: typed parameters of a parameter node, as strict as Slicer's.

Nothing is bound to widgets here: the module does that itself (see ``PALNetLandmarksWidget.setup``).
"""

from __future__ import annotations

import types
import typing
import weakref
from dataclasses import dataclass
from typing import Any

import slicer
import vtk

#: What Slicer's decorator adds to the class; parameters cannot have these names.
_RESERVED = ("allParameters", "default", "isCached", "dataType", "getValue", "setValue", "connectGui", "disconnectGui")


@dataclass(frozen=True)
class WithinRange:
    """Bounds of a number."""

    minimum: float
    maximum: float

    def check(self, value: float) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} and {self.maximum}")


class _Parameter:
    """One parameter; that of a union is kept under a name of its own for each type, as Slicer does."""

    def __init__(self, kind: type, name: str, hint: Any) -> None:
        self.bounds = None
        if typing.get_origin(hint) is typing.Annotated:
            hint, self.bounds = typing.get_args(hint)
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        self.name = name
        self.kinds = typing.get_args(hint) if union else (hint,)
        self.keys = [f"{name}.{i}" for i in range(len(self.kinds))] if union else [name]
        for one in self.kinds:
            if not (one in (str, bool, float, type(None)) or _is_node(one)):
                raise TypeError(f"The harness has no parameters of type {one}")
        # Slicer's default for a union of nodes is None, whether or not the union has it.
        self.default = getattr(kind, name, None if _is_node(self.kinds[0]) else self.kinds[0]())

    def _key(self, node: Any) -> int | None:
        return next((i for i, key in enumerate(self.keys) if node.HasParameter(key)), None)

    def is_in(self, node: Any) -> bool:
        return self._key(node) is not None

    def read(self, node: Any) -> Any:
        if not self.is_in(node):
            self.write(node, self.default)
        i = self._key(node)
        kind, key = self.kinds[i], self.keys[i]
        if kind is type(None):
            return None
        if _is_node(kind):
            return node.GetNodeReference(key)
        text = node.GetParameter(key)
        return text == "True" if kind is bool else kind(text)

    def write(self, node: Any, value: Any) -> None:
        i = next((i for i, kind in enumerate(self.kinds) if self._takes(kind, value)), None)
        if i is None:
            raise TypeError(f"{self.name} cannot be {value!r}")
        if self.bounds:
            self.bounds.check(value)
        with slicer.util.NodeModify(node):
            if len(self.kinds) > 1:
                for key in self.keys:
                    node.UnsetParameter(key)
                    node.RemoveNodeReferenceIDs(key)
            reference = _is_node(self.kinds[i])
            node.SetParameter(self.keys[i], "" if reference else str(value))
            if reference:
                node.SetNodeReferenceID(self.keys[i], value.GetID() if value is not None else None)

    def _takes(self, kind: type, value: Any) -> bool:
        if value is None and len(self.kinds) == 1:
            return _is_node(kind)
        return isinstance(value, (int, float) if kind is float else kind)


def _is_node(kind: type) -> bool:
    return issubclass(kind, slicer.vtkMRMLNode)


def parameterNodeWrapper(kind: type) -> type:
    """Class decorator, as Slicer's. Values are remembered, and read again when the node is modified."""
    for name in _RESERVED:
        if hasattr(kind, name):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
    hints = typing.get_type_hints(kind, include_extras=True)
    parameters = {name: _Parameter(kind, name, hint) for name, hint in hints.items()}

    def init(self: Any, node: Any) -> None:
        self.parameterNode, self._values = node, {}
        _read(self)
        me = weakref.ref(self)
        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: _read(me()))

    def _read(self: Any) -> None:
        self._values.update({name: parameter.read(self.parameterNode) for name, parameter in parameters.items()})

    def write(self: Any, name: str, value: Any) -> None:
        with slicer.util.NodeModify(self.parameterNode):
            parameters[name].write(self.parameterNode, value)
            self._values[name] = parameters[name].read(self.parameterNode)

    def remembered(name: str) -> property:
        return property(lambda self: self._values[name], lambda self, value: write(self, name, value))

    for name in parameters:
        setattr(kind, name, remembered(name))
    kind.__init__ = init
    kind.__del__ = lambda self: self.parameterNode.RemoveObserver(self._tag) if hasattr(self, "_tag") else None
    for name in ("StartModify", "EndModify", "AddObserver", "RemoveObserver", "Modified"):
        setattr(kind, name, _forward(name))
    return kind


def _forward(name: str) -> Any:
    return lambda self, *arguments: getattr(self.parameterNode, name)(*arguments)
