"""Calibrate: one pass over the calibration images finds how far every tensor reaches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationMethod, create_calibrator
from onnxruntime.quantization.calibrate import CalibraterBase, CalibrationDataReader
from pydantic import TypeAdapter

from pipeline.context import Context
from pipeline.errors import StageFailed
from pipeline.files import write_atomic
from stages.export import thresholds
from stages.export.arrays import Images
from stages.export.config import CalibrationConfig, Method
from stages.export.failure import converting
from stages.export.quantize import QUANTIZED_OPS, Range
from stages.export.thresholds import Histogram

METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")

_BINS = 4096
"""Bins over both signs; 2048 magnitudes for 128 levels, as TensorRT had it."""
_LEAST_BINS = 2
_REMEDY = "Leave int8 out of precisions, or look at the operator named."


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranges:
    """A calibration table: what it was measured for, how, and the range of every tensor."""

    key: str
    """SHA-256 over data, transform, weights, graph and settings; see `table_key`."""
    method: Method
    samples: int
    sqnr_db: Mapping[Method, float]
    """Per method tried: signal over noise of the logits on held-out calibration images."""
    tensors: Mapping[str, Range]


_RANGES = TypeAdapter(Ranges)


def save_ranges(ranges: Ranges, path: Path) -> None:
    """Write a calibration table as JSON."""
    write_atomic(path, _RANGES.dump_json(ranges, indent=1))


def load_ranges(path: Path, key: str) -> Ranges | None:
    """Return the table at `path`, or None when it is missing, damaged or of another key."""
    try:
        ranges = _RANGES.validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return ranges if ranges.key == key else None


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the vendor has no types
    """Feeds one batch, in the form the vendor's calibrators ask for."""

    def __init__(self, name: str, images: Images) -> None:
        self._batches: Iterator[dict[str, Images]] = iter([{name: images}])

    def get_next(self) -> dict[str, Images] | None:
        return next(self._batches, None)


def collect_minmax(graph: Path, images: Images, batch: int, ctx: Context) -> dict[str, Range]:
    """Return the lowest and highest value of every tensor that may be quantized."""
    return _finite(_minmax(graph, images, batch, ctx, QUANTIZED_OPS))


def beyond(graph: Path, images: Images, limit: float, batch: int, ctx: Context) -> dict[str, float]:
    """Return the tensors that reach beyond `limit` on these images, and how far each reaches."""
    ranges = _minmax(graph, images, batch, ctx, ())
    reach = {name: max(abs(low), abs(high)) for name, (low, high) in ranges.items()}
    return {name: value for name, value in reach.items() if not value <= limit}


def _minmax(
    graph: Path, images: Images, batch: int, ctx: Context, operators: Sequence[str]
) -> dict[str, Range]:
    with tempfile.TemporaryDirectory() as scratch:
        calibrator = _calibrator(graph, Path(scratch), CalibrationMethod.MinMax, {}, operators)
        _feed(calibrator, images, batch, ctx)
        with converting("calibration", _REMEDY):
            data = calibrator.compute_data().data
    return {
        name: (float(np.min(tensor.lowest)), float(np.max(tensor.highest)))
        for name, tensor in data.items()
    }


def collect_histograms(
    graph: Path, images: Images, batch: int, ctx: Context
) -> dict[str, Histogram]:
    """Return the histogram of every tensor over all images."""
    with tempfile.TemporaryDirectory() as scratch:
        # The entropy calibrator is taken for its collector alone; `thresholds` searches.
        options = {"num_bins": _BINS, "num_quantized_bins": _LEAST_BINS}
        calibrator = _calibrator(
            graph, Path(scratch), CalibrationMethod.Entropy, options, QUANTIZED_OPS
        )
        _feed(calibrator, images, batch, ctx)
        collected = calibrator.collector.get_histogram_dict()
    histograms = {
        name: Histogram(
            counts=np.asarray(counts, dtype=np.int64),
            edges=np.asarray(edges, dtype=np.float64),
            low=float(low),
            high=float(high),
        )
        for name, (counts, edges, low, high, _) in collected.items()
    }
    _finite({name: (histogram.low, histogram.high) for name, histogram in histograms.items()})
    return histograms


def find_ranges(
    histograms: Mapping[str, Histogram], method: Method, config: CalibrationConfig, ctx: Context
) -> dict[str, Range]:
    """Return the range of every tensor by one method."""
    ranges: dict[str, Range] = {}
    for name, histogram in histograms.items():
        ctx.stop.check()
        match method:
            case "minmax":
                ranges[name] = thresholds.minmax(histogram)
            case "percentile":
                ranges[name] = thresholds.percentile(histogram, config.percentile)
            case "entropy":
                ranges[name] = thresholds.entropy(histogram)
    return ranges


def _calibrator(
    graph: Path,
    scratch: Path,
    method: CalibrationMethod,
    options: Mapping[str, int],
    operators: Sequence[str],
) -> CalibraterBase:
    with converting("calibration", _REMEDY):
        return create_calibrator(
            graph,
            operators,  # none means all
            augmented_model_path=str(scratch / "augmented.onnx"),
            calibrate_method=method,
            extra_options=dict(options),
        )


def _feed(calibrator: CalibraterBase, images: Images, batch: int, ctx: Context) -> None:
    name = calibrator.infer_session.get_inputs()[0].name
    with ctx.events.progress("calibrate", total=len(images), unit="sample") as bar:
        for start in range(0, len(images), batch):
            ctx.stop.check()
            part = images[start : start + batch]
            with converting("calibration", _REMEDY):
                calibrator.collect_data(_Reader(name, part))
            bar.advance(len(part))


def _finite(ranges: dict[str, Range]) -> dict[str, Range]:
    for name, (low, high) in ranges.items():
        if not (np.isfinite(low) and np.isfinite(high)):
            raise StageFailed(
                f"export.calibration: the tensor '{name}' reaches {low} to {high} on the "
                "calibration images; ranges must be finite. The model overflows on real data: "
                "train again, or leave int8 out."
            )
    return ranges
