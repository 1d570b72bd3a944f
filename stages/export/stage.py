"""Export: the trained model in every precision, for every backend, each measured and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import JsonValue

from pipeline.artifacts import DataSpec, ExportedModel, TrainedModel
from pipeline.backend import Backend, named, select
from pipeline.context import Context
from pipeline.device import Device
from pipeline.environment import installed_version
from pipeline.errors import BackendUnavailable, Problem, choices, nearest
from pipeline.files import sha256_file
from pipeline.graph_forms import operator_libraries
from stages.export.backends import BACKENDS
from stages.export.config import ExportConfig
from stages.export.cpu import relevant_flags

_PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript", "onnxslim", "tensorrt", "tensorrt-rtx")


class Export:
    """Turns a trained model into variants that can be served, and chooses one."""

    requires: ClassVar[tuple[type, ...]] = (DataSpec, TrainedModel)
    produces: ClassVar[type] = ExportedModel
    Config: ClassVar[type[ExportConfig]] = ExportConfig
    backends: ClassVar[tuple[Backend, ...]] = BACKENDS
    uses_every_backend: ClassVar[bool] = True

    def __init__(self, config: ExportConfig) -> None:
        self.config = config

    def check(self, device: Device) -> list[Problem]:
        """Return what is wrong with the choice of backends, operators and the variant to serve."""
        problems: list[Problem] = []
        for name in self.config.backend_names:
            try:
                select(BACKENDS, name, device, where="export.backend")
            except BackendUnavailable as error:
                text = str(error).removeprefix("export.backend: ")
                problems.append(Problem(path="backend", message=text))
        if not problems:
            problems.extend(self._check_choice(device))
        if self.config.custom_operators is True:
            problems.extend(_missing_operators())
        return problems

    def _check_choice(self, device: Device) -> list[Problem]:
        choice = self.config.choose
        names = [
            f"{backend.name}-{precision}"
            for backend in selected(self.config, device)
            for precision in self.config.precisions
        ]
        if choice in ("fastest", *names):
            return []
        message = f"'{choice}' will not be built. Allowed: {choices(['fastest', *names])}."
        return [Problem(path="choose", message=message + nearest(choice, ["fastest", *names]))]

    def fingerprint(self, device: Device) -> Mapping[str, str]:
        """Return the versions and CPU features that change what is built and how it measures."""
        versions = {name: installed_version(name) for name in _PACKAGES}
        operators = {}
        if self.config.takes_operators:
            found = [library.path() for library in operator_libraries()]
            operators = {f"operators {path.name}": sha256_file(path) for path in found if path}
        return {**versions, **operators, "cpu": relevant_flags()}

    def run(self, ctx: Context) -> ExportedModel:
        """Build, measure and judge every variant."""
        from stages.export.chain import export

        backends = selected(self.config, ctx.device)
        for backend in BACKENDS:
            if "auto" in self.config.backend_names and backend not in backends:
                ctx.events.info(f"passed over {backend.name}: {backend.why_not(ctx.device)}")
        idle = self.why_no_operators(backends, ctx.device)
        if self.config.custom_operators is True and idle:
            ctx.events.warning(f"custom_operators: has no effect here: {idle}")
        return export(self.config, backends, ctx)

    def why_no_operators(self, backends: Sequence[Backend], device: Device) -> str | None:
        """Return why no graph can have operators of our own, or None when one can."""
        if device.is_cuda:
            return f"they compute on a CPU, and the device is {device}"
        if "fp32" not in self.config.precisions:
            return "they compute in FP32, and precisions leave it out"
        if "onnxruntime" not in (backend.name for backend in backends):
            return "ONNX Runtime loads them, and backend leaves it out"
        return None

    def fast_dev_run(self) -> Mapping[str, JsonValue]:
        """Build every variant, measure each for a moment, and let none be too inexact or slow."""
        return {
            "calibration.samples": 16,
            "calibration.method": "minmax",
            "max_drop": 100,
            "min_agreement": 0,
            "speed_tolerance": 1,
            "latency.seconds": 0.1,
            "latency.rounds": 1,
        }

    def rehearse(self, ctx: Context) -> ExportedModel:
        """Build every variant from an untrained model, in seconds."""
        from stages.export.chain import rehearse

        return rehearse(self.config, selected(self.config, ctx.device), ctx)


def _missing_operators() -> list[Problem]:
    libraries = operator_libraries()
    missing = [f"{lib.file} is not there. {lib.why_not}" for lib in libraries if not lib.path()]
    if not libraries:
        missing = ["no library of operators is registered. Install dlpipe again."]
    return [
        Problem(path="custom_operators", message=f"{what} Or set custom_operators: false.")
        for what in missing
    ]


def selected(config: ExportConfig, device: Device) -> tuple[Backend, ...]:
    """Return the backends to build for: those named, or with ``auto`` every one that can work here.

    Raises:
        BackendUnavailable: one that is named cannot.
    """
    if "auto" in config.backend_names:
        return tuple(backend for backend in BACKENDS if backend.why_not(device) is None)
    for name in config.backend_names:
        select(BACKENDS, name, device, where="export.backend")
    return tuple(named(BACKENDS, name, where="export.backend") for name in config.backend_names)
