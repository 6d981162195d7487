"""Training, simulation and benchmarks for PALNetLandmarks; builds on the library, never the other way."""

import os

# For numpy, which is not loaded yet; see ``main`` of the library's command line. Torch has threads of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
