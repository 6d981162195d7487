"""``slicer.app``, ``slicer.modules``, the scene and its logics; loading and reloading of scripted modules."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
import slicer_core
from PySide6 import QtCore, QtWidgets

from .qt_like_pythonqt import install_properties, make_qt


class _ModuleManager(QtCore.QObject):
    moduleAboutToBeUnloaded = QtCore.Signal(str)


install_properties(_ModuleManager)


class _FileManager:
    """Reads models and markups as Slicer's own readers do."""

    def fileType(self, path: str) -> str:
        return "MarkupsFile" if str(path).endswith((".json", ".fcsv")) else "ModelFile"

    def loadNodes(self, kind: str, properties: dict, loaded: Any, messages: Any) -> bool:
        path = properties["fileName"]
        if kind == "ModelFile":
            node_kind, storage_kind = "vtkMRMLModelNode", "vtkMRMLModelStorageNode"
        else:
            fcsv = path.endswith(".fcsv")
            node_kind = "vtkMRMLMarkupsFiducialNode"
            storage_kind = "vtkMRMLMarkupsFiducialStorageNode" if fcsv else "vtkMRMLMarkupsJsonStorageNode"
        scene = slicer.mrmlScene
        node = scene.AddNewNodeByClass(node_kind, scene.GenerateUniqueName(Path(path).name.split(".")[0]))
        storage = scene.AddNewNodeByClass(storage_kind)
        storage.SetFileName(path)
        if not storage.ReadData(node):
            scene.RemoveNode(storage)
            scene.RemoveNode(node)
            return False
        node.SetAndObserveStorageNodeID(storage.GetID())
        node.CreateDefaultDisplayNodes()
        loaded.AddItem(node)
        return True


class Application:
    """``slicer.app``: what the module asks of it."""

    applicationName = "Slicer"

    def __init__(self) -> None:
        self.qt = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
        self.temporaryPath = tempfile.mkdtemp(prefix="harness-")
        self._manager, self._files = _ModuleManager(), _FileManager()
        self._startup: list[Callable[[], None]] = []

    def connect(self, signature: str, slot: Callable[[], None]) -> bool:
        if signature != "startupCompleted()":
            raise ValueError(f"The application has no signal {signature}")
        self._startup.append(slot)
        return True

    def finish_startup(self) -> None:
        """All modules are loaded."""
        for slot in self._startup:
            slot()

    def testingEnabled(self) -> bool:
        return True

    def processEvents(self) -> None:
        self.qt.processEvents()

    def moduleManager(self) -> _ModuleManager:
        return self._manager

    def coreIOManager(self) -> _FileManager:
        return self._files


class _SampleDataLogic:
    sources: dict[str, dict] = {}  # noqa: RUF012

    @staticmethod
    def registerCustomSampleDataSource(
        category: str,
        sampleName: str,
        uris: str | None = None,
        fileNames: str | None = None,
        nodeNames: str | None = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileType: str = "VolumeFile",
    ) -> None:
        if not (isinstance(uris, str) and isinstance(fileNames, str)):
            raise TypeError("Slicer cannot do without addresses and file names, even where nothing is downloaded")
        _SampleDataLogic.sources[sampleName] = {
            "uri": uris,
            "file": fileNames,
            "node": nodeNames,
            "type": loadFileType,
            "category": category,
            "thumbnail": thumbnailFileName,
            "download": customDownloader,
        }


#: Panels of modules that were reloaded.
_closed: list[Any] = []


def start() -> Application:
    """Set everything up, once; the scene is ``slicer.mrmlScene``."""
    if getattr(slicer, "app", None) is not None:
        return slicer.app
    _make_constants_immortal()
    make_qt()
    application = Application()
    slicer.app = application
    slicer.modules = types.SimpleNamespace()
    scene = slicer_core.vtkMRMLScene()
    slicer.mrmlScene = scene
    core = slicer_core.vtkSlicerApplicationLogic()
    core.SetMRMLScene(scene)
    markups = slicer_core.vtkSlicerMarkupsLogic()
    markups.SetMRMLApplicationLogic(core)
    markups.SetMRMLScene(scene)
    application.logics = (core, markups)
    slicer.modules.markups = types.SimpleNamespace(logic=lambda: markups)
    slicer.util.mainWindow = lambda: None
    slicer.util.resetThreeDViews = lambda: None
    slicer.util.modulePath = lambda name: getattr(slicer.modules, name.lower()).path
    _install("SampleData", SampleDataLogic=_SampleDataLogic)
    _install("slicer.i18n", tr=lambda text: text, translate=lambda context, text: text)
    from . import ctk_widgets, mrml_widgets

    _install("ctk", **{n: v for n, v in vars(ctk_widgets).items() if n.startswith("ctk")})
    assert mrml_widgets
    real = os.environ.get("PALNET_SLICER_BASE_PYTHON")
    if real:
        slicer.__path__.append(str(Path(real) / "slicer"))
    else:
        from . import parameter_node, scripted_module

        _install("slicer.parameterNodeWrapper", **vars(parameter_node))
        _install("slicer.ScriptedLoadableModule", **vars(scripted_module))
    return application


def _make_constants_immortal() -> None:
    """Do for older Pythons what Python 3.12 does by itself (PEP 683).

    PySide6 6.12 counts on it: under Python 3.11 each of its functions without a result takes one reference to None too
    many (those with a truth value one to True or False), and after some ten thousand calls the interpreter aborts
    ("none_dealloc").
    """
    if sys.version_info < (3, 12):
        for constant in (None, True, False):
            ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 40


def _install(name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update({key: value for key, value in content.items() if not key.startswith("__")})
    sys.modules[name] = module
    if name.startswith("slicer."):
        setattr(slicer, name.partition(".")[2], module)


def load_module(folder: Path, name: str) -> Any:
    """Load a scripted module and open its panel, or reload it if it is there; returns the widget object.

    As in Slicer, the module's folder is on ``sys.path`` and the panel's parent is a ``qMRMLWidget`` with a layout;
    reloading is done by ``slicer.util`` itself.
    """
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    path = str(folder / f"{name}.py")
    key = name.lower()
    if hasattr(slicer.modules, key):
        _closed.append(getattr(slicer.modules, f"{name}Widget"))
        slicer.util.reloadScriptedModule(name)
        return getattr(slicer.modules, f"{name}Widget")
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    description = types.SimpleNamespace(path=path, icon=None)
    getattr(module, name)(description)
    slicer.app.finish_startup()
    parent = slicer.qMRMLWidget()
    parent.setLayout(QtWidgets.QVBoxLayout())
    parent.setMRMLScene(slicer.mrmlScene)

    def open_panel() -> None:
        widget = getattr(sys.modules[name], f"{name}Widget")(parent)
        setattr(slicer.modules, f"{name}Widget", widget)
        widget.setup()

    parent._reload = open_panel
    representation = types.SimpleNamespace(path=path, description=description, widgetRepresentation=lambda: parent)
    setattr(slicer.modules, key, representation)
    open_panel()
    return getattr(slicer.modules, f"{name}Widget")
