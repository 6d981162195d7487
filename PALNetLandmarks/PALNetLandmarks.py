"""PALNetLandmarks: 50 anatomical landmarks on a 3D face scan at one click, to be checked and corrected.

The panel, its events and the logic for scripts. The panel's tables lie in ``PALNetLandmarksWidgets``, what needs no
window in ``PALNetLandmarksMRML``, what needs no Slicer in ``PALNetLandmarksLib``.
"""

import logging
from pathlib import Path
from typing import Annotated, Optional, Union

import qt
import slicer
import vtk
from slicer import vtkMRMLModelNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

SAMPLE_NAME = "PALNetLandmarksFace"


class PALNetLandmarks(ScriptedLoadableModule):
    """What Slicer's module list shows."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("PALNetLandmarks")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Craniofacial")]
        parent.dependencies = ["Markups", "Models", "Segmentations"]
        parent.contributors = ["The PALNetLandmarks developers"]
        parent.helpText = _(
            "Places 50 anatomical soft-tissue landmarks on a 3D face scan: choose the scan, click <b>Detect "
            "landmarks</b>, drag the points that are off. For research use; not a medical device."
        )
        parent.acknowledgementText = _(
            "After PAL-Net (arXiv 2510.00910). The bundled model was trained on faces simulated with ICT-FaceKit's "
            "head model (MIT licence)."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the bundled scan in the module Sample Data."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="PALNetLandmarks",
        sampleName=SAMPLE_NAME,
        # Nothing is downloaded, but Slicer refuses a source without address and file name.
        uris=(Path(__file__).resolve().parent / "Resources" / "SampleScan.ply").as_uri(),
        fileNames="PALNetLandmarksFace.ply",
        nodeNames=SAMPLE_NAME,
        loadFileType="ModelFile",
        thumbnailFileName=str(Path(__file__).parent / "Resources" / "Icons" / "PALNetLandmarks.png"),
        customDownloader=lambda source: PALNetLandmarksLogic().loadSample(),
    )


@parameterNodeWrapper
class PALNetLandmarksParameterNode:
    """What the panel is set to; saved with the scene.

    ``source`` may be empty: a union has to name None for that. ``segmentId`` matters where it is a segmentation.
    ``device``, ``surface``, ``weights`` (empty: bundled) and ``replaceCorrected`` as in
    ``PALNetLandmarksMRML.place_landmarks.Settings``. Sizes in per cent of the view.
    """

    source: Union[vtkMRMLModelNode, vtkMRMLSegmentationNode, None]
    segmentId: str = ""
    replaceCorrected: bool = False
    snapToSurface: bool = True
    pointSize: Annotated[float, WithinRange(0.2, 10.0)] = 2.0
    labelSize: Annotated[float, WithinRange(0.0, 10.0)] = 2.5
    opacity: Annotated[float, WithinRange(0.0, 1.0)] = 1.0
    device: str = "auto"
    surface: str = "triangle"
    weights: str = ""


class PALNetLandmarksWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    #: Pause (ms) between two pieces of a detection, in which Slicer looks after its window.
    PAUSE_MS = 5

    def __init__(self, parent=None):
        self.logic = None
        self._parameterNode = None
        #: Widgets are being set to the parameters, not by the user.
        self._showing = False
        #: The scan whose opacity the slider shows.
        self._shown = None
        self._run = None
        self._table = None
        self._measurements = None
        self._landmarks = None
        self._snap = None
        #: Where the control points were when the drag began; None while nothing is dragged.
        self._settled = None
        #: Label of the landmark that the next click places.
        self._placing = None
        self._timer = self._tableTimer = None
        #: ``LandmarkHistory`` of each landmark node that the panel has shown, by ID.
        self._histories = {}
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    # -----------------------------------------------------------------------------------------------------------------
    # Life of the panel

    def setup(self):
        from PALNetLandmarksWidgets.landmark_table import LandmarkTable
        from PALNetLandmarksWidgets.measurement_table import MeasurementTable

        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/PALNetLandmarks.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.ui.inputSelector.setMRMLScene(slicer.mrmlScene)
        self.logic = PALNetLandmarksLogic()
        self._fillSelectors()
        self._table = LandmarkTable(self.ui.landmarkTable, self.onLandmarkChosen)
        self._measurements = MeasurementTable(self.ui.measurementTable)
        self.ui.certaintyLabel.text = self._certaintyKey()

        self._timer = qt.QTimer()
        self._timer.interval = self.PAUSE_MS
        self._timer.connect("timeout()", self._advance)
        # Dragging sends dozens of events a second; the table follows them with a little delay.
        self._tableTimer = qt.QTimer()
        self._tableTimer.interval = 60
        self._tableTimer.setSingleShot(True)
        self._tableTimer.connect("timeout()", self._updateTable)

        self.ui.loadButton.connect("clicked(bool)", self.onLoadScan)
        self.ui.loadLandmarksButton.connect("clicked(bool)", self.onLoadLandmarks)
        self.ui.detectButton.connect("clicked(bool)", self.onDetectOrCancel)
        self.ui.undoButton.connect("clicked(bool)", self.onUndo)
        self.ui.placeButton.connect("clicked(bool)", self.onPlace)
        self.ui.resetButton.connect("clicked(bool)", self.onReset)
        self.ui.resetAllButton.connect("clicked(bool)", self.onResetAll)
        self.ui.exportButton.connect("clicked(bool)", self.onExport)
        self.ui.exportMeasurementsButton.connect("clicked(bool)", self.onExportMeasurements)
        self.ui.installTorchButton.connect("clicked(bool)", self.onInstallTorch)
        self.ui.searchEdit.connect("textChanged(QString)", self._table.search)
        # By hand, not by connectGui: before Slicer's pull request 9063 (2026), disconnectGui leaves widgets connected
        # (issue 7547), and an observer on the node that can crash Slicer when it is called after the panel is gone.
        self.ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onSourceChosen)
        # The former is silent between two nodes of the same name (Qt 6).
        self.ui.inputSelector.connect("nodeActivated(vtkMRMLNode*)", self.onSourceChosen)
        for name, slider in self._sliders().items():
            slider.connect("valueChanged(double)", lambda value, name=name: self._setParameter(name, value))
        for name, checkBox in self._checkBoxes().items():
            checkBox.connect("toggled(bool)", lambda checked, name=name: self._setParameter(name, checked))
        self.ui.segmentSelector.connect("currentIndexChanged(int)", self.onSegmentChosen)
        self.ui.deviceSelector.connect("currentIndexChanged(int)", self.onDeviceChosen)
        self.ui.surfaceSelector.connect("currentIndexChanged(int)", self.onSurfaceChosen)
        self.ui.weightsSelector.connect("currentPathChanged(QString)", self.onWeightsChosen)
        # The selector itself does not tell that it was emptied.
        for edit in slicer.util.findChildren(self.ui.weightsSelector, className="QLineEdit"):
            edit.clearButtonEnabled = True
            edit.connect("textChanged(QString)", self.onWeightsTyped)
        for group, checkBox in self._groupCheckBoxes().items():
            checkBox.setToolTip(_("Show or hide the landmarks of this group: {group}.").format(group=group))
            checkBox.connect("toggled(bool)", self._showGroups)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAboutToBeRemovedEvent, self.onNodeAboutToBeRemoved)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)
        self._initializeParameterNode()

    def cleanup(self):
        if self._tableTimer is None:  # setup failed before anything was shown
            return
        self._cancel()
        self._tableTimer.stop()
        self._setParameterNode(None)
        self._follow(None)
        self.removeObservers()

    def enter(self):
        self._initializeParameterNode()

    def exit(self):
        """The panel is hidden: a detection that is under way goes on."""

    def onSceneStartClose(self, caller=None, event=None):
        self._cancel()
        self._setParameterNode(None)
        self._follow(None)
        self._histories = {}

    def onSceneEndClose(self, caller=None, event=None):
        self._initializeParameterNode()

    def onSceneStartImport(self, caller=None, event=None):
        # The selector lets go of its node during an import, which is nobody's choice.
        self._setParameterNode(None)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, caller, event, node):
        # The selector would go on to a neighbour, another patient's scan perhaps.
        if self._parameterNode is not None and node is self._parameterNode.source:
            self._parameterNode.source = None

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeRemoved(self, caller, event, node):
        self._histories.pop(node.GetID(), None)
        if self._landmarks is not None and node is self._landmarks.node:
            self._follow(None)

    def _initializeParameterNode(self):
        self._setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.source:
            # The first models of a scene are Slicer's own, hidden: they show the slices in 3D. Nodes of derived classes
            # (fiber bundles) count as models there, but not in the selector.
            models = slicer.util.getNodesByClass("vtkMRMLModelNode")
            plain = [model for model in models if model.GetClassName() == "vtkMRMLModelNode"]
            first = next((model for model in plain if not model.GetHideFromEditors()), None)
            if first is not None:
                self._parameterNode.source = first

    def _setParameterNode(self, parameterNode):
        # The MRML node is observed, not its wrapper: VTKObservationMixin never lets go of what it observed.
        event, method = vtk.vtkCommand.ModifiedEvent, self._onParametersChanged
        if self._parameterNode is not None:
            self.removeObserver(self._parameterNode.parameterNode, event, method)
        self._parameterNode, self._shown = parameterNode, None
        if parameterNode is not None:
            # After the wrapper, which reads its values anew on the same event: VTK calls what came first last.
            self.addObserver(parameterNode.parameterNode, event, method, priority=-1.0)
            self._onParametersChanged()

    # -----------------------------------------------------------------------------------------------------------------
    # Parameters

    def _fillSelectors(self):
        for text, value in (
            (_("Automatic"), "auto"),
            (_("CPU"), "cpu"),
            (_("NVIDIA graphics (CUDA)"), "cuda"),
            (_("Apple graphics (MPS)"), "mps"),
        ):
            self.ui.deviceSelector.addItem(text, value)
        for text, value in (
            (_("Nearest point of the surface"), "triangle"),
            (_("Nearest vertex"), "vertex"),
            (_("Centroid of the 10 nearest vertices"), "centroid"),
        ):
            self.ui.surfaceSelector.addItem(text, value)

    def _sliders(self):
        """The sliders by the parameters that they show."""
        return {
            "pointSize": self.ui.pointSizeSlider,
            "labelSize": self.ui.labelSizeSlider,
            "opacity": self.ui.opacitySlider,
        }

    def _checkBoxes(self):
        """The check boxes by the parameters that they show."""
        return {"snapToSurface": self.ui.snapCheckBox, "replaceCorrected": self.ui.replaceCheckBox}

    def _onParametersChanged(self, caller=None, event=None):
        parameters = self._parameterNode
        if parameters is None:
            return
        source = parameters.source
        if source is not self._shown:
            self._shown = source
            # The scan keeps the opacity that it has, perhaps from the module Models; the slider shows it.
            opacity = self.logic.opacityOf(source)
            if opacity is not None and opacity != parameters.opacity:
                parameters.opacity = opacity
                return  # called anew by the change
        self._showing = True
        try:
            self.ui.inputSelector.setCurrentNode(source)
            for name, slider in self._sliders().items():
                slider.value = getattr(parameters, name)
            for name, checkBox in self._checkBoxes().items():
                checkBox.checked = getattr(parameters, name)
        finally:
            self._showing = False
        self._showSegments(source)
        for selector, value in (
            (self.ui.deviceSelector, parameters.device),
            (self.ui.surfaceSelector, parameters.surface),
        ):
            index = selector.findData(value)
            if index >= 0 and index != selector.currentIndex:
                selector.setCurrentIndex(index)
        if self.ui.weightsSelector.currentPath != parameters.weights:
            self.ui.weightsSelector.currentPath = parameters.weights
        self._follow(self.logic.landmarksOf(*self._source()) if source else None)
        self._applyDisplay()

    def _showSegments(self, source):
        """List the segments where the input is a segmentation."""
        isSegmentation = source is not None and source.IsA("vtkMRMLSegmentationNode")
        self.ui.segmentLabel.visible = isSegmentation
        self.ui.segmentSelector.visible = isSegmentation
        ids = []
        if isSegmentation:
            segmentation = source.GetSegmentation()
            ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
        selector = self.ui.segmentSelector
        if ids != [selector.itemData(i) for i in range(selector.count)]:
            blocked = selector.blockSignals(True)
            selector.clear()
            for segmentId in ids:
                selector.addItem(source.GetSegmentation().GetSegment(segmentId).GetName(), segmentId)
            selector.blockSignals(blocked)
        if ids and self._parameterNode.segmentId not in ids:
            self._parameterNode.segmentId = ids[0]
        index = selector.findData(self._parameterNode.segmentId)
        if ids and index != selector.currentIndex:
            selector.setCurrentIndex(index)

    def _setParameter(self, name, value):
        """Take over what the user set a widget to."""
        if self._parameterNode is not None and not self._showing:
            setattr(self._parameterNode, name, value)

    def onSourceChosen(self, node):
        self._setParameter("source", node)

    def onSegmentChosen(self, index):
        if self._parameterNode is not None and index >= 0:
            self._parameterNode.segmentId = self.ui.segmentSelector.itemData(index)

    def onDeviceChosen(self, index):
        if self._parameterNode is not None:
            self._parameterNode.device = self.ui.deviceSelector.itemData(index)

    def onSurfaceChosen(self, index):
        if self._parameterNode is not None:
            self._parameterNode.surface = self.ui.surfaceSelector.itemData(index)

    def onWeightsTyped(self, text):
        if not text:
            self.onWeightsChosen("")

    def onWeightsChosen(self, path):
        """Check a site's own weights before they are used."""
        if self._parameterNode is None or path == self._parameterNode.weights:
            return
        try:
            said = self.logic.checkWeights(path)
        except Exception as error:
            self.ui.weightsSelector.currentPath = self._parameterNode.weights
            self._fail(error)
            return
        self._parameterNode.weights = path
        self._say(said)

    @staticmethod
    def _certaintyKey():
        """What the dots of the table mean."""
        from PALNetLandmarksLib.certainty import CERTAINTY_CLASSES

        texts = {
            "below 1 mm": _("below 1 mm"),
            "1 to 2 mm": _("1 to 2 mm"),
            "2 to 3 mm": _("2 to 3 mm"),
            "above 3 mm: check": _("above 3 mm: check"),
        }
        dots = (
            "<span style='color:#{:02x}{:02x}{:02x}'>&#9632;</span>&nbsp;{}".format(
                *certainty.colour, texts[certainty.text].replace(" ", "&nbsp;")
            )
            for certainty in CERTAINTY_CLASSES
        )
        return _("Standard deviation:") + " " + " ".join(dots)

    def _source(self):
        """The chosen input node and, if it is a segmentation, the segment."""
        source = self._parameterNode.source if self._parameterNode is not None else None
        segmentId = None
        if source is not None and source.IsA("vtkMRMLSegmentationNode"):
            segmentId = self._parameterNode.segmentId
        return source, segmentId

    # -----------------------------------------------------------------------------------------------------------------
    # Input

    def onLoadScan(self, checked=False):
        kinds = _("Face scans") + " (*.obj *.ply *.stl *.vtp *.vtk *.glb *.gltf *.off)"
        self._askWhich(_("Load scan"), kinds, self.loadScan)

    def _askWhich(self, title, kinds, load):
        """Let the user choose a file and ``load`` it."""
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", f"{kinds};;{_('All files')} (*)")
        if path:
            load(path)

    def _mayReplaceCorrections(self):
        """Ask, if landmarks of this scan were corrected."""
        states = [] if self._landmarks is None else list(self._landmarks.states().values())
        count = states.count("corrected")
        return count == 0 or slicer.util.confirmYesNoDisplay(
            _("Replace the landmarks of this scan, {count} of them corrected, by those of the file?").format(
                count=count
            )
        )

    def loadScan(self, path):
        """Load a scan and choose it as input."""
        try:
            self._parameterNode.source = self.logic.loadScan(path)
        except Exception as error:
            self._fail(error)
            return
        self._say("")
        slicer.util.resetThreeDViews()

    def onLoadLandmarks(self, checked=False):
        kinds = _("Landmarks") + " (*.mrk.json *.json *.fcsv *.csv *.txt)"
        self._askWhich(_("Load landmarks"), kinds, self.loadLandmarks)

    def loadLandmarks(self, path):
        """Put landmarks from a file onto the chosen scan."""
        source, segmentId = self._source()
        if source is None:
            self._fail(None, _("Choose a scan first."))
            return
        if not self._mayReplaceCorrections():
            return
        if self._landmarks is not None:
            self._note(self._landmarks)
        try:
            landmarks = self.logic.loadLandmarks(source, path, segmentId)
        except Exception as error:
            self._fail(error)
            return
        self._showResult(landmarks)
        states = list(landmarks.states().values())
        self._say(
            _("{count} landmarks loaded, {corrected} of them corrected.").format(
                count=len(states) - states.count("missing"), corrected=states.count("corrected")
            )
        )

    # -----------------------------------------------------------------------------------------------------------------
    # Detection

    def onDetectOrCancel(self, checked=False):
        if self._run is not None:
            self._cancel()
            self._say(_("Cancelled; the scene is as it was."))
            return
        source, segmentId = self._source()
        if source is None:
            self._fail(None, _("Choose a scan first."))
            return
        if self._landmarks is not None:
            self._note(self._landmarks)
        parameters = self._parameterNode
        self._run = self.logic.detectStepwise(
            source,
            segmentId,
            weights=parameters.weights or None,
            device=parameters.device,
            surface=parameters.surface,
            replaceCorrected=parameters.replaceCorrected,
        )
        self._say(_("Detecting ..."))
        self._showProgress(0)
        self._updateButtons()
        self._timer.start()

    def _advance(self):
        """Take the next piece of the detection."""
        if self._run is None:
            self._timer.stop()
            return
        try:
            step = next(self._run)
        except StopIteration as end:
            self._cancel()
            landmarks, detection = end.value
            self._showResult(landmarks)
            self._sayDetected(detection)
        except Exception as error:
            self._cancel()
            self._fail(error)
        else:
            self._showProgress(self.logic.steps.index(step))

    def _showResult(self, landmarks):
        """Show landmarks that were just detected or loaded; that was one step."""
        self._note(landmarks, new=self._landmarks is None)
        self._follow(landmarks)
        self._applyDisplay()
        self._showGroups()

    def _cancel(self):
        """End the detection, if there is one; the scene stays as it is."""
        self._timer.stop()
        run, self._run = self._run, None
        if run is not None:
            run.close()
        self._showProgress(None)
        self._updateButtons()

    def _showProgress(self, step):
        self.ui.progressBar.visible = step is not None
        if step is None:
            return
        names = {
            "surface of the model": _("Reading the surface"),
            "read": _("Checking the surface"),
            "align": _("Finding the face"),
            "landmarks": _("Placing landmarks"),
            "surface": _("Projecting onto the surface"),
            "markups": _("Writing markups"),
        }
        self.ui.progressBar.maximum = len(self.logic.steps)
        self.ui.progressBar.value = step
        self.ui.progressBar.format = names[self.logic.steps[step]] + " ..."

    def _sayDetected(self, detection):
        seconds = sum(detection.seconds.values())
        missing = [label for label, gone in zip(detection.labels, detection.missing) if gone]
        sentences = [
            _("{count} landmarks in {seconds:.1f} s on {device}.").format(
                count=len(detection.labels) - len(missing), seconds=seconds, device=detection.device.upper()
            )
        ]
        if missing:
            sentences.append(_("Not on the scan: {labels}.").format(labels=", ".join(missing)))
        self._say(" ".join([*sentences, *detection.warnings]))

    def onUndo(self, checked=False):
        """Take back what was done last with the landmarks of this scan: a drag, a reset, a detection."""
        if self._landmarks is None:
            return
        undone = self._histories[self._landmarks.node.GetID()].undo()
        self._updateTable()
        self._say(_("The last step is undone.") if undone else _("There is nothing to undo on this scan."))

    # -----------------------------------------------------------------------------------------------------------------
    # Result

    def _follow(self, landmarks):
        """Show ``landmarks`` (a LandmarkNode or None) in the table and watch what the user does with them."""
        from PALNetLandmarksMRML.surface_snap import SurfaceSnap

        before = self._landmarks.node if self._landmarks is not None else None
        now = landmarks.node if landmarks is not None else None
        source, segmentId = self._source()
        if self._snap is None or landmarks is None or not self._snap.is_for(source, segmentId):
            self._snap = SurfaceSnap(source, segmentId) if landmarks is not None and source is not None else None
        if before is now:
            self._updateTable()
            return
        events = (
            vtk.vtkCommand.ModifiedEvent,
            slicer.vtkMRMLMarkupsNode.PointModifiedEvent,
            slicer.vtkMRMLMarkupsNode.PointRemovedEvent,
            slicer.vtkMRMLMarkupsNode.PointAddedEvent,
        )
        followed = [
            *((event, self._onLandmarksChanged) for event in events),
            (slicer.vtkMRMLMarkupsNode.PointStartInteractionEvent, self._onDragStart),
            (slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent, self._onDragEnd),
            (slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent, self._onPlaced),
        ]
        for event, method in followed:
            if before is not None:
                self.removeObserver(before, event, method)
            if now is not None:
                self.addObserver(now, event, method)
        self._landmarks = landmarks
        self._settled = self._placing = None
        self._showGroups()
        self._updateTable()

    def _onLandmarksChanged(self, caller=None, event=None):
        if not self._tableTimer.isActive():  # started anew by each event, it would wait for the end of the drag
            self._tableTimer.start()

    def _onDragStart(self, caller=None, event=None):
        self._settled = self._positions()

    def _onDragEnd(self, caller=None, event=None):
        """Put the point that was dragged onto the surface."""
        before, self._settled = self._settled or {}, None
        if self._landmarks is None:
            return
        self._toSurface([i for i, position in self._positions().items() if i in before and position != before[i]])
        self._note(self._landmarks)

    def _onPlaced(self, caller=None, event=None):
        """Put the point that was placed by a click onto the surface: the view knows it to a few tenths of a mm."""
        label, self._placing = self._placing, None
        # A placing that was given up (Esc) is not told; what gets a position later may be another landmark.
        if label is None or self._landmarks is None or not self._landmarks.has_position(label):
            return
        self._toSurface([self._landmarks.index()[label]])
        self._say("")

    def _toSurface(self, indices):
        """Snap control points to the surface, if the user wants that."""
        if self._snap is not None and self._parameterNode is not None and self._parameterNode.snapToSurface:
            for i in indices:
                self._snap.snap(self._landmarks.node, i)

    def _positions(self):
        if self._landmarks is None:
            return {}
        node = self._landmarks.node
        return {i: tuple(node.GetNthControlPointPosition(i)) for i in range(node.GetNumberOfControlPoints())}

    def _updateTable(self):
        self._updateButtons()
        if self._landmarks is None:
            self._table.show({}, {})
            self._measurements.show(())
            return
        self._table.show(self._landmarks.states(), self._landmarks.deviations())
        self._measurements.show(self.logic.measurementsOf(self._landmarks.node))
        # A drag is one step, from where it began to where it ended.
        if self._settled is None:
            self._note(self._landmarks)

    def _note(self, landmarks, new=False):
        """Remember a step of ``landmarks``; ``new``: a detection has just made them."""
        from PALNetLandmarksMRML.landmark_history import LandmarkHistory

        landmarks.describe()
        history = self._histories.get(landmarks.node.GetID())
        if (
            history is None or history.landmarks.node is not landmarks.node
        ):  # the scene may have put another in its place
            self._histories[landmarks.node.GetID()] = LandmarkHistory(landmarks, new)
        else:
            history.note()

    def onLandmarkChosen(self, label):
        """Centre the 3D views on a landmark."""
        from PALNetLandmarksMRML.landmark_display import centre_on

        self._updateButtons()
        if self._landmarks is not None and not centre_on(self._landmarks, label):
            self._say(_("{label} has no position on this scan; 'Place landmark' gives it one.").format(label=label))

    def onPlace(self, checked=False):
        """Let the next click on the face place the chosen landmark."""
        from PALNetLandmarksMRML.landmark_placing import start_placing

        label = self._table.chosen
        if self._landmarks is not None and label is not None:
            self._note(self._landmarks)
            start_placing(self._landmarks, label)
            self._placing = label
            self._say(_("Click on the face where {label} is.").format(label=label))

    def onReset(self, checked=False):
        label = self._table.chosen
        if self._landmarks is not None and label is not None:
            self._note(self._landmarks)
            self._landmarks.reset((label,))
            self._updateTable()

    def onResetAll(self, checked=False):
        if self._landmarks is None:
            return
        if slicer.util.confirmYesNoDisplay(
            _("Put all landmarks back to where they were detected? Your corrections are lost, unless you undo this.")
        ):
            self._note(self._landmarks)
            self._landmarks.reset()
            self._updateTable()

    def _groupCheckBoxes(self):
        return {
            "midline": self.ui.midlineCheckBox,
            "eyes": self.ui.eyesCheckBox,
            "nose": self.ui.noseCheckBox,
            "mouth": self.ui.mouthCheckBox,
            "ears": self.ui.earsCheckBox,
            "jaw": self.ui.jawCheckBox,
        }

    def _showGroups(self, checked=False):
        from PALNetLandmarksMRML.landmark_display import show_groups

        if self._landmarks is not None:
            shown = [group for group, checkBox in self._groupCheckBoxes().items() if checkBox.checked]
            show_groups(self._landmarks, shown)

    def _applyDisplay(self):
        from PALNetLandmarksMRML.landmark_display import set_opacity, set_sizes

        parameters = self._parameterNode
        if self._landmarks is None or parameters is None:
            return
        set_sizes(self._landmarks, parameters.pointSize, parameters.labelSize)
        if parameters.source is not None:
            set_opacity(parameters.source, parameters.opacity)

    # -----------------------------------------------------------------------------------------------------------------
    # Export and installation

    def onExport(self, checked=False):
        kinds = "Slicer markups (*.mrk.json);;Slicer fiducials (*.fcsv);;CSV (*.csv)"
        self._askWhereTo(_("Export landmarks"), ".mrk.json", kinds, self.exportLandmarks)

    def exportLandmarks(self, path):
        """Write the landmarks to a file and say so."""
        self._export(self.logic.exportLandmarks, path)

    def onExportMeasurements(self, checked=False):
        self._askWhereTo(_("Export measurements"), " measurements.csv", "CSV (*.csv)", self.exportMeasurements)

    def exportMeasurements(self, path):
        """Write distances and angles to a file and say so."""
        self._export(self.logic.exportMeasurements, path)

    def _askWhereTo(self, title, ending, kinds, export):
        """Let the user name a file and ``export`` to it. Without landmarks the buttons are off."""
        if self._landmarks is None:
            return
        name = self._landmarks.node.GetName() + ending
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, name, kinds)
        if path:
            export(path)

    def _export(self, write, path):
        try:
            written = write(self._landmarks.node, path)
        except Exception as error:
            self._fail(error)
            return
        self._say(_("Written: {path}").format(path=written))

    def onInstallTorch(self, checked=False):
        """Install torch by the PyTorch extension, which asks the user first."""
        try:
            import PyTorchUtils
        except ImportError:
            self._fail(None, _("Install the extension 'PyTorch' from the Extensions Manager first, then try again."))
            return
        try:
            logic = PyTorchUtils.PyTorchUtilsLogic()
            installed = logic.torchInstalled() or logic.installTorch(askConfirmation=True) is not None
        except Exception as error:
            self._fail(error)
            return
        self._say(_("PyTorch is installed.") if installed else _("PyTorch was not installed."))

    # -----------------------------------------------------------------------------------------------------------------
    # What the panel says

    def _updateButtons(self):
        running = self._run is not None
        source = self._source()[0]
        self.ui.detectButton.text = _("Cancel") if running else _("Detect landmarks")
        self.ui.detectButton.enabled = running or source is not None
        for widget in (self.ui.inputSelector, self.ui.segmentSelector, self.ui.loadButton, self.ui.advancedSection):
            widget.enabled = not running
        self.ui.loadLandmarksButton.enabled = source is not None and not running
        there = self._landmarks is not None
        for widget in (
            self.ui.resetAllButton,
            self.ui.undoButton,
            self.ui.exportButton,
            self.ui.exportMeasurementsButton,
        ):
            widget.enabled = there and not running
        chosen = there and not running and self._table.chosen is not None
        self.ui.resetButton.enabled = chosen
        self.ui.placeButton.enabled = chosen and not self._landmarks.has_position(self._table.chosen)

    def _say(self, text):
        self.ui.statusLabel.styleSheet = ""
        self.ui.statusLabel.text = text

    def _fail(self, error, sentence=None):
        """Say what went wrong, in one sentence; details go to the log."""
        from PALNetLandmarksLib.errors import LandmarkingError

        if isinstance(error, LandmarkingError):
            sentence = str(error)
            logging.info("PALNetLandmarks: %s", sentence)
        elif error is not None:
            logging.error("PALNetLandmarks failed", exc_info=error)
            sentence = _("Something unexpected went wrong ({error}); details are in the log.").format(error=error)
        self.ui.statusLabel.styleSheet = "color: #c62828;"
        self.ui.statusLabel.text = sentence


class PALNetLandmarksLogic(ScriptedLoadableModuleLogic):
    """Detection for scripts: no widgets.

    ::

        logic = PALNetLandmarks.PALNetLandmarksLogic()
        node = logic.detect(slicer.util.loadModel("/data/anna.ply"))
        logic.exportLandmarks(node, "/data/anna.mrk.json")
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        from PALNetLandmarksMRML.place_landmarks import STEPS

        #: Names of the steps of a detection, in order.
        self.steps = STEPS

    def getParameterNode(self):
        return PALNetLandmarksParameterNode(super().getParameterNode())

    def detect(self, source, segmentId: Optional[str] = None, **settings):
        """Detect landmarks on a model node, or on a segment of a segmentation node.

        Parameters
        ----------
        source, segmentId : the scan.
        settings : ``weights``, ``device``, ``surface``, ``replaceCorrected``; see ``detectStepwise``.

        Returns
        -------
        ``vtkMRMLMarkupsFiducialNode`` with 50 control points on the surface, in the world.

        Raises
        ------
        PALNetLandmarksLib.errors.LandmarkingError
            With one sentence for the user; the scene is unchanged.
        """
        from PALNetLandmarksLib.stepwise import finish

        return finish(self.detectStepwise(source, segmentId, **settings))[0].node

    def detectStepwise(
        self, source, segmentId=None, weights=None, device="auto", surface="triangle", replaceCorrected=False
    ):
        """A generator that does what ``detect`` does in short pieces; see ``PALNetLandmarksMRML.place_landmarks``."""
        from PALNetLandmarksMRML.place_landmarks import Settings, place_landmarks

        settings = Settings(Path(weights) if weights else None, device, surface, replaceCorrected)
        return place_landmarks(source, segmentId, settings)

    def landmarksOf(self, source, segmentId=None):
        """The ``LandmarkNode`` of an earlier detection on ``source`` (on that segment of it), or None."""
        from PALNetLandmarksMRML.place_landmarks import find_landmark_node

        return find_landmark_node(source, segmentId)

    def loadScan(self, path):
        """Load a scan of any format that the library reads as a model node.

        Raises
        ------
        UnreadableScanError
            If there is no surface in the file; nothing is left in the scene.
        """
        from PALNetLandmarksMRML.load_scan import load_scan

        return load_scan(path)

    def loadLandmarks(self, source, path, segmentId=None):
        """Put landmarks from a file onto a scan; the ``LandmarkNode`` that holds them. What the file does not state as
        detected counts as corrected. Raises LandmarkingError."""
        from PALNetLandmarksMRML.load_landmarks import load_landmarks

        return load_landmarks(source, path, segmentId)

    def loadSample(self):
        """Load the bundled scan of a simulated face."""
        from PALNetLandmarksLib.resources import resource_path

        node = self.loadScan(resource_path("SampleScan.ply"))
        node.SetName(slicer.mrmlScene.GenerateUniqueName(SAMPLE_NAME))
        return node

    def opacityOf(self, source):
        """Opacity (0 to 1) of a scan in 3D; ``None`` where it is not displayed."""
        from PALNetLandmarksMRML.landmark_display import opacity_of

        return opacity_of(source) if source is not None else None

    def exportLandmarks(self, node, path):
        """Write the landmarks of a markups node to ``.mrk.json``, ``.fcsv`` or ``.csv``; raises OutputError."""
        from PALNetLandmarksMRML.export_landmarks import export_landmarks
        from PALNetLandmarksMRML.landmark_node import LandmarkNode

        return export_landmarks(LandmarkNode(node), path)

    def measurementsOf(self, node):
        """Distances (mm) and angles (degrees) between the landmarks of a markups node as they stand, as
        ``PALNetLandmarksLib.measurements.MeasuredValue``."""
        from PALNetLandmarksMRML.landmark_node import LandmarkNode
        from PALNetLandmarksMRML.measure_landmarks import measure_landmarks

        return measure_landmarks(LandmarkNode(node))

    def exportMeasurements(self, node, path):
        """Write distances and angles between the landmarks of a markups node to a ``.csv``; raises OutputError."""
        from PALNetLandmarksMRML.landmark_node import LandmarkNode
        from PALNetLandmarksMRML.measure_landmarks import export_measurements

        return export_measurements(LandmarkNode(node), path)

    def checkWeights(self, path):
        """A sentence about a weights file (empty path: the bundled one); raises WeightsError if it cannot be used."""
        from PALNetLandmarksMRML.place_landmarks import Settings, load_detector

        detector = load_detector(Settings(Path(path) if path else None), "cpu")
        return _("Weights {version}, SHA-256 {digest}.").format(
            version=detector.weights_version, digest=detector.weights_sha256[:12]
        )


class PALNetLandmarksTest(ScriptedLoadableModuleTest):
    """The module's self-test: runs in Slicer (Developer tools: Reload and Test) and in ``Testing/harness``."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_sample_is_detected_corrected_and_kept()

    def test_sample_is_detected_corrected_and_kept(self):
        """Load the sample, detect, correct one landmark, detect again, save, reload."""
        import numpy as np
        from PALNetLandmarksLib.surface import SurfaceLocator
        from PALNetLandmarksMRML.landmark_node import LandmarkNode
        from PALNetLandmarksMRML.model_scan import scan_of_model

        self.delayDisplay("Loading the sample")
        logic = PALNetLandmarksLogic()
        model = logic.loadSample()
        pointsBefore = slicer.util.arrayFromModelPoints(model).copy()

        self.delayDisplay("Detecting landmarks")
        node = logic.detect(model)
        self.assertEqual(node.GetNumberOfControlPoints(), 50)
        points = slicer.util.arrayFromMarkupsControlPoints(node, world=True)
        states = LandmarkNode(node).states()
        there = np.array([states[node.GetNthControlPointLabel(i)] == "detected" for i in range(50)])
        self.assertGreater(there.sum(), 40)
        distance = SurfaceLocator(scan_of_model(model)).nearest_on_surface(points[there])[1]
        self.assertLess(distance.max(), 0.01)
        self.assertTrue(np.array_equal(pointsBefore, slicer.util.arrayFromModelPoints(model)))

        self.delayDisplay("Correcting one landmark and detecting again")
        i = LandmarkNode(node).index()["Prn"]
        corrected = np.add(node.GetNthControlPointPositionWorld(i), (3.0, 0.0, 0.0))
        node.SetNthControlPointPositionWorld(i, corrected.tolist())
        self.assertEqual(LandmarkNode(node).states()["Prn"], "corrected")
        self.assertIs(logic.detect(model), node)
        self.assertLess(np.linalg.norm(np.array(node.GetNthControlPointPositionWorld(i)) - corrected), 1e-6)

        self.delayDisplay("Saving and loading the landmarks")
        path = str(Path(slicer.app.temporaryPath) / "PALNetLandmarksTest.mrk.json")
        logic.exportLandmarks(node, path)
        loaded = slicer.util.loadMarkups(path)
        Path(path).unlink()
        self.assertEqual(loaded.GetNumberOfControlPoints(), 50)
        again = slicer.util.arrayFromMarkupsControlPoints(loaded, world=True)
        self.assertLess(np.abs(again - slicer.util.arrayFromMarkupsControlPoints(node, world=True))[there].max(), 1e-3)
        self.delayDisplay("Test passed")
