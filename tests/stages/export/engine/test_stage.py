"""The whole export stage with both backends: the graphs it makes, as engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.artifacts import DataSpec, ExportedModel, TrainedModel
from pipeline.context import Context
from stages.export.config import ExportConfig
from stages.export.engine.manifest import check_content
from stages.export.stage import Export

pytest.importorskip("tensorrt_rtx")

CONFIG = {
    "backend": ["tensorrt-rtx", "onnxruntime"],
    "calibration": {"samples": 48, "method": "minmax"},
    "latency": {"seconds": 0.05, "rounds": 2, "threads": 1},
    "speed_tolerance": 1.0,
    "max_drop": 2.0,
}


@pytest.fixture(scope="module")
def exported(
    spec: DataSpec, trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> ExportedModel:
    folder = tmp_path_factory.mktemp("export")
    context = Context(dir=folder, artifacts={DataSpec: spec, TrainedModel: trained})
    return Export(ExportConfig.model_validate(CONFIG)).run(context)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_graph_of_the_stage_becomes_a_proven_engine(
    exported: ExportedModel, precision: str
) -> None:
    variant = exported.variant(f"tensorrt-rtx-{precision}")
    assert (variant.format, variant.runs_here) == ("engine", False), variant.note
    assert variant.proof == {precision: 5}
    assert check_content(variant.path).precision == precision


def test_what_runs_here_is_what_is_served(exported: ExportedModel) -> None:
    assert exported.variant(exported.chosen).runs_here


def test_engines_that_cannot_run_here_are_measured_by_nobody(exported: ExportedModel) -> None:
    engines = [variant for variant in exported.variants if variant.format == "engine"]
    assert [(v.top1, v.p50_ms, v.images_per_s) for v in engines] == [(None, None, None)] * 3


def test_no_file_beside_an_engine_says_where_it_was_built(exported: ExportedModel) -> None:
    for variant in exported.variants:
        if variant.manifest is not None:
            folder = str(Path(variant.path).parent)
            assert folder not in variant.manifest.read_text()
            assert folder not in variant.note
