"""Between MRML nodes and ``PALNetLandmarksLib``: no widgets here, and no computation that does not need MRML."""
