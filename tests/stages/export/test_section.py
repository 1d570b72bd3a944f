from __future__ import annotations

from small_exports import variant as measured

from pipeline.artifacts import ExportedModel, Variant
from pipeline.device import CPU
from pipeline.report.blocks import Note, ScatterChart, Table
from stages.export.config import ExportConfig
from stages.export.section import describe


def variant(name: str, **figures) -> Variant:
    backend, _, precision = name.rpartition("-")
    sizes = {"size_bytes": 2_000_000, "p50_ms": 1.0, "p99_ms": 2.0}
    return measured(precision, backend, **{**sizes, **figures})


UNMEASURED = dict.fromkeys(("top1", "drop_points", "agreement", "p50_ms", "p99_ms", "images_per_s"))


def test_what_was_not_run_and_what_was_not_built_is_said():
    engine = variant("tensorrt-rtx-int8", runs_here=False, proof={"int8": 21}, **UNMEASURED)
    failed = variant(
        "onnxruntime-int8", runs_here=False, accepted=False, size_bytes=0, note="no kernel",
        **UNMEASURED,
    )  # fmt: skip
    exported = ExportedModel(
        variants=(variant("onnxruntime-fp32"), engine, failed),
        chosen="onnxruntime-fp32",
        classes=("a", "b"),
    )
    section = describe(exported, ExportConfig(), None, {}, [], CPU)
    table = next(block for block in section.blocks if isinstance(block, Table))
    assert [row[-1] for row in table.rows] == ["chosen", "unjudged", "not built: no kernel"]
    assert table.rows[1][-2] == "21 int8"
    (chart,) = (block for block in section.blocks if isinstance(block, ScatterChart))
    assert [series.labels for series in chart.series] == [("fp32",)]
    notes = [block.text for block in section.blocks if isinstance(block, Note)]
    assert any("not run here: tensorrt-rtx-int8" in text for text in notes)
    assert any("onnxruntime-int8 was not built: no kernel" in text for text in notes)


def test_a_chosen_variant_that_was_not_accepted_is_a_bad_note():
    only = variant("onnxruntime-fp32", accepted=False, note="loses 3.00 points")
    exported = ExportedModel(variants=(only,), chosen=only.name, classes=("a",))
    first = describe(exported, ExportConfig(), None, {}, [], CPU).blocks[0]
    assert isinstance(first, Note)
    assert (first.level, "loses 3.00 points" in first.text) == ("bad", True)
