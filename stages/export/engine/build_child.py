"""build_child: the program that parses a graph and builds an engine, in a process of its own.

    python -m stages.export.engine.build_child request.json

TensorRT is a large C++ library that may crash, hang or fill the memory; out here it takes nobody
with it. Standard output carries one JSON `Report` a line; whatever a native library prints goes to
standard error instead.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import onnx

from pipeline.files import write_atomic
from stages.export.backends import BatchProfile
from stages.export.engine import api
from stages.export.engine.build_log import open_log
from stages.export.engine.build_progress import BuildProgress, open_monitor
from stages.export.engine.request import (
    REPORT,
    REQUEST,
    BuildRequest,
    Finished,
    Refused,
    Report,
    Step,
    Tensor,
)

_NUMPY_NAMES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "UINT8": "uint8",
    "INT32": "int32", "INT64": "int64", "BOOL": "bool",
}  # fmt: skip


class RefusedError(Exception):
    """The graph or the request cannot become an engine; the text is for the user."""


def main() -> int:
    """Build what the request file says and report; 0 when the engine is written."""
    send = _take_stdout()
    _die_with_parent()
    request = REQUEST.validate_json(Path(sys.argv[1]).read_bytes())
    try:
        send(build(request, lambda percent, phase: send(Step(percent=percent, phase=phase))))
    except RefusedError as error:
        send(Refused(message=str(error)))
        return 1
    return 0


def build(request: BuildRequest, tell: Callable[[int, str], None]) -> Finished:
    """Parse, build and write; `tell` hears percentages and phases.

    Raises:
        RefusedError: TensorRT does not take the graph, the profile or an architecture.
    """
    _check_graph(request.onnx)
    trt = import_module(request.api)
    # The first logger of a process receives every message of TensorRT, so there is only this one.
    with open_log(trt, request.log) as log:
        builder = trt.Builder(log.logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log.logger)
        started = time.monotonic()
        _parse(parser, network, request.onnx)
        parse_s = time.monotonic() - started

        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.progress_monitor = open_monitor(trt, BuildProgress(tell))
        _set_architectures(trt, config, request.architectures)
        if request.profile is not None:
            _add_profile(builder, config, network, request.profile)
        started = time.monotonic()
        engine = builder.build_serialized_network(network, config)
        build_s = time.monotonic() - started
        if engine is None:
            raise RefusedError(log.errors() or "the builder gave no engine and no reason.")
        write_atomic(request.engine, bytes(engine))
        return Finished(
            version=str(trt.__version__),
            parse_s=parse_s,
            build_s=build_s,
            size_bytes=request.engine.stat().st_size,
            inputs=tuple(_describe(network.get_input(i)) for i in range(network.num_inputs)),
            outputs=tuple(_describe(network.get_output(i)) for i in range(network.num_outputs)),
        )


def _check_graph(path: Path) -> None:
    """Let onnx's own checker see the file first: TensorRT takes random bytes for a graph."""
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, OSError) as error:
        raise RefusedError(f"{path.name} is no valid ONNX graph: {error}") from error


def _parse(parser: api.Parser, network: api.Network, path: Path) -> None:
    """Fill the network from a file."""
    parsed = parser.parse_from_file(str(path))
    errors = [_explain(parser.get_error(index)) for index in range(parser.num_errors)]
    if errors or not parsed:
        raise RefusedError("\n".join(dict.fromkeys(errors)) or "the parser gave no reason.")
    if not network.num_inputs or not network.num_outputs:
        raise RefusedError(f"{path.name} has no inputs or no outputs after parsing.")


def _explain(error: api.ParserError) -> str:
    """Say what the parser did not like, and about which node and operator."""
    operator, code = error.node_operator(), str(error.code()).rpartition(".")[2]
    place = f"operator {operator!r} (node {error.node_name()!r}): " if operator else ""
    what = "TensorRT does not implement it" if error.desc() == "false" else error.desc()
    return f"{place}{what} [{code}]"


def _set_architectures(trt: ModuleType, config: api.BuilderConfig, names: tuple[str, ...]) -> None:
    """Say which GPUs the engine is for; only TensorRT-RTX has that choice."""
    if not names:
        return
    config.num_compute_capabilities = len(names)
    offered = trt.ComputeCapability.__members__
    for index, name in enumerate(names):
        if name not in offered:
            raise RefusedError(f"architecture {name!r} is not offered. Allowed: {sorted(offered)}.")
        if not config.set_compute_capability(offered[name], index):
            raise RefusedError(f"architecture {name!r} was refused by the builder.")


def _add_profile(
    builder: api.Builder, config: api.BuilderConfig, network: api.Network, profile: BatchProfile
) -> None:
    """Give every input the same range of batch sizes."""
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *rest = tuple(tensor.shape)
        if batch != -1 or rest.count(-1) != (profile.length is not None):
            raise RefusedError(
                f"input {tensor.name!r} has shape {[batch, *rest]}; the first axis, the batch, "
                "must be dynamic (-1), and no other but the length of texts. Export the graph with "
                "a dynamic batch axis."
            )
        length = profile.length
        least, usual, most = (length.min, length.opt, length.max) if length else (-1, -1, -1)
        shapes.set_shape(
            tensor.name,
            (profile.min, *_sized(rest, least)),
            (profile.opt, *_sized(rest, usual)),
            (profile.max, *_sized(rest, most)),
        )
    if config.add_optimization_profile(shapes) < 0:
        raise RefusedError(
            f"the batch profile {profile.min}/{profile.opt}/{profile.max} was refused. "
            "Allowed: 1 <= min <= opt <= max."
        )


def _sized(rest: Sequence[int], length: int) -> tuple[int, ...]:
    """Put a length in the place of an axis that is free."""
    return tuple(length if size == -1 else size for size in rest)


def _describe(tensor: api.Tensor) -> Tensor:
    name = str(tensor.dtype).rpartition(".")[2]
    dtype = _NUMPY_NAMES.get(name, name.lower())
    return Tensor(name=tensor.name, dtype=dtype, shape=tuple(tensor.shape))


def _take_stdout() -> Callable[[Report], None]:
    """Keep standard output for reports alone, and send everyone else's prints to standard error."""
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()  # the monitor is called from TensorRT's own threads

    def send(report: Report) -> None:
        with lock:
            print(REPORT.dump_json(report).decode(), file=reports, flush=True)

    return send


def _die_with_parent() -> None:
    """End this process when standard input closes: while the parent lives it stays open."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
