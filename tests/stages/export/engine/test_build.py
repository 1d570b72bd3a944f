from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.context import Context
from pipeline.device import CPU, Device
from pipeline.errors import Interrupted
from pipeline.events import Event, EventLog
from stages.export.backends import BatchProfile
from stages.export.engine import build
from stages.export.engine.build import CHILD, BuildFailed, child_environment, run_build
from stages.export.engine.request import REQUEST, BuildRequest, Finished, Tensor

pytest.importorskip("tensorrt_rtx")


@dataclass
class Heard:
    """Keeps every event."""

    events: list[Event] = field(default_factory=list)

    def receive(self, event: Event) -> None:
        self.events.append(event)

    def done(self) -> list[int]:
        """What the progress bar showed, in order."""
        return [int(str(e.fields["done"])) for e in self.events if e.kind == "progress"]


def request_for(onnx_path: Path, folder: Path) -> BuildRequest:
    return BuildRequest(
        api="tensorrt_rtx",
        onnx=onnx_path,
        engine=folder / "net.engine",
        log=folder / "net.build.log",
        profile=BatchProfile(min=1, opt=2, max=4),
        architectures=("SM89",),
    )


def save_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    shape: tuple[int | str, ...] = ("n", 4, 4),
    output_shape: tuple[int | str, ...] | None = None,
) -> Path:
    """Write a graph from float "images" to "logits"."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output_shape or shape)],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


RELU = helper.make_node("Relu", ["images"], ["logits"], name="relu")


@pytest.fixture(scope="module")
def one_build(
    small: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[BuildRequest, Finished, Heard]:
    folder, heard = tmp_path_factory.mktemp("one_build"), Heard()
    request = request_for(small["fp32"], folder)
    return request, run_build(request, Context(dir=folder, events=EventLog((heard,)))), heard


def test_a_build_reports_versions_times_and_tensors(
    one_build: tuple[BuildRequest, Finished, Heard],
) -> None:
    request, finished, _ = one_build
    assert finished.inputs == (Tensor(name="images", dtype="uint8", shape=(-1, 8, 8, 3)),)
    assert finished.outputs == (Tensor(name="logits", dtype="float32", shape=(-1, 5)),)
    assert finished.size_bytes == request.engine.stat().st_size > 1000
    assert finished.version.startswith("1.")


def test_the_progress_bar_goes_from_nothing_to_all(
    one_build: tuple[BuildRequest, Finished, Heard],
) -> None:
    done = one_build[2].done()
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 100)
    assert len(set(done)) > 5


def test_the_log_has_the_layer_table_and_no_noise_about_the_missing_driver(
    one_build: tuple[BuildRequest, Finished, Heard],
) -> None:
    log = one_build[0].log.read_text()
    assert "LayerType: " in log
    assert "cudaError" not in log


def test_a_build_leaves_nothing_but_the_engine_and_its_log(
    one_build: tuple[BuildRequest, Finished, Heard],
) -> None:
    left = {path.name for path in one_build[0].engine.parent.iterdir()}
    assert left == {"net.engine", "net.build.log"}


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_graph_is_named_as_damaged(
    small: Mapping[str, Path], ctx: Context, keep: float
) -> None:
    whole = small["fp32"].read_bytes()
    damaged = ctx.dir / "damaged.onnx"
    damaged.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(BuildFailed, match=r"damaged\.onnx is no valid ONNX graph"):
        run_build(request_for(damaged, ctx.dir), ctx)


def test_an_operator_without_an_implementation_is_named(ctx: Context) -> None:
    node = helper.make_node("Det", ["images"], ["logits"], name="the_determinant")
    path = save_graph(ctx.dir / "det.onnx", [node], output_shape=("n",))
    message = r"operator 'Det' \(node 'the_determinant'\): TensorRT does not implement it"
    with pytest.raises(BuildFailed, match=message):
        run_build(request_for(path, ctx.dir), ctx)


def test_the_unsigned_form_of_int8_is_refused_with_its_reason(u8s8: Path, ctx: Context) -> None:
    with pytest.raises(BuildFailed, match=r"operator '(Dequantize|Quantize)Linear'"):
        run_build(request_for(u8s8, ctx.dir), ctx)


def test_a_dynamic_graph_without_a_profile_is_refused(
    small: Mapping[str, Path], ctx: Context
) -> None:
    request = replace(request_for(small["fp32"], ctx.dir), profile=None)
    with pytest.raises(BuildFailed, match=r"no optimization profile has been defined"):
        run_build(request, ctx)


@pytest.mark.parametrize("shape", [(2, 4, 4), ("n", "h", 4)])
def test_only_the_batch_may_be_dynamic_and_it_must_be(
    ctx: Context, shape: tuple[int | str, ...]
) -> None:
    path = save_graph(ctx.dir / "shape.onnx", [RELU], shape=shape)
    with pytest.raises(BuildFailed, match=r"input 'images' has shape .* the batch"):
        run_build(request_for(path, ctx.dir), ctx)


def test_a_profile_out_of_order_is_refused(small: Mapping[str, Path], ctx: Context) -> None:
    request = request_for(small["fp32"], ctx.dir)
    backwards = replace(request, profile=BatchProfile(min=4, opt=2, max=1))
    with pytest.raises(BuildFailed, match=r"batch profile 4/2/1 was refused. Allowed: 1 <= min"):
        run_build(backwards, ctx)


def test_an_unknown_architecture_is_refused_with_those_on_offer(
    small: Mapping[str, Path], ctx: Context
) -> None:
    request = replace(request_for(small["fp32"], ctx.dir), architectures=("SM89", "SM90"))
    with pytest.raises(BuildFailed, match=r"'SM90' is not offered. Allowed: .*'SM120'"):
        run_build(request, ctx)


def python(code: str) -> list[str]:
    """A child that runs `code` and ignores its request."""
    return [sys.executable, "-c", code]


@pytest.fixture
def request_of_nothing(ctx: Context) -> BuildRequest:
    return request_for(save_graph(ctx.dir / "relu.onnx", [RELU]), ctx.dir)


def test_a_crash_of_the_child_is_an_error_with_the_last_lines(
    request_of_nothing: BuildRequest, ctx: Context
) -> None:
    code = (
        "import os, pathlib, sys; sys.stderr.write('about to fall\\n'); sys.stderr.flush();"
        f"pathlib.Path({str(request_of_nothing.log)!r}).write_text('[VERBOSE] deep in myelin\\n');"
        f"os.kill(os.getpid(), {int(signal.SIGSEGV)})"
    )
    with pytest.raises(BuildFailed, match=r"killed by signal SIGSEGV") as raised:
        run_build(request_of_nothing, ctx, command=python(code))
    assert "about to fall" in str(raised.value)
    assert "deep in myelin" in str(raised.value)


def test_a_child_that_leaves_without_a_word_is_an_error(
    request_of_nothing: BuildRequest, ctx: Context
) -> None:
    with pytest.raises(BuildFailed, match=r"ended with exit code 3 and without a result"):
        run_build(request_of_nothing, ctx, command=python("raise SystemExit(3)"))


def test_a_child_that_falls_silent_and_hangs_is_an_error(
    request_of_nothing: BuildRequest, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_LAST_BREATH_S", 0.3)
    code = "import os, time; os.close(1); time.sleep(60)"
    with pytest.raises(BuildFailed, match=r"closed its output and did not end"):
        run_build(request_of_nothing, ctx, command=python(code))
    assert not is_running(request_of_nothing)


def test_a_child_that_ran_out_of_memory_is_an_error_that_says_so(
    request_of_nothing: BuildRequest, ctx: Context
) -> None:
    code = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    with pytest.raises(BuildFailed, match=r"killed by signal SIGKILL, .* exhaust the memory"):
        run_build(request_of_nothing, ctx, command=python(code))


SLEEP = python("import sys, time; print(sys.argv, file=sys.stderr, flush=True); time.sleep(60)")


def test_a_build_that_takes_too_long_is_killed(
    request_of_nothing: BuildRequest, ctx: Context
) -> None:
    started = time.monotonic()
    with pytest.raises(BuildFailed, match=r"did not end within 0\.5 s.* Raise .*build_timeout_s"):
        run_build(request_of_nothing, ctx, timeout_s=0.5, command=SLEEP)
    assert time.monotonic() - started < 10
    assert not is_running(request_of_nothing)


def test_a_stop_kills_the_build_at_once(request_of_nothing: BuildRequest, ctx: Context) -> None:
    timer = threading.Timer(0.5, ctx.stop.request, ["SIGTERM"])
    timer.start()
    started = time.monotonic()
    with pytest.raises(Interrupted, match=r"SIGTERM"):
        run_build(request_of_nothing, ctx, command=SLEEP)
    timer.join()
    assert time.monotonic() - started < 10
    assert not is_running(request_of_nothing)
    assert not request_of_nothing.engine.exists()


def test_the_child_ends_when_its_parent_is_gone(small: Mapping[str, Path], ctx: Context) -> None:
    request = request_for(small["fp32"], ctx.dir)
    path = ctx.dir / "request.json"
    path.write_bytes(REQUEST.dump_json(request))
    ended = subprocess.run(
        [*CHILD, str(path)], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert not request.engine.exists()


def test_the_child_sees_only_the_gpu_that_is_meant() -> None:
    assert "CUDA_VISIBLE_DEVICES" not in child_environment({}, CPU)
    second = Device("cuda", 1)
    assert child_environment({}, second)["CUDA_VISIBLE_DEVICES"] == "1"
    base = {"CUDA_VISIBLE_DEVICES": "5,GPU-7f"}
    assert child_environment(base, second)["CUDA_VISIBLE_DEVICES"] == "GPU-7f"


def is_running(request: BuildRequest) -> bool:
    """Tell whether a process with this request among its arguments is alive."""
    needle = str(request.log.with_suffix(".request.json")).encode()
    found = []
    for commandline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(needle in commandline.read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return any(found)
