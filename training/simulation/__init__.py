"""Simulated captures: a statistical head model turned into what a clinic's camera delivers.

Everything here is in the head frame: LPS millimetres (x to the subject's left, y to the back, z up).
"""
