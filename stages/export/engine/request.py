"""BuildRequest: what the child process is asked to build, and what it reports; both as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import TypeAdapter

from stages.export.backends import BatchProfile

ApiModule: TypeAlias = Literal["tensorrt", "tensorrt_rtx"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """Everything the child process needs to know."""

    api: ApiModule
    onnx: Path
    engine: Path
    log: Path
    """The builder's verbose log; the layer table in it is the proof of precision."""
    profile: BatchProfile | None
    """None for a graph of fixed shapes."""
    architectures: tuple[str, ...] = ()
    """Names of `ComputeCapability`: ``SM89``, or ``CURRENT``; empty where there is no choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """An input or output of the network as the builder saw it."""

    name: str
    dtype: str
    """numpy's name."""
    shape: tuple[int, ...]
    """-1 for the batch axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The builder got further."""

    percent: int
    phase: str
    kind: Literal["step"] = "step"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The engine is written."""

    version: str
    """Of the TensorRT package."""
    parse_s: float
    build_s: float
    size_bytes: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    kind: Literal["finished"] = "finished"


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """There will be no engine, and this is why."""

    message: str
    kind: Literal["refused"] = "refused"


Report: TypeAlias = Step | Finished | Refused

REQUEST: TypeAdapter[BuildRequest] = TypeAdapter(BuildRequest)
REPORT: TypeAdapter[Report] = TypeAdapter(Report)
"""One line of the child's standard output."""
