"""Texts: graphs and engines take batches of any number and any length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.artifacts import TensorSpec
from pipeline.backend import is_installed
from pipeline.context import Context
from pipeline.device import CPU
from pipeline.errors import StageFailed
from stages.export.backends import BatchProfile, LengthProfile
from stages.export.backends.onnxruntime import open_session
from stages.export.cast import to_fp16
from stages.export.engine.host import HostCuda, OnnxExecution
from stages.export.engine.manifest import load_manifest
from stages.export.engine.runner import EngineRunner
from stages.export.engine.session import binding_of
from stages.export.engine.slot import Binding, RunFailed
from stages.export.graph import save
from stages.export.parity import sqnr_db, torch_answer
from stages.export.to_onnx import to_onnx
from stages.train.models.names import ENCODER
from stages.train.models.text_factory import build_text_model

LONGEST, CLASSES, VOCABULARY, PADDING = 16, 5, 60, 0
TEXTS = TensorSpec(name="tokens", dtype="int32", shape=(-1, -1))
LOGITS = TensorSpec(name="logits", dtype="float32", shape=(-1, CLASSES))
PROFILE = BatchProfile(
    min=1, opt=2, max=4, length=LengthProfile(min=1, opt=8, max=LONGEST, padding=PADDING)
)

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Exported:
    module: torch.nn.Module
    graph: Path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One layer of each kind would do; the fast ones are the harder to export."""
    torch.manual_seed(0)
    module = build_text_model(
        ENCODER, classes=CLASSES, vocabulary=VOCABULARY, length=LONGEST, padding=PADDING,
        separator=3, width=16, depth=2, heads=2,
        fff={"depth": 2, "trees": 2, "layers": ["*.0.mlp"]},
    ).eval()  # fmt: skip
    graph = tmp_path_factory.mktemp("texts") / "fp32.onnx"
    to_onnx(module, TEXTS, LOGITS, graph, opset=20)
    return Exported(module, graph)


def tokens_of(texts: int, length: int, seed: int = 0) -> Tokens:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, VOCABULARY, (texts, length), dtype=np.int32)
    for row, real in enumerate(rng.integers(1, length + 1, texts)):
        tokens[row, real:] = PADDING
    return tokens


@settings(max_examples=20, deadline=None)
@given(texts=st.integers(1, 7), length=st.integers(1, LONGEST), seed=st.integers(0, 2**31))
def test_a_graph_answers_as_torch_does_at_any_number_and_length(
    encoder: Exported, texts: int, length: int, seed: int
) -> None:
    tokens = tokens_of(texts, length, seed)
    answer = open_session(encoder.graph, CPU, threads=1)(tokens)
    assert sqnr_db(torch_answer(encoder.module)(tokens), answer) > 80


def test_fp16_takes_texts_as_well(encoder: Exported, tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "fp16.onnx"
    save(to_fp16(onnx.load(encoder.graph)), path)
    tokens = tokens_of(4, LONGEST)
    answer = open_session(path, CPU, threads=1)(tokens)
    # A logit next to 0 may send a token of a fast layer the other way.
    assert sqnr_db(torch_answer(encoder.module)(tokens), answer) > 25


def test_a_module_that_takes_one_length_only_is_refused(tmp_path: Path) -> None:
    class OneLength(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens.float() @ torch.ones(8, CLASSES)

    with pytest.raises(StageFailed, match=r"(?s)export: .*(length|cannot be traced)"):
        to_onnx(OneLength().eval(), TEXTS, LOGITS, tmp_path / "graph.onnx", opset=20)


def test_a_runner_fills_texts_up_to_the_longest_and_answers_the_same(encoder: Exported) -> None:
    cuda = HostCuda()
    session = onnxruntime.InferenceSession(str(encoder.graph), providers=["CPUExecutionProvider"])
    runner = EngineRunner(cuda, lambda: OnnxExecution(cuda, session, PROFILE.max), bound())
    for texts, length in ((1, 3), (9, LONGEST), (4, 1)):
        tokens = tokens_of(texts, length)
        right = np.asarray(session.run(None, {"tokens": tokens})[0])
        assert np.allclose(runner(tokens), right, atol=1e-5)
    with pytest.raises(RunFailed, match=r"given int64 samples .* Allowed: int32 and \(N, 16\)"):
        runner(tokens_of(2, LONGEST).astype(np.int64))  # type: ignore[arg-type]
    on_device = runner.on_device(torch.from_numpy(tokens_of(3, 5)))
    assert np.allclose(on_device.numpy(), runner(tokens_of(3, 5)), atol=1e-5)
    with pytest.raises(RunFailed, match=r"samples of shape \(2, 17\)"):
        runner(tokens_of(2, LONGEST + 1))
    runner.close()


def bound() -> Binding:
    return Binding(
        input="tokens", input_shape=(LONGEST,), input_type=np.int32, output="logits",
        output_shape=(CLASSES,), profile=PROFILE,
    )  # fmt: skip


@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="needs tensorrt-rtx")
def test_an_engine_is_built_for_every_length(encoder: Exported, tmp_path: Path) -> None:
    from stages.export.backends import tensorrt_rtx

    built = tensorrt_rtx.build(
        encoder.graph, "fp32", PROFILE, tmp_path, Context(dir=tmp_path), architectures=("SM89",)
    )
    assert built.proof["fp32"] > 4
    manifest = load_manifest(built.path)
    assert manifest.inputs[0].shape == (-1, -1)
    assert binding_of(manifest) == bound()
