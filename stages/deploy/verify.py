"""Verification through the wire: served answers compared, sample by sample, with offline ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.context import Context
from stages.deploy.canary import tolerance_for
from stages.deploy.client import Client, open_client
from stages.deploy.config import Protocol
from stages.deploy.model_configs import ENCODED
from stages.deploy.offline import DaliGraph, OnnxModel
from stages.deploy.plan import ServingPlan
from stages.deploy.ports import Endpoints
from stages.deploy.repository import label_lines
from stages.deploy.samples import EncodedFiles, Samples


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
        worst = np.abs(served - offline).max(initial=0.0)
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
    files: EncodedFiles,
    total: int,
) -> list[Check]:
    """Send the image files over every protocol; offline, the same graphs run here in turn."""
    assert plan.preprocess is not None
    position = {name: index for index, name in enumerate(label_lines(plan.classes))}
    checks = [Check(model=plan.pipeline_name, protocol=p, batch=1) for p in protocols]
    clients = [open_client(check.protocol, endpoints) for check in checks]
    preprocess = DaliGraph(plan.preprocess)
    model = OnnxModel(plan.variant.path) if plan.variant.format == "onnx" else None
    try:
        with ctx.events.progress("verify pipeline", total * len(checks), "sample") as bar:
            for part in samples:
                encoded = [files[int(row)] for row in part.rows]
                logits = part.logits if model is None else model(preprocess(encoded))
                shares = softmax(logits)
                for check, client in zip(checks, clients, strict=True):
                    check.tolerance = tolerance_for(plan.variant.precision, shares)
                    for i, image in enumerate(encoded):
                        ctx.stop.check()
                        labels, scores = ask_pipeline(client, plan, image)
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


def ask_tensor(client: Client, plan: ServingPlan, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the served logits (N, K) of images (N, H, W, C)."""
    name = plan.variant.output.name
    outputs = client.infer(plan.name, {plan.variant.input.name: images}, [name])
    return outputs[name].astype(np.float32)


def ask_pipeline(
    client: Client, plan: ServingPlan, image: bytes
) -> tuple[list[str], NDArray[np.float32]]:
    """Return the served labels and scores of one encoded image."""
    encoded = np.frombuffer(image, dtype=np.uint8)[None]  # (1, bytes)
    outputs = client.infer(plan.pipeline_name, {ENCODED.name: encoded}, ["labels", "scores"])
    labels = [bytes(label).decode() for label in outputs["labels"][0]]
    return labels, outputs["scores"][0].astype(np.float32)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return shares that sum to 1 along the last axis."""
    shifted: NDArray[np.float32] = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = shifted / shifted.sum(axis=1, keepdims=True)
    return shares
