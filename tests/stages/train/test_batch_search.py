"""The search of a batch size: fast enough, within memory, made once."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import Interrupted
from pipeline.report.blocks import Table, load_section
from stages.train.batch_search import SMALLEST, choose
from stages.train.config import TrainConfig


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ({8: 100.0, 16: 190.0, 32: 300.0, 64: 310.0}, 32),
        ({8: 100.0, 16: 99.0, 32: 98.0}, 8),
        ({8: 100.0, 16: 200.0, 32: 400.0}, 32),
        ({8: 5.0}, 8),
    ],
)
def test_the_smallest_of_the_fast_ones_is_chosen(speeds, chosen):
    assert choose(speeds) == chosen


def test_a_size_of_its_own_decides_how_many_steps_an_epoch_has(train_once):
    assert train_once(batch_size=32, epochs=1).metrics["steps"] == 3


def test_a_run_searches_once_and_trains_with_what_it_found(train_once, recorder, tmp_path):
    trained = train_once(batch_size="auto", epochs=1)
    [event] = recorder.of("batch search")
    size = event.fields["batch_size"]
    assert trained.metrics["steps"] == 96 // size
    [table] = [
        block for block in load_section(tmp_path / "run").blocks
        if isinstance(block, Table) and "Search of the batch size" in block.title
    ]  # fmt: skip
    assert table.rows[0][0] == SMALLEST


def test_an_interrupted_run_keeps_its_size(train_once, recorder, stop, tmp_path):
    recorder.on_event = lambda event: stop.request("a test") if event.kind == "epoch" else None
    with pytest.raises(Interrupted):
        train_once(batch_size="auto")
    recorder.on_event = lambda event: None
    stop.signal_name = ""
    before = json.loads((tmp_path / "run" / "batch_search.json").read_text())
    train_once(batch_size="auto")
    assert [e.fields["batch_size"] for e in recorder.of("batch search")] == [before["chosen"]] * 2
    assert "resumed at step" in " ".join(recorder.messages("info"))


def test_sizes_beyond_memory_are_not_taken(train_once, recorder, tmp_path):
    class Full(RuntimeError):
        """What an allocator raises."""

    import tiny_net

    def refuse(module, inputs):
        if module.training and len(inputs[0]) > SMALLEST:
            raise Full("DefaultCPUAllocator: can't allocate memory")

    whole = tiny_net.TinyNet.__init__

    def build(self, *arguments, **options):
        whole(self, *arguments, **options)
        self.register_forward_pre_hook(refuse)

    tiny_net.TinyNet.__init__ = build
    try:
        train_once(batch_size="auto", epochs=1)
    finally:
        tiny_net.TinyNet.__init__ = whole
    found = json.loads((tmp_path / "run" / "batch_search.json").read_text())
    assert (found["chosen"], found["too_large"]) in [(SMALLEST, 2 * SMALLEST), (SMALLEST, None)]


def test_several_processes_are_told_to_search_alone():
    with pytest.raises(ValueError, match=r"batch_size: 'auto' is searched by one process"):
        TrainConfig.model_validate({"batch_size": "auto", "launch": {"processes": 2}})
