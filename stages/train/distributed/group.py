"""Group: the processes that a launcher started together, and the channels between them.

    with open_group(parallel, device) as group: ...

RANK, WORLD_SIZE, LOCAL_RANK and the meeting point come from the environment, as torchrun sets it.
Ranks are arranged as data x pipeline: neighbours hold the stages of one copy of the network.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

from pipeline.device import Device
from pipeline.errors import ConfigError, StageFailed
from stages.train.distributed.meeting import meet


class LostRank(StageFailed):
    """Another process of the group is gone; from the last checkpoint, training can go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """This process among the others."""

    rank: int
    world: int
    local_rank: int
    device: Device
    """Where this process computes: its own GPU, or the CPU."""
    mesh: DeviceMesh
    """Axes ``data`` and ``pipeline``."""
    carrier: str
    """``gloo`` or ``nccl``."""
    control: dist.ProcessGroup
    """For small decisions between the hosts' CPUs, whatever carries the gradients."""

    @property
    def data(self) -> dist.ProcessGroup:
        """The ranks that hold the same part of the network."""
        return self.mesh.get_group("data")

    @property
    def place(self) -> str:
        """Which process this is, for messages."""
        return f"rank {self.rank} of {self.world} on {socket.gethostname()}"


def is_launched() -> bool:
    """Tell whether a launcher started this process as one of several, or as the only one."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


@contextmanager
def open_group(
    device: Device, *, backend: str, stages: int = 1, timeout_s: float
) -> Iterator[Group]:
    """Meet the other processes; at the end leave them.

    Args:
        device: as configured; on CUDA each process takes the GPU of its local rank.
        backend: ``auto``, ``gloo`` or ``nccl``.
        stages: pipeline stages that one copy of the network is cut into.
        timeout_s: after which a process that does not answer is given up.

    Raises:
        ConfigError: the processes cannot be arranged like that.
        LostRank: another process did not come, or went away in the middle.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    own = Device("cuda", local_rank) if device.is_cuda else device
    if world % stages:
        raise ConfigError(
            f"train.parallel.pipeline: {world} processes cannot be arranged as copies of {stages} "
            f"stages. Start a multiple of {stages} processes."
        )
    name = f"rank {rank} of {world} on {socket.gethostname()}"
    carrier = ("nccl" if own.is_cuda else "gloo") if backend == "auto" else backend
    if carrier == "nccl" and not own.is_cuda:
        raise ConfigError(
            "train.launch.backend: 'nccl' carries tensors between GPUs, and the device is a CPU. "
            "Use backend: gloo or auto."
        )
    if own.is_cuda:
        torch.cuda.set_device(own.index)
    timeout = timedelta(seconds=timeout_s)
    try:
        store, _, _ = next(rendezvous("env://", rank, world, timeout=timeout))
        dist.init_process_group(
            carrier,
            store=meet(store, rank, world, timeout),
            rank=rank,
            world_size=world,
            timeout=timeout,
            device_id=torch.device(str(own)) if own.is_cuda else None,
        )
    except (dist.DistError, RuntimeError, ValueError, TimeoutError) as error:
        raise LostRank(f"{name}: could not meet the other processes: {error}") from error
    try:
        mesh = init_device_mesh(
            own.kind, (world // stages, stages), mesh_dim_names=("data", "pipeline")
        )
        control = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(control, dist.ProcessGroup)  # every rank is in it
        yield Group(
            rank=rank,
            world=world,
            local_rank=local_rank,
            device=own,
            mesh=mesh,
            carrier=carrier,
            control=control,
        )
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, StageFailed) or not _is_loss(error):
            raise
        raise LostRank(
            f"{name}: the connection to another process was lost, which ended or did not answer "
            f"for {timeout_s:.0f} s (train.parallel.timeout_s): {_gist(error)}"
        ) from error
    finally:
        _leave()


def _is_loss(error: Exception) -> bool:
    """Tell a lost peer from a fault of our own; gloo raises a plain RuntimeError."""
    text = str(error).lower()
    signs = ("gloo", "connection closed", "connection reset", "timed out", "nccl", "tcpstore")
    return isinstance(error, dist.DistError) or any(sign in text for sign in signs)


def _gist(error: Exception) -> str:
    """Return what a library says about it, without where in its source and what to do."""
    line = str(error).strip().partition("\n")[0]
    return line.rpartition(".cc:")[2].partition("] ")[2].partition(" This is")[0] or line


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
