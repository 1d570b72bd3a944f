"""The four model configurations of a repository, as protobuf messages from the real tensor specs.

<name>_pipeline: encoded or text -> <name>_preprocess -> pixels or tokens -> <name> -> logits
                                 -> <name>_postprocess -> labels, scores
"""

from __future__ import annotations

from tritonclient.grpc.model_config_pb2 import (
    ModelConfig,
    ModelInput,
    ModelInstanceGroup,
    ModelOutput,
)

from pipeline.artifacts import TensorSpec, Tokens
from pipeline.graph_forms import OPERATORS_FILE
from stages.deploy.pbtxt import DATA_TYPES
from stages.deploy.plan import ServingPlan

LABELS_FILE = "labels.txt"
WARMUP_FILE = "encoded"
MOUNT = "/models"
"""Where a container has the repository."""


def tensor_model(plan: ServingPlan) -> ModelConfig:
    """Return the configuration of the tensor model: pixels in, logits out."""
    variant = plan.variant
    config = ModelConfig(name=plan.name, max_batch_size=plan.max_batch)
    given = _add_input(config, variant.input)
    if plan.tokens is not None:
        config.parameters["padding"].string_value = str(plan.tokens.padding)
        given.allow_ragged_batch = plan.runtime == "python"  # our file fills texts up by itself
    _add_output(config, variant.output).label_filename = LABELS_FILE
    _add_batching(config, plan)
    _add_instances(config, plan, plan.instances)
    if plan.runtime == "python":
        config.backend = "python"
        config.parameters["threads"].string_value = str(plan.threads)
    elif variant.format == "engine":
        config.backend = "tensorrt"
        config.default_model_filename = "model.plan"
    else:
        config.backend = "onnxruntime"
        config.default_model_filename = "model.onnx"
        config.parameters["intra_op_thread_count"].string_value = str(plan.threads)
        if variant.operators is not None:  # ONNX Runtime opens it by this very name
            library = f"{MOUNT}/{plan.name}/{plan.version}/{OPERATORS_FILE}"
            config.model_operations.op_library_filename.append(library)
    config.parameters["dlpipe_variant"].string_value = variant.name
    config.parameters["dlpipe_precision"].string_value = variant.precision
    if plan.warmup:
        for batch in sorted({1, plan.max_batch}):
            warmup = config.model_warmup.add(name=f"batch {batch}", batch_size=batch)
            sample = warmup.inputs[variant.input.name]
            sample.data_type = DATA_TYPES[variant.input.dtype]
            sample.dims.extend(_largest(plan))
            sample.zero_data = True
    return config


def preprocess_model(plan: ServingPlan, warmup_bytes: int) -> ModelConfig:
    """Return the configuration of the preprocess model; its warm-up sample has `warmup_bytes`."""
    config = ModelConfig(name=plan.preprocess_name, max_batch_size=plan.max_batch)
    source = _add_input(config, plan.source)
    _add_output(config, plan.variant.input)
    _add_batching(config, plan)
    if plan.tokens is not None:
        return _tokenizing(config, plan, plan.tokens)
    source.allow_ragged_batch = True
    # Decoding takes less time than the model, and each instance holds a whole DALI.
    _add_instances(config, plan, (plan.instances + 1) // 2)
    if plan.runtime == "python":
        config.backend = "python"
        config.parameters["threads"].string_value = str(plan.threads)
    else:
        config.backend = "dali"
        config.default_model_filename = "model.dali"
        config.parameters["num_threads"].string_value = str(plan.threads)
    if plan.warmup and warmup_bytes:
        warmup = config.model_warmup.add(name="one image", batch_size=1)
        given = warmup.inputs[plan.source.name]
        given.data_type = DATA_TYPES[plan.source.dtype]
        given.dims.append(warmup_bytes)
        given.input_data_file = WARMUP_FILE
    return config


def _tokenizing(config: ModelConfig, plan: ServingPlan, tokens: Tokens) -> ModelConfig:
    """Fill in what the preprocess model of texts needs: Python everywhere, on the CPU."""
    config.backend = "python"
    config.instance_group.add(count=1, kind=ModelInstanceGroup.KIND_CPU)
    config.parameters["padding"].string_value = str(tokens.padding)
    if plan.warmup:
        given = config.model_warmup.add(name="empty text", batch_size=1).inputs[plan.source.name]
        given.data_type = DATA_TYPES[plan.source.dtype]
        given.dims.append(tokens.parts)
        given.zero_data = True
    return config


def postprocess_model(plan: ServingPlan) -> ModelConfig:
    """Return the configuration of the postprocess model: logits in, labels and scores out."""
    config = ModelConfig(
        name=plan.postprocess_name, backend="python", max_batch_size=plan.max_batch
    )
    _add_input(config, plan.variant.output)
    for output in _answers(plan):
        _add_output(config, output)
    _add_batching(config, plan)
    config.instance_group.add(count=1, kind=ModelInstanceGroup.KIND_CPU)
    config.parameters["top_k"].string_value = str(plan.top_k)
    return config


def pipeline_model(plan: ServingPlan) -> ModelConfig:
    """Return the configuration of the ensemble: encoded bytes in, labels and scores out."""
    variant = plan.variant
    config = ModelConfig(
        name=plan.pipeline_name, platform="ensemble", max_batch_size=plan.max_batch
    )
    _add_input(config, plan.source)
    for output in _answers(plan):
        _add_output(config, output)
    steps = config.ensemble_scheduling.step
    prepared = steps.add(model_name=plan.preprocess_name, model_version=-1)
    prepared.input_map[plan.source.name] = plan.source.name
    prepared.output_map[variant.input.name] = "prepared"
    logits = steps.add(model_name=plan.name, model_version=-1)
    logits.input_map[variant.input.name] = "prepared"
    logits.output_map[variant.output.name] = "scores_by_class"
    answers = steps.add(model_name=plan.postprocess_name, model_version=-1)
    answers.input_map[variant.output.name] = "scores_by_class"
    for output in _answers(plan):
        answers.output_map[output.name] = output.name
    return config


def _answers(plan: ServingPlan) -> tuple[TensorSpec, TensorSpec]:
    return (
        TensorSpec(name="labels", dtype="str", shape=(-1, plan.top_k)),
        TensorSpec(name="scores", dtype="float32", shape=(-1, plan.top_k)),
    )


def _add_input(config: ModelConfig, spec: TensorSpec) -> ModelInput:
    return config.input.add(
        name=spec.name, data_type=DATA_TYPES[spec.dtype], dims=_without_batch(spec)
    )


def _add_output(config: ModelConfig, spec: TensorSpec) -> ModelOutput:
    return config.output.add(
        name=spec.name, data_type=DATA_TYPES[spec.dtype], dims=_without_batch(spec)
    )


def _largest(plan: ServingPlan) -> tuple[int, ...]:
    """Return the shape of the largest sample: texts as long as they may be."""
    return _without_batch(plan.variant.input) if plan.tokens is None else (plan.tokens.length,)


def _without_batch(spec: TensorSpec) -> tuple[int, ...]:
    """Return the dims as Triton wants them: ``max_batch_size`` implies the batch axis."""
    return spec.shape[1:]


def _add_batching(config: ModelConfig, plan: ServingPlan) -> None:
    """Let the server gather requests; without it, each request runs alone."""
    if plan.batching:
        config.dynamic_batching.max_queue_delay_microseconds = plan.max_queue_delay_us
        config.dynamic_batching.preferred_batch_size.extend(plan.preferred_sizes)


def _add_instances(config: ModelConfig, plan: ServingPlan, count: int) -> None:
    if plan.runtime == "native" and plan.device.is_cuda:
        config.instance_group.add(
            count=count, kind=ModelInstanceGroup.KIND_GPU, gpus=[plan.device.index]
        )
    else:
        config.instance_group.add(count=count, kind=ModelInstanceGroup.KIND_CPU)
