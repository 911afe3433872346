"""The reference engine: plain Python over the `rtree` package. Short and readable, it is the executable specification."""

from realtime.engine.reference.engine import ReferenceEngine

__all__ = ["ReferenceEngine"]
