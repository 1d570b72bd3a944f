"""ParallelConfig and LaunchConfig: what the YAML may say about many devices and processes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, model_validator

from pipeline.stage import StageConfig
from stages.train.kubernetes_config import ClusterConfig

Auto = Literal["auto"]


class ParallelConfig(StageConfig):
    """How one training step is spread: over micro-batches, pipeline stages and data replicas."""

    pipeline: Annotated[int, Field(ge=1, le=1024)] | Auto = 1
    """Pipeline stages; ``auto`` takes the fewest whose memory fits `memory`."""
    micro_batches: Annotated[int, Field(ge=1, le=65536)] | Auto = "auto"
    """Pieces of a mini-batch; ``auto`` takes what the simulator predicts to be fastest, and one
    without a pipeline."""
    schedule: Literal["gpipe", "1f1b", "interleaved_1f1b", "zero_bubble"] = "gpipe"
    """Order of the work; ``zero_bubble`` fills waits with the gradients of weights, which nobody
    waits for, and goes with `recompute: never`. ``interleaved_1f1b`` needs `engine: distributed`,
    where it and ``zero_bubble`` give each rank two stages."""
    recompute: bool | Literal["never", "except_last", "always", "blocks"] = False
    """Forget activations and compute them again in the backward pass: of a stage for all
    micro-batches but the last (``except_last``), for all (``always``, ``true``), or block by block
    (``blocks``)."""
    balance: Literal["time", "memory", "parameters"] = "time"
    """What the automatic partition makes equal over the stages."""
    cuts: list[str] | None = None
    """Names of the blocks at which a new stage begins; None: cut automatically."""
    engine: Literal["auto", "devices", "processes", "distributed"] = "auto"
    """Threads over the devices of this process, processes over shared memory on this host, or
    torch.distributed over processes and hosts (under torchrun or `launch`)."""
    data: Literal["ddp", "fsdp"] = "ddp"
    """What ranks beyond the pipeline do: hold copies (DDP), or shards of the weights (FSDP2)."""
    memory: ByteSize | None = None
    """Memory of one device for ``pipeline: auto`` and the plan, for instance ``16GiB``."""
    timeout_s: float = Field(default=120, gt=0)
    """Seconds without an answer from another stage or rank after which the step fails."""

    @property
    def recompute_mode(self) -> Literal["never", "except_last", "always", "blocks"]:
        """`recompute` with true and false spelled out."""
        if isinstance(self.recompute, bool):
            return "always" if self.recompute else "never"
        return self.recompute

    @property
    def is_pipelined(self) -> bool:
        """Whether an engine of pipelines computes gradients, rather than one forward pass."""
        return self.pipeline != 1 or self.recompute_mode != "never" or self.engine == "distributed"

    @property
    def own_schedule(self) -> Literal["gpipe", "1f1b", "zero_bubble"]:
        """The order in which stages work here; those of two stages a rank come nearest to 1F1B."""
        if self.schedule == "gpipe":
            return "gpipe"
        if self.schedule == "zero_bubble" and self.engine != "distributed":
            return "zero_bubble"
        return "1f1b"

    @property
    def defers_weights(self) -> bool:
        """Whether gradients of weights are computed apart from those that other stages wait for."""
        return self.own_schedule == "zero_bubble"

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.pipeline == "auto" and self.memory is None:
            raise ValueError(
                "pipeline: 'auto' takes the fewest stages that fit the memory of a device, and "
                "memory is not set. Add memory: 16GiB, or give the number of stages."
            )
        if self.schedule == "interleaved_1f1b" and self.engine != "distributed":
            raise ValueError(
                "schedule: 'interleaved_1f1b' runs with engine: 'distributed' only, not "
                f"'{self.engine}'. Set engine: distributed, or use schedule: gpipe, 1f1b or "
                "zero_bubble."
            )
        if self.schedule == "zero_bubble" and self.recompute_mode != "never":
            raise ValueError(
                f"recompute: '{self.recompute_mode}' does not go with schedule: 'zero_bubble', "
                "which splits the backward pass of a graph that has to be there. Set recompute: "
                "never, or use schedule: gpipe or 1f1b."
            )
        if isinstance(self.pipeline, int) and isinstance(self.micro_batches, int):
            if self.pipeline > 1 and self.micro_batches < self.pipeline:
                raise ValueError(
                    f"micro_batches: {self.micro_batches} is less than the {self.pipeline} stages "
                    f"of pipeline, so stages would never work at the same time. Use at least "
                    f"{self.pipeline}, or auto."
                )
            if self.cuts is not None and len(self.cuts) != self.pipeline - 1:
                raise ValueError(
                    f"cuts: {len(self.cuts)} cuts make {len(self.cuts) + 1} stages, and pipeline "
                    f"is {self.pipeline}. Give {self.pipeline - 1} names, or leave cuts out."
                )
        return self


class LaunchConfig(StageConfig):
    """Processes that train together; ``torchrun ... -m pipeline run FILE`` does the same."""

    processes: int = Field(default=1, ge=1, le=1024)
    """Processes on each host."""
    hosts: list[str] = Field(default_factory=list)
    """All hosts by name or address, the meeting point first; empty: this one. The same command is
    started on each."""
    port: int = Field(default=29400, ge=1, le=65535)
    """Where the processes of several hosts meet, on the first of them."""
    max_restarts: int = Field(default=3, ge=0)
    """How often the processes are started again from the last checkpoint when one of them dies."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """What carries tensors between processes; ``auto``: NCCL on GPUs, gloo else."""

    kubernetes: ClusterConfig | None = None
    """A cluster to write manifests for (``python -m stages.train.kubernetes FILE``); there,
    `hosts` counts for nothing, `kubernetes.nodes` does."""

    @property
    def world(self) -> int:
        """Processes on all hosts together."""
        return self.processes * max(1, len(self.hosts))
