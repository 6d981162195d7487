"""A 3D view as Slicer's, without a window: its own displayable managers draw the scene and answer the mouse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer_core
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkInteractionStyle import vtkInteractorStyleUser
from vtkmodules.vtkRenderingCore import vtkRenderer, vtkRenderWindow, vtkWindowToImageFilter
from vtkmodules.vtkRenderingUI import vtkGenericRenderWindowInteractor

#: Offscreen rendering, and text in it.
import vtkmodules.vtkRenderingFreeType  # isort: skip
import vtkmodules.vtkRenderingOpenGL2  # noqa: F401, isort: skip

MANAGERS = (
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
)


class ThreeDView:
    """Shows ``scene`` (``vtkMRMLScene``). One in a process, opened once: taking it
    down crashes VTK, and a second one draws but does not drag.

    Parameters
    ----------
    application, markups : the logics that are attached to the scene.
    size : width and height in pixels.
    """

    def __init__(self, scene: Any, application: Any, markups: Any, size: tuple[int, int] = (500, 600)) -> None:
        application.SetModuleLogic("Markups", markups)
        node = scene.AddNode(slicer_core.vtkMRMLViewNode())
        node.SetBoxVisible(False)
        node.SetAxisLabelsVisible(False)
        self.window = vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetSize(*size)
        self._renderer = vtkRenderer()
        self.window.AddRenderer(self._renderer)
        self._interactor = vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self.window)
        self._interactor.SetInteractorStyle(vtkInteractorStyleUser())
        self._style = slicer_core.vtkMRMLThreeDViewInteractorStyle()
        self._style.SetInteractor(self._interactor)
        self._interactor.Initialize()
        factory = slicer_core.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(application)
        for name in MANAGERS:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._managers = factory.InstantiateDisplayableManagers(self._renderer)
        self._managers.SetMRMLDisplayableNode(node)
        self._style.SetDisplayableManagers(self._managers)
        self.camera = scene.AddNode(slicer_core.vtkMRMLCameraNode())
        self.camera.SetActiveTag(node.GetID())
        self._style.SetCameraNode(self.camera)
        self._renderer.SetActiveCamera(self.camera.GetCamera())

    def look_at(self, centre: Any, towards_viewer: Any = (0.0, 1.0, 0.0), distance: float = 600.0) -> None:
        """Look at a point (RAS mm) from the direction given; the front of a face by default."""
        self.camera.SetFocalPoint([float(value) for value in centre])
        self.camera.SetPosition([float(value) for value in np.add(centre, distance * np.array(towards_viewer))])
        self.camera.SetViewUp([0.0, 0.0, 1.0])
        self.draw()

    def draw(self) -> None:
        """Render what the scene has now."""
        self._renderer.ResetCameraClippingRange()
        self.window.Render()

    def picture(self) -> np.ndarray:
        """(height, width, 3) uint8, the first row at the top."""
        self.draw()
        grab = vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()

    def save(self, path: Path) -> None:
        """Write the picture as PNG."""
        from PIL import Image

        Image.fromarray(self.picture()).save(path)

    def display(self, point: Any) -> np.ndarray:
        """(2,) pixels from the lower left corner where a point (RAS mm) is seen."""
        self._renderer.SetWorldPoint(*(float(value) for value in point), 1.0)
        self._renderer.WorldToDisplay()
        return np.array(self._renderer.GetDisplayPoint()[:2])

    def drag(self, start: Any, by: Any, steps: int = 8) -> None:
        """Press the left button at ``start`` (pixels), move by ``by`` in steps, and let go."""
        start, by = np.asarray(start, dtype=float), np.asarray(by, dtype=float)
        self._mouse("MouseMoveEvent", start)
        self._mouse("LeftButtonPressEvent", start)
        for step in range(1, steps + 1):
            self._mouse("MouseMoveEvent", start + by * step / steps)
        self._mouse("LeftButtonReleaseEvent", start + by)

    def click(self, at: Any) -> None:
        """Move to ``at`` (pixels), press the left button, and let go."""
        at = np.asarray(at, dtype=float)
        for event in ("MouseMoveEvent", "LeftButtonPressEvent", "LeftButtonReleaseEvent"):
            self._mouse(event, at)

    def _mouse(self, event: str, at: np.ndarray) -> None:
        self._interactor.SetEventInformation(round(at[0]), round(at[1]), 0, 0, chr(0), 0, None)
        self._interactor.InvokeEvent(event)
        self.window.Render()
