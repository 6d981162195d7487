"""Errors a clinician may meet: one sentence each, saying what is wrong with which file and what to do."""

from __future__ import annotations


class LandmarkingError(Exception):
    """Base of every error this library raises on purpose; ``str(error)`` is fit to be shown to a clinician."""


class UnreadableScanError(LandmarkingError):
    """The file is missing, empty, truncated, of an unknown kind, or holds no usable surface."""


class UnreadableLandmarksError(LandmarkingError):
    """A landmark file is missing, damaged, or of an unknown kind."""


class NotAFaceError(LandmarkingError):
    """The surface was read, but no single face could be found on it with enough certainty."""


class UnknownUnitError(LandmarkingError):
    """The size of the surface fits a face in none of the known length units."""


class WeightsError(LandmarkingError):
    """A weights file is corrupted, foreign, or made for another network or landmark scheme."""


class OutputError(LandmarkingError):
    """A result could not be written."""
