"""Verification through the wire: served answers compared, sample by sample, with offline ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipeline.context import Context
from stages.augment.loader import Inputs
from stages.deploy.canary import tolerance_for
from stages.deploy.client import Client, open_client
from stages.deploy.config import Protocol
from stages.deploy.offline import DaliGraph, OnnxModel, Tokenization
from stages.deploy.plan import ServingPlan
from stages.deploy.ports import Endpoints
from stages.deploy.repository import label_lines
from stages.deploy.samples import Original, Originals, Samples, Text


@dataclass(kw_only=True)
class Check:
    """One way through the server, and how its answers compared."""

    model: str
    protocol: Protocol
    batch: int
    samples: int = 0
    correct: int = 0
    offline_correct: int = 0
    bit_equal: int = 0
    """Samples whose every figure is the very same."""
    differing: int = 0
    """Samples answered with another class, where that is more than a tie within the tolerance."""
    max_difference: float = 0.0
    tolerance: float = 0.0
    first_differing: list[int] = field(default_factory=list)
    """Rows of the eval split, a few of them."""

    @property
    def top1(self) -> float:
        """Share answered correctly by the server."""
        return self.correct / max(self.samples, 1)

    @property
    def offline_top1(self) -> float:
        """Share answered correctly offline."""
        return self.offline_correct / max(self.samples, 1)

    @property
    def equal(self) -> bool:
        """Whether the server answers as the offline model does."""
        return self.differing == 0 and self.max_difference <= self.tolerance

    def compare(
        self,
        rows: NDArray[np.int64],
        targets: NDArray[np.int64],
        served: NDArray[np.float32],  # (N, K) figures of the server
        offline: NDArray[np.float32],  # (N, K) figures without it
        served_class: NDArray[np.int64],
    ) -> None:
        """Count one batch of answers."""
        offline_class = offline.argmax(axis=1)
        every = np.arange(len(rows))
        lead = offline[every, offline_class] - offline[every, served_class]
        differing = lead > self.tolerance
        self.samples += len(rows)
        self.correct += int((served_class == targets).sum())
        self.offline_correct += int((offline_class == targets).sum())
        self.bit_equal += int((served == offline).all(axis=1).sum())
        self.differing += int(differing.sum())
        self.first_differing += rows[differing].tolist()[: 5 - len(self.first_differing)]
        worst = float(np.abs(served - offline).max(initial=0.0))
        # NaN never equals anything: it must fail the comparison instead of slipping through it.
        self.max_difference = float("inf") if np.isnan(worst) else max(self.max_difference, worst)


def verify_tensors(
    ctx: Context,
    plan: ServingPlan,
    endpoints: Endpoints,
    protocols: Iterable[Protocol],
    samples: Iterable[Samples],
    total: int,
) -> list[Check]:
    """Send every sample over every protocol, alone and in full batches."""
    ways = [(protocol, size) for protocol in protocols for size in sorted({1, plan.max_batch})]
    checks = [Check(model=plan.name, protocol=protocol, batch=size) for protocol, size in ways]
    clients = {protocol: open_client(protocol, endpoints) for protocol, _ in ways}
    try:
        with ctx.events.progress("verify tensors", total * len(ways), "sample") as bar:
            for part in samples:
                for check in checks:
                    allowed = tolerance_for(plan.variant.precision, part.logits)
                    check.tolerance = max(check.tolerance, allowed)
                    for request in part.slices(check.batch):
                        ctx.stop.check()
                        logits = ask_tensor(clients[check.protocol], plan, request.images)
                        check.compare(
                            request.rows,
                            request.targets,
                            logits,
                            request.logits,
                            logits.argmax(axis=1),
                        )
                    bar.advance(len(part))
    finally:
        for client in clients.values():
            client.close()
    return checks


def verify_pipeline(
    ctx: Context,
    plan: ServingPlan,
    endpoints: Endpoints,
    protocols: Iterable[Protocol],
    samples: Iterable[Samples],
    originals: Originals,
    total: int,
) -> list[Check]:
    """Send files or texts over every protocol; offline, the same steps run here in turn."""
    assert plan.preprocess is not None
    position = {name: index for index, name in enumerate(label_lines(plan.classes))}
    checks = [Check(model=plan.pipeline_name, protocol=p, batch=1) for p in protocols]
    clients = [open_client(check.protocol, endpoints) for check in checks]
    offline = _offline(plan, plan.preprocess)
    try:
        with ctx.events.progress("verify pipeline", total * len(checks), "sample") as bar:
            for part in samples:
                asked = [originals[int(row)] for row in part.rows]
                logits = part.logits if offline is None else offline(asked)
                shares = softmax(logits)
                for check, client in zip(checks, clients, strict=True):
                    check.tolerance = tolerance_for(plan.variant.precision, shares)
                    for i, sample in enumerate(asked):
                        ctx.stop.check()
                        labels, scores = ask_pipeline(client, plan, sample)
                        best = position[labels[0]]
                        one = slice(i, i + 1)
                        # Scores that were not returned cannot be compared.
                        served = shares[one].copy()
                        served[0, [position[label] for label in labels]] = scores
                        check.compare(
                            part.rows[one],
                            part.targets[one],
                            served,
                            shares[one],
                            np.array([best]),
                        )
                    bar.advance(len(part))
    finally:
        for client in clients:
            client.close()
    return checks


def _offline(
    plan: ServingPlan, preprocess: Path
) -> Callable[[Sequence[Original]], NDArray[np.float32]] | None:
    """Return what answers files or texts without a server; None where the model cannot run here."""
    if plan.variant.format != "onnx":
        return None
    model = OnnxModel(plan.variant.path)
    if plan.tokens is not None:
        tokens = Tokenization(preprocess)
        return lambda texts: np.concatenate([model(tokens(cast(Text, text))) for text in texts])
    graph = DaliGraph(preprocess)
    return lambda files: model(graph(cast(Sequence[bytes], files)))


def ask_tensor(client: Client, plan: ServingPlan, images: Inputs) -> NDArray[np.float32]:
    """Return the served logits (N, K) of images (N, H, W, C), or of texts as tokens (N, L)."""
    name = plan.variant.output.name
    outputs = client.infer(plan.name, {plan.variant.input.name: images}, [name])
    return outputs[name].astype(np.float32)


def ask_pipeline(
    client: Client, plan: ServingPlan, sample: Original
) -> tuple[list[str], NDArray[np.float32]]:
    """Return the served labels and scores of one file, or of one text."""
    given: NDArray[np.generic]
    if isinstance(sample, bytes):
        given = np.frombuffer(sample, dtype=np.uint8)[None]  # (1, bytes)
    else:
        given = np.array([[part.encode() for part in sample]], dtype=object)  # (1, parts)
    outputs = client.infer(plan.pipeline_name, {plan.source.name: given}, ["labels", "scores"])
    labels = [bytes(label).decode() for label in outputs["labels"][0]]
    return labels, outputs["scores"][0].astype(np.float32)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return shares that sum to 1 along the last axis."""
    shifted: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = shifted / shifted.sum(axis=1, keepdims=True)
    return shares
