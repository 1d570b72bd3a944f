"""A small trained network on the digits, and its graphs; made once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.artifacts import DataSpec, ModuleRef, TrainedModel
from pipeline.context import Context
from pipeline.events import Event, EventLog
from stages.augment.loader import open_loader
from stages.augment.stage import Augment
from stages.export.arrays import Images
from stages.export.calibrate import collect_histograms
from stages.export.restore import restore
from stages.export.samples import calibration_images
from stages.export.thresholds import Histogram
from stages.export.to_onnx import to_onnx

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers of the tests beside it

STEPS = 60


@dataclass
class Recorder:
    """Keeps what a stage says."""

    events: list[Event]

    def receive(self, event: Event) -> None:
        self.events.append(event)

    def messages(self, kind: str) -> list[str]:
        return [str(event.fields.get("message")) for event in self.events if event.kind == kind]


@pytest.fixture(scope="session", autouse=True)
def _nets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "nets"))
        yield


@pytest.fixture
def recorder() -> Recorder:
    return Recorder([])


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    config = Augment.Config(dataset="digits", size=16, batch_size=64, backend="array")
    return Augment(config).run(Context(dir=tmp_path_factory.mktemp("augment")))


@pytest.fixture(scope="session")
def describe(
    spec: DataSpec, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., TrainedModel]:
    """Return a function that files a module as the train stage would."""

    def file(module: torch.nn.Module, function: str, **changes: object) -> TrainedModel:
        folder = tmp_path_factory.mktemp("train")
        save_file(module.state_dict(), folder / "weights.safetensors")
        fields = {
            "module": ModuleRef(factory=f"export_nets:{function}", arguments={}),
            "weights": folder / "weights.safetensors",
            "input": spec.input,
            "output": spec.output,
            "classes": spec.classes,
            "precision": "fp32",
            "predictions": None,
        }
        return TrainedModel(**{**fields, **changes})  # type: ignore[arg-type]

    return file


@pytest.fixture(scope="session")
def trained(spec: DataSpec, describe: Callable[..., TrainedModel], _nets: None) -> TrainedModel:
    """Return a small convolution net, trained for seconds, with its predictions in FP32."""
    from export_nets import conv_net  # type: ignore[import-not-found]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = conv_net().train()
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3)
    loader, step = open_loader(spec, "train"), 0
    while step < STEPS:
        for batch in loader:
            loss = torch.nn.functional.cross_entropy(net(batch.inputs), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    loader.close()
    held_out = open_loader(spec, "eval")
    with torch.inference_mode():
        answers = [(net.eval()(batch.inputs), batch.targets) for batch in held_out]
    held_out.close()
    torch.set_num_threads(threads)
    model = describe(net, "conv_net")
    path = model.weights.parent / "predictions.npz"
    logits, targets = (torch.cat(parts).numpy() for parts in zip(*answers, strict=True))
    np.savez(path, logits=logits, targets=targets)
    return describe(net, "conv_net", predictions=path)


@pytest.fixture
def ctx(tmp_path: Path, spec: DataSpec, trained: TrainedModel, recorder: Recorder) -> Context:
    return Context(
        dir=tmp_path,
        artifacts={DataSpec: spec, TrainedModel: trained},
        events=EventLog((recorder,)),
    )


@pytest.fixture(scope="session")
def images(spec: DataSpec, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Return 48 real digits."""
    return calibration_images(spec, 48, 16, Context(dir=tmp_path_factory.mktemp("images")))


@dataclass(frozen=True)
class Exported:
    """A module, its FP32 graph and the histograms of its tensors."""

    module: torch.nn.Module
    graph: Path
    histograms: dict[str, Histogram]


@pytest.fixture(scope="session")
def conv(
    trained: TrainedModel, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    """Return the trained convolution net as a graph."""
    return _exported(trained, images, tmp_path_factory.mktemp("conv"))


@pytest.fixture(scope="session")
def attention(
    describe: Callable[..., TrainedModel],
    images: Images,
    tmp_path_factory: pytest.TempPathFactory,
    _nets: None,
) -> Exported:
    """Return an untrained transformer block as a graph."""
    from export_nets import attention_net

    torch.manual_seed(1)
    model = describe(attention_net(), "attention_net")
    return _exported(model, images, tmp_path_factory.mktemp("attention"))


def _exported(model: TrainedModel, images: Images, folder: Path) -> Exported:
    module = restore(model)
    graph = folder / "fp32.onnx"
    to_onnx(module, model.input, model.output, graph, opset=20)
    histograms = collect_histograms(graph, images, 16, Context(dir=folder))
    return Exported(module=module, graph=graph, histograms=histograms)
