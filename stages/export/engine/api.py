"""api: the part of TensorRT's Python API that is used here, as types.

`tensorrt` and `tensorrt_rtx` both have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Tensor(Protocol):
    """`ITensor`: an input or output of a network."""

    name: str
    dtype: object
    """A `DataType`, for instance ``DataType.FLOAT``."""
    shape: Sequence[int]


class Network(Protocol):
    """`INetworkDefinition`."""

    num_inputs: int
    num_outputs: int

    def get_input(self, index: int) -> Tensor:
        """Return an input."""
        ...

    def get_output(self, index: int) -> Tensor:
        """Return an output."""
        ...


class ParserError(Protocol):
    """`ParserError`: one thing the ONNX parser did not like."""

    def code(self) -> object:
        """Return an `ErrorCode`."""
        ...

    def desc(self) -> str:
        """Return the description; the word "false" for an operator that is not implemented."""
        ...

    def node_name(self) -> str:
        """Return the ONNX node's name."""
        ...

    def node_operator(self) -> str:
        """Return the ONNX operator."""
        ...


class Parser(Protocol):
    """`OnnxParser`."""

    num_errors: int

    def parse_from_file(self, path: str) -> bool:
        """Fill the network; returns True for some garbage too."""
        ...

    def get_error(self, index: int) -> ParserError:
        """Return an error."""
        ...


class OptimizationProfile(Protocol):
    """`IOptimizationProfile`."""

    def set_shape(
        self, name: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]
    ) -> None:
        """Set the three shapes of an input."""
        ...


class BuilderConfig(Protocol):
    """`IBuilderConfig`; the last two members are TensorRT-RTX's own."""

    profiling_verbosity: object
    progress_monitor: object
    num_compute_capabilities: int

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        """Add a profile; returns -1 when it is refused."""
        ...

    def set_compute_capability(self, capability: object, index: int) -> bool:
        """Set one of the architectures the engine is for."""
        ...


class Builder(Protocol):
    """`Builder`."""

    def create_optimization_profile(self) -> OptimizationProfile:
        """Return an empty profile."""
        ...


class Execution(Protocol):
    """`IExecutionContext`: one activation of an engine, fed by addresses."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Say how large the next batch is."""
        ...

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Say where a tensor lies in device memory."""
        ...

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Queue the work on a stream."""
        ...
