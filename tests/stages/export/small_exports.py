"""An export stage that measures for a moment, and variants with figures as measured ones have."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts import TensorSpec, Variant
from stages.export.config import ExportConfig
from stages.export.stage import Export

QUICK = {
    "backend": "onnxruntime",
    "calibration": {"samples": 48, "method": "auto"},
    "latency": {"seconds": 0.05, "rounds": 2, "threads": 1},
    "speed_tolerance": 1.0,
    "max_drop": 2.0,
}
TENSOR = TensorSpec(name="x", dtype="uint8", shape=(-1,))


def export(**changes: object) -> Export:
    return Export(ExportConfig.model_validate({**QUICK, **changes}))


def variant(precision="fp32", backend="onnxruntime", **figures) -> Variant:
    fields = {
        "name": f"{backend}-{precision}", "backend": backend, "precision": precision,
        "format": "onnx", "path": Path("graph"), "input": TENSOR, "output": TENSOR,
        "size_bytes": 10, "runs_here": True, "top1": 0.97, "drop_points": 0.0, "agreement": 1.0,
        "p50_ms": 10.0, "p99_ms": 12.0, "images_per_s": 100.0,
    }  # fmt: skip
    return Variant(**{**fields, **figures})
