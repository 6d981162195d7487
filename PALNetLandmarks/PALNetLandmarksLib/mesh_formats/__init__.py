"""Parsers of the supported mesh files, one module per format; :func:`PALNetLandmarksLib.read_scan.read_scan` picks one.

They are our own (but for VTP) because VTK's readers keep OBJ and PLY points in single precision, print their errors
instead of raising them, and fill truncated binary files with whatever was in memory.
"""
