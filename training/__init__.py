"""Training, simulation and benchmarks for PALNetLandmarks; builds on the library, never the other way."""
