"""The train stage with a pipeline: one YAML line, an ordinary checkpoint, and errors with mends."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import ConfigError, Interrupted

DEVICES = {"engine": "devices", "micro_batches": 4}


def stop_in_epoch(recorder, stop, epoch: int) -> None:
    def on_event(event) -> None:
        if str(event.fields.get("note")).startswith(f"epoch {epoch}/"):
            stop.request("SIGTERM")

    recorder.on_event = on_event


def test_a_run_goes_on_with_other_numbers_of_stages_to_the_same_bits(train_once, recorder, stop):
    undisturbed = train_once("undisturbed", parallel={"pipeline": 2, **DEVICES})
    for epoch, stages in ((1, 2), (2, 3)):
        stop_in_epoch(recorder, stop, epoch)
        with pytest.raises(Interrupted, match="SIGTERM"):
            train_once("stopped", parallel={"pipeline": stages, **DEVICES})
        stop.signal_name = ""
    recorder.on_event = lambda event: None
    parallel = {"pipeline": 2, **DEVICES, "schedule": "1f1b", "recompute": "blocks"}
    resumed = train_once("stopped", parallel=parallel)
    assert sum("resumed at step" in m for m in recorder.messages("info")) == 2
    expected, found = load_file(undisturbed.weights), load_file(resumed.weights)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_plan_is_told_stage_by_stage(train_once, recorder):
    train_once(epochs=1, parallel={"pipeline": 2, **DEVICES, "recompute": True})
    told = recorder.messages("info")
    assert any("2 stage(s), 4 micro-batch(es), gpipe, recompute always" in m for m in told)
    assert sum(m.startswith("stage ") and "parameters" in m for m in told) == 2


def test_processes_train_to_the_bits_of_one_process(train_once, recorder):
    here = train_once("here", epochs=2, parallel={"pipeline": 2, **DEVICES})
    there = train_once(
        "there", epochs=2,
        parallel={"pipeline": 2, "micro_batches": 4, "engine": "processes", "timeout_s": 300},
    )  # fmt: skip
    expected, found = load_file(here.weights), load_file(there.weights)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("engine", ["devices", "processes"])
def test_a_run_whose_gradients_of_weights_come_later_learns_the_same(train_once, recorder, engine):
    parallel = {"pipeline": 2, "micro_batches": 4, "engine": engine, "timeout_s": 300}
    plain = train_once("plain", epochs=2, parallel={**parallel, "schedule": "1f1b"})
    later = train_once("later", epochs=2, parallel={**parallel, "schedule": "zero_bubble"})
    assert any("4 micro-batch(es), zero_bubble" in m for m in recorder.messages("info"))
    expected, found = load_file(plain.weights), load_file(later.weights)
    # A bias in front of batch norm has no gradient but rounding, which AdamW makes a step of.
    noise = ("body.features.0.bias", "body.features.1.running_mean")
    for name in expected.keys() - noise:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pipeline": 40, "micro_batches": 40}, r"pipeline: 40 stages, and .* chain of .* blocks"),
        ({"pipeline": 2, "micro_batches": 17}, "micro_batches: 17 .* 16 samples"),
        ({"pipeline": 2, "micro_batches": 2, "cuts": ["body.hed"]}, "body.hed.*Did you mean"),
        ({"pipeline": 2, "micro_batches": 2, "data": "fsdp"}, "data: 'fsdp' .* Use data: ddp"),
        ({"engine": "distributed"}, "engine: 'distributed' runs in processes that torchrun"),
    ],
)
def test_misuse_is_an_error_with_its_mend(train_once, changes, said):
    with pytest.raises(ConfigError, match=said):
        train_once(parallel=changes)


def test_a_compiled_network_cannot_be_run_block_by_block(train_once):
    with pytest.raises(ConfigError, match=r"stages.train.compile: true .* Set compile: false"):
        train_once(compile=True, parallel={"pipeline": 2, "micro_batches": 2})
