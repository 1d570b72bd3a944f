"""Train: the stage that turns data into a trained network."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pipeline.artifacts import DataSpec, TrainedModel
from pipeline.backend import Backend
from pipeline.context import Context
from pipeline.device import Device
from pipeline.environment import installed_version
from pipeline.errors import Problem
from pipeline.files import sha256_file
from stages.train.config import TrainConfig
from stages.train.models.names import model_problem, optimizer_problem
from stages.train.threads import resolve_threads


class Train:
    """Trains a classifier in the chosen precision, resumably to the bit."""

    requires: ClassVar[tuple[type, ...]] = (DataSpec,)
    produces: ClassVar[type] = TrainedModel
    Config: ClassVar[type[TrainConfig]] = TrainConfig
    backends: ClassVar[tuple[Backend, ...]] = ()

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def check(self, device: Device) -> list[Problem]:
        """Find a model that does not exist and weights that are not there."""
        problems = []
        if message := model_problem(self.config.model):
            problems.append(Problem(path="model", message=message))
        if message := optimizer_problem(self.config.optimizer.name):
            problems.append(Problem(path="optimizer.name", message=message))
        path = self.config.pretrained
        if path and not Path(path).is_file():
            message = f"'{path}' is no file. Give the path of a .safetensors file, or false."
            problems.append(Problem(path="pretrained", message=message))
        return problems

    def fingerprint(self, device: Device) -> Mapping[str, str]:
        """Return what decides the weights beside configuration and data."""
        parts = {name: installed_version(name) for name in ("torch", "timm", "numpy")}
        parts["device"] = device.kind
        parts["cpu"] = _cpu_name()
        parts["threads"] = str(resolve_threads(self.config.threads))
        if self.config.pretrained and Path(self.config.pretrained).is_file():
            parts["pretrained"] = sha256_file(Path(self.config.pretrained))
        return parts

    def run(self, ctx: Context) -> TrainedModel:
        """Train, or go on with training, until the target, the last epoch or the time limit."""
        from stages.train.session import train

        return train(self.config, ctx)


def _cpu_name() -> str:
    # The name stands for the instruction set, which decides the kernels and so the last bits.
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()
