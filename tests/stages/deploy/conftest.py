"""A tiny classifier over generated PNG files, and one server that every live test shares."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from nvidia.dali import fn, pipeline_def, types
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pipeline.artifacts import DataSpec, Deployment, ExportedModel, Split, TensorSpec, Variant
from pipeline.context import Context
from pipeline.device import CPU
from pipeline.events import Event, EventLog
from pipeline.interrupt import StopFlag
from stages.augment.spec import TransformSpec
from stages.deploy.backends import triton_embedded
from stages.deploy.config import DeployConfig, LoadConfig, PortsConfig
from stages.deploy.delivery import make_canary
from stages.deploy.offline import OnnxModel
from stages.deploy.plan import make_plan
from stages.deploy.repository import write_repository
from stages.deploy.running import running_server
from stages.deploy.server import Server
from stages.deploy.stage import Deploy

SIDE, CHANNELS, SAMPLES = 16, 3, 30
CLASSES = ("ant", "bee", "Käfer")


@dataclass
class Recorder:
    """A listener that keeps every event."""

    events: list[Event] = field(default_factory=list)

    def receive(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    @property
    def messages(self) -> str:
        return "\n".join(str(event.fields.get("message", "")) for event in self.events)


def write_images(folder: Path) -> tuple[Path, np.ndarray]:
    """Write noise whose mean colour is the class, and the manifest that lists it."""
    rng = np.random.default_rng(7)
    labels = np.arange(SAMPLES) % len(CLASSES)
    lines = []
    for index, label in enumerate(labels):
        pixels = rng.integers(0, 120, (SIDE, SIDE, CHANNELS))
        pixels[..., label] += 60
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
        lines.append(json.dumps({"file": f"{index}.png", "label": int(label)}))
    manifest = folder / "eval.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest, labels


def write_model(path: Path) -> None:
    """Write a linear classifier: the mean of each colour, and a little of everything."""
    rng = np.random.default_rng(3)
    weights = rng.normal(0, 1e-4, (SIDE, SIDE, CHANNELS, len(CLASSES)))
    for label in range(len(CLASSES)):
        weights[:, :, label, label] += 1 / (SIDE * SIDE)
    flat = weights.reshape(-1, len(CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["pixels"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, CHANNELS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(CLASSES)])],
        [numpy_helper.from_array(flat, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def write_dali_graph(path: Path) -> None:
    """Serialize the eval transform: encoded bytes in, pixels out."""

    @pipeline_def(batch_size=8, num_threads=1, device_id=None)
    def graph():
        encoded = fn.external_source(name="encoded", device="cpu")
        images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        return fn.resize(images, size=[SIDE, SIDE])

    built = graph()
    built.build()
    built.serialize(filename=str(path))


@dataclass(frozen=True)
class Chain:
    """What the stages before deploy would have left."""

    folder: Path
    spec: DataSpec
    exported: ExportedModel

    @property
    def artifacts(self) -> dict[type, object]:
        return {DataSpec: self.spec, ExportedModel: self.exported}

    def context(self, folder: Path, recorder: Recorder | None = None) -> Context:
        listeners = (recorder,) if recorder else ()
        return Context(dir=folder, artifacts=self.artifacts, events=EventLog(listeners, "deploy"))

    def encoded(self, row: int) -> bytes:
        return (self.folder / f"{row}.png").read_bytes()

    def with_variant(self, **changes: object) -> Chain:
        variant = replace(self.exported.variants[0], **changes)
        exported = ExportedModel(variants=(variant,), chosen=variant.name, classes=CLASSES)
        return replace(self, exported=exported)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    manifest, labels = write_images(folder)
    write_model(folder / "model.onnx")
    write_dali_graph(folder / "eval.dali")
    TransformSpec.model_validate({"train": [], "eval": ["resize"]}).save(folder / "transforms.json")
    pixels = np.stack([np.array(Image.open(folder / f"{i}.png")) for i in range(SAMPLES)])
    np.savez(
        folder / "predictions.npz",
        logits=OnnxModel(folder / "model.onnx")(pixels),
        targets=labels.astype(np.int64),
    )
    spec = DataSpec(
        kind="image",
        name="noise",
        backend="array",
        reader="folder",
        transforms=folder / "transforms.json",
        splits={"eval": Split(manifest=manifest, samples=SAMPLES)},
        classes=CLASSES,
        height=SIDE,
        width=SIDE,
        channels=CHANNELS,
        mean=(0.5,) * CHANNELS,
        std=(0.25,) * CHANNELS,
        batch_size=8,
        digest="0" * 64,
        preprocess=folder / "eval.dali",
    )
    variant = Variant(
        name="onnxruntime-fp32",
        backend="onnxruntime",
        precision="fp32",
        format="onnx",
        path=folder / "model.onnx",
        input=TensorSpec(name="images", dtype="uint8", shape=(-1, SIDE, SIDE, CHANNELS)),
        output=TensorSpec(name="logits", dtype="float32", shape=(-1, len(CLASSES))),
        size_bytes=(folder / "model.onnx").stat().st_size,
        runs_here=True,
        predictions=folder / "predictions.npz",
    )
    exported = ExportedModel(variants=(variant,), chosen=variant.name, classes=CLASSES)
    return Chain(folder=folder, spec=spec, exported=exported)


@dataclass(frozen=True)
class Deployed:
    """A finished run of the stage."""

    deployment: Deployment
    context: Context
    recorder: Recorder


@pytest.fixture(scope="session")
def deployed(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    recorder = Recorder()
    context = chain.context(tmp_path_factory.mktemp("deploy"), recorder)
    config = DeployConfig(
        backend="triton-embedded",
        load=LoadConfig(concurrency=(1, 4), seconds=0.5),
        max_batch=4,
        top_k=2,
    )
    return Deployed(Deploy(config).run(context), context, recorder)


@pytest.fixture(scope="session")
def plain(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """The tensor model alone, which starts fast: for the tests that need a server of their own."""
    context = chain.context(tmp_path_factory.mktemp("plain"))
    bare = replace(chain, spec=replace(chain.spec, preprocess=None)).context(context.dir)
    config = DeployConfig(backend="files", kubernetes=None, max_batch=4, instances=2)
    plan = make_plan(config, "python", bare.get(DataSpec), chain.exported, CPU)
    repository = context.dir / "repository"
    write_repository(repository, plan, make_canary(bare, plan, chain.spec), None)
    deployment = Deployment(
        backend="triton-embedded",
        repository=repository,
        model=plan.name,
        pipeline="",
        variant=plan.variant.name,
        classes=CLASSES,
    )
    return Deployed(deployment, context, Recorder())


@pytest.fixture(scope="session")
def server(deployed: Deployed) -> Iterator[Server]:
    folder = deployed.context.dir
    with running_server(
        triton_embedded,
        deployed.deployment.repository,
        deployed.deployment.model,
        ports=PortsConfig(),
        image="",
        on_gpu=CPU.is_cuda,
        log_path=folder / "shared-server.log",
        start_timeout_s=60,
        stop=StopFlag(),
    ) as running:
        assert running is not None
        yield running
