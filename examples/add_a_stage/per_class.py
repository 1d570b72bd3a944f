"""A stage of your own: the accuracy of each class, and a gate on the worst one.

    dlpipe run examples/add_a_stage/config.yaml

A stage is a class with four attributes and ``run(ctx)``. It reads artifacts from ``ctx``, writes
into ``ctx.dir``, leaves a chapter for the report and returns an artifact; caching, resume, locking,
config errors with line numbers and the report come from the engine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pipeline.artifacts import Gate, Hop, TrainedModel
from pipeline.backend import Backend
from pipeline.context import Context
from pipeline.files import write_atomic
from pipeline.report.blocks import BarChart, Section
from pipeline.stage import StageConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassAccuracy:
    """What this stage leaves."""

    table: Path
    worst: str
    gates: tuple[Gate, ...] = ()
    hops: tuple[Hop, ...] = ()


class PerClassConfig(StageConfig):
    """What the YAML can say."""

    worst: float = Field(default=0.8, ge=0, le=1)
    """Least accuracy that any class may have."""


class PerClass:
    """Measures the accuracy of each class on the eval split."""

    requires: ClassVar[tuple[type, ...]] = (TrainedModel,)
    produces: ClassVar[type] = ClassAccuracy
    Config: ClassVar[type[StageConfig]] = PerClassConfig
    backends: ClassVar[tuple[Backend, ...]] = ()

    def __init__(self, config: PerClassConfig) -> None:
        self.config = config

    def run(self, ctx: Context) -> ClassAccuracy:
        """Compare the trained model's predictions with the labels, class by class."""
        import numpy as np

        model = ctx.get(TrainedModel)
        assert model.predictions is not None
        with np.load(model.predictions) as arrays:
            right = arrays["logits"].argmax(axis=1) == arrays["targets"]
            shares = {
                name: float(right[arrays["targets"] == label].mean())
                for label, name in enumerate(model.classes)
            }
        table = ctx.dir / "accuracy.json"
        write_atomic(table, json.dumps(shares, indent=1))
        worst = min(shares, key=shares.__getitem__)
        ctx.events.info(f"worst class: {worst} with {shares[worst]:.1%}")
        chart = BarChart(
            title="Accuracy of each class",
            names=tuple(shares),
            values=tuple(100 * share for share in shares.values()),
            unit="%",
        )
        ctx.write_section(Section(title="Classes", blocks=(chart,)))
        gate = Gate(
            name="worst class",
            passed=shares[worst] >= self.config.worst,
            value=shares[worst],
            limit=self.config.worst,
            message=f"class {worst} is right in {shares[worst]:.1%} of its images.",
        )
        return ClassAccuracy(table=table, worst=worst, gates=(gate,))
