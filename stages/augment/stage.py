"""Augment: the stage that checks, splits and describes a labelled data set for all later ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import JsonValue

from pipeline.artifacts import DataSpec, Kind
from pipeline.backend import Backend, select
from pipeline.context import Context
from pipeline.device import Device
from pipeline.errors import BackendUnavailable, Problem
from pipeline.stage import StageConfig
from stages.augment.backends import BACKENDS, backends_for
from stages.augment.config import AugmentConfig
from stages.augment.state import (
    data_problems,
    data_state,
    tokenizer_problems,
    tokenizer_state,
    vendor_versions,
)
from stages.augment.view import narrow_view


class Augment:
    """Finds damaged images, splits, writes manifests, and describes the data."""

    requires: ClassVar[tuple[type, ...]] = ()
    produces: ClassVar[type] = DataSpec
    Config: ClassVar[type[StageConfig]] = AugmentConfig
    backends: ClassVar[tuple[Backend, ...]] = BACKENDS

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def check(self, device: Device) -> list[Problem]:
        """Return what is wrong with the paths and the backend, before anything runs."""
        problems = data_problems(self.config.dataset) + tokenizer_problems(self.config.text)
        backends = backends_for(self.config.kind)
        try:
            select(backends, self.config.backend, device, where="stages.augment.backend")
        except BackendUnavailable as error:
            problems.append(Problem(path="backend", message=str(error)))
        return problems

    def data_kind(self) -> Kind:
        """Return what the data set holds."""
        return self.config.kind

    def warnings(self) -> list[Problem]:
        """Return whether eval cuts out too little of an image of the size asked for."""
        if self.config.size == "auto" or self.config.eval is None:
            return []
        height, width = self.config.size
        message = narrow_view(self.config.eval, height=height, width=width)
        return [Problem(path="eval", message=message)] if message else []

    def fingerprint(self, device: Device) -> Mapping[str, str]:
        """Return the state of the data set's files and the versions of what reads them."""
        return {
            "data": data_state(self.config.dataset),
            **tokenizer_state(self.config.text),
            **vendor_versions(),
        }

    def fast_dev_run(self) -> Mapping[str, JsonValue]:
        """Take two batches of each split."""
        return {"limit_batches": 2, "calibration.samples": 16}

    def foretell(self) -> DataSpec | None:
        """Return what is known of the data before it was looked at."""
        from stages.augment.foretold import foretell

        return foretell(self.config)

    def run(self, ctx: Context) -> DataSpec:
        """Prepare the data set and leave its `DataSpec`."""
        from stages.augment.prepare import prepare

        return prepare(self.config, ctx)
