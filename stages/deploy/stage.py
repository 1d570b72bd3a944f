"""Deploy: an exported model becomes a service that was proven through a real server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, cast

from pydantic import JsonValue

from pipeline.artifacts import Artifact, DataSpec, Deployment, ExportedModel
from pipeline.backend import Backend, select
from pipeline.context import Context
from pipeline.device import Device
from pipeline.environment import installed_version
from pipeline.errors import Problem, StageFailed
from stages.deploy.backends import BACKENDS
from stages.deploy.config import DeployConfig, LoadConfig, VerifyConfig
from stages.deploy.ports import claim_endpoints

if TYPE_CHECKING:
    from stages.deploy.backends import DeployBackend

_PACKAGES = ("nvidia-pytriton", "tritonclient", "numpy", "onnxruntime", "nvidia-dali-cuda130")
_WHERE = "stages.deploy.backend"


class Deploy:
    """Writes a Triton model repository, verifies it through a real server, measures its speed."""

    requires: ClassVar[tuple[type, ...]] = (DataSpec, ExportedModel)
    produces: ClassVar[type[Deployment]] = Deployment
    Config: ClassVar[type[DeployConfig]] = DeployConfig
    backends: ClassVar[tuple[Backend, ...]] = BACKENDS

    def __init__(self, config: DeployConfig) -> None:
        self.config = config

    def check(self, device: Device) -> list[Problem]:
        """Return whether a port that is given is taken."""
        try:
            claim_endpoints(self.config.ports)
        except StageFailed as error:
            return [Problem(path="ports", message=str(error))]
        return []

    def fingerprint(self, device: Device) -> Mapping[str, str]:
        """Return the versions of what answers requests."""
        versions = {name: installed_version(name) for name in _PACKAGES}
        versions["backend"] = select(
            BACKENDS, self.config.backend, device, where=_WHERE
        ).backend.name
        return versions

    def run(self, ctx: Context) -> Deployment:
        """Write, start, verify, measure, describe."""
        return self._deliver(ctx, self.config)

    def fast_dev_run(self) -> Mapping[str, JsonValue]:
        """Serve and verify a few samples, and measure load for a moment, without promises."""
        return {
            "verify.samples": 8,
            "load.seconds": 0.2,
            "load.concurrency": [1],
            "slo": {},
        }

    def rehearse(self, ctx: Context) -> Deployment:
        """Serve two samples over every protocol, without load and manifests."""
        update = {
            "verify": VerifyConfig(samples=2, protocols=self.config.verify.protocols),
            "load": LoadConfig(enabled=False),
            "kubernetes": None,
        }
        return self._deliver(ctx, self.config.model_copy(update=update))

    def serve(self, ctx: Context, artifact: Artifact, *, http_port: int, grpc_port: int) -> None:
        """Serve a finished deployment until ``ctx.stop`` is set."""
        from stages.deploy.serve import serve

        assert isinstance(artifact, Deployment)
        serve(ctx, artifact, self.config, http_port=http_port, grpc_port=grpc_port)

    def _deliver(self, ctx: Context, config: DeployConfig) -> Deployment:
        from stages.deploy.delivery import deliver, deployment
        from stages.deploy.report import section

        chosen = select(BACKENDS, config.backend, ctx.device, where=_WHERE)
        ctx.events.info(chosen.reason)
        backend = cast("DeployBackend", chosen.backend.load())
        delivery = deliver(ctx, config, backend, chosen.backend.name)
        artifact = deployment(delivery, config)
        ctx.write_section(section(delivery, artifact.gates))
        return artifact
