"""Choosing the variant that a server can load."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.artifacts import ExportedModel, Variant
from pipeline.errors import ConfigError, StageFailed
from stages.deploy.plan import choose_variant


@pytest.fixture
def exported(chain) -> ExportedModel:
    onnx = chain.exported.variants[0]

    def make(name: str, backend: str, kind: str, **more: object) -> Variant:
        return replace(onnx, name=name, backend=backend, format=kind, **more)

    variants = (
        make("tensorrt-fp16", "tensorrt", "engine"),
        make("tensorrt-rtx-int8", "tensorrt-rtx", "engine"),
        make("onnxruntime-fp32", "onnxruntime", "onnx", p50_ms=9.0),
        make("onnxruntime-int8", "onnxruntime", "onnx", p50_ms=3.0),
        make("onnxruntime-fp16", "onnxruntime", "onnx", p50_ms=1.0, accepted=False),
    )
    return ExportedModel(variants=variants, chosen="onnxruntime-fp32", classes=("a",))


def test_auto_takes_what_the_export_stage_chose(exported: ExportedModel) -> None:
    assert choose_variant(exported, "auto", "python").name == "onnxruntime-fp32"


def test_where_the_chosen_one_cannot_be_loaded_the_fastest_accepted_one_is_taken(
    exported: ExportedModel,
) -> None:
    exported = replace(exported, chosen="tensorrt-rtx-int8")
    assert choose_variant(exported, "auto", "python").name == "onnxruntime-int8"


def test_engines_are_for_the_native_runtime_only(exported: ExportedModel) -> None:
    assert choose_variant(exported, "tensorrt-fp16", "native").format == "engine"
    with pytest.raises(ConfigError, match=r"'tensorrt-fp16' .* cannot be loaded .*onnxruntime"):
        choose_variant(exported, "tensorrt-fp16", "python")


def test_an_engine_of_tensorrt_rtx_is_never_served(exported: ExportedModel) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded by this server"):
        choose_variant(exported, "tensorrt-rtx-int8", "native")


def test_an_unknown_variant_names_the_nearest(exported: ExportedModel) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'onnxruntime-int8'"):
        choose_variant(exported, "onnxruntime-int", "python")


def test_with_nothing_to_serve_the_message_says_what_to_export(exported: ExportedModel) -> None:
    exported = replace(exported, variants=exported.variants[1:2])
    with pytest.raises(StageFailed, match="Add the backend 'onnxruntime' or 'tensorrt'"):
        choose_variant(exported, "auto", "python")
