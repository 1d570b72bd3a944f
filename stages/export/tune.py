"""Tune: the calibration table of a graph, by the method asked for or the one that measures best."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from pipeline.artifacts import DataSpec, TrainedModel
from pipeline.context import Context
from pipeline.device import CPU
from pipeline.files import sha256_file, sha256_text
from stages.export.arrays import Images
from stages.export.backends.onnxruntime import open_session
from stages.export.calibrate import (
    METHODS,
    Ranges,
    collect_histograms,
    collect_minmax,
    find_ranges,
    load_ranges,
    save_ranges,
)
from stages.export.config import CalibrationConfig, Method
from stages.export.failure import converting
from stages.export.graph import save
from stages.export.parity import sqnr_db
from stages.export.quantize import Form, Range, quantize

_HELD_OUT = 4
"""One calibration image in this many is kept back to compare methods on."""

_LEAST_TO_COMPARE = 16
"""With fewer images a comparison would be chance, and min-max is the safe one."""


def table_key(
    spec: DataSpec, trained: TrainedModel, graph: Path, config: CalibrationConfig, seed: int
) -> str:
    """Return what a calibration table depends on, as one hash; never a file's name or date."""
    parts = {
        "data": spec.digest,
        "transform": sha256_file(spec.transforms),
        "weights": sha256_file(trained.weights),
        "graph": sha256_file(graph),
        "settings": config.model_dump_json(),
        "seed": seed,
    }
    return sha256_text(json.dumps(parts, sort_keys=True))


def calibrated(
    graph: Path,
    images: Images,
    key: str,
    path: Path,
    config: CalibrationConfig,
    form: Form,
    *,
    reduce_range: bool,
    ctx: Context,
) -> Ranges:
    """Return the table at `path` when it belongs to `key`; otherwise make it and leave it there.

    Args:
        graph: the FP32 graph.
        images: of the calibration split; never of the eval split, which has to judge the result.
        key: from `table_key`.
        path: where the table is kept.
        config: method and settings.
        form: the Q/DQ form that methods are compared in.
        reduce_range: as for `quantize`.
        ctx: to poll for a stop and to tell the user.
    """
    kept = load_ranges(path, key)
    if kept is not None:
        ctx.events.info(f"calibration table reused: {kept.method} over {kept.samples} images")
        return kept
    scores: dict[Method, float] = {}
    method: Method
    tensors: dict[str, Range]
    if config.method == "minmax" or (config.method == "auto" and len(images) < _LEAST_TO_COMPARE):
        method, tensors = "minmax", collect_minmax(graph, images, config.batch_size, ctx)
        used = len(images)
    elif config.method == "auto":
        held_out = images[::_HELD_OUT]
        fitted = images[[i for i in range(len(images)) if i % _HELD_OUT]]
        histograms = collect_histograms(graph, fitted, config.batch_size, ctx)
        used = len(fitted)
        candidates = {name: find_ranges(histograms, name, config, ctx) for name in METHODS}
        for name, ranges in candidates.items():
            ctx.stop.check()
            scores[name] = _score(graph, ranges, held_out, form, reduce_range)
        method = max(scores, key=lambda name: scores[name])
        tensors = candidates[method]
        told = ", ".join(f"{name} {score:.1f} dB" for name, score in scores.items())
        ctx.events.info(f"calibration: {method} has the least noise on held-out images ({told})")
    else:
        method = config.method
        histograms = collect_histograms(graph, images, config.batch_size, ctx)
        tensors, used = find_ranges(histograms, method, config, ctx), len(images)
    made = Ranges(key=key, method=method, samples=used, sqnr_db=scores, tensors=tensors)
    save_ranges(made, path)
    return made


def _score(
    graph: Path, ranges: dict[str, Range], images: Images, form: Form, reduce_range: bool
) -> float:
    """Return signal over noise, in decibel, of the graph quantized with these ranges."""
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch) / "trial.onnx"
        with converting("quantization", "Leave int8 out of precisions."):
            save(quantize(graph, ranges, form, reduce_range=reduce_range), trial)
        return sqnr_db(open_session(graph, CPU)(images), open_session(trial, CPU)(images))
