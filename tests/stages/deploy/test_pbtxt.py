"""config.pbtxt: the text is the message, whatever the message."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from pipeline.artifacts import DataSpec, ExportedModel, Split, TensorSpec, Variant
from pipeline.device import CPU, Device
from pipeline.errors import DataError
from stages.deploy.config import DeployConfig, DynamicBatchingConfig
from stages.deploy.model_configs import (
    pipeline_model,
    postprocess_model,
    preprocess_model,
    tensor_model,
)
from stages.deploy.pbtxt import DATA_TYPES, parse, render
from stages.deploy.plan import ServingPlan, make_plan

text = st.text(max_size=20)
dims = st.lists(st.integers(-1, 2**40), max_size=4)


@st.composite
def model_configs(draw: st.DrawFn) -> ModelConfig:
    config = ModelConfig(
        name=draw(text),
        backend=draw(text),
        max_batch_size=draw(st.integers(0, 2**31 - 1)),
        default_model_filename=draw(text),
    )
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(sorted(DATA_TYPES.values())))
        config.input.add(
            name=draw(text), data_type=kind, dims=draw(dims), allow_ragged_batch=draw(st.booleans())
        )
        config.output.add(name=draw(text), dims=draw(dims), label_filename=draw(text))
        config.parameters[draw(text)].string_value = draw(text)
        step = config.ensemble_scheduling.step.add(model_name=draw(text), model_version=-1)
        step.input_map[draw(text)] = draw(text)
    if draw(st.booleans()):
        config.dynamic_batching.max_queue_delay_microseconds = draw(st.integers(0, 2**63))
    return config


@given(model_configs())
def test_parse_undoes_render(config: ModelConfig) -> None:
    assert parse(render(config)) == config


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_readable_error(content: str) -> None:
    try:
        parse(content, where="x.pbtxt")
    except DataError as error:
        assert str(error).startswith("x.pbtxt: ")


def test_an_unknown_field_is_named_with_its_place() -> None:
    with pytest.raises(DataError, match=r"1:1 .*max_bach_size"):
        parse("max_bach_size: 4")


def plan_for(config: DeployConfig, runtime: str = "python", device: Device = CPU) -> ServingPlan:
    variant = Variant(
        name="onnxruntime-int8", backend="onnxruntime", precision="int8", format="onnx",
        path=Path("m.onnx"), size_bytes=1, runs_here=True,
        input=TensorSpec(name="images", dtype="uint8", shape=(-1, 5, 7, 1)),
        output=TensorSpec(name="logits", dtype="float32", shape=(-1, 3)),
    )  # fmt: skip
    exported = ExportedModel(variants=(variant,), chosen=variant.name, classes=("a", "b", "c"))
    spec = DataSpec(
        kind="image", name="d", backend="array", reader="array", transforms=Path("t"),
        splits={"eval": Split(manifest=Path("m"), samples=1)}, classes=exported.classes,
        height=5, width=7, channels=1, mean=(0.5,), std=(0.5,), batch_size=1, digest="",
        preprocess=Path("eval.dali"),
    )  # fmt: skip
    return make_plan(config, runtime, spec, exported, device)


def test_the_tensor_model_says_what_the_exported_graph_says() -> None:
    batching = DynamicBatchingConfig(max_queue_delay_us=250, preferred_sizes=(2, 4))
    config = tensor_model(
        plan_for(DeployConfig(max_batch=4, instances=3, dynamic_batching=batching))
    )
    assert (config.input[0].name, list(config.input[0].dims)) == ("images", [5, 7, 1])
    assert (config.output[0].name, list(config.output[0].dims)) == ("logits", [3])
    assert config.max_batch_size == 4
    assert config.instance_group[0].count == 3
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 4]
    assert config.output[0].label_filename == "labels.txt"
    assert config.parameters["dlpipe_precision"].string_value == "int8"


def test_batching_and_warm_up_can_be_turned_off() -> None:
    settings = DeployConfig(warmup=False, dynamic_batching=DynamicBatchingConfig(enabled=False))
    config = tensor_model(plan_for(settings))
    assert not config.HasField("dynamic_batching")
    assert not config.model_warmup


def test_the_container_gets_the_native_backends() -> None:
    plan = plan_for(DeployConfig(), "native")
    assert tensor_model(plan).backend == "onnxruntime"
    assert preprocess_model(plan, 0).backend == "dali"
    assert preprocess_model(plan, 0).default_model_filename == "model.dali"
    engine = replace(plan, variant=replace(plan.variant, format="engine", backend="tensorrt"))
    assert tensor_model(engine).backend == "tensorrt"
    assert tensor_model(engine).default_model_filename == "model.plan"


def test_a_gpu_is_named_only_where_the_runtime_uses_it() -> None:
    gpu = Device("cuda", 1)
    native = tensor_model(plan_for(DeployConfig(), "native", gpu)).instance_group[0]
    assert (native.kind, list(native.gpus)) == (ModelInstanceGroup.KIND_GPU, [1])
    python = tensor_model(plan_for(DeployConfig(), "python", gpu)).instance_group[0]
    assert python.kind == ModelInstanceGroup.KIND_CPU


def test_the_ensemble_connects_the_models_by_tensors_that_exist() -> None:
    plan = plan_for(DeployConfig())
    models = {
        str(config.name): config
        for config in (preprocess_model(plan, 9), tensor_model(plan), postprocess_model(plan))
    }
    ensemble = pipeline_model(plan)
    known = {str(tensor.name) for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        model = models[step.model_name]
        assert set(step.input_map) == {tensor.name for tensor in model.input}
        assert set(step.output_map) <= {tensor.name for tensor in model.output}
        assert set(step.input_map.values()) <= known
        known |= set(step.output_map.values())
    assert {str(tensor.name) for tensor in ensemble.output} <= known
