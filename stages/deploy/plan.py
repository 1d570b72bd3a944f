"""ServingPlan: what is to be served and how, settled before a file is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import DataSpec, ExportedModel, Kind, TensorSpec, Tokens, Variant
from pipeline.device import Device
from pipeline.errors import ConfigError, StageFailed, choices, nearest
from stages.deploy.backends import Runtime
from stages.deploy.config import DeployConfig

SERVABLE = {"python": ("onnx",), "native": ("onnx", "engine")}
"""What each runtime can load; an engine of TensorRT-RTX fits none of Triton's backends."""
NEEDS_TOKENIZERS = (
    "Texts are split into tokens by a Python model, for which NVIDIA's container lacks a package: "
    "build an image on it with RUN pip install tokenizers, and name that one."
)

ENCODED = TensorSpec(name="encoded", dtype="uint8", shape=(-1, -1))
"""One file a row, an image or a sound, as raw bytes; rows of a batch are padded with zeros, which
decoders ignore."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingPlan:
    """The models of one repository, as numbers and files."""

    name: str
    version: int
    runtime: Runtime
    variant: Variant
    classes: tuple[str, ...]
    preprocess: Path | None
    """The serialized DALI graph, or the tokenizer; None: then there is no ensemble."""
    device: Device
    instances: int
    threads: int
    max_batch: int
    top_k: int
    warmup: bool
    batching: bool
    max_queue_delay_us: int
    preferred_sizes: tuple[int, ...]
    kind: Kind = "image"
    """What the preprocess model takes: files of images or of sounds, or texts."""
    tokens: Tokens | None = None
    """What texts become."""

    @property
    def source(self) -> TensorSpec:
        """What the preprocess model and the ensemble take."""
        if self.tokens is not None:
            return TensorSpec(name="text", dtype="str", shape=(-1, self.tokens.parts))
        return ENCODED

    @property
    def preprocess_name(self) -> str:
        """The model that turns encoded bytes into pixels, or texts into tokens."""
        return f"{self.name}_preprocess"

    @property
    def postprocess_name(self) -> str:
        """The model that turns logits into labels and scores."""
        return f"{self.name}_postprocess"

    @property
    def pipeline_name(self) -> str:
        """The ensemble of all three."""
        return f"{self.name}_pipeline"


def servable(variant: Variant, runtime: Runtime) -> bool:
    """Tell whether a runtime can load a variant."""
    return variant.format in SERVABLE[runtime] and variant.backend in ("onnxruntime", "tensorrt")


def choose_variant(exported: ExportedModel, wanted: str, runtime: Runtime) -> Variant:
    """Return the variant to serve: the one named, or the chosen one, or the next best that fits.

    Raises:
        ConfigError: the named variant does not exist or cannot be served there.
        StageFailed: no variant can be served there.
    """
    where = "stages.deploy.variant"
    names = [variant.name for variant in exported.variants]
    fitting = [variant for variant in exported.variants if servable(variant, runtime)]
    if wanted != "auto":
        if wanted not in names:
            raise ConfigError(
                f"{where}: {wanted!r} is no exported variant. Allowed: "
                f"{choices(['auto', *names])}.{nearest(wanted, names)}"
            )
        variant = exported.variant(wanted)
        if variant not in fitting:
            use = choices([v.name for v in fitting]) if fitting else "another backend"
            raise ConfigError(
                f"{where}: {wanted!r} ({variant.backend}, {variant.format}) cannot be loaded by "
                f"this server. Use {use}."
            )
        return variant
    if not fitting:
        raise StageFailed(
            f"{where}: none of the exported variants ({', '.join(names)}) can be loaded by this "
            "server. Add the backend 'onnxruntime' or 'tensorrt' to the export stage."
        )
    # The chosen one first, then accepted ones, then by speed where it is known.
    return min(
        fitting,
        key=lambda v: (v.name != exported.chosen, not v.accepted, v.p50_ms or float("inf")),
    )


def make_plan(
    config: DeployConfig, runtime: Runtime, spec: DataSpec, exported: ExportedModel, device: Device
) -> ServingPlan:
    """Settle everything that the repository and the server depend on."""
    variant = choose_variant(exported, config.variant, runtime)
    on_gpu = device.is_cuda and runtime == "native"
    cores = len(os.sched_getaffinity(0))
    automatic = 1 if on_gpu else max(1, cores // config.threads)
    return ServingPlan(
        name=config.model_name,
        version=config.version,
        runtime=runtime,
        variant=variant,
        classes=exported.classes,
        preprocess=spec.preprocess,
        device=device,
        instances=automatic if config.instances == "auto" else config.instances,
        threads=config.threads,
        max_batch=config.max_batch,
        top_k=min(config.top_k, len(exported.classes)),
        warmup=config.warmup,
        batching=config.dynamic_batching.enabled,
        max_queue_delay_us=config.dynamic_batching.max_queue_delay_us,
        preferred_sizes=config.dynamic_batching.preferred_sizes,
        kind=spec.kind,
        tokens=spec.tokens,
    )
