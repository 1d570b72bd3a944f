"""The typed things that pass between stages.

An artifact describes files on disk (paths, hashes, numbers, tensor specs) and never holds a live
object, so a stage can run alone from an earlier run's folder, in a process of its own, or be tested
from a hand-written one.

    DataSpec  ->  TrainedModel  ->  ExportedModel  ->  Deployment
    augment       train             export             deploy
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One promise about quality or speed, and whether it was kept."""

    name: str
    passed: bool
    value: float
    limit: float
    unit: str = ""
    message: str = ""
    """One sentence for a person: what was measured, against what, and what to do if it failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hop:
    """One step of the accuracy budget: the task metric as measured after that step."""

    name: str
    """For instance ``fp32``, ``bf16``, ``onnx fp32``, ``onnx int8``, ``served``."""
    top1: float
    """Share of the eval split answered correctly, 0 to 1."""
    samples: int
    """How many samples were measured; a hop over fewer samples is less certain."""


@runtime_checkable
class Artifact(Protocol):
    """What every artifact has; anything else is its own business."""

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The promises this stage was measured against."""
        ...

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The accuracy this stage measured, in order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """Name, element type and shape of one tensor; -1 marks a dynamic axis."""

    name: str
    dtype: str
    """numpy's name: ``uint8``, ``float32``, ``int64``."""
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One part of the data set: a manifest on disk and how many samples it lists."""

    manifest: Path
    """JSON Lines, or whatever form `DataSpec.reader` says; written by the augment stage."""
    samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """What texts become: rows of token numbers, filled up at the end."""

    vocabulary: int
    """Token numbers are below this."""
    length: int
    """Most tokens of a text."""
    padding: int
    """The number that rows are filled up with, so that those of a batch are equally long."""
    separator: int
    """The number that ends each part of a text."""
    parts: int = 1
    """Of a text: 2 for a question and what it is about."""


Kind = Literal["image", "audio", "text"]
"""What a data set holds; ``audio``: the images are spectrograms, bands by frames, low bands at the
bottom."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """What the augment stage leaves: all it takes to open a loader, the same everywhere."""

    kind: Kind
    name: str
    backend: str
    """The selected backend: ``dali-cpu``, ``dali-gpu``, ``torchvision``, ``array``, ``tokens``."""
    reader: str
    """How samples are stored: ``folder``, ``array``, ``webdataset``, ``text``."""
    transforms: Path
    """JSON of the declarative transform spec: the train and the eval list."""
    splits: Mapping[str, Split]
    """Keys: ``train``, ``eval``, ``calibration``."""
    classes: tuple[str, ...]
    height: int
    """Of images, as width and channels are; 0 for texts."""
    width: int
    channels: int
    mean: tuple[float, ...]
    """Per channel, on the 0..1 scale; the model subtracts it, not the loader. Empty for texts."""
    std: tuple[float, ...]
    batch_size: int
    digest: str
    """SHA-256 over samples, labels, splits and eval transform: the key of calibration tables."""
    preprocess: Path | None = None
    """Serialized DALI graph of the eval transform: bytes of an image or audio file in, uint8 HWC
    out. For texts the ``tokenizer.json``: strings in, int32 token numbers out."""
    tokens: Tokens | None = None
    """What texts become; None for images and clips."""
    gates: tuple[Gate, ...] = ()
    hops: tuple[Hop, ...] = ()

    @property
    def noun(self) -> str:
        """What a person calls one sample."""
        return {"image": "image", "audio": "clip", "text": "text"}[self.kind]

    @property
    def input(self) -> TensorSpec:
        """The tensor that loaders hand over and every exported model takes.

        uint8 (N, H, W, C) for images and clips, int32 (N, L) for texts, L up to the longest.
        """
        if self.tokens is not None:
            return TensorSpec(name="tokens", dtype="int32", shape=(-1, -1))
        shape = (-1, self.height, self.width, self.channels)
        return TensorSpec(name="images", dtype="uint8", shape=shape)

    @property
    def output(self) -> TensorSpec:
        """The tensor that every exported model returns: one logit a class."""
        return TensorSpec(name="logits", dtype="float32", shape=(-1, len(self.classes)))


Argument = str | int | float | bool | tuple[float, ...] | Mapping[str, object] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleRef:
    """How to build a `torch.nn.Module` again: a dotted factory and its arguments.

    ``factory(**arguments)`` returns the module with the signature uint8 (N, H, W, C) -> float32 (N,
    classes); normalization is its first layer.
    """

    factory: str
    """``package.module:function``."""
    arguments: Mapping[str, Argument]


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A network that can be built again, with its weights."""

    module: ModuleRef
    weights: Path
    """safetensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedModel:
    """What the train stage leaves: weights, the module they fit, and how good it is."""

    module: ModuleRef
    weights: Path
    """safetensors; the EMA's weights when it was chosen."""
    input: TensorSpec
    output: TensorSpec
    classes: tuple[str, ...]
    precision: str
    """The AMP precision it was trained in: ``fp32``, ``bf16`` or ``fp16``."""
    predictions: Path | None
    """npz over the eval split in manifest order: ``logits`` float32 (N, classes), ``targets`` int64
    (N,);
    taken in fp32: the reference of every later hop. None for an untrained model in a rehearsal."""
    dense: Network | None = None
    """With dense layers, whose work this one's fast layers learned to do: what can be served where
    those are no faster. None where there is none that tells the same classes."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    hops: tuple[Hop, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One exported form of the model: a precision in the form that one backend likes."""

    name: str
    """``onnxruntime-int8``, ``tensorrt-rtx-fp16-dense``: backend, precision, and which network."""
    backend: str
    precision: Literal["fp32", "fp16", "int8"]
    format: Literal["onnx", "engine"]
    path: Path
    input: TensorSpec
    output: TensorSpec
    size_bytes: int
    runs_here: bool
    """Whether this machine could execute it; if not, accuracy and latency are unmeasured (None)."""
    top1: float | None = None
    drop_points: float | None = None
    """Percentage points of top-1 lost against the same network in fp32; negative: gained."""
    agreement: float | None = None
    """Share of samples on which it gives the same class as that."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    images_per_s: float | None = None
    proof: Mapping[str, int] = field(default_factory=dict)
    """Convolutions and matrix products by type, as built: ``{"int8": 21}``."""
    accepted: bool = True
    note: str = ""
    """Why it was not accepted, or what could not be measured here."""
    predictions: Path | None = None
    """npz like `TrainedModel.predictions`; None when it cannot run here."""
    manifest: Path | None = None
    """JSON beside an engine (versions, architectures, source hash), checked before loading."""
    operators: Path | None = None
    """The library of operators beside a graph that uses them (`pipeline.graph_forms`)."""
    dense: bool = False
    """Whether it is of `TrainedModel.dense`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedModel:
    """What the export stage leaves: every variant, and the one chosen to be served."""

    variants: tuple[Variant, ...]
    chosen: str
    classes: tuple[str, ...]
    calibration: Path | None = None
    """JSON of the calibrated ranges with the key (data, transform, weights) they belong to."""
    gates: tuple[Gate, ...] = ()
    hops: tuple[Hop, ...] = ()

    def variant(self, name: str) -> Variant:
        """Return the variant of that name.

        Raises:
            KeyError: there is none.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """What the deploy stage leaves: a model repository, verified through a running server."""

    backend: str
    """``triton-embedded``, ``tritonserver`` or ``files``."""
    repository: Path
    model: str
    """The tensor model: uint8 NHWC in, logits out."""
    pipeline: str
    """The ensemble: encoded image bytes in, labels and scores out; empty when it was not built."""
    variant: str
    """Which exported variant is served."""
    classes: tuple[str, ...]
    manifests: tuple[Path, ...] = ()
    """Kubernetes manifests."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    hops: tuple[Hop, ...] = ()
