"""DeployConfig: everything that the deploy stage can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.stage import StageConfig
from stages.deploy.kubernetes_config import TRITON_IMAGE, KubernetesConfig, pinned

Protocol = Literal["http", "grpc"]


class PortsConfig(StageConfig):
    """Where the server listens while it is verified and when it is served; always on 127.0.0.1."""

    http: Literal["auto"] | int = "auto"
    """KServe v2 over HTTP; `auto` picks a free port."""
    grpc: Literal["auto"] | int = "auto"
    """KServe v2 over gRPC."""
    metrics: Literal["auto"] | int = "auto"
    """Prometheus metrics."""

    @model_validator(mode="after")
    def _usable(self) -> PortsConfig:
        problem = port_problem(dict(self), ", or 'auto'")
        if problem:
            raise ValueError(problem)
        return self


def port_problem(ports: Mapping[str, Literal["auto"] | int], also: str = "") -> str:
    """Return what is wrong with the ports of endpoints, by the names that a user gave them.

    Args:
        ports: of each endpoint.
        also: what is allowed beside numbers.
    """
    given = {name: port for name, port in ports.items() if port != "auto"}
    for name, port in given.items():
        if not 1 <= port <= 65535:
            return f"{name}: {port} is no port. Allowed: 1 to 65535{also}."
        twins = [other for other, theirs in given.items() if theirs == port]
        if len(twins) > 1:
            return f"{' and '.join(twins)} are both {port}, not distinct. Give each its own port."
    return ""


class DynamicBatchingConfig(StageConfig):
    """How the server gathers requests into batches."""

    enabled: bool = True
    """Run requests that wait at the same time as one batch."""
    max_queue_delay_us: int = Field(default=0, ge=0, le=1_000_000)
    """How long to hold a request back for company; on a CPU any delay costs throughput too."""
    preferred_sizes: tuple[int, ...] = Field(default=(), strict=False)
    """Batch sizes worth forming; empty takes what waits."""

    @model_validator(mode="after")
    def _positive(self) -> DynamicBatchingConfig:
        if any(size < 1 for size in self.preferred_sizes):
            raise ValueError(
                f"preferred_sizes {list(self.preferred_sizes)} must all be at least 1."
            )
        return self


class VerifyConfig(StageConfig):
    """What is sent through the server to prove that it answers as the exported model did."""

    samples: Literal["all"] | int = "all"
    """How many samples of the eval split, spread evenly over it."""
    protocols: tuple[Protocol, ...] = Field(default=("http", "grpc"), min_length=1, strict=False)
    """Which protocols to send them over."""

    @model_validator(mode="after")
    def _at_least_one(self) -> VerifyConfig:
        if self.samples != "all" and self.samples < 1:
            raise ValueError(f"samples is {self.samples}. Allowed: 'all' or at least 1.")
        if len(set(self.protocols)) < len(self.protocols):
            raise ValueError(f"protocols {list(self.protocols)} names one of them twice.")
        return self


class LoadConfig(StageConfig):
    """The load under which latency and throughput are measured."""

    enabled: bool = True
    """Measure at all."""
    concurrency: tuple[int, ...] = Field(default=(1, 4, 16), min_length=1, strict=False)
    """Requests in flight; each client sends its next request when its last one is answered."""
    seconds: float = Field(default=2.0, gt=0, le=600)
    """Length of the window of each measurement, after a warm-up of a fifth of it."""
    protocol: Protocol = "http"
    """The protocol of the requests."""

    @model_validator(mode="after")
    def _rising(self) -> LoadConfig:
        if any(n < 1 for n in self.concurrency) or list(self.concurrency) != sorted(
            set(self.concurrency)
        ):
            raise ValueError(
                f"concurrency {list(self.concurrency)} must rise strictly and start at 1 or more."
            )
        return self


class SloConfig(StageConfig):
    """Promises about the service; each becomes a gate."""

    p99_ms: float | None = Field(default=None, gt=0)
    """99th percentile of latency at the lowest concurrency, one image a request."""


class DeployConfig(StageConfig):
    """Writes a Triton model repository and verifies it through a running server."""

    backend: str = "auto"
    """`tritonserver`, `triton-embedded`, `files` (only writes) or `package.module:BACKEND`."""
    model_name: str = Field(default="classifier", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the tensor model; the ensemble is called `<model_name>_pipeline`."""
    version: int = Field(default=1, ge=1)
    """Number of the version folder in the repository."""
    variant: str = "auto"
    """Which exported variant to serve; `auto` takes the one that the export stage chose."""
    top_k: int = Field(default=5, ge=1)
    """How many labels and scores the ensemble returns."""
    max_batch: int = Field(default=8, ge=1, le=4096)
    """Largest batch of one execution, and of one request."""
    instances: Literal["auto"] | int = "auto"
    """Copies of the model that run side by side; `auto` is one a CPU core, or one a GPU."""
    threads: int = Field(default=1, ge=1, le=256)
    """CPU threads of one instance; more than 1 lowers latency and costs throughput."""
    warmup: bool = True
    """Run each instance once before the server calls itself ready."""
    dynamic_batching: DynamicBatchingConfig = DynamicBatchingConfig()
    """How requests are gathered into batches."""
    ports: PortsConfig = PortsConfig()
    """Where the server listens."""
    start_timeout_s: float = Field(default=120, gt=0)
    """How long the server may take until its models are loaded and warm."""
    image: str = f"{TRITON_IMAGE}:26.10-py3"
    """Container image of the `tritonserver` backend where no binary is on PATH."""
    verify: VerifyConfig = VerifyConfig()
    """What is sent through the server."""
    load: LoadConfig = LoadConfig()
    """How latency and throughput are measured."""
    slo: SloConfig = SloConfig()
    """Promises about the service."""
    kubernetes: KubernetesConfig | None = KubernetesConfig()
    """What the manifests need to know about the cluster; null writes none."""

    @field_validator("image")
    @classmethod
    def _pinned(cls, image: str) -> str:
        return pinned(image)

    @model_validator(mode="after")
    def _consistent(self) -> DeployConfig:
        if self.instances != "auto" and not 1 <= self.instances <= 256:
            raise ValueError(f"instances is {self.instances}. Allowed: 'auto' or 1 to 256.")
        too_large = [n for n in self.dynamic_batching.preferred_sizes if n > self.max_batch]
        if too_large:
            raise ValueError(
                f"dynamic_batching.preferred_sizes {too_large} exceed max_batch {self.max_batch}."
            )
        if self.slo.p99_ms is not None and not self.load.enabled:
            raise ValueError(
                "slo.p99_ms needs a measurement. Set load.enabled: true, or leave it out."
            )
        return self
