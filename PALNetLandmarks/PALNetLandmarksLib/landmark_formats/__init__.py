"""The kinds of landmark files, one module per format; ``PALNetLandmarksLib.landmark_files`` picks one."""
