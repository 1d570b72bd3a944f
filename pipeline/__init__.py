"""The engine of dlpipe: configuration, stages, artifacts, cache, runs and reports."""

__version__ = "0.1.0"
