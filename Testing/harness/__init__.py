"""The panel without Slicer's application: PySide6 stands in for PythonQt, slicer-core is real Slicer.

``start()`` makes ``qt``, ``ctk``, ``SampleData`` and the missing parts of ``slicer`` importable, with a scene and the
logics that Slicer attaches to it; ``load_module(folder, name)`` loads a scripted module into it.

Where the environment variable ``PALNET_SLICER_BASE_PYTHON`` names the folder ``Base/Python`` of Slicer's source tree,
``slicer.ScriptedLoadableModule`` and ``slicer.parameterNodeWrapper`` are the real ones from there.
"""

from .application import Application, load_module, start

__all__ = ["Application", "load_module", "start"]
