"""ExportConfig: which precisions, for which backends, and what they may cost in accuracy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.graph_forms import has_operators
from pipeline.stage import StageConfig

PrecisionName = Literal["fp32", "fp16", "int8"]
Method = Literal["minmax", "percentile", "entropy"]


class CalibrationConfig(StageConfig):
    """How the ranges of INT8 tensors are found."""

    method: Literal["auto"] | Method = "auto"
    """``auto`` tries every method and keeps the one with least noise on held-out images."""
    samples: int = Field(default=256, ge=2, le=100_000)
    """How many images of the calibration split are used; 128 to 512 are enough."""
    percentile: float = Field(default=99.99, gt=50.0, le=100.0)
    """Share of values, in percent, that the percentile method keeps inside the range."""
    batch_size: int = Field(default=16, ge=1, le=4096)
    """Images a step; every intermediate tensor of one step is in memory at once."""


class BatchConfig(StageConfig):
    """The batch sizes that engines are built for and latency is measured at."""

    min: int = Field(default=1, ge=1, le=65_536)
    """The smallest batch an engine must take."""
    opt: int = Field(default=8, ge=1, le=65_536)
    """The batch an engine is tuned for; throughput is measured at it."""
    max: int = Field(default=64, ge=1, le=65_536)
    """The largest batch an engine must take."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.opt <= self.max:
            raise ValueError(
                f"min {self.min}, opt {self.opt}, max {self.max} are out of order; allowed: min "
                "<= opt <= max"
            )
        return self


class LatencyConfig(StageConfig):
    """How long is measured; variants take turns, so a busy machine is busy for all of them."""

    seconds: float = Field(default=1.0, gt=0.0, le=600.0)
    """Time spent on each variant and batch size."""
    rounds: int = Field(default=8, ge=1, le=1000)
    """How often the variants take turns within that time."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads of one session; 0 takes every core."""


class ExportConfig(StageConfig):
    """Everything the export stage can be told."""

    backend: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = "auto"
    """``auto`` (every backend available here), one name, or a list of names."""
    precisions: Annotated[tuple[PrecisionName, ...], Field(strict=False, min_length=1)] = (
        "fp32",
        "fp16",
        "int8",
    )
    """What to build, for each backend; ``fp32`` is measured as the parent of the others."""
    opset: int = Field(default=20, ge=18, le=23)
    """ONNX operator set of the exported graph."""
    simplify: bool = True
    """Drop needless nodes with onnxslim; undone if the graph then answers otherwise."""
    custom_operators: bool | Literal["auto"] = False
    """Let layers be operators of our own where that is faster: in FP32, for ONNX Runtime on a CPU.
    Such a graph needs the library that lies beside it; plain operators run anywhere.
    ``auto``: where that library was built."""
    calibration: CalibrationConfig = CalibrationConfig()
    """Where INT8 ranges come from."""
    max_drop: float = Field(default=0.5, ge=0.0, le=100.0)
    """Percentage points of top-1 that a variant may lose against the trained model in FP32."""
    min_agreement: float = Field(default=0.0, ge=0.0, le=1.0)
    """Least share of eval samples on which a variant must give the class that FP32 gives."""
    batch: BatchConfig = BatchConfig()
    """Batch sizes of engines and of the measurement."""
    choose: str = "fastest"
    """``fastest`` of the accepted that run here, or a name such as ``onnxruntime-int8``."""
    fastest_by: Literal["throughput", "latency"] = "throughput"
    """Images per second at the opt batch, or median latency of a single image."""
    speed_tolerance: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share by which a variant may measure slower than FP32: the noise of the clock."""
    latency: LatencyConfig = LatencyConfig()
    """How speed is measured."""
    build_timeout_s: float = Field(default=900.0, gt=0.0, le=86_400.0)
    """Longest time one engine build may take before it is stopped."""

    @field_validator("precisions")
    @classmethod
    def _distinct(cls, value: tuple[PrecisionName, ...]) -> tuple[PrecisionName, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"{list(value)} names a precision twice; name each once")
        return value

    @property
    def takes_operators(self) -> bool:
        """Whether graphs may have operators of our own."""
        return has_operators() if self.custom_operators == "auto" else self.custom_operators

    @property
    def backend_names(self) -> tuple[str, ...]:
        """The names as a tuple, ``('auto',)`` included."""
        return (self.backend,) if isinstance(self.backend, str) else self.backend
