"""ClusterConfig: what the manifests of a training job need to know about a Kubernetes cluster."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from pipeline.stage import StageConfig

DnsName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\s]*$")]


class ClusterConfig(StageConfig):
    """Where a training job runs in a Kubernetes cluster, and on what."""

    image: str
    """Image with dlpipe installed, pinned by tag or digest."""
    claim: DnsName
    """PersistentVolumeClaim that every pod can write (ReadWriteMany): run folders and data."""
    mount: AbsolutePath = "/work"
    """Where the pods see it; commands run there, and relative paths of the YAML start there."""
    namespace: DnsName = "default"
    """Namespace of every object."""
    nodes: int = Field(default=1, ge=1, le=1024)
    """Pods; each runs `launch.processes` processes."""
    cpu: Quantity = "4"
    """CPU request of a pod."""
    memory: Quantity = "16Gi"
    """Memory request and limit of a pod."""
    shared_memory: Quantity = "2Gi"
    """Size of /dev/shm, by which loaders and NCCL pass tensors; counts as memory."""
    gpus: int = Field(default=0, ge=0, le=64)
    """NVIDIA GPUs of a pod; one for each process, or none."""
    max_hours: float | None = Field(default=None, gt=0)
    """After which the job is ended; None: never."""

    @field_validator("image")
    @classmethod
    def _pinned(cls, image: str) -> str:
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest"):
            raise ValueError(
                f"{image!r} names no fixed build; add a tag such as ':1.0' or a digest"
            )
        return image
