"""KubernetesConfig: what the manifests need to know about the cluster they are meant for."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.stage import StageConfig

TRITON_IMAGE = "nvcr.io/nvidia/tritonserver"
OLDEST_SAFE_RELEASE = (26, 6)
"""Earlier releases carry published remote-code-execution holes (NVIDIA's bulletins, 2025-26)."""

DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\s]*$")]


class ClaimModels(StageConfig):
    """The model repository lies on a volume that exists already."""

    kind: Literal["claim"]
    claim: DnsName
    """Name of the PersistentVolumeClaim."""
    path: str = ""
    """Folder of the repository inside the volume; empty for its root."""


class ImageModels(StageConfig):
    """The model repository is inside a container image; an init container copies it out."""

    kind: Literal["image"]
    image: str
    """The image with its tag or digest; it needs ``cp``, as busybox has it."""
    path: AbsolutePath = "/models"
    """Folder of the repository inside the image."""

    @field_validator("image")
    @classmethod
    def _pinned(cls, image: str) -> str:
        return pinned(image)


class Resources(StageConfig):
    """What one server asks of its node."""

    cpu: Quantity = "2"
    """CPU request; there is no CPU limit, because throttling shows up as tail latency."""
    memory: Quantity = "4Gi"
    """Memory request and limit alike."""
    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm, the way tensors reach Triton's Python backend; counts as memory."""
    gpus: int = Field(default=0, ge=0, le=16)
    """NVIDIA GPUs for each server."""


class Replicas(StageConfig):
    """How many servers run; equal numbers switch autoscaling off."""

    min: int = Field(default=2, ge=1, le=1000)
    """Servers at rest."""
    max: int = Field(default=6, ge=1, le=1000)
    """Servers at the height of load."""

    @model_validator(mode="after")
    def _ordered(self) -> Replicas:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max}); give min <= max")
        return self


class KubernetesConfig(StageConfig):
    """What the manifests need to know about the cluster they are meant for."""

    namespace: DnsName = "default"
    """Namespace of every object."""
    image: str = f"{TRITON_IMAGE}:26.10-py3"
    """Server image, pinned by tag or digest; NVIDIA's own must be 26.06 or later."""
    models: Annotated[ClaimModels | ImageModels, Field(discriminator="kind")] = ClaimModels(
        kind="claim", claim="models"
    )
    """Where the pods find the model repository."""
    replicas: Replicas = Replicas()
    """Lower and upper bound of the number of servers."""
    resources: Resources = Resources()
    """What one server asks of its node."""
    queue_time_us: int | None = Field(default=None, ge=1)
    """Mean queue time above which servers are added; by default a tenth of the p99 objective."""
    drain_s: int = Field(default=15, ge=1, le=600)
    """How long a leaving server still answers, while load balancers forget it."""
    exit_timeout_s: int = Field(default=30, ge=1, le=3600)
    """How long the server may take for the requests in flight; above the slowest request."""
    startup_s: int = Field(default=300, ge=10, le=7200)
    """How long loading and warming up may take before the pod is given up."""
    admin_secret: DnsName | None = None
    """Secret whose key ``admin-key`` unlocks the administrative APIs; None leaves them open."""
    prometheus_adapter: bool = True
    """Write the rule that makes the queue time visible to the autoscaler."""
    service_monitor: bool = False
    """Write a ServiceMonitor, for clusters with the Prometheus operator."""

    @field_validator("image")
    @classmethod
    def _safe_image(cls, image: str) -> str:
        pinned(image)
        release = re.fullmatch(re.escape(TRITON_IMAGE) + r":(\d\d)\.(\d\d)-\S+", image)
        if release and (int(release[1]), int(release[2])) < OLDEST_SAFE_RELEASE:
            raise ValueError(
                f"{image!r} has published security holes; use {TRITON_IMAGE}:26.06-py3 or later"
            )
        return image


def pinned(image: str) -> str:
    """Return the image reference if it names one build.

    Raises:
        ValueError: it has neither a tag nor a digest, or the moving tag ``latest``.
    """
    name = image.rpartition("/")[2]
    tag = name.partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        raise ValueError(f"{image!r} names no fixed build; add a tag such as ':1.0' or a digest")
    return image
