"""The report of a pipelined run: every figure the reader was promised, from the objects it has."""

from __future__ import annotations

from chains import conv_chain, images_for

from pipeline.report.blocks import Facts, Gantt, Note, Section, Table, load_section, save_section
from pipeline.report.drawing import draw_block
from pipeline.report.picture import Album
from stages.train.gpipe.chapter import layers, pipeline_blocks
from stages.train.gpipe.comparison import compare_activations
from stages.train.gpipe.memory import MemoryMeter
from stages.train.gpipe.planner import plan_pipeline
from stages.train.parallel_config import ParallelConfig

CHAIN = conv_chain(depth=2)
IMAGES = images_for(CHAIN, 8)
METER = MemoryMeter(CHAIN, IMAGES)
PLAN = plan_pipeline(ParallelConfig(pipeline=2, micro_batches=4), CHAIN, IMAGES, meter=METER)
PEAKS = compare_activations(PLAN, METER)
BLOCKS = pipeline_blocks(PLAN, PLAN.predicted, PEAKS)


def only(kind, title=""):
    (block,) = [b for b in BLOCKS if isinstance(b, kind) and b.title.startswith(title)]
    return block


def test_bubble_stands_beside_the_ideal_one_and_speedups_beside_each_other():
    facts = dict(only(Facts).items)
    assert facts["(K-1)/(M+K-1)"] == "20.0%"
    assert facts["Bubble, measured"] == f"{PLAN.predicted.bubble:.1%}"
    assert facts["Speedup at M = 4"] == f"{PLAN.plain_s / PLAN.step_s:.2f}"
    assert facts["Speedup over the best plain run"] == f"{PLAN.best_plain_s / PLAN.step_s:.2f}"


def test_every_stage_has_its_layers_parameters_times_and_memory():
    table = only(Table, "Stages")
    assert len(table.rows) == 2
    assert sum(row[2] for row in table.rows) == sum(s.parameters for s in PLAN.stages)
    assert table.rows[0][1] == layers(PLAN.stages[0])
    assert f"{PLAN.imbalance:.3f}" in table.caption


def test_every_piece_of_work_is_drawn():
    gantt = only(Gantt)
    assert len(gantt.spans) == 2 * 2 * 4
    assert {span.label for span in gantt.spans} == {"0", "1", "2", "3"}
    assert min(span.start for span in gantt.spans) == 0


def test_gradients_of_weights_that_come_later_are_drawn_in_a_row_of_their_own(tmp_path):
    config = ParallelConfig(pipeline=2, micro_batches=4, schedule="zero_bubble")
    plan = plan_pipeline(config, CHAIN, IMAGES)
    (gantt,) = [b for b in pipeline_blocks(plan, plan.predicted) if isinstance(b, Gantt)]
    assert gantt.kinds == ("forward", "backward", "weights")
    assert [span.kind for span in gantt.spans].count(2) == 4
    assert "weights" in str(draw_block(gantt, "train", Album(tmp_path)))


def test_memory_is_told_for_every_way_and_the_chosen_one_is_set_off():
    table = only(Table, "Peak")
    peaks = (PEAKS.naive, PEAKS.micro_batched, PEAKS.recomputed, PEAKS.by_block)
    assert [row[2] for row in table.rows] == [peaks[0] / peak for peak in peaks]
    assert PEAKS.recomputed < PEAKS.micro_batched < PEAKS.naive
    assert table.highlight == (1,)


def test_the_blocks_survive_the_file_and_become_a_page(tmp_path):
    save_section(Section(title="Training", blocks=BLOCKS), tmp_path)
    loaded = load_section(tmp_path)
    assert loaded is not None
    assert loaded.blocks == BLOCKS
    assert any(isinstance(block, Note) and "Why this plan" in block.text for block in BLOCKS)
    for block in loaded.blocks:
        assert draw_block(block, "train", Album(tmp_path))
