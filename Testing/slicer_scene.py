"""Run by an interpreter that has slicer-core: what 3D Slicer's own code writes and sees.

``python slicer_scene.py < jobs.json`` does the jobs in turn and prints their results as a JSON list on the last line:

``{"do": "convert", "model": PATH, "to": [[PATH, "LPS" | "RAS"], ...]}`` loads a model and saves it again.
``{"do": "load", "model": PATH, "markups": PATH}`` loads both into one scene and returns the control points (in RAS),
their distance from the model's surface and the coordinate system in which Slicer took the model's file to be.
"""

import json
import sys

import slicer_core
from vtkmodules.vtkFiltersCore import vtkImplicitPolyDataDistance


def load_model(scene, path):
    node = scene.AddNewNodeByClass("vtkMRMLModelNode")
    storage = scene.AddNode(slicer_core.vtkMRMLModelStorageNode())
    storage.SetFileName(path)
    if not storage.ReadData(node):
        raise RuntimeError(f"Slicer cannot read {path}: {storage.GetUserMessages().GetAllMessagesAsString()}")
    return node, storage


def convert(job):
    scene = slicer_core.vtkMRMLScene()
    node, storage = load_model(scene, job["model"])
    for path, coordinate_system in job["to"]:
        storage.SetFileName(path)
        storage.SetCoordinateSystem(storage.GetCoordinateSystemFromString(coordinate_system))
        if not storage.WriteData(node):
            raise RuntimeError(f"Slicer cannot write {path}: {storage.GetUserMessages().GetAllMessagesAsString()}")
    return node.GetPolyData().GetNumberOfPoints()


def load(job):
    scene = slicer_core.vtkMRMLScene()
    model, model_storage = load_model(scene, job["model"])
    markups = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    json_file = job["markups"].endswith(".json")
    kind = slicer_core.vtkMRMLMarkupsJsonStorageNode if json_file else slicer_core.vtkMRMLMarkupsFiducialStorageNode
    storage = scene.AddNode(kind())
    storage.SetFileName(job["markups"])
    if not storage.ReadData(markups):
        raise RuntimeError(f"Slicer cannot read {job['markups']}: {storage.GetUserMessages().GetAllMessagesAsString()}")
    distance = vtkImplicitPolyDataDistance()
    distance.SetInput(model.GetPolyData())
    points = []
    for i in range(markups.GetNumberOfControlPoints()):
        position = [0.0, 0.0, 0.0]
        markups.GetNthControlPointPositionWorld(i, position)
        points.append(
            {
                "label": markups.GetNthControlPointLabel(i),
                "description": markups.GetNthControlPointDescription(i),
                "defined": markups.GetNthControlPointPositionStatus(i) == markups.PositionDefined,
                "ras": position,
                "distance": abs(distance.EvaluateFunction(position)),
            }
        )
    system = model_storage.GetCoordinateSystemAsString(model_storage.GetCoordinateSystem())
    return {"model_coordinate_system": system, "points": points}


if __name__ == "__main__":
    results = [{"convert": convert, "load": load}[job["do"]](job) for job in json.load(sys.stdin)]
    print(json.dumps(results))
