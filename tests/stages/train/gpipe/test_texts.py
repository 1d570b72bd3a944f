"""Pipelines of networks that read texts, whose batches are of many lengths."""

from __future__ import annotations

import copy

import pytest
import torch
from small_pipelines import OFF, learn, on_cpu

from pipeline.device import CPU
from stages.augment.batch import Batch
from stages.train.gpipe.probe import probe
from stages.train.gpipe.setup import Setup
from stages.train.gpipe.split import split
from stages.train.gradients import WholeBatch
from stages.train.models.names import ENCODER
from stages.train.models.text_factory import build_text_model
from stages.train.precision import FP32


def texts_of(samples: int, length: int) -> Batch:
    draw = torch.Generator().manual_seed(length)
    tokens = torch.randint(4, 40, (samples, length), generator=draw, dtype=torch.int32)
    tokens[::2, length // 2 :] = 0
    return Batch(tokens, torch.randint(3, (samples,), generator=draw), torch.arange(samples))


@pytest.mark.parametrize("recompute", ["never", "always", "blocks"])
@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_are_those_of_one_device_whatever_the_length(recompute, parts) -> None:
    torch.manual_seed(0)
    module = build_text_model(
        ENCODER, classes=3, vocabulary=40, length=24, padding=0, separator=3, parts=parts,
        width=16, depth=2, heads=2, drop=0.0,
    ).double().train()  # fmt: skip
    chain = split(module, texts_of(2, 8).inputs)
    traits = probe(chain, texts_of(4, 8).inputs, FP32, CPU).traits
    bounds = (0, len(chain.blocks) // 2, len(chain.blocks))
    for samples, length in ((8, 8), (7, 16), (6, 24)):
        batch = texts_of(samples, length)
        plain = copy.deepcopy(module)
        expected = learn(plain, WholeBatch(plain, FP32, CPU, 0.1), batch)
        setup = Setup(
            chain=chain, bounds=bounds, traits=traits, micro_batches=3, schedule="1f1b",
            recompute=recompute, precision=FP32, device=CPU, label_smoothing=0.1, seed=0,
            timeout_s=60,
        )  # fmt: skip
        found = learn(module, on_cpu(setup), batch, OFF)
        assert found.keys() == expected.keys()
        assert found.pop("loss").item() == pytest.approx(expected.pop("loss").item(), abs=1e-6)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-9)
