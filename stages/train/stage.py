"""Train: the stage that turns data into a trained network."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import JsonValue

from pipeline.artifacts import DataSpec, Kind, TrainedModel
from pipeline.backend import Backend
from pipeline.context import Context
from pipeline.device import Device
from pipeline.environment import installed_version
from pipeline.errors import ConfigError, Problem
from pipeline.files import sha256_file
from pipeline.ranks import Place, place_from_environment
from pipeline.report.blocks import Block
from stages.train.config import TrainConfig
from stages.train.models.names import (
    kind_problem,
    model_problem,
    optimizer_problem,
    weights_problem,
)
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
        if self.config.launch.backend == "nccl" and not device.is_cuda:
            message = (
                "'nccl' carries tensors between GPUs, and the device is a CPU. Use gloo or auto."
            )
            problems.append(Problem(path="launch.backend", message=message))
        if message := optimizer_problem(self.config.optimizer.name):
            problems.append(Problem(path="optimizer.name", message=message))
        if message := _precision_problem(self.config.precision, device):
            problems.append(Problem(path="precision", message=message))
        if self.config.pretrained and (message := weights_problem(self.config.pretrained)):
            problems.append(Problem(path="pretrained", message=message))
        return problems

    def check_kind(self, kind: Kind) -> list[Problem]:
        """Find a model that takes other samples than the data set holds."""
        message = kind_problem(self.config.model, kind)
        return [Problem(path="model", message=message)] if message else []

    def fingerprint(self, device: Device) -> Mapping[str, str]:
        """Return what decides the weights beside configuration and data."""
        parts = {name: installed_version(name) for name in ("torch", "timm", "numpy")}
        parts["device"] = device.kind
        parts["cpu"] = _cpu_name()
        parts["threads"] = str(resolve_threads(self.config.threads))
        weights = self._weights()
        if weights is not None and weights.is_file():
            parts["pretrained"] = sha256_file(weights)
        return parts

    def fast_dev_run(self) -> Mapping[str, JsonValue]:
        """Train one epoch, of the few batches that the data has then, for no target."""
        return {
            "epochs": 1,
            "eval_every": 1,
            "target": None,
            "max_time": None,
            "schedule.warmup_epochs": 0,
            "rehearsal": False,
            "tensorboard": False,
        }

    def _weights(self) -> Path | None:
        """Return the file to start from, as far as it is known before the run."""
        if self.config.pretrained in ("auto", "download"):
            from stages.train.models.timm_weights import find_timm_weights

            return find_timm_weights(self.config.model)
        return Path(self.config.pretrained) if self.config.pretrained else None

    def place(self) -> Place:
        """Return which process this is where `launch.hosts` names several hosts."""
        hosts = self.config.launch.hosts
        if len(hosts) < 2:
            return Place()
        from stages.train.distributed.hosts import own_index

        return Place(own_index(hosts), len(hosts))

    def follow(self, ctx: Context) -> None:
        """Train beside rank 0, or on another host than the first."""
        if place_from_environment().world == 1:  # not launched yet: this is a host's command
            from stages.train.distributed.launch import attend

            attend(self.config, ctx)
        else:
            from stages.train.session import train

            train(self.config, ctx)

    def run(self, ctx: Context) -> TrainedModel:
        """Train, or go on with training, until the target, the last epoch or the time limit."""
        from stages.train.session import train

        return train(self.config, ctx)

    def plan_devices(self, ctx: Context, *, devices: int, memory: int) -> tuple[Block, ...]:
        """Tell what pipelines over so many devices of so many bytes could do."""
        from stages.train.device_plan import plan_devices

        return plan_devices(self.config, ctx, devices=devices, memory=memory)


def _precision_problem(precision: str, device: Device) -> str:
    """Say what is wrong with fp16 here, or nothing; only to judge fp16 is torch imported."""
    if precision != "fp16" or device.is_cuda:
        return ""
    from stages.train.precision import resolve_precision

    try:
        resolve_precision(precision, device)
    except ConfigError as error:
        return str(error).removeprefix("stages.train.precision: ")
    return ""


def _cpu_name() -> str:
    # The name stands for the instruction set, which decides the kernels and so the last bits.
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()
