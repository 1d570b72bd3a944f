from __future__ import annotations

import onnx
import pytest

from pipeline.context import Context
from pipeline.device import CPU
from pipeline.errors import StageFailed
from stages.export.backends import BatchProfile
from stages.export.backends.onnxruntime import build, count_executed, open_session
from stages.export.cast import to_fp16
from stages.export.graph import save
from stages.export.quantize import quantize

PROFILE = BatchProfile()


def test_a_float_graph_is_not_taken_for_int8(conv, ctx):
    with pytest.raises(StageFailed, match=r"runs no convolution .* in INT8 \(\{'fp32': 5\}\)"):
        build(conv.graph, "int8", PROFILE, ctx.dir, ctx, timeout_s=1.0)


@pytest.mark.parametrize("net", ["conv", "attention"])
def test_the_unsigned_form_is_executed_in_int8_throughout(net, request, tmp_path):
    exported = request.getfixturevalue(net)
    ranges = {name: (table.low, table.high) for name, table in exported.histograms.items()}
    path = tmp_path / "int8.onnx"
    save(quantize(exported.graph, ranges, "u8s8"), path)
    built = build(path, "int8", PROFILE, tmp_path, Context(dir=tmp_path), timeout_s=1.0)
    assert set(built.proof) == {"int8"}
    assert built.runs_here


def test_fp16_that_a_cpu_computes_in_fp32_says_so(conv, tmp_path):
    path = tmp_path / "fp16.onnx"
    save(to_fp16(onnx.load(conv.graph)), path)
    built = build(path, "fp16", PROFILE, tmp_path, Context(dir=tmp_path), timeout_s=1.0)
    assert built.proof.get("fp16") or "no FP16 kernels for this CPU" in built.note


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"not a graph"])
def test_a_damaged_graph_is_named(content, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(StageFailed, match=r"cannot run broken\.onnx"):
        open_session(path, CPU)
    with pytest.raises(StageFailed, match=r"cannot run broken\.onnx"):
        count_executed(path)


def test_a_missing_graph_is_named(tmp_path):
    with pytest.raises(StageFailed, match=r"cannot run gone\.onnx"):
        open_session(tmp_path / "gone.onnx", CPU)
